#include <nlohmann/json.hpp>

#include "report/facts.hpp"
#include "report/format.hpp"

namespace tconv::report {
namespace {

using Json = nlohmann::ordered_json;  // keys stay in the order they are written

Json maybe(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

Json schedule_json(const plan::Schedule& s) {
  return {{"block_rows", s.block_rows},         {"phases", s.phases}, {"block_positions", s.block_positions},
          {"block_channels", s.block_channels}, {"warps", s.warps},   {"stages", s.stages}};
}

Json workload_json(const Facts& facts) {
  const request::WorkloadGuess& guess = facts.diagnosis.workload;
  const Problem& p = facts.workload.problem;
  return {{"word", facts.word},
          {"determined", guess.workload.has_value()},
          {"catalogue", guess.catalogue_name},
          {"how", guess.how},
          {"also", guess.also},
          {"config", guess.config},
          {"problem",
           {{"c_in", p.c_in},
            {"c_out", p.c_out},
            {"kernel", p.kernel},
            {"stride", p.stride},
            {"padding", p.padding},
            {"output_padding", p.output_padding},
            {"dilation", p.dilation},
            {"groups", p.groups},
            {"arithmetic", name(p.arithmetic)},
            {"bias", p.bias}}},
          {"batch", facts.workload.extent.batch},
          {"length", facts.workload.extent.length},
          {"phases",
           {{"count", facts.phases.count()},
            {"live", facts.phases.live()},
            {"dead", facts.phases.dead()},
            {"max_taps", facts.phases.max_taps()}}}};
}

Json times_json(const Facts& facts) {
  const Limit& limit = facts.plan.limit;
  return {
      {"current_seconds", maybe(facts.current)},
      {"current_is_of_another_machine", facts.current && facts.current_elsewhere},
      {"answer_seconds", maybe(facts.predicted)},
      {"limit_seconds", limit.seconds},
      {"speedup", maybe(facts.speedup)},
      {"answer_over_limit", facts.predicted && facts.limit > 0 ? Json(*facts.predicted / facts.limit) : Json(nullptr)},
      {"limit",
       {{"bound_by", limit.bound_by},
        {"memory_seconds", limit.memory_seconds},
        {"arithmetic_seconds", limit.arithmetic_seconds},
        {"launch_seconds", limit.launch_seconds},
        {"bytes_read", limit.work.bytes_read},
        {"bytes_written", limit.work.bytes_written},
        {"useful_flops", limit.work.useful_flops},
        {"achievable_dram_bytes_per_s", facts.dram},
        {"achievable_flops", achievable_flops(facts.target, facts.workload.problem.arithmetic)}}}};
}

Json schedules_json(const Facts& facts) {
  Json out = Json::array();
  for (const ScheduleRow& row : facts.schedules) {
    const plan::Candidate& c = *row.candidate;
    out.push_back({{"schedule", schedule_json(c.schedule)},
                   {"predicted_seconds", c.seconds},
                   {"memory_seconds", c.memory_seconds},
                   {"arithmetic_seconds", c.arithmetic_seconds},
                   {"issue_seconds", c.issue_seconds},
                   {"tail", c.tail}});
  }
  return out;
}

Json compiled_json(const Answer& answer) {
  Json out = Json::array();
  for (const Compiled& c : answer.compiled) {
    out.push_back({{"schedule", schedule_json(c.schedule)},
                   {"registers", c.registers},
                   {"shared_memory_bytes", c.shared_memory},
                   {"spill_bytes", c.spills},
                   {"occupancy", c.occupancy.fraction},
                   {"blocks_per_sm", c.occupancy.blocks_per_sm},
                   {"limited_by", c.occupancy.limited_by},
                   {"triton", c.triton_version}});
  }
  return out;
}

}  // namespace

std::string json(const Answer& answer) {
  const Facts facts = gather(answer);
  const request::Diagnosis& diagnosis = facts.diagnosis;
  Json out;
  out["request"] = facts.request.path;
  out["target"] = {{"key", facts.target.key},
                   {"name", facts.target.display},
                   {"chip", facts.target.chip},
                   {"sm", facts.target.sm},
                   {"overridden", diagnosis.target_overridden},
                   {"stated", facts.request.stated.name}};
  out["stage"] = {{"name", facts.stage}, {"focus", facts.request.stage.focus}};
  out["workload"] = workload_json(facts);
  out["times"] = times_json(facts);
  out["evidence"] = diagnosis.units;
  out["findings"] = Json::array();
  for (const request::Finding* finding : facts.findings) {
    out["findings"].push_back({{"severity", key(finding->severity)},
                               {"line", finding->line},
                               {"title", finding->title},
                               {"detail", finding->detail}});
  }
  out["rules"] = Json::array();
  for (const request::RuleVerdict& rule : diagnosis.rules) {
    out["rules"].push_back(
        {{"line", rule.line}, {"rule", rule.rule}, {"verdict", key(rule.verdict)}, {"why", rule.why}});
  }
  out["metric_notes"] = Json::array();
  for (const request::MetricNote& note : diagnosis.metric_notes) {
    out["metric_notes"].push_back({{"asked", note.asked}, {"alias", note.alias}, {"why", note.why}});
  }
  out["target_disagreements"] = Json::array();
  for (const request::Disagreement& other : diagnosis.disagreements) {
    out["target_disagreements"].push_back(
        {{"what", other.what}, {"stated", other.stated}, {"ours", other.ours}, {"source", other.source}});
  }
  out["body"] = facts.plan.exact_body ? "fma" : "matrix";
  out["schedules"] = schedules_json(facts);
  out["compiled"] = compiled_json(answer);
  out["not_compiled"] = answer.compiled.empty() ? Json(answer.not_compiled) : Json(nullptr);
  out["rejected"] = Json::array();
  for (const plan::Rejection& rejection : facts.plan.rejected) {
    out["rejected"].push_back({{"what", rejection.what}, {"why", rejection.why}});
  }
  out["notes"] = facts.request.notes;
  out["previous_failure"] = facts.request.failure;
  out["source"] = answer.source;
  if (!answer.also.empty()) out["also"] = answer.also;
  // Malformed UTF-8 of a request becomes U+FFFD instead of an exception; ASCII alone, so that no
  // direction mark reaches a terminal.
  return out.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

}  // namespace tconv::report
