// tconv check: the CUDA kernels on this machine's GPU against the float64 reference.
#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "cuda/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "shared.hpp"
#include "util/text.hpp"
#include "verbs.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/verify.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::vector<std::string> words;
  std::string solver;
  std::vector<std::string> arithmetics;
  int device = 0;
  std::int64_t cases = 0;
  std::uint64_t seed = 0;
  bool seed_given = false;
  bool json = false;
};

constexpr std::size_t kGuard = 4096;  // bytes before and behind every buffer that no kernel may touch
constexpr unsigned char kPoison = 0xdb;

// Bytes on the device between guards, `shift` bytes behind the alignment of an allocation.
class Guarded {
 public:
  Guarded(std::string_view bytes, std::size_t shift)
      : host_(kGuard + shift, static_cast<char>(kPoison)), first_(kGuard + shift), size_(bytes.size()) {
    host_ += bytes;
    host_.append(kGuard, static_cast<char>(kPoison));
    memory_ = Memory(host_.size());
    cuda::check(cuda::driver().cuMemcpyHtoD(memory_.pointer(), host_.data(), host_.size()), "cuMemcpyHtoD");
  }
  [[nodiscard]] void* data() const { return memory_.at(first_); }
  // The bytes now; nothing where a guard was written.
  [[nodiscard]] std::optional<std::string> read() const {
    std::string now(host_.size(), '\0');
    cuda::check(cuda::driver().cuMemcpyDtoH(now.data(), memory_.pointer(), now.size()), "cuMemcpyDtoH");
    const std::string_view view = now;
    const std::string_view before = host_;
    if (view.substr(0, first_) != before.substr(0, first_) ||
        view.substr(first_ + size_) != before.substr(first_ + size_))
      return std::nullopt;
    return now.substr(first_, size_);
  }
  [[nodiscard]] bool unchanged() const {
    const std::optional<std::string> now = read();
    return now && *now == host_.substr(first_, size_);
  }

 private:
  std::string host_;
  std::size_t first_;
  std::size_t size_;
  Memory memory_;
};

// Where x's elements lie in memory.
struct Strides {
  std::int64_t b, c, t;
  std::int64_t first = 0;
  std::int64_t elements;  // of the memory
};

Strides strides_of(verify::Layout layout, std::int64_t batch, std::int64_t channels, std::int64_t length) {
  const std::int64_t image = channels * length;
  switch (layout) {
    case verify::Layout::contiguous:
      break;
    case verify::Layout::transposed:
      return {image, 1, channels, 0, batch * image};
    case verify::Layout::sliced: {  // out of a longer tensor
      const std::int64_t longer = length + 5;
      return {channels * longer, longer, 1, 3, batch * channels * longer + 3};
    }
    case verify::Layout::strided:
      return {2 * image, 2 * length, 2, 0, 2 * batch * image};
    case verify::Layout::expanded:
      return {0, length, 1, 0, image};
  }
  return {image, length, 1, 0, batch * image};
}

std::string arranged(const std::string& dense, const Strides& s, const verify::Case& c, std::size_t size) {
  const std::int64_t channels = c.workload.problem.c_in, length = c.workload.extent.length;
  std::string memory(static_cast<std::size_t>(s.elements) * size, static_cast<char>(kPoison));
  std::size_t from = 0;
  for (std::int64_t b = 0; b < c.workload.extent.batch; ++b) {
    for (std::int64_t i = 0; i < channels; ++i) {
      for (std::int64_t t = 0; t < length; ++t, from += size)
        std::memcpy(memory.data() + static_cast<std::size_t>(s.first + b * s.b + i * s.c + t * s.t) * size,
                    dense.data() + from, size);
    }
  }
  return memory;
}

verify::Engine engine_of(const cuda::Plan& plan) {
  // These sum in IEEE arithmetic; any other is taken for a user of the matrix units.
  const std::string_view name = plan.solver().name;
  return name == cuda::kDirect.name || name == cuda::kDepthwise.name ? verify::Engine::ieee
                                                                     : verify::Engine::tensor_cores;
}

struct Checked {
  std::string fault;  // empty: good
  double ratio = 0;
};

Checked check_schedule(const cuda::Plan& plan, std::size_t index, const verify::Case& c,
                       const verify::Tensors& tensors) {
  const Problem& p = c.workload.problem;
  const Extent& extent = c.workload.extent;
  const auto size = static_cast<std::size_t>(bytes_per_element(p.arithmetic));
  const std::int64_t out = out_length(p, extent.length);
  // Every third case has pointers that are aligned to an element only.
  const std::size_t shift = c.config % 3 == 0 ? size : 0;
  const bool padded_rows = c.config % 5 == 0;  // of y
  const std::int64_t row = out + (padded_rows ? 3 : 0);

  const Strides x_strides = strides_of(c.layout, extent.batch, p.c_in, extent.length);
  const Guarded x(arranged(verify::encode(tensors.x, p.arithmetic), x_strides, c, size), shift);
  const Guarded w(verify::encode(tensors.w, p.arithmetic), shift);
  const Guarded bias(verify::encode(tensors.bias, p.arithmetic), shift);
  const std::string poison(static_cast<std::size_t>(extent.batch * p.c_out * row) * size, static_cast<char>(kPoison));
  const Guarded packed(std::string(static_cast<std::size_t>(plan.packed_bytes()), static_cast<char>(kPoison)), 0);

  plan.pack({.w = w.data(),
             .packed = packed.data(),
             .stride_in = p.c_out / p.groups * p.kernel,
             .stride_out = p.kernel,
             .stride_k = 1},
            nullptr);
  const auto run = [&](const Guarded& y) {
    plan.run(index,
             {.x = static_cast<const char*>(x.data()) + static_cast<std::size_t>(x_strides.first) * size,
              .w = packed.data(),
              .bias = p.bias ? bias.data() : nullptr,
              .y = y.data(),
              .batch = extent.batch,
              .length = extent.length,
              .out_length = out,
              .x_stride_b = x_strides.b,
              .x_stride_c = x_strides.c,
              .x_stride_t = x_strides.t,
              .y_stride_b = p.c_out * row,
              .y_stride_c = row},
             nullptr);
    cuda::check(cuda::driver().cuCtxSynchronize(), "cuCtxSynchronize");
    return y.read();
  };
  const Guarded y(poison, shift), again(poison, shift);
  const std::optional<std::string> first = run(y);
  if (!first) return {"wrote outside y"};
  if (!packed.read()) return {"packed outside the packed weights"};
  if (!x.unchanged() || !w.unchanged() || !bias.unchanged()) return {"wrote to an input"};
  const std::optional<std::string> second = run(again);
  if (!second || *second != *first) return {"a second run differs"};

  std::string dense;
  const std::size_t row_bytes = static_cast<std::size_t>(row) * size, out_bytes = static_cast<std::size_t>(out) * size;
  for (std::size_t at = 0; at < first->size(); at += row_bytes) {
    dense.append(*first, at, out_bytes);
    if (first->compare(at + out_bytes, row_bytes - out_bytes, poison, at + out_bytes, row_bytes - out_bytes) != 0)
      return {"wrote between the rows of y"};
  }
  const verify::Judgement judgement = verify::judge(c, tensors, dense, engine_of(plan));
  if (judgement.fault) return {judgement.fault->kind + ": " + judgement.fault->detail};
  return {"", judgement.ratio};
}

struct Totals {
  std::int64_t cases = 0, failed = 0, refused = 0;
  double worst_ratio = 0;
  std::vector<std::string> failures;
};

void check_case(const Options& options, const verify::Case& c, Totals& totals) {
  const auto tell = [&](std::string_view what) {
    totals.failures.push_back(printable(fmt::format("{} --seed {}: {}", print_word(c.workload), c.seed, what), 2000));
    if (!options.json) print_result(totals.failures.back());  // at once, for a run may be cut short
  };
  try {
    const cuda::Plan plan(c.workload.problem, options.device, options.solver);
    const verify::Tensors tensors = verify::make_tensors(c);
    const std::vector<cuda::Plan::Compiled> all = plan.compiled();
    for (std::size_t i = 0; i < all.size(); ++i) {
      ++totals.cases;
      const Checked result = check_schedule(plan, i, c, tensors);
      totals.worst_ratio = std::max(totals.worst_ratio, result.ratio);
      if (result.fault.empty()) continue;
      ++totals.failed;
      tell(fmt::format("{} {}, {}, x {}: {}", plan.solver().name, cuda::print(all[i].schedule), verify::name(c.data),
                       verify::name(c.layout), result.fault));
    }
  } catch (const Error& error) {
    // A forced solver refuses most random layers; without one, none may be refused.
    if (error.exit() == Exit::unsupported && !options.solver.empty() && options.words.empty()) {
      ++totals.refused;
      return;
    }
    // A failed launch leaves the context unusable, so nothing after it would tell more.
    if (error.exit() != Exit::no_device) ++totals.failed, ++totals.cases;
    tell(error.what());
    if (error.exit() == Exit::no_device) throw;
  }
}

// Constructor roles are free: every problem is asked of the engine.
verify::Interface any_problem(const std::vector<std::string>& names) {
  verify::Interface all;
  for (verify::Interface::Role* role : {&all.c_in, &all.c_out, &all.kernel, &all.stride, &all.padding,
                                        &all.output_padding, &all.dilation, &all.groups, &all.bias})
    role->argument = "free";
  for (const std::string& name : names) all.arithmetics.push_back(*arithmetic_named(name));
  if (names.empty())
    all.arithmetics = {Arithmetic::f32,  Arithmetic::tf32, Arithmetic::f16,
                       Arithmetic::bf16, Arithmetic::f64,  Arithmetic::i32};
  return all;
}

Exit run(const Options& options) {
  const UsedDevice device(options.device);
  const std::uint64_t seed = options.seed_given ? options.seed : std::random_device{}();
  const std::int64_t cases = options.cases > 0 ? options.cases : options.words.empty() ? 100 : 4;
  Totals totals;
  if (options.words.empty()) {
    const verify::Interface interface = any_problem(options.arithmetics);
    for (std::int64_t i = 0; i < cases; ++i) {
      const std::uint64_t own = seed + static_cast<std::uint64_t>(i);
      const Workload workload = verify::draw_workload(interface, {.arithmetics = interface.arithmetics}, own);
      check_case(options, verify::make_case(workload, own), totals);
    }
  }
  for (const std::string& word : options.words) {
    const Workload workload = parse_workload(word);
    verify::require_verifiable(workload);
    // A line of a failing case repeats that case; otherwise a few seeds meet every kind of data and layout.
    for (std::int64_t i = 0; i < (options.seed_given && options.cases == 0 ? 1 : cases); ++i)
      check_case(options, verify::make_case(workload, seed + static_cast<std::uint64_t>(i)), totals);
  }
  const nlohmann::ordered_json json = {{"seed", seed},
                                       {"checked", totals.cases},
                                       {"failed", totals.failed},
                                       {"refused", totals.refused},
                                       {"worst_error_over_bound", totals.worst_ratio},
                                       {"failures", totals.failures}};
  print_result(options.json ? json.dump(2)
                            : fmt::format("seed {}: {} runs checked, {} failed, {} layers refused by the solver, worst "
                                          "error {:.3f} of its bound",
                                          seed, totals.cases, totals.failed, totals.refused, totals.worst_ratio));
  return totals.failed == 0 ? Exit::ok : Exit::check_failed;
}

}  // namespace

void add_check(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb =
      app.add_subcommand("check", "Run the CUDA kernels on this machine's GPU against a float64 reference");
  verb->add_option("WORD", options->words, "Layers with their lengths; random ones without");
  verb->add_option("--device", options->device, "The GPU's number")->capture_default_str();
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves a layer");
  verb->add_option("--cases", options->cases, "How many random layers, or how many seeds of each WORD")
      ->check(CLI::Range(1, 1000000));
  verb->add_option("--dtype", options->arithmetics, "Only these arithmetics of random layers")
      ->delimiter(',')
      ->check(CLI::IsMember({"f32", "tf32", "f16", "bf16", "f64", "i32"}));
  verb->add_flag("--json", options->json, "JSON on standard output");
  CLI::Option* seed = verb->add_option("--seed", options->seed, "Case i has seed N + i; random when not given");
  verb->callback([options, seed, &action] {
    options->seed_given = seed->count() > 0;
    action = [options] { return run(*options); };
  });
}

}  // namespace tconv::tool
