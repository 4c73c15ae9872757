// A machine as numbers, each with where it came from; occupancy; the limit.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "problem/phases.hpp"
#include "problem/problem.hpp"

namespace tconv {

// One number and its source (a document, "measured", or "derived: ...").
struct Fact {
  double value = 0;
  std::string_view source;
};

struct Target {
  std::string_view key;           // rtx4090, h200, ... as --target takes it
  std::string_view display;       // NVIDIA GeForce RTX 4090
  std::string_view architecture;  // Ada Lovelace
  std::string_view chip;          // AD102: the name counters are validated against
  int sm = 0;                     // compute capability as 89, 90, ...
  bool geforce = false;           // tensor rates with f32 accumulation are halved

  Fact sms;
  Fact clock_hz;                    // boost, the clock the rates below hold at
  Fact dram_bytes_per_s;            // datasheet
  Fact dram_read_write_fraction;    // of the datasheet figure, achieved by a 1:1 linear copy
  Fact dram_write_double_fraction;  // likewise, one byte read for two written
  Fact dram_write_heavy_fraction;   // likewise, one byte read for four written
  Fact dram_write_only_fraction;    // likewise, nothing read
  Fact l2_bytes;
  Fact l2_bytes_per_s;
  Fact fp32_flops;         // FFMA outside the tensor cores
  Fact tf32_flops;         // tensor cores, dense, f32 accumulation
  Fact f16_flops;          // tensor cores, dense, f32 accumulation
  Fact bf16_flops;         // likewise
  Fact f64_flops;          // the better of tensor cores and DFMA
  Fact i32_ops;            // IMAD, multiply and add counted as two
  Fact fma_fraction;       // of fp32_flops, achieved by the vendor's best f32 matrix product
  Fact tensor_fraction;    // of the TF32 (and, where it is one, f64) tensor rate, likewise
  Fact half_fraction;      // of the f16 and bf16 tensor rates, likewise
  Fact mma_sync_fraction;  // of the tensor rates, achieved by mma.sync (1 where there is no other)
  Fact smem_per_sm;        // bytes
  Fact smem_per_block;     // bytes, the opt-in maximum
  Fact smem_reserved;      // bytes per block that the system keeps
  Fact registers_per_sm;
  Fact registers_per_thread;
  Fact warps_per_sm;
  Fact blocks_per_sm;
  Fact threads_per_block;
  Fact launch_s;  // one kernel launch, back to back, seconds
};

[[nodiscard]] std::span<const Target> target_sheets();
// By key, alias, or the name a request uses ("4090", "RTX 4090", "NVIDIA H200"); null when unknown.
[[nodiscard]] const Target* find_target(std::string_view name);

// Peak useful-arithmetic rate in flop/s for an arithmetic on a target (f32: FFMA).
[[nodiscard]] Fact peak_flops(const Target& target, Arithmetic arithmetic);
// What the best known matrix product reaches: of that peak, or in f32 with three products in TF32 for one, hi*hi +
// hi*lo + lo*hi, where they are faster.
[[nodiscard]] double achievable_flops(const Target& target, Arithmetic arithmetic);
// DRAM bytes per second for this mix of bytes read and written, interpolated between the measured mixes by
// the share of bytes written; a mix that reads more than it writes gets the 1:1 figure.
[[nodiscard]] double achievable_dram(const Target& target, double bytes_read, double bytes_written);

// --- occupancy ---------------------------------------------------------------------------------
struct Occupancy {
  int blocks_per_sm = 0;  // 0: the block cannot launch
  int warps_per_sm = 0;
  double fraction = 0;          // of the warps an SM can hold
  std::string_view limited_by;  // "registers", "shared memory", "warps", "blocks"
  int by_registers = 0;         // blocks each resource alone would allow
  int by_shared_memory = 0;
  int by_warps = 0;
  int by_blocks = 0;
};
// registers: per thread; shared_memory: bytes per block, static and dynamic; threads: per block. The
// hardware's allocation units are applied (256 registers per warp, warps spread over four partitions of
// the SM, 128 bytes of shared memory, the reserve). A resource that is not used allows as many blocks as
// blocks_per_sm. Numbers below zero, or a block without a thread: defect.
[[nodiscard]] Occupancy occupancy(const Target& target, int registers, int shared_memory, int threads);

// --- the limit ---------------------------------------------------------------------------------
// max(bytes that must move / achievable bandwidth, useful flops / achievable rate, launch). The workload must
// be valid; one that writes nothing is bound by its launch.
struct Limit {
  double seconds = 0;
  double memory_seconds = 0;
  double arithmetic_seconds = 0;
  double launch_seconds = 0;
  std::string_view bound_by;  // "memory", "arithmetic", "launch"
  Work work;
};
[[nodiscard]] Limit limit(const Workload& workload, const Target& target);

}  // namespace tconv
