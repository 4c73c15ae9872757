// tconv plan WORD --target NAME: the limit, the choice, and everything passed over with its reason.
#include "plan/plan.hpp"

#include <fmt/format.h>

#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "shared.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

constexpr std::size_t kListed = 12;  // lines of a list on a terminal; --json has all

struct Options {
  std::string word;
  std::string target;
  bool json = false;
};

std::string milliseconds(double seconds) { return fmt::format("{:.4g} ms", seconds * 1e3); }

std::string text(const plan::Plan& plan) {
  const Workload& workload = plan.workload;
  const Phases phases(workload.problem);
  const Limit& limit = plan.limit;
  std::string out;
  auto to = std::back_inserter(out);
  fmt::format_to(to, "{} on {}\n", print_word(workload), plan.target->display);
  fmt::format_to(to, "limit      {}, bound by {} (memory {}, arithmetic {}, launch {})\n", milliseconds(limit.seconds),
                 limit.bound_by, milliseconds(limit.memory_seconds), milliseconds(limit.arithmetic_seconds),
                 milliseconds(limit.launch_seconds));
  fmt::format_to(to, "work       {:.4g} GB to move, {:.4g} Gflop useful\n", limit.work.bytes() * 1e-9,
                 limit.work.useful_flops * 1e-9);
  fmt::format_to(to, "phases     {}: {} live of at most {} taps, {} dead{}\n", phases.count(), phases.live(),
                 phases.max_taps(), phases.dead(), phases.dead() > 0 ? " (bias only)" : "");
  for (const plan::Candidate& candidate : plan.chosen) {
    fmt::format_to(to, "schedule   {}\n", plan::print_schedule(candidate.schedule));
    fmt::format_to(
        to, "           predicted {}, {:.2f} times the limit (memory {}, arithmetic {}, issue {}, tail {:.2f})\n",
        milliseconds(candidate.seconds), candidate.seconds / limit.seconds, milliseconds(candidate.memory_seconds),
        milliseconds(candidate.arithmetic_seconds), milliseconds(candidate.issue_seconds), candidate.tail);
  }
  fmt::format_to(to, "ranked     {} schedules fit; the next best:\n", plan.ranked.size());
  for (std::size_t i = plan.chosen.size(); i < plan.ranked.size() && i < kListed; ++i)
    fmt::format_to(to, "  {:>10}  {}\n", milliseconds(plan.ranked[i].seconds),
                   plan::print_schedule(plan.ranked[i].schedule));
  fmt::format_to(to, "rejected   {}{}\n", plan.rejected.size(),
                 plan.rejected.size() > kListed ? fmt::format(", the first {} (--json lists all):", kListed) : "");
  for (std::size_t i = 0; i < plan.rejected.size() && i < kListed; ++i)
    fmt::format_to(to, "  {}: {}\n", plan.rejected[i].what, plan.rejected[i].why);
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

std::string json(const plan::Plan& plan) {
  const Phases phases(plan.workload.problem);
  nlohmann::ordered_json out;
  out["workload"] = print_word(plan.workload);
  out["target"] = std::string(plan.target->key);
  out["limit"] = {{"seconds", plan.limit.seconds},
                  {"memory_seconds", plan.limit.memory_seconds},
                  {"arithmetic_seconds", plan.limit.arithmetic_seconds},
                  {"launch_seconds", plan.limit.launch_seconds},
                  {"bound_by", std::string(plan.limit.bound_by)},
                  {"bytes", plan.limit.work.bytes()},
                  {"useful_flops", plan.limit.work.useful_flops}};
  out["phases"] = {
      {"count", phases.count()}, {"live", phases.live()}, {"dead", phases.dead()}, {"max_taps", phases.max_taps()}};
  out["chosen"] = nlohmann::ordered_json::array();
  for (const plan::Candidate& candidate : plan.chosen) out["chosen"].push_back(to_json(candidate));
  out["ranked"] = nlohmann::ordered_json::array();
  for (const plan::Candidate& candidate : plan.ranked) out["ranked"].push_back(to_json(candidate));
  out["rejected"] = nlohmann::ordered_json::array();
  for (const plan::Rejection& rejection : plan.rejected)
    out["rejected"].push_back({{"what", rejection.what}, {"why", rejection.why}});
  return out.dump(2);
}

Exit run(const Options& options) {
  const Target& target = require_target(options.target);
  const plan::Plan plan = plan::plan_triton(parse_workload(options.word), target, {});
  print_result(options.json ? json(plan) : text(plan));
  return Exit::ok;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("plan", "Limit, schedule and predicted time of one layer on one GPU");
  verb->add_option("WORD", options->word, "b16_i32_o64_l131072_k3_s2_p1_d2_tf32, or @name of the catalogue")
      ->required();
  verb->add_option("--target", options->target, "The GPU, such as h200 or rtx4090")->required();
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
