#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "target/target.hpp"
#include "util/error.hpp"

namespace tconv {
namespace {

constexpr std::int64_t kWarp = 32;               // threads
constexpr std::int64_t kPartitions = 4;          // of an SM, since Volta
constexpr std::int64_t kRegisterUnit = 256;      // registers, per warp
constexpr std::int64_t kSharedMemoryUnit = 128;  // bytes, since sm_80

std::int64_t whole(const Fact& fact) { return static_cast<std::int64_t>(fact.value); }
std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return divide_up(a, b) * b; }

// Registers are handed out to warps, and a warp lives in one of the four partitions. The launch check assumes that a
// block takes its share of all four.
std::int64_t blocks_by_registers(const Target& target, std::int64_t registers, std::int64_t warps) {
  if (registers == 0) return whole(target.blocks_per_sm);
  if (registers > whole(target.registers_per_thread)) return 0;
  const std::int64_t per_warp = round_up(registers * kWarp, kRegisterUnit);
  if (per_warp * round_up(warps, kPartitions) > whole(target.registers_per_sm)) return 0;
  const std::int64_t warps_per_partition = whole(target.registers_per_sm) / kPartitions / per_warp;
  return warps_per_partition * kPartitions / warps;
}

std::int64_t blocks_by_shared_memory(const Target& target, std::int64_t shared_memory) {
  if (shared_memory > whole(target.smem_per_block)) return 0;
  return whole(target.smem_per_sm) / round_up(shared_memory + whole(target.smem_reserved), kSharedMemoryUnit);
}

std::int64_t blocks_by_warps(const Target& target, std::int64_t threads, std::int64_t warps) {
  return threads > whole(target.threads_per_block) ? 0 : whole(target.warps_per_sm) / warps;
}

}  // namespace

Occupancy occupancy(const Target& target, int registers, int shared_memory, int threads) {
  if (registers < 0 || shared_memory < 0 || threads < 1) {
    throw Error(Exit::defect, "occupancy",
                fmt::format("{} registers, {} bytes of shared memory, {} threads", registers, shared_memory, threads),
                "a block has at least one thread and no negative resource");
  }
  const std::int64_t warps = divide_up(threads, kWarp);
  Occupancy result;
  result.by_registers = static_cast<int>(blocks_by_registers(target, registers, warps));
  result.by_shared_memory = static_cast<int>(blocks_by_shared_memory(target, shared_memory));
  result.by_warps = static_cast<int>(blocks_by_warps(target, threads, warps));
  result.by_blocks = static_cast<int>(whole(target.blocks_per_sm));
  // At a tie the limit that no kernel can change comes first: lowering the others would gain nothing.
  const std::pair<int, std::string_view> limits[] = {{result.by_blocks, "blocks"},
                                                     {result.by_warps, "warps"},
                                                     {result.by_registers, "registers"},
                                                     {result.by_shared_memory, "shared memory"}};
  std::tie(result.blocks_per_sm, result.limited_by) =
      *std::ranges::min_element(limits, {}, [](auto limit) { return limit.first; });
  result.warps_per_sm = result.blocks_per_sm * static_cast<int>(warps);
  result.fraction = result.warps_per_sm / target.warps_per_sm.value;
  return result;
}

}  // namespace tconv
