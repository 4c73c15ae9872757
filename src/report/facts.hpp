// What every form of the report says, worked out once so that all forms agree.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "problem/phases.hpp"
#include "report/report.hpp"

namespace tconv::report {

struct TimeRow {
  std::string name;  // "current kernel", "answer", "limit"
  std::optional<double> seconds;
  std::string note;            // where the figure comes from, or why there is none
  bool other_machine = false;  // measured elsewhere: not comparable with the rest
  std::string_view key;        // "current", "cudnn", "answer", "limit": class and colour
};

struct ScheduleRow {
  const plan::Candidate* candidate = nullptr;
  const Compiled* compiled = nullptr;  // null where it was not compiled
};

struct Facts {
  const Answer& answer;
  const request::Request& request;
  const request::Diagnosis& diagnosis;
  const plan::Plan& plan;
  const Target& target;
  const Workload& workload;  // the figures are for this one
  Phases phases;
  std::string word;  // of the workload
  std::string stage;

  std::optional<double> current{};    // seconds, implied by the metrics
  std::optional<double> predicted{};  // seconds of the first schedule
  double limit = 0;                   // seconds
  bool current_elsewhere = false;     // `current` is of the request's GPU, the rest of another
  std::optional<double> speedup{};    // current / predicted, on one machine only
  double dram = 0;                    // achievable bytes/s for the workload's mix

  std::vector<TimeRow> times{};                     // current, cuDNN, answer, limit
  std::vector<const request::Finding*> findings{};  // worst first, then by line
  std::vector<ScheduleRow> schedules{};             // as in plan.chosen
  std::vector<const Compiled*> other_compiled{};    // compiled, but not among the chosen

  std::string target_sentence{}, workload_sentence{}, phases_sentence{}, limit_sentence{}, body_sentence{};
};

// Throws Error(defect) when a part of the answer is missing.
[[nodiscard]] Facts gather(const Answer& answer);

[[nodiscard]] std::string_view name(request::Verdict verdict) noexcept;             // "applied" ...
[[nodiscard]] std::string_view name(request::Finding::Severity severity) noexcept;  // "wrong result" ...
[[nodiscard]] std::string_view key(request::Verdict verdict) noexcept;              // the same in one word
[[nodiscard]] std::string_view key(request::Finding::Severity severity) noexcept;

}  // namespace tconv::report
