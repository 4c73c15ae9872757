// What the evidence of a request says, in numbers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "request/request.hpp"
#include "target/target.hpp"

namespace tconv::request {

struct WorkloadGuess {
  std::optional<Workload> workload;  // absent: answer for a range of lengths
  std::string catalogue_name;        // "kb_l1_79" when it came from the catalogue
  std::string how;                   // "launch__grid_size 2098176 = 16 x 64 x 2049 ..." in words
  std::vector<std::string> also;     // other workloads that would give the same grid
  std::map<std::string, std::int64_t> config;  // the autotune config the grid implies, if one
};

struct MetricNote {
  std::string asked;  // as the request names it
  std::string alias;  // what to collect instead on this chip
  std::string why;
};

enum class Verdict { applied, not_needed, conflict };
struct RuleVerdict {
  int line = 0;
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

struct Diagnosis {
  const Target* target = nullptr;  // the sheet used
  bool target_overridden = false;  // --target named another machine than the request
  std::vector<Disagreement> disagreements;
  WorkloadGuess workload;
  std::optional<Limit> limit;             // of the workload, on the target
  std::optional<double> implied_seconds;  // bytes moved at the stated DRAM percentage, on the request's GPU
  std::optional<double> gap;              // implied / limit
  std::vector<std::string> units;         // what is busy, and on what: one sentence each, with numbers
  std::vector<MetricNote> metric_notes;
  std::vector<Finding> findings;          // in the current code
  std::vector<RuleVerdict> rules;
};

// `target`: the machine to answer for when it is not the request's own (null: the request's).
// `workload`: given by the user; null: worked out from the evidence.
// Throws Error(usage) when a metric is impossible (a percentage over 100, a grid the code cannot
// produce), Error(unsupported) when the request's GPU has no sheet and states too little.
[[nodiscard]] Diagnosis diagnose(const Request& request, const Target* target, const Workload* workload);

}  // namespace tconv::request
