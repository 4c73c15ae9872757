#include "verify/verify.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "util/error.hpp"
#include "verify/activation.hpp"
#include "verify/bound.hpp"
#include "verify/number.hpp"
#include "verify/oracle.hpp"

namespace tconv::verify {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 25;  // of one tensor: 256 MiB in float64
constexpr double kMaxFlops = 0x1p34;                          // some 20 s of reference

struct Result {
  Case c;
  std::optional<Fault> fault;
  double ratio = 0;
};

// The element of flat index i of y, and its residue.
struct Place {
  std::int64_t b, co, t, residue;
};
Place place_of(const Workload& workload, std::size_t flat) {
  const Problem& p = workload.problem;
  const std::int64_t out = out_length(p, workload.extent.length);
  const auto i = static_cast<std::int64_t>(flat);
  const std::int64_t t = i % out;
  return {i / out / p.c_out, i / out % p.c_out, t, (t + p.padding) % p.stride};
}

bool overflows(double y, double bound, Arithmetic arithmetic) {
  return std::isinf(round_to_storage(std::fabs(y) + bound, arithmetic));
}

Engine engine_of(Device device) { return device == Device::cuda ? Engine::tensor_cores : Engine::ieee; }

Result run_one(Harness& harness, const Interface& interface, const Case& c, Engine engine) {
  const Tensors tensors = make_tensors(c);
  Outcome outcome = harness.run(c, interface, tensors);
  if (outcome.fault) return {c, std::move(outcome.fault)};
  Judgement judgement = judge(c, tensors, outcome.y, engine);
  return {c, std::move(judgement.fault), judgement.ratio};
}

void summarize(const std::vector<Result>& results, Verification& v) {
  std::map<std::string, FailureGroup> groups;
  for (const Result& r : results) {
    if (r.fault) {
      ++v.failed;
      FailureGroup& group = groups[r.fault->kind];
      if (group.count++ == 0 || work(r.c.workload).useful_flops < work(group.smallest.c.workload).useful_flops) {
        group.smallest = {r.c, *r.fault};
      }
      continue;
    }
    Accuracy& accuracy = v.accuracy[r.c.workload.problem.arithmetic];
    ++accuracy.cases;
    accuracy.exact += r.c.data == Data::integers ? 1 : 0;
    accuracy.worst_ratio = std::max(accuracy.worst_ratio, r.ratio);
  }
  for (auto& [kind, group] : groups) {
    group.kind = kind;
    for (const Result& r : results) {
      const bool failed = r.fault && r.fault->kind == kind;
      const Problem& p = r.c.workload.problem;
      for (Share* share : {&group.by_stride[p.stride], &group.by_layout[std::string(name(r.c.layout))],
                           &group.by_arithmetic[std::string(name(p.arithmetic))]}) {
        share->cases += 1;
        share->failed += failed ? 1 : 0;
      }
    }
    v.groups.push_back(std::move(group));
  }
  std::stable_sort(v.groups.begin(), v.groups.end(), [](const auto& a, const auto& b) { return a.count > b.count; });
}

// "1-40, 42, 48-54" for numbers, the names as they are otherwise.
std::string print_keys(const std::vector<std::string>& names) { return fmt::format("{}", fmt::join(names, ", ")); }
std::string print_keys(const std::vector<std::int64_t>& numbers) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t last = i;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    runs.push_back(last == i ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[last]));
    i = last + 1;
  }
  return print_keys(runs);
}

template <typename Key>
std::string print_shares(const std::map<Key, Share>& shares) {
  std::vector<std::string> failing;
  std::vector<Key> clean;
  for (const auto& [key, share] : shares) {
    if (share.failed == 0) {
      clean.push_back(key);
    } else {
      failing.push_back(share.failed == share.cases ? fmt::format("{} (all {})", key, share.cases)
                                                    : fmt::format("{} ({} of {})", key, share.failed, share.cases));
    }
  }
  return print_keys(failing) + (clean.empty() ? "" : "; none of: " + print_keys(clean));
}

}  // namespace

Expected expect(const Case& c, const Tensors& tensors, Engine engine) {
  const Problem& p = c.workload.problem;
  const double u = sum_unit(p.arithmetic);
  const auto keeps_integers = [](Activation a) { return a == Activation::none || a == Activation::relu; };
  const auto alpha_of = [](const std::vector<double>& alphas, std::int64_t channel) {
    return alphas.empty() ? 0.0 : alphas[static_cast<std::size_t>(channel)];
  };

  // A matrix unit multiplies what is in storage's own type, which an activated x is rounded to; relu's is there
  // already.
  const bool rounded =
      engine == Engine::tensor_cores && bytes_per_element(p.arithmetic) == 2 && !keeps_integers(c.before);

  std::vector<double> x = tensors.x, x_error;
  if (c.before != Activation::none) {
    x_error.resize(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double alpha = alpha_of(tensors.x_alpha, static_cast<std::int64_t>(i) / c.workload.extent.length % p.c_in);
      x_error[i] = activation_error(c.before, x[i], 0, c.before_parameter, alpha, u);
      x[i] = activate(c.before, x[i], c.before_parameter, alpha);
      if (rounded) x_error[i] = stored_error(p.arithmetic, x[i], x_error[i]);
    }
  }
  // Integer data leaves no error but the rounding of the one exact sum.
  Expected expected{.y = gather(c.workload, x, tensors.w, tensors.bias),
                    .bound = {},
                    .exact = c.data == Data::integers && keeps_integers(c.before) && keeps_integers(c.after)};
  if (!expected.exact) expected.bound = sum_error(c.workload, x, x_error, tensors.w, tensors.bias, engine);
  for (std::size_t i = 0; i < expected.y.size(); ++i) {
    double& y = expected.y[i];
    if (expected.exact) {
      y = activate(c.after, round_to_storage(y, p.arithmetic), 0,
                   0);  // sums of integers wrap before they are activated
      continue;
    }
    const double alpha = alpha_of(tensors.y_alpha, place_of(c.workload, i).co);
    const double error = activation_error(c.after, y, expected.bound[i], c.after_parameter, alpha, u);
    y = activate(c.after, y, c.after_parameter, alpha);
    expected.bound[i] = stored_error(p.arithmetic, y, error);
  }
  return expected;
}

Judgement judge(const Case& c, const Tensors& tensors, std::string_view bytes, Engine engine) {
  return judge(c, expect(c, tensors, engine), bytes);
}

Judgement judge(const Case& c, const Expected& expected, std::string_view bytes) {
  const Arithmetic arithmetic = c.workload.problem.arithmetic;
  const auto& [reference, bound, exact] = expected;
  const std::vector<double> answer = decode(bytes, arithmetic);
  if (answer.size() != reference.size()) {
    return {Fault{"shape", fmt::format("{} elements where {} are due", answer.size(), reference.size())}};
  }
  Judgement result;
  std::size_t wrong = 0, first = 0;
  std::set<std::int64_t> residues;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    bool good = false;
    if (exact) {
      good = answer[i] == round_to_storage(reference[i], arithmetic);
    } else if (std::isinf(answer[i])) {
      good = overflows(reference[i], bound[i], arithmetic) && std::signbit(answer[i]) == std::signbit(reference[i]);
    } else {
      const double error = std::fabs(answer[i] - reference[i]);
      good = error <= bound[i];  // false for NaN
      if (good && error > 0) result.ratio = std::max(result.ratio, error / bound[i]);
    }
    if (good) continue;
    if (wrong++ == 0) first = i;
    residues.insert(place_of(c.workload, i).residue);
  }
  if (wrong > 0) {
    const Place at = place_of(c.workload, first);
    const double due = exact ? round_to_storage(reference[first], arithmetic) : reference[first];
    result.fault =
        Fault{"wrong result",
              fmt::format("{} of {} elements, first y[{},{},{}] = {:.9g} where {:.9g} is due{}; residues {} of {}",
                          wrong, reference.size(), at.b, at.co, at.t, answer[first], due,
                          exact ? " exactly" : fmt::format(" within {:.2g}", bound[first]), fmt::join(residues, ","),
                          c.workload.problem.stride)};
  }
  return result;
}

void require_verifiable(const Workload& workload) {
  const std::int64_t elements =
      std::max({input_elements(workload), weight_elements(workload.problem), output_elements(workload)});
  if (elements > kMaxElements || work(workload).useful_flops > kMaxFlops) {
    throw Error(Exit::unsupported, print_word(workload), "is too large for the float64 reference",
                "at most 2^25 elements a tensor and 2^34 useful flops");
  }
}

Verification verify(const Options& options, const Interface& interface) {
  Ranges ranges{options.max_stride, options.arithmetics};
  if (ranges.arithmetics.empty()) {
    ranges.arithmetics = interface.arithmetics;
    // A GPU computes f32 products exactly only where the answer offers that; ask for it by name.
    if (options.device == Device::cuda) std::erase(ranges.arithmetics, Arithmetic::f32);
  }
  if (options.only) {
    require_verifiable(*options.only);
    if (const auto why = interface.refuse(options.only->problem)) {
      throw Error(Exit::unsupported, print_word(*options.only), *why, "the constructor must admit the case");
    }
  }
  const auto count = static_cast<std::size_t>(options.cases);
  std::vector<Case> cases;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint64_t seed = options.seed + i;
    cases.push_back(make_case(options.only ? *options.only : draw_workload(interface, ranges, seed), seed));
  }

  Verification v;
  v.seed = options.seed;
  v.cases = options.cases;
  std::vector<Result> results(count);
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::int64_t done = 0, failed = 0;
  std::exception_ptr refusal;
  auto work_through = [&] {
    try {
      Harness harness(options.answer, options.device, options.timeout);
      harness.start();
      {
        const std::lock_guard lock(mutex);
        v.versions = harness.versions();
      }
      for (std::size_t i = next++; i < count; i = next++) {
        results[i] = run_one(harness, interface, cases[i], engine_of(options.device));
        const std::lock_guard lock(mutex);
        ++done;
        failed += results[i].fault ? 1 : 0;
        if (options.progress) options.progress(done, failed);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!refusal) refusal = std::current_exception();
      next = count;
    }
  };
  {
    std::vector<std::jthread> workers;
    const auto jobs = std::clamp<std::size_t>(static_cast<std::size_t>(std::max(options.jobs, 1)), 1, count);
    for (std::size_t j = 0; j < jobs; ++j) workers.emplace_back(work_through);
  }
  if (refusal) std::rethrow_exception(refusal);
  summarize(results, v);
  return v;
}

std::string reproducer(const Options& options, const Case& c, std::string_view file) {
  return fmt::format("tconv verify {} --case {} --seed {}{}", file, print_word(c.workload), c.seed,
                     options.device == Device::cuda ? " --device cuda" : "");
}

std::string text(const Verification& v, const Options& options, std::string_view file) {
  std::string out = fmt::format("{}: {} cases, seed {}, {}\n", file, v.cases, v.seed, v.versions);
  for (const auto& [arithmetic, a] : v.accuracy) {
    out += fmt::format("  {:<5}{:>5} passed: {:>3} exact", name(arithmetic), a.cases, a.exact);
    if (a.cases > a.exact) {
      out += fmt::format(", {:>3} within the bound, at most {:.3f} of it", a.cases - a.exact, a.worst_ratio);
    }
    out += '\n';
  }
  for (const FailureGroup& g : v.groups) {
    out += fmt::format("\n{}: {} of {} cases\n", g.kind, g.count, v.cases);
    if (v.cases > 1) {
      out += fmt::format("  by stride:     {}\n", print_shares(g.by_stride));
      out += fmt::format("  by layout:     {}\n", print_shares(g.by_layout));
      out += fmt::format("  by arithmetic: {}\n", print_shares(g.by_arithmetic));
    }
    const Case& c = g.smallest.c;
    out += fmt::format("  smallest: {} ({} data, x {}): {}\n", print_word(c.workload), name(c.data), name(c.layout),
                       g.smallest.fault.detail);
    out += fmt::format("  {}\n", reproducer(options, c, file));
  }
  out += fmt::format("{}{} passed, {} failed\n", v.groups.empty() ? "" : "\n", v.cases - v.failed, v.failed);
  return out;
}

std::string json(const Verification& v, const Options& options, std::string_view file) {
  using nlohmann::json;
  auto shares = [](const auto& map) {
    json out = json::array();
    for (const auto& [key, share] : map)
      out.push_back({{"value", key}, {"failed", share.failed}, {"cases", share.cases}});
    return out;
  };
  json accuracy = json::object();
  for (const auto& [arithmetic, a] : v.accuracy) {
    accuracy[std::string(name(arithmetic))] = {{"passed", a.cases}, {"exact", a.exact}, {"worst_ratio", a.worst_ratio}};
  }
  json groups = json::array();
  for (const FailureGroup& g : v.groups) {
    groups.push_back({{"kind", g.kind},
                      {"count", g.count},
                      {"by_stride", shares(g.by_stride)},
                      {"by_layout", shares(g.by_layout)},
                      {"by_arithmetic", shares(g.by_arithmetic)},
                      {"smallest",
                       {{"case", print_word(g.smallest.c.workload)},
                        {"seed", g.smallest.c.seed},
                        {"data", name(g.smallest.c.data)},
                        {"layout", name(g.smallest.c.layout)},
                        {"detail", g.smallest.fault.detail},
                        {"command", reproducer(options, g.smallest.c, file)}}}});
  }
  const json out = {{"file", file},       {"device", v.versions}, {"seed", v.seed},    {"cases", v.cases},
                    {"failed", v.failed}, {"passed", accuracy},   {"failures", groups}};
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace tconv::verify
