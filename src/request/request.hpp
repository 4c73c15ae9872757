// An optimization request, as read: target, stage and rules, current code, metrics.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "request/code.hpp"
#include "target/target.hpp"

namespace tconv::request {

// What the request says of its GPU; absent where it says nothing.
struct StatedTarget {
  std::string name;  // "4090"
  std::string architecture;
  std::optional<int> sm;  // 89
  std::optional<double> sms, dram_bytes_per_s, tf32_flops, f16_flops, bf16_flops, registers_per_thread,
      threads_per_block, threads_per_sm, warps_per_sm, smem_per_sm, smem_per_block, l2_bytes;
};

// The part of the kernel a request may change now.
enum class StageKind { grid, block_tiling, memory, advanced_memory, memory_and_tuning, fused, unknown };
[[nodiscard]] std::string_view name(StageKind stage) noexcept;

// Limits that the stage's text puts on a schedule.
struct StageLimits {
  std::optional<int> min_configs, max_configs;  // of an autotune list; both absent: none is asked for
  std::vector<int> num_stages;                  // allowed values; empty: free
  std::vector<int> num_warps;                   // likewise
  bool powers_of_two = true;                    // BLOCK_* (Triton's own rule for tl.arange)
};

struct Rule {
  int line = 0;      // in the request
  std::string text;  // as written, trimmed
};

struct Stage {
  StageKind kind = StageKind::unknown;
  std::string focus;                 // as written
  std::vector<std::string> metrics;  // names the stage asks to look at, with their targets as text
  std::vector<Rule> rules;
  StageLimits limits;
};

// Nsight Compute metrics of one kernel: name -> value; null (NaN) and inf are kept as such.
struct KernelMetrics {
  std::string kernel;  // "" when the request names none
  std::map<std::string, double> values;
  std::vector<std::string> null_values;
};

struct Request {
  std::string path;
  StatedTarget stated;
  Stage stage;
  Code code;
  int code_line = 0;                   // of the code's first line, in the request
  std::vector<KernelMetrics> metrics;  // empty: the request has none
  std::string failure;                 // the "Previous Attempt Failed" block, if any
  std::vector<std::string> notes;      // variants met while reading, for the report
};

constexpr std::size_t kMaxRequestBytes = std::size_t{4} << 20;

// Throws Error(usage) with path:line for anything malformed, and what read_code throws. Reads at most
// kMaxRequestBytes.
[[nodiscard]] Request read_request(const std::filesystem::path& path);
[[nodiscard]] Request parse_request(std::string_view text, std::string path);
// Everything but the code, of which only `source` is set: starts no process.
[[nodiscard]] Request parse_sections(std::string_view text, std::string path);

// Reads a stage's text into `stage`: kind, focus, metrics, rules and limits. `first_line` is its number in
// the request.
void read_stage(std::string_view text, int first_line, Stage& stage);

}  // namespace tconv::request
