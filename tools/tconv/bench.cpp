// tconv bench: times of the CUDA kernels on this machine's GPU, with a cold L2, beside the limit.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "cuda/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "report/format.hpp"
#include "shared.hpp"
#include "target/target.hpp"
#include "util/error.hpp"
#include "verbs.hpp"
#include "verify/number.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::vector<std::string> words;
  std::string solver;
  int device = 0;
  int repeats = 25;
  bool json = false;
};

constexpr std::size_t kFlushBytes = 256u << 20;  // more than any L2
constexpr std::size_t kDrawn = 1u << 20;         // random elements, repeated over a tensor

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
    cuda::check(
        cuda::driver().cuMemcpyHtoD(memory.pointer() + at, bytes.data(), std::min(bytes.size(), memory.bytes() - at)),
        "cuMemcpyHtoD");
  return memory;
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

Exit run(const Options& options) {
  const UsedDevice device(options.device);
  Memory flush(kFlushBytes);
  Clock clock;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text;
  auto to = std::back_inserter(text);
  for (const std::string& word : options.words) {
    const Workload workload = parse_workload(word);
    const Problem& p = workload.problem;
    const Extent& extent = workload.extent;
    const cuda::Plan plan(p, options.device, options.solver);
    const std::int64_t out = out_length(p, extent.length);
    const Memory x = random_tensor(input_elements(workload), p.arithmetic);
    const Memory w = random_tensor(weight_elements(p), p.arithmetic);
    const Memory bias = random_tensor(p.c_out, p.arithmetic);
    const Memory packed(static_cast<std::size_t>(plan.packed_bytes()));
    const Memory y(static_cast<std::size_t>(output_elements(workload)) *
                   static_cast<std::size_t>(bytes_per_element(p.arithmetic)));
    plan.pack({.w = w.at(0),
               .packed = packed.at(0),
               .stride_in = p.c_out / p.groups * p.kernel,
               .stride_out = p.kernel,
               .stride_k = 1},
              nullptr);
    const Call call{.x = x.at(0),
                    .w = packed.at(0),
                    .bias = p.bias ? bias.at(0) : nullptr,
                    .y = y.at(0),
                    .batch = extent.batch,
                    .length = extent.length,
                    .out_length = out,
                    .x_stride_b = p.c_in * extent.length,
                    .x_stride_c = extent.length,
                    .x_stride_t = 1,
                    .y_stride_b = p.c_out * out,
                    .y_stride_c = out};
    const Limit bound = limit(workload, plan.target());
    fmt::format_to(to, "{} on {} by {}: limit {} ({})\n", print_word(workload), plan.target().display,
                   plan.solver().name, report::seconds_text(bound.seconds), bound.bound_by);
    nlohmann::ordered_json schedules = nlohmann::ordered_json::array();
    const std::size_t chosen = plan.choose(extent);
    const std::vector<cuda::Plan::Compiled> all = plan.compiled();
    for (std::size_t i = 0; i < all.size(); ++i) {
      std::vector<double> times;
      for (int n = -2; n < options.repeats; ++n) {  // two to warm up
        cuda::check(cuda::driver().cuMemsetD8Async(flush.pointer(), 1, flush.bytes(), nullptr), "cuMemsetD8Async");
        const double seconds = clock.seconds([&] { plan.run(i, call, nullptr); });
        if (n >= 0) times.push_back(seconds);
      }
      std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
      const double median = times[times.size() / 2];
      const double predicted = plan.solver().seconds(workload, plan.target(), all[i].schedule);
      fmt::format_to(to, "{} {}: {}, {} the limit, predicted {}\n", i == chosen ? "*" : " ",
                     cuda::print(all[i].schedule), report::seconds_text(median),
                     report::ratio_text(median / bound.seconds), report::seconds_text(predicted));
      schedules.push_back({{"schedule", cuda::print(all[i].schedule)},
                           {"chosen", i == chosen},
                           {"seconds", median},
                           {"predicted_seconds", predicted}});
    }
    rows.push_back({{"workload", print_word(workload)},
                    {"device", std::string(plan.target().display)},
                    {"solver", std::string(plan.solver().name)},
                    {"limit_seconds", bound.seconds},
                    {"schedules", schedules}});
  }
  print_result(options.json ? rows.dump(2) : text);
  return Exit::ok;
}

}  // namespace

void add_bench(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("bench", "Time every schedule of a layer on this machine's GPU, with a cold L2");
  verb->add_option("WORD", options->words, "Layers with their lengths")->required();
  verb->add_option("--device", options->device, "The GPU's number")->capture_default_str();
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves a layer");
  verb->add_option("--repeats", options->repeats, "Runs a median is taken of")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
