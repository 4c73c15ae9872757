// tconv plan WORD: the limit, the choice, and everything passed over with its reason, for a GPU's Triton kernel or this
// machine's CPU.
#include "plan/plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpu/machine.hpp"
#include "cpu/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "report/format.hpp"
#include "shared.hpp"
#include "util/cache.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

constexpr std::size_t kNext = 5;     // schedules on a terminal beside those chosen; --json has all
constexpr std::size_t kReasons = 8;  // likewise, of those passed over

struct Options {
  std::string word;
  std::string target;  // a GPU's, or "cpu"
  int threads = 1;     // on the CPU
  bool json = false;
};

std::string line(std::string_view rank, const plan::Candidate& candidate) {
  const plan::Schedule& s = candidate.schedule;
  return fmt::format("{:>10}{:>6}{:>8}{:>11}{:>10}{:>7}{:>8}{:>13}{:>11}{:>12}{:>11}{:>7.2f}\n", rank, s.block_rows,
                     s.phases, s.block_positions, s.block_channels, s.warps, s.stages,
                     report::seconds_text(candidate.seconds), report::seconds_text(candidate.memory_seconds),
                     report::seconds_text(candidate.arithmetic_seconds), report::seconds_text(candidate.issue_seconds),
                     candidate.tail);
}

// Reasons with the number of schedules they befall, the most frequent first.
std::vector<std::pair<std::string, std::vector<const plan::Rejection*>>> by_reason(const plan::Plan& plan) {
  std::vector<std::pair<std::string, std::vector<const plan::Rejection*>>> groups;
  for (const plan::Rejection& rejection : plan.rejected) {
    const auto known =
        std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == rejection.why; });
    auto& group =
        known != groups.end() ? *known : groups.emplace_back(rejection.why, std::vector<const plan::Rejection*>{});
    group.second.push_back(&rejection);
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  return groups;
}

std::string work_text(const Workload& workload, const Work& work) {
  const Phases phases(workload.problem);
  return fmt::format("work       {} to move, {} useful\n", report::quantity_text(work.bytes(), "B"),
                     report::quantity_text(work.useful_flops, "FLOP")) +
         fmt::format("phases     {}: {} live of at most {} tap{}, {} dead{}\n", phases.count(), phases.live(),
                     phases.max_taps(), phases.max_taps() == 1 ? "" : "s", phases.dead(),
                     phases.dead() > 0 ? " (bias only)" : "");
}

std::string text(const plan::Plan& plan) {
  const Workload& workload = plan.workload;
  const Limit& limit = plan.limit;
  std::string out;
  auto to = std::back_inserter(out);
  fmt::format_to(to, "{} on {}\n", print_word(workload), plan.target->display);
  fmt::format_to(to, "limit      {}, bound by {} (memory {}, arithmetic {}, launch {})\n",
                 report::seconds_text(limit.seconds), limit.bound_by, report::seconds_text(limit.memory_seconds),
                 report::seconds_text(limit.arithmetic_seconds), report::seconds_text(limit.launch_seconds));
  out += work_text(workload, limit.work);
  fmt::format_to(to, "predicted  {}, {} the limit, on the {}\n", report::seconds_text(plan.chosen.front().seconds),
                 report::ratio_text(plan.chosen.front().seconds / limit.seconds),
                 plan.exact_body ? "FMA units" : "matrix unit");
  out +=
      "\nschedule    rows  phases  positions  channels  warps  stages    predicted     memory  arithmetic      issue   "
      "tail\n";
  for (const plan::Candidate& candidate : plan.chosen) out += line("chosen", candidate);
  const std::size_t last = std::min(plan.ranked.size(), plan.chosen.size() + kNext);
  for (std::size_t i = plan.chosen.size(); i < last; ++i) out += line(fmt::format("{}.", i + 1), plan.ranked[i]);
  if (last < plan.ranked.size()) fmt::format_to(to, "           and {} more that fit\n", plan.ranked.size() - last);

  const auto groups = by_reason(plan);
  out += "\npassed over\n";
  for (std::size_t i = 0; i < groups.size() && i < kReasons; ++i) {
    const auto& [why, all] = groups[i];
    fmt::format_to(to, "  {}{}: {}\n", all.front()->what,
                   all.size() > 1 ? fmt::format(", and {} more", all.size() - 1) : "", why);
  }
  if (groups.size() > kReasons)
    fmt::format_to(to, "  and for {} other reasons; --json lists all\n", groups.size() - kReasons);
  return out;
}

nlohmann::ordered_json to_json(const plan::Candidate& candidate) {
  const plan::Schedule& schedule = candidate.schedule;
  return {{"block_rows", schedule.block_rows},
          {"phases", schedule.phases},
          {"block_positions", schedule.block_positions},
          {"block_channels", schedule.block_channels},
          {"warps", schedule.warps},
          {"stages", schedule.stages},
          {"predicted_seconds", candidate.seconds},
          {"memory_seconds", candidate.memory_seconds},
          {"arithmetic_seconds", candidate.arithmetic_seconds},
          {"issue_seconds", candidate.issue_seconds},
          {"tail", candidate.tail}};
}

// What both kinds of plan say of a layer.
nlohmann::ordered_json to_json(const Workload& workload, std::string_view target, const Limit& limit) {
  const Phases phases(workload.problem);
  nlohmann::ordered_json out;
  out["workload"] = print_word(workload);
  out["target"] = std::string(target);
  out["limit"] = {{"seconds", limit.seconds},
                  {"memory_seconds", limit.memory_seconds},
                  {"arithmetic_seconds", limit.arithmetic_seconds},
                  {"launch_seconds", limit.launch_seconds},
                  {"bound_by", std::string(limit.bound_by)},
                  {"bytes", limit.work.bytes()},
                  {"useful_flops", limit.work.useful_flops}};
  out["phases"] = {
      {"count", phases.count()}, {"live", phases.live()}, {"dead", phases.dead()}, {"max_taps", phases.max_taps()}};
  return out;
}

std::string json(const plan::Plan& plan) {
  nlohmann::ordered_json out = to_json(plan.workload, plan.target->key, plan.limit);
  out["chosen"] = nlohmann::ordered_json::array();
  for (const plan::Candidate& candidate : plan.chosen) out["chosen"].push_back(to_json(candidate));
  out["ranked"] = nlohmann::ordered_json::array();
  for (const plan::Candidate& candidate : plan.ranked) out["ranked"].push_back(to_json(candidate));
  out["rejected"] = nlohmann::ordered_json::array();
  for (const plan::Rejection& rejection : plan.rejected)
    out["rejected"].push_back({{"what", rejection.what}, {"why", rejection.why}});
  return out.dump(2);
}

std::string cpu_text(const Workload& workload, const cpu::Plan& plan, const cpu::Rates& rates, const Limit& limit) {
  const auto rate = [](double value, std::string_view unit) { return report::quantity_text(value, unit); };
  std::string out = fmt::format("{} on {}, {} thread{}\n", print_word(workload), report::plain(cpu::cpu_model()),
                                rates.threads, rates.threads == 1 ? "" : "s");
  auto to = std::back_inserter(out);
  fmt::format_to(to, "limit      {}, bound by {} (memory {}, arithmetic {})\n", report::seconds_text(limit.seconds),
                 limit.bound_by, report::seconds_text(limit.memory_seconds),
                 report::seconds_text(limit.arithmetic_seconds));
  out += work_text(workload, limit.work);
  fmt::format_to(to, "measured   {} f32, {} f64, {} i32\n", rate(rates.f32, "FLOP/s"), rate(rates.f64, "FLOP/s"),
                 rate(rates.i32, "OP/s"));
  for (const cpu::Level& level : rates.levels)
    fmt::format_to(to, "           {} of {}: {} read, {} written, {} copied\n", cpu::name_of(level),
                   rate(level.capacity, "B"), rate(level.read, "B/s"), rate(level.write, "B/s"),
                   rate(level.copy, "B/s"));
  fmt::format_to(to, "weights    {} packed\n\n", rate(static_cast<double>(plan.packed_bytes()), "B"));
  return out + plan.explain(workload.extent);
}

std::string cpu_json(const Workload& workload, const cpu::Plan& plan, const cpu::Rates& rates, const Limit& limit) {
  nlohmann::ordered_json out = to_json(workload, "cpu", limit);
  out["cpu"] = report::plain(cpu::cpu_model());
  out["instruction_set"] = cpu::instruction_sets().front();
  out["rates"] = nlohmann::ordered_json::parse(cpu::print_rates(rates));
  out["solver"] = std::string(plan.solver().name);
  out["explanation"] = plan.explain(workload.extent);
  out["packed_bytes"] = plan.packed_bytes();
  out["workspace_bytes_per_thread"] = plan.workspace_bytes(workload.extent);
  out["rejected"] = nlohmann::ordered_json::array();
  for (const plan::PassedOver& passed : plan.passed_over())
    out["rejected"].push_back({{"what", std::string(passed.solver)}, {"why", passed.why}});
  return out.dump(2);
}

Exit run(const Options& options) {
  const Workload workload = parse_workload(options.word);
  if (options.target.empty()) std::fputs("tconv: for this machine's CPU (--target names a GPU)\n", stderr);
  if (options.target.empty() || options.target == "cpu") {
    const cpu::Plan plan(Layer{.problem = workload.problem});
    const cpu::Rates rates = cpu::machine_rates(options.threads, Cache(Cache::default_root()));
    const Limit limit = cpu::limit(workload, rates);
    print_result(options.json ? cpu_json(workload, plan, rates, limit) : cpu_text(workload, plan, rates, limit));
  } else {
    const plan::Plan plan = plan::plan_triton(workload, require_target(options.target), {});
    print_result(options.json ? json(plan) : text(plan));
  }
  return Exit::ok;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("plan", "Limit and choice for one layer on a GPU or this machine's CPU");
  verb->add_option("WORD", options->word, "b16_i32_o64_l131072_k3_s2_p1_d2_tf32, or @name of the catalogue")
      ->required();
  verb->add_option("--target", options->target, "cpu, or a GPU such as h200 or rtx4090; without, the CPU");
  add_threads(verb, options->threads);
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
