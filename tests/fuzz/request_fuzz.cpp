// Any bytes as a request: refused in one line that names a place, or read into figures that hold. Starts no process.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "request/metrics.hpp"
#include "request/request.hpp"
#include "util/error.hpp"

namespace {

using tconv::request::Request;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "request_fuzz: %s\n", what);
  std::abort();
}

void check(const Request& request, std::string_view text) {
  require(!request.stated.name.empty(), "a request without a GPU");
  for (const auto& figure : {request.stated.sms, request.stated.dram_bytes_per_s, request.stated.tf32_flops,
                             request.stated.f16_flops, request.stated.bf16_flops, request.stated.l2_bytes,
                             request.stated.smem_per_sm, request.stated.smem_per_block}) {
    require(!figure || (std::isfinite(*figure) && *figure > 0), "a figure that is no positive number");
  }
  const auto lines = 1 + static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  require(!request.code.source.empty() && request.code_line > 1 && request.code_line <= lines, "code at no line");
  for (const auto& rule : request.stage.rules) {
    require(rule.line >= 1 && rule.line <= lines && !rule.text.empty(), "a rule at no line");
  }
  const auto& limits = request.stage.limits;
  require(!limits.min_configs || (limits.max_configs && *limits.min_configs <= *limits.max_configs),
          "fewer configs than at least");
  for (const auto& allowed : {limits.num_stages, limits.num_warps}) {
    for (const int value : allowed) require(value >= 1, "a limit below 1");
  }
  for (const auto& metrics : request.metrics) {
    tconv::request::require_possible(metrics, "");
    for (const auto& [name, value] : metrics.values) require(!std::isnan(value), "a metric that is no number");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    check(tconv::request::parse_sections(text, "request.txt"), text);
  } catch (const tconv::Error& error) {
    const std::string_view what(error.what());
    require(what.find('\n') == std::string_view::npos, "a refusal of more than one line");
    require(what.starts_with("request.txt:"), "a refusal without a place");
    require(error.exit() == tconv::Exit::usage && !error.rule().empty(), "a refusal without a rule");
  }
  return 0;
}
