// tconv bench: times of the kernels of the CPU or a GPU of this machine, beside the limit.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cpu/machine.hpp"
#include "cpu/plan.hpp"
#include "cuda/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "report/format.hpp"
#include "shared.hpp"
#include "target/target.hpp"
#include "util/cache.hpp"
#include "util/error.hpp"
#include "util/text.hpp"
#include "verbs.hpp"
#include "verify/number.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::vector<std::string> words;
  std::string solver;
  std::string device;
  int threads = 1;
  int repeats = 0;  // 0: the device's default
  bool json = false;
};

constexpr std::size_t kFlushBytes = 256u << 20;  // more than any L2
constexpr std::size_t kDrawn = 1u << 20;         // random elements, repeated over a tensor
constexpr int kGpuRepeats = 25;
constexpr double kCpuSeconds = 1;  // of runs, for a median on the CPU
constexpr std::size_t kLeast = 5, kMost = 10000;

template <typename Memory>
Memory random_tensor(std::int64_t elements, Arithmetic arithmetic) {
  static std::mt19937_64 generator(1);
  std::normal_distribution<double> normal;
  std::vector<double> values(std::min<std::size_t>(static_cast<std::size_t>(elements), kDrawn));
  for (double& value : values)
    value = verify::round_to_storage(
        arithmetic == Arithmetic::i32 ? std::floor(100 * normal(generator)) : normal(generator), arithmetic);
  const std::string bytes = verify::encode(values, arithmetic);
  Memory memory(static_cast<std::size_t>(elements) * static_cast<std::size_t>(bytes_per_element(arithmetic)));
  for (std::size_t at = 0; at < memory.bytes(); at += bytes.size())
    memory.write(at, std::string_view(bytes).substr(0, memory.bytes() - at));
  return memory;
}

// The tensors of a workload, and the call that takes them.
template <typename Memory>
struct Tensors {
  Tensors(const Workload& workload, std::int64_t packed_bytes)
      : p(workload.problem),
        out(out_length(p, workload.extent.length)),
        x(random_tensor<Memory>(input_elements(workload), p.arithmetic)),
        w(random_tensor<Memory>(weight_elements(p), p.arithmetic)),
        bias(random_tensor<Memory>(p.c_out, p.arithmetic)),
        packed(static_cast<std::size_t>(packed_bytes)),
        y(random_tensor<Memory>(output_elements(workload), p.arithmetic)),
        call{.x = x.at(0),
             .w = packed.at(0),
             .bias = p.bias ? bias.at(0) : nullptr,
             .y = y.at(0),
             .batch = workload.extent.batch,
             .length = workload.extent.length,
             .out_length = out,
             .x_stride_b = p.c_in * workload.extent.length,
             .x_stride_c = workload.extent.length,
             .x_stride_t = 1,
             .y_stride_b = p.c_out * out,
             .y_stride_c = out} {}
  [[nodiscard]] Pack pack() const {
    return {.w = w.at(0),
            .packed = packed.at(0),
            .stride_in = p.c_out / p.groups * p.kernel,
            .stride_out = p.kernel,
            .stride_k = 1};
  }

  const Problem& p;
  std::int64_t out;
  Memory x, w, bias, packed, y;
  Call call;
};

double median(std::vector<double> times) {
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  return times[times.size() / 2];
}

class Clock {
 public:
  Clock() {
    cuda::check(cuda::driver().cuEventCreate(&from_, cuda::kEventDefault), "cuEventCreate");
    cuda::check(cuda::driver().cuEventCreate(&to_, cuda::kEventDefault), "cuEventCreate");
  }
  ~Clock() {
    cuda::driver().cuEventDestroy(from_);
    cuda::driver().cuEventDestroy(to_);
  }
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  template <typename Body>
  double seconds(Body body) {
    const cuda::Driver& api = cuda::driver();
    cuda::check(api.cuEventRecord(from_, nullptr), "cuEventRecord");
    body();
    cuda::check(api.cuEventRecord(to_, nullptr), "cuEventRecord");
    cuda::check(api.cuEventSynchronize(to_), "cuEventSynchronize");
    float milliseconds = 0;
    cuda::check(api.cuEventElapsedTime(&milliseconds, from_, to_), "cuEventElapsedTime");
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  cuda::Event from_ = nullptr;
  cuda::Event to_ = nullptr;
};

struct Gpu {
  explicit Gpu(int number) : ordinal(number), used(number), flush(kFlushBytes) {}
  int ordinal;
  UsedDevice used;
  DeviceMemory flush;
  Clock clock;
};

// One workload's lines and its JSON.
struct Row {
  std::string text;
  nlohmann::ordered_json json;
};

Row bench_cuda(const Workload& workload, Gpu& gpu, const Options& options) {
  const cuda::Plan plan({.problem = workload.problem}, gpu.ordinal, options.solver);
  const Tensors<DeviceMemory> tensors(workload, plan.packed_bytes());
  plan.pack(tensors.pack(), nullptr);
  const Limit bound = limit(workload, plan.target());
  Row row{.text = fmt::format("{} on {} by {}: limit {} ({})\n", print_word(workload), plan.target().display,
                              plan.solver().name, report::seconds_text(bound.seconds), bound.bound_by),
          .json = {}};
  nlohmann::ordered_json schedules = nlohmann::ordered_json::array();
  const std::size_t chosen = plan.choose(workload.extent);
  const std::vector<cuda::Plan::Compiled> all = plan.compiled();
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::vector<double> times;
    for (int n = -2; n < (options.repeats > 0 ? options.repeats : kGpuRepeats); ++n) {  // two to warm up
      cuda::check(cuda::driver().cuMemsetD8Async(gpu.flush.pointer(), 1, gpu.flush.bytes(), nullptr),
                  "cuMemsetD8Async");
      const double seconds = gpu.clock.seconds([&] { plan.run(i, tensors.call, nullptr); });
      if (n >= 0) times.push_back(seconds);
    }
    const double seconds = median(times);
    const double predicted = plan.solver().seconds(workload, plan.target(), all[i].schedule);
    row.text += fmt::format("{} {}: {}, {} the limit, predicted {}\n", i == chosen ? "*" : " ",
                            cuda::print(all[i].schedule), report::seconds_text(seconds),
                            report::ratio_text(seconds / bound.seconds), report::seconds_text(predicted));
    schedules.push_back({{"schedule", cuda::print(all[i].schedule)},
                         {"chosen", i == chosen},
                         {"seconds", seconds},
                         {"predicted_seconds", predicted}});
  }
  row.json = {{"workload", print_word(workload)},
              {"device", std::string(plan.target().display)},
              {"solver", std::string(plan.solver().name)},
              {"limit_seconds", bound.seconds},
              {"schedules", std::move(schedules)}};
  return row;
}

Row bench_cpu(const Workload& workload, const cpu::Rates& rates, const Options& options) {
  std::optional<cpu::Plan> plan;
  const double plan_seconds = wall_seconds([&] { plan.emplace(Layer{.problem = workload.problem}, options.solver); });
  const Tensors<HostMemory> tensors(workload, plan->packed_bytes());
  const double pack_seconds = wall_seconds([&] { plan->pack(tensors.pack(), options.threads); });
  const auto run = [&] { plan->run(tensors.call, options.threads); };
  const double first_seconds = wall_seconds(run);
  std::vector<double> times;
  const auto asked = static_cast<std::size_t>(options.repeats);
  for (double all = 0;
       asked > 0 ? times.size() < asked : times.size() < kLeast || (all < kCpuSeconds && times.size() < kMost);)
    all += times.emplace_back(wall_seconds(run));

  const double seconds = median(times);
  const Limit bound = cpu::limit(workload, rates);
  const double flops = bound.work.useful_flops / seconds, bytes = bound.work.bytes() / seconds;
  return {
      .text = fmt::format("{} by {}, {} thread{}: {} (median of {}), {}, {}, {:.0f} % of the limit {} ({}); plan {}, "
                          "packing {}, first call {}\n",
                          print_word(workload), plan->solver().name, options.threads, options.threads == 1 ? "" : "s",
                          report::seconds_text(seconds), times.size(), report::quantity_text(flops, "FLOP/s"),
                          report::quantity_text(bytes, "B/s"), 100 * bound.seconds / seconds,
                          report::seconds_text(bound.seconds), bound.bound_by, report::seconds_text(plan_seconds),
                          report::seconds_text(pack_seconds), report::seconds_text(first_seconds)),
      .json = {{"workload", print_word(workload)},
               {"device", "cpu"},
               {"cpu", cpu::cpu_model()},
               {"instruction_set", cpu::instruction_sets().front()},
               {"threads", options.threads},
               {"solver", std::string(plan->solver().name)},
               {"seconds", seconds},
               {"repeats", times.size()},
               {"first_seconds", first_seconds},
               {"pack_seconds", pack_seconds},
               {"plan_seconds", plan_seconds},
               {"useful_flops_per_second", flops},
               {"bytes_per_second", bytes},
               {"limit_seconds", bound.seconds},
               {"bound_by", std::string(bound.bound_by)},
               {"share_of_limit", bound.seconds / seconds}}};
}

Exit run(const Options& options) {
  std::vector<Workload> workloads;
  for (const std::string& word : options.words) {
    workloads.push_back(parse_workload(word));
    if (workloads.back().extent.batch == 0)
      throw Error(Exit::usage, printable(word), "has an empty batch", "something to time");
  }
  std::optional<Gpu> gpu;
  cpu::Rates rates;
  if (const Device device = choose_device(options.device)) {
    gpu.emplace(*device);
  } else {
    for (const Workload& workload : workloads) require_memory(workload);
    rates = cpu::machine_rates(options.threads, Cache(Cache::default_root()));
  }
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text;
  Progress progress(workloads.size());
  for (const Workload& workload : workloads) {
    progress.next(print_word(workload));
    Row row = gpu ? bench_cuda(workload, *gpu, options) : bench_cpu(workload, rates, options);
    text += row.text;
    rows.push_back(std::move(row.json));
  }
  progress.done();
  print_result(options.json ? rows.dump(2) : text);
  return Exit::ok;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "Time layers on the CPU, or every schedule on a GPU with a cold L2");
  verb->add_option("WORD", options->words, "Layers with their lengths")->required();
  add_device(verb, options->device);
  add_threads(verb, options->threads);
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves a layer");
  verb->add_option("--repeats", options->repeats,
                   "Runs a median is taken of: 25 on a GPU, on the CPU as many as a second has, 5 at least")
      ->check(CLI::Range(1, 10000));
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
