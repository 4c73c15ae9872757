// What the evidence of a request says, in numbers.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "request/metrics.hpp"
#include "request/request.hpp"
#include "target/target.hpp"

namespace tconv::request {

struct WorkloadGuess {
  std::optional<Workload> workload;            // absent: answer for a range of lengths
  std::string catalogue_name;                  // "kb_l1_79" when it came from the catalogue
  std::string how;                             // "launch__grid_size 2098176 = 16 x 64 x 2049 ..." in words
  std::vector<std::string> also;               // other workloads that would give the same grid
  std::map<std::string, std::int64_t> config;  // block sizes, warps and stages of the launch, where the grid fixes them
};

enum class Verdict { applied, not_needed, conflict };
struct RuleVerdict {
  int line = 0;  // in the request; 0 for a metric's target, which has no rule line of its own
  std::string rule;
  Verdict verdict = Verdict::applied;
  std::string why;
};

struct Disagreement {  // the request's sheet against ours
  std::string what;
  double stated = 0;
  double ours = 0;
  std::string source;  // of our value
};

// A machine known only from a request: what it states, the rest scaled from a sheet of the same compute
// capability by the number of SMs. Owns the names that `target` views.
struct StatedSheet {
  std::string name;
  std::string architecture;
  Target target;
};

struct Diagnosis {
  const Target* target = nullptr;          // the sheet used
  const Target* request_target = nullptr;  // the request's own machine, where the metrics were taken; may be null
  std::shared_ptr<const StatedSheet> stated_sheet;  // holds either of them when it has no sheet of ours
  bool target_overridden = false;                   // --target named another machine than the request
  std::vector<Disagreement> disagreements;
  WorkloadGuess workload;
  std::optional<Limit> limit;             // of the workload, on the target
  std::optional<Limit> request_limit;     // of the workload, on the request's GPU
  std::optional<double> implied_seconds;  // floor: bytes that must move, at the stated DRAM percentage, on that GPU
  std::optional<double> gap;              // implied / limit, both on the request's GPU
  std::vector<std::string> units;         // what is busy, and on what: one sentence each, with numbers
  std::vector<MetricNote> metric_notes;
  std::vector<Finding> findings;  // in the current code
  std::vector<RuleVerdict> rules;
};

// `target`: the machine to answer for when it is not the request's own (null: the request's).
// `workload`: given by the user; null: worked out from the evidence.
// Throws Error(usage) when a metric is impossible (a percentage over 100, a grid the code cannot
// produce), Error(unsupported) when the request's GPU has no sheet and states too little.
[[nodiscard]] Diagnosis diagnose(const Request& request, const Target* target, const Workload* workload);

}  // namespace tconv::request
