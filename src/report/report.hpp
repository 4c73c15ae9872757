// The evidence as text, Markdown and one self-contained HTML page.
#pragma once

#include <optional>
#include <string>

#include "plan/plan.hpp"
#include "request/diagnose.hpp"
#include "request/request.hpp"
#include "triton/compile.hpp"

namespace tconv::report {

using Compiled = triton::Compiled;

struct Answer {
  const request::Request* request = nullptr;
  const request::Diagnosis* diagnosis = nullptr;
  const plan::Plan* plan = nullptr;
  std::string source;              // answer.py
  std::vector<Compiled> compiled;  // one per config; empty when it was not compiled
  std::string not_compiled;        // why, when empty
  std::string also;                // what other files were made, in one line; empty: none
};

[[nodiscard]] std::string text(const Answer& answer, bool colour);
[[nodiscard]] std::string markdown(const Answer& answer);
[[nodiscard]] std::string html(const Answer& answer);  // no script, no link, no font from outside
[[nodiscard]] std::string json(const Answer& answer);

}  // namespace tconv::report
