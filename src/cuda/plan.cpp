#include "cuda/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <exception>
#include <limits>
#include <optional>
#include <thread>
#include <utility>

#include "cuda/compile.hpp"
#include "cuda/machine.hpp"
#include "util/error.hpp"

namespace tconv::cuda {
namespace {

constexpr std::int64_t kMaxBlocks = std::numeric_limits<std::int32_t>::max();  // of gridDim.x
constexpr std::int64_t kImageAlignment = 256;

// Makes the device's context current where another is, and the other one again at the end.
class Current {
 public:
  explicit Current(Context context) {
    Context now = nullptr;
    check(driver().cuCtxGetCurrent(&now), "cuCtxGetCurrent");
    if (now == context) return;
    check(driver().cuCtxPushCurrent(context), "cuCtxPushCurrent");
    pushed_ = true;
  }
  ~Current() {
    Context popped = nullptr;
    if (pushed_) driver().cuCtxPopCurrent(&popped);
  }
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;

 private:
  bool pushed_ = false;
};

// Lets this thread load modules while a stream is captured: what that allocates is no part of a graph.
class Uncaptured {
 public:
  Uncaptured() { check(driver().cuThreadExchangeStreamCaptureMode(&mode_), "cuThreadExchangeStreamCaptureMode"); }
  ~Uncaptured() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  Uncaptured(const Uncaptured&) = delete;
  Uncaptured& operator=(const Uncaptured&) = delete;

 private:
  int mode_ = kCaptureModeRelaxed;  // then what it was before
};

struct Loaded {
  Schedule schedule;
  Cubin facts;  // without its bytes
  Module module = nullptr;
  Function run = nullptr;
  std::int64_t image = 0;  // offset of its weights in the packed buffer
};

struct Image {
  Function pack = nullptr;
  std::int64_t offset = 0;
  Schedule schedule;
};

// One entry a schedule, in their order; several at once, for each takes seconds.
std::vector<Cubin> compile_all(const Solver& solver, const Layer& layer, const Machine& here,
                               const std::vector<Schedule>& schedules) {
  std::vector<Cubin> cubins(schedules.size());
  std::vector<std::exception_ptr> failures(schedules.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    for (std::size_t i = next++; i < schedules.size(); i = next++) {
      try {
        cubins[i] = compile(solver.source(layer, here.target, schedules[i]), here.architecture);
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  const std::size_t helpers =
      std::min<std::size_t>(schedules.size(), std::clamp(std::thread::hardware_concurrency(), 1u, 8u)) - 1;
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < helpers; ++i) threads.emplace_back(work);
    work();
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return cubins;
}

// `early`: beside the end of the kernel before it, for which the function waits itself.
void launch(Function function, const Launch& shape, const void* argument, Stream stream, bool early) {
  if (shape.blocks == 0) return;
  if (shape.blocks < 0 || shape.blocks > kMaxBlocks)
    throw Error(Exit::unsupported, "run", fmt::format("needs {} blocks", shape.blocks), "a grid has at most 2^31-1");
  std::array<LaunchAttribute, 2> attributes{};
  unsigned count = 0;
  if (shape.cluster > 1) {
    LaunchAttribute& cluster = attributes[count++];
    cluster.id = LaunchAttribute::Id::cluster_dimension;
    cluster.value.cluster = {static_cast<unsigned>(shape.cluster), 1, 1};
  }
  if (early) {
    LaunchAttribute& beside = attributes[count++];
    beside.id = LaunchAttribute::Id::programmatic_stream_serialization;
    beside.value.programmatic_stream_serialization = 1;
  }
  LaunchConfig config{};
  config.grid_x = static_cast<unsigned>(shape.blocks);
  config.block_x = static_cast<unsigned>(shape.threads);
  config.shared_bytes = static_cast<unsigned>(shape.shared_bytes);
  config.stream = stream;
  config.attributes = attributes.data();
  config.attribute_count = count;
  void* arguments[] = {const_cast<void*>(argument)};
  check(driver().cuLaunchKernelEx(&config, function, arguments, nullptr), "cuLaunchKernelEx");
}

}  // namespace

Choice choose_solver(const Problem& problem, const Target& target, std::string_view name) {
  require_valid(problem);
  plan::Chosen<Solver> chosen =
      plan::choose(solvers(), name, "", [&](const Solver& solver) { return solver.refuse(problem, target); });
  Choice choice{.solver = chosen.solver, .schedules = {}, .passed_over = std::move(chosen.passed_over)};
  if (choice.solver != nullptr) {
    choice.schedules = choice.solver->schedules(problem, target);
    if (choice.schedules.empty())
      throw Error(Exit::defect, std::string(choice.solver->name), "accepts the problem and has no schedule", "");
    return choice;
  }
  std::string reasons;
  for (const plan::PassedOver& passed : choice.passed_over)
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", passed.solver, passed.why);
  throw Error(Exit::unsupported, std::string(target.display), "no solver serves the problem", reasons);
}

std::size_t fastest(const Solver& solver, const std::vector<Schedule>& schedules, const Workload& workload,
                    const Target& target) {
  std::size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; schedules.size() > 1 && i < schedules.size(); ++i) {
    const double seconds = solver.seconds(workload, target, schedules[i]);
    if (seconds < least) {
      least = seconds;
      best = i;
    }
  }
  return best;
}

bool same_image(const Solver& solver, const Problem& problem, const Schedule& a, const Schedule& b) {
  return solver.packed_bytes(problem, a) == solver.packed_bytes(problem, b) && (solver.one_image || a.rows == b.rows);
}

struct Plan::State {
  Layer layer;
  const Machine* machine = nullptr;
  Choice choice;
  std::vector<Loaded> loaded;
  std::vector<Image> images;
  std::int64_t packed_bytes = 0;
  // The last choice: asking the model costs a microsecond and more, and calls repeat their sizes.
  std::mutex last_mutex;
  Extent last_extent{.batch = 0, .length = 0};
  std::size_t last_chosen = 0;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (machine == nullptr) return;
    try {
      const Current current(machine->context);
      for (const Loaded& one : loaded) {
        if (one.module != nullptr) driver().cuModuleUnload(one.module);
      }
    } catch (const Error&) {
      // The driver is already gone, and the modules with it.
    }
  }

  void load(const Cubin& cubin, const Schedule& schedule);
  void check_stream(Stream stream) const;
};

void Plan::State::load(const Cubin& cubin, const Schedule& schedule) {
  const Driver& api = driver();
  const Problem& problem = layer.problem;
  Loaded& one = loaded.emplace_back();
  one.schedule = schedule;
  one.facts = cubin;
  one.facts.bytes.clear();
  check(api.cuModuleLoadData(&one.module, cubin.bytes.data()), "cuModuleLoadData");
  check(api.cuModuleGetFunction(&one.run, one.module, "run"), "cuModuleGetFunction");
  const int shared =
      choice.solver->launch({problem, {.batch = 1, .length = 4096 + 2 * problem.padding}}, machine->target, schedule)
          .shared_bytes;
  // Above what a kernel may take unasked; the value has to cover every launch, so the schedule fixes it.
  check(api.cuFuncSetAttribute(one.run, FunctionAttribute::max_dynamic_shared_bytes, shared), "cuFuncSetAttribute");

  const std::int64_t bytes = choice.solver->packed_bytes(problem, schedule);
  const auto known = std::ranges::find_if(
      images, [&](const Image& image) { return same_image(*choice.solver, problem, image.schedule, schedule); });
  if (known != images.end()) {
    one.image = known->offset;
    return;
  }
  Image image{.offset = packed_bytes, .schedule = schedule};
  one.image = image.offset;
  check(api.cuModuleGetFunction(&image.pack, one.module, "pack"), "cuModuleGetFunction");
  packed_bytes = (packed_bytes + bytes + kImageAlignment - 1) / kImageAlignment * kImageAlignment;
  images.push_back(image);
}

// A kernel launched on another device's stream would fail with a text that names neither.
void Plan::State::check_stream(Stream stream) const {
  if (reinterpret_cast<std::uintptr_t>(stream) <= 2) return;  // the default streams belong to the current context
  Context context = nullptr;
  check(driver().cuStreamGetCtx(stream, &context), "cuStreamGetCtx");
  if (context != machine->context)
    throw Error(Exit::usage, "stream", "belongs to another context than the plan",
                "a stream of the plan's device and its primary context");
}

Plan::Plan(const Layer& layer, int device, std::string_view solver) : state_(std::make_unique<State>()) {
  if (const std::optional<Refusal> no = refuse(layer)) throw Error(Exit::unsupported, "layer", no->what, no->rule);
  State& state = *state_;
  state.layer = layer;
  const Machine& here = machine(device);
  state.choice = choose_solver(layer.problem, here.target, solver);
  const std::vector<Cubin> cubins = compile_all(*state.choice.solver, layer, here, state.choice.schedules);
  state.machine = &here;
  const Current current(here.context);
  const Uncaptured uncaptured;
  state.loaded.reserve(cubins.size());
  for (std::size_t i = 0; i < cubins.size(); ++i) state.load(cubins[i], state.choice.schedules[i]);
}

Plan::~Plan() = default;

const Problem& Plan::problem() const { return state_->layer.problem; }
const Target& Plan::target() const { return state_->machine->target; }
const Solver& Plan::solver() const { return *state_->choice.solver; }
const std::vector<plan::PassedOver>& Plan::passed_over() const { return state_->choice.passed_over; }
std::int64_t Plan::packed_bytes() const { return state_->packed_bytes; }

std::vector<Plan::Compiled> Plan::compiled() const {
  std::vector<Compiled> all;
  for (const Loaded& one : state_->loaded)
    all.push_back({one.schedule, one.facts.registers, one.facts.spill_bytes, one.facts.cached});
  return all;
}

std::size_t Plan::choose(const Extent& extent) const {
  State& state = *state_;
  const std::lock_guard lock(state.last_mutex);
  if (extent != state.last_extent) {
    state.last_chosen = fastest(solver(), state.choice.schedules, {problem(), extent}, target());
    state.last_extent = extent;
  }
  return state.last_chosen;
}

std::string Plan::explain(const Extent& extent) const {
  require_valid(problem(), extent);
  const Workload workload{problem(), extent};
  std::string out = fmt::format("{} on {}\n", solver().name, target().display);
  const std::size_t chosen = choose(extent);
  for (std::size_t i = 0; i < state_->loaded.size(); ++i) {
    const Loaded& one = state_->loaded[i];
    const Launch shape = solver().launch(workload, target(), one.schedule);
    out += fmt::format(
        "{} {}: {:.2f} us predicted, {} blocks of {} threads{}, {} registers, {} bytes spilled, {} bytes "
        "of shared memory\n",
        i == chosen ? "*" : " ", print(one.schedule), 1e6 * solver().seconds(workload, target(), one.schedule),
        shape.blocks, shape.threads, shape.cluster > 1 ? fmt::format(" in clusters of {}", shape.cluster) : "",
        one.facts.registers, one.facts.spill_bytes, shape.shared_bytes + one.facts.static_shared_bytes);
  }
  for (const plan::PassedOver& passed : passed_over()) out += fmt::format("not {}: {}\n", passed.solver, passed.why);
  return out;
}

void Plan::pack(const Pack& call, Stream stream) const {
  plan::require_pack(call);
  const Current current(state_->machine->context);
  state_->check_stream(stream);
  for (const Image& image : state_->images) {
    Pack one = call;
    one.packed = static_cast<char*>(call.packed) + image.offset;
    launch(image.pack, solver().pack_launch(problem(), image.schedule), &one, stream, state_->machine->starts_early);
  }
}

void Plan::run(const Call& call, Stream stream) const {
  run(choose({.batch = call.batch, .length = call.length}), call, stream);
}

void Plan::run(std::size_t index, const Call& call, Stream stream) const {
  if (!plan::require_call(state_->layer, call)) return;
  const Extent extent{.batch = call.batch, .length = call.length};
  const Loaded& one = state_->loaded.at(index);
  Call own = call;
  own.w = static_cast<const char*>(call.w) + one.image;
  const Current current(state_->machine->context);
  state_->check_stream(stream);
  launch(one.run, solver().launch({problem(), extent}, target(), one.schedule), &own, stream,
         state_->machine->starts_early);
}

std::string print(const Schedule& s) {
  return fmt::format("positions {} rows {} stages {} weight_stages {} warpgroups {} splits {}{}{}", s.positions, s.rows,
                     s.stages, s.weight_stages, s.warpgroups, s.splits, s.by_rows ? " by rows" : "",
                     s.at_once > 1 ? " two at once" : "");
}

}  // namespace tconv::cuda
