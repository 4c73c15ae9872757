#include <algorithm>
#include <array>
#include <string>

#include "target/target.hpp"

namespace tconv {
namespace {

constexpr double kGiga = 1e9, kTera = 1e12;
constexpr double kKiB = 1024, kMiB = 1024 * 1024;

constexpr std::string_view kAda = "NVIDIA Ada GPU architecture whitepaper, appendix A";
constexpr std::string_view kAda4080 = "NVIDIA Ada GPU architecture whitepaper, appendix B";
constexpr std::string_view kGa102 = "NVIDIA Ampere GA102 GPU architecture whitepaper";
constexpr std::string_view kA100 = "NVIDIA A100 tensor core GPU architecture whitepaper";
constexpr std::string_view kA100Sheet = "NVIDIA A100 80GB datasheet";
constexpr std::string_view kH100 = "NVIDIA H100 tensor core GPU architecture whitepaper";
constexpr std::string_view kH200Sheet = "NVIDIA H200 datasheet";
constexpr std::string_view kL4Sheet = "NVIDIA L4 datasheet (sparse figures halved)";
constexpr std::string_view kL40sSheet = "NVIDIA L40S datasheet";
constexpr std::string_view kB200Sheet = "NVIDIA HGX B200 datasheet (eight GPUs, sparse figures halved)";
constexpr std::string_view kRtxBlackwell = "NVIDIA RTX Blackwell GPU architecture whitepaper";
constexpr std::string_view kGuide = "CUDA C++ programming guide, technical specifications per compute capability";
constexpr std::string_view kOccupancy = "cuda_occupancy.h of CUDA 13.0";
constexpr std::string_view kMeasuredH200 = "measured on NVIDIA H200, 2026-11-22";
constexpr std::string_view kAsRtx4090 = "assumed as RTX 4090";
constexpr std::string_view kAsH200 = "assumed as H200";
constexpr std::string_view kGeforceTf32 = "derived: tensor cores of GeForce run TF32 at the FFMA rate";
constexpr std::string_view kImad64 =
    "derived: 64 IMAD per clock and SM (CUDA C++ programming guide), two operations each";
constexpr std::string_view kL2Ad102 =
    "derived: 14.4 bytes per clock and SM, from 5.1 TB/s measured on an L40 (gpu-benches, 142 SMs at 2.49 GHz)";
constexpr std::string_view kOneRate = "derived: mma.sync is the only tensor core instruction";
constexpr std::string_view kLaunch = "assumed: 2 us from launch to launch of small kernels in one stream";

// What every GPU of a compute capability shares.
constexpr Target architecture(std::string_view name, int sm, double smem_kib, double warps, double blocks) {
  Target t;
  t.architecture = name;
  t.sm = sm;
  t.smem_per_sm = {smem_kib * kKiB, kGuide};
  t.smem_per_block = {(smem_kib - 1) * kKiB, kGuide};
  t.smem_reserved = {1 * kKiB, kGuide};
  t.registers_per_sm = {65536, kGuide};
  t.registers_per_thread = {255, kGuide};
  t.warps_per_sm = {warps, kGuide};
  t.blocks_per_sm = {blocks, kOccupancy};
  t.threads_per_block = {1024, kGuide};
  t.launch_s = {2e-6, kLaunch};
  t.mma_sync_fraction = {1, kOneRate};
  return t;
}

constexpr Target ampere_ga100() { return architecture("Ampere", 80, 164, 64, 32); }
constexpr Target ampere_ga10x() { return architecture("Ampere", 86, 100, 48, 16); }
constexpr Target ada() { return architecture("Ada Lovelace", 89, 100, 48, 24); }
constexpr Target hopper() { return architecture("Hopper", 90, 228, 64, 32); }
constexpr Target blackwell_gb100() { return architecture("Blackwell", 100, 228, 64, 32); }
constexpr Target blackwell_gb20x() { return architecture("Blackwell", 120, 100, 48, 24); }

// The DRAM fractions of a machine for which one figure is known: every mix is taken to reach it.
constexpr void set_dram_fractions(Target& t, double fraction, std::string_view source) {
  t.dram_read_write_fraction = t.dram_write_double_fraction = t.dram_write_heavy_fraction =
      t.dram_write_only_fraction = {fraction, source};
}

constexpr void set_rtx4090_efficiency(Target& t, bool assumed) {
  set_dram_fractions(t, 921.0 / 1008.0, assumed ? kAsRtx4090 : "measured: clpeak issue 106, 921 of 1008 GB/s");
  t.fma_fraction = {77.0 / 82.6, assumed ? kAsRtx4090 : "measured: clpeak issue 106, 71 to 77 TFLOP/s"};
  t.tensor_fraction = t.half_fraction = {
      1, assumed ? kAsRtx4090
                 : "measured: cuBLAS 86.7 TF32 and 158 to 167 FP16 TFLOP/s, at a clock above the listed boost"};
}

constexpr void set_h200_efficiency(Target& t, bool assumed) {
  const std::string_view source = assumed ? kAsH200 : kMeasuredH200;
  t.dram_read_write_fraction = {4.03 / 4.8, source};
  t.dram_write_double_fraction = {4.07 / 4.8, source};
  t.dram_write_heavy_fraction = {3.95 / 4.8, source};
  t.dram_write_only_fraction = {4.50 / 4.8, source};
  t.fma_fraction = {50.94 / 66.9, source};
  t.tensor_fraction = {360.0 / 494.7, source};
  t.half_fraction = {798.0 / 989.4, source};
}

constexpr Fact imad64(double sms, double clock_hz) { return {sms * 64 * 2 * clock_hz, kImad64}; }
constexpr Fact l2_ad102(double sms, double clock_hz) { return {sms * 14.4 * clock_hz, kL2Ad102}; }

constexpr Target rtx4090() {
  Target t = ada();
  t.key = "rtx4090";
  t.display = "NVIDIA GeForce RTX 4090";
  t.chip = "AD102";
  t.geforce = true;
  t.sms = {128, kAda};
  t.clock_hz = {2.52 * kGiga, kAda};
  t.dram_bytes_per_s = {1008 * kGiga, kAda};
  t.l2_bytes = {72 * kMiB, kAda};
  t.l2_bytes_per_s = l2_ad102(128, 2.52 * kGiga);
  t.fp32_flops = {82.6 * kTera, kAda};
  t.tf32_flops = {82.6 * kTera, kAda};
  t.f16_flops = {165.2 * kTera, kAda};
  t.bf16_flops = {165.2 * kTera, kAda};
  t.f64_flops = {82.6 / 64 * kTera, "derived: 1/64 of the FFMA rate (Ada whitepaper)"};
  t.i32_ops = imad64(128, 2.52 * kGiga);
  set_rtx4090_efficiency(t, false);
  return t;
}

constexpr Target rtx4080() {
  Target t = ada();
  t.key = "rtx4080";
  t.display = "NVIDIA GeForce RTX 4080";
  t.chip = "AD103";
  t.geforce = true;
  t.sms = {76, kAda4080};
  t.clock_hz = {2.505 * kGiga, kAda4080};
  t.dram_bytes_per_s = {716.8 * kGiga, kAda4080};
  t.l2_bytes = {64 * kMiB, kAda4080};
  t.l2_bytes_per_s = l2_ad102(76, 2.505 * kGiga);
  t.fp32_flops = {48.7 * kTera, kAda4080};
  t.tf32_flops = {48.7 * kTera, kGeforceTf32};
  t.f16_flops = {97.5 * kTera, kAda4080};
  t.bf16_flops = {97.5 * kTera, kAda4080};
  t.f64_flops = {48.7 / 64 * kTera, "derived: 1/64 of the FFMA rate (Ada whitepaper)"};
  t.i32_ops = imad64(76, 2.505 * kGiga);
  set_rtx4090_efficiency(t, true);
  return t;
}

constexpr Target rtx3090() {
  Target t = ampere_ga10x();
  t.key = "rtx3090";
  t.display = "NVIDIA GeForce RTX 3090";
  t.chip = "GA102";
  t.geforce = true;
  t.sms = {82, kGa102};
  t.clock_hz = {1.695 * kGiga, kGa102};
  t.dram_bytes_per_s = {936 * kGiga, kGa102};
  t.l2_bytes = {6 * kMiB, kGa102};
  t.l2_bytes_per_s = l2_ad102(82, 1.695 * kGiga);
  t.fp32_flops = {35.6 * kTera, kGa102};
  t.tf32_flops = {35.6 * kTera, kGa102};
  t.f16_flops = {71 * kTera, kGa102};
  t.bf16_flops = {71 * kTera, kGa102};
  t.f64_flops = {35.6 / 64 * kTera, "derived: 1/64 of the FFMA rate (GA102 whitepaper)"};
  t.i32_ops = imad64(82, 1.695 * kGiga);
  set_rtx4090_efficiency(t, true);
  return t;
}

constexpr Target rtx5090() {
  Target t = blackwell_gb20x();
  t.key = "rtx5090";
  t.display = "NVIDIA GeForce RTX 5090";
  t.chip = "GB202";
  t.geforce = true;
  t.sms = {170, kRtxBlackwell};
  t.clock_hz = {2.407 * kGiga, kRtxBlackwell};
  t.dram_bytes_per_s = {1792 * kGiga, kRtxBlackwell};
  t.l2_bytes = {96 * kMiB, kRtxBlackwell};
  t.l2_bytes_per_s = l2_ad102(170, 2.407 * kGiga);
  t.fp32_flops = {104.8 * kTera, kRtxBlackwell};
  t.tf32_flops = {104.8 * kTera, kRtxBlackwell};
  t.f16_flops = {209.5 * kTera, kRtxBlackwell};
  t.bf16_flops = {209.5 * kTera, kRtxBlackwell};
  t.f64_flops = {104.8 / 64 * kTera, "derived: 1/64 of the FFMA rate (RTX Blackwell whitepaper)"};
  t.i32_ops = imad64(170, 2.407 * kGiga);
  set_rtx4090_efficiency(t, true);
  return t;
}

constexpr Target l4() {
  Target t = ada();
  t.key = "l4";
  t.display = "NVIDIA L4";
  t.chip = "AD104";
  t.sms = {58, kL4Sheet};
  t.clock_hz = {2.04 * kGiga, "NVIDIA L4 datasheet; its 72 W do not hold this clock under tensor core load"};
  t.dram_bytes_per_s = {300 * kGiga, kL4Sheet};
  t.l2_bytes = {48 * kMiB, kL4Sheet};
  t.l2_bytes_per_s = l2_ad102(58, 2.04 * kGiga);
  t.fp32_flops = {30.3 * kTera, kL4Sheet};
  t.tf32_flops = {60 * kTera, kL4Sheet};
  t.f16_flops = {121 * kTera, kL4Sheet};
  t.bf16_flops = {121 * kTera, kL4Sheet};
  t.f64_flops = {30.3 / 64 * kTera, "derived: 1/64 of the FFMA rate (Ada whitepaper)"};
  t.i32_ops = imad64(58, 2.04 * kGiga);
  set_rtx4090_efficiency(t, true);
  return t;
}

constexpr Target l40s() {
  Target t = ada();
  t.key = "l40s";
  t.display = "NVIDIA L40S";
  t.chip = "AD102";
  t.sms = {142, kL40sSheet};
  t.clock_hz = {2.52 * kGiga, "NVIDIA L40S datasheet; board limit 350 W"};
  t.dram_bytes_per_s = {864 * kGiga, kL40sSheet};
  t.l2_bytes = {96 * kMiB, kL40sSheet};
  t.l2_bytes_per_s = l2_ad102(142, 2.52 * kGiga);
  t.fp32_flops = {91.6 * kTera, kL40sSheet};
  t.tf32_flops = {183 * kTera, kL40sSheet};
  t.f16_flops = {362 * kTera, kL40sSheet};
  t.bf16_flops = {362 * kTera, kL40sSheet};
  t.f64_flops = {91.6 / 64 * kTera, "derived: 1/64 of the FFMA rate (Ada whitepaper)"};
  t.i32_ops = imad64(142, 2.52 * kGiga);
  set_rtx4090_efficiency(t, true);
  set_dram_fractions(t, 801.0 / 864.0, "measured: gpu-benches, triad on an L40 (the same memory)");
  return t;
}

constexpr Target a100() {
  Target t = ampere_ga100();
  t.key = "a100";
  t.display = "NVIDIA A100-SXM4-80GB";
  t.chip = "GA100";
  t.sms = {108, kA100};
  t.clock_hz = {1.41 * kGiga, kA100};
  t.dram_bytes_per_s = {2039 * kGiga, kA100Sheet};
  t.l2_bytes = {40 * kMiB, kA100};
  t.l2_bytes_per_s = {5120 * 1.41 * kGiga, "derived: 5120 bytes per clock (A100 whitepaper)"};
  t.fp32_flops = {19.5 * kTera, kA100};
  t.tf32_flops = {156 * kTera, kA100};
  t.f16_flops = {312 * kTera, kA100};
  t.bf16_flops = {312 * kTera, kA100};
  t.f64_flops = {19.5 * kTera, kA100};
  t.i32_ops = imad64(108, 1.41 * kGiga);
  set_h200_efficiency(t, true);
  // Its products are bound by mma.sync as on Ada, not by what feeds wgmma.
  t.tensor_fraction = t.half_fraction = {1, kAsRtx4090};
  return t;
}

constexpr Target h100() {
  Target t = hopper();
  t.key = "h100";
  t.display = "NVIDIA H100 SXM";
  t.chip = "GH100";
  t.sms = {132, kH100};
  t.clock_hz = {1.83 * kGiga, "derived: 494.7 TF32 TFLOP/s at 2048 per clock and SM (H100 whitepaper)"};
  t.dram_bytes_per_s = {3352 * kGiga, kH100};
  t.l2_bytes = {50 * kMiB, kH100};
  t.l2_bytes_per_s = {10.0 * kTera, kAsH200};
  t.fp32_flops = {66.9 * kTera, kH100};
  t.tf32_flops = {494.7 * kTera, kH100};
  t.f16_flops = {989.4 * kTera, kH100};
  t.bf16_flops = {989.4 * kTera, kH100};
  t.f64_flops = {66.9 * kTera, kH100};
  t.i32_ops = imad64(132, 1.98 * kGiga);
  t.mma_sync_fraction = {0.62, "measured on Hopper: arXiv 2402.13499"};
  set_h200_efficiency(t, true);
  return t;
}

constexpr Target h200() {
  Target t = h100();
  t.key = "h200";
  t.display = "NVIDIA H200";
  t.dram_bytes_per_s = {4800 * kGiga, kH200Sheet};
  t.l2_bytes_per_s = {10.0 * kTera, "measured: gpu-benches, 9.8 to 10.5 TB/s up to 30 MB"};
  set_h200_efficiency(t, false);
  return t;
}

constexpr Target b200() {
  Target t = blackwell_gb100();
  t.key = "b200";
  t.display = "NVIDIA B200";
  t.chip = "GB100";
  t.sms = {148, "NVIDIA device properties of B200"};
  t.clock_hz = {1.965 * kGiga, "NVIDIA device properties of B200"};
  t.dram_bytes_per_s = {8000 * kGiga, kB200Sheet};
  t.l2_bytes = {126 * kMiB, "NVIDIA device properties of B200"};
  t.l2_bytes_per_s = {148.0 / 132.0 * 10.0 * kTera, "derived: per SM as H200"};
  t.fp32_flops = {75 * kTera, kB200Sheet};
  t.tf32_flops = {1125 * kTera, kB200Sheet};
  t.f16_flops = {2250 * kTera, kB200Sheet};
  t.bf16_flops = {2250 * kTera, kB200Sheet};
  t.f64_flops = {37 * kTera, kB200Sheet};
  t.i32_ops = imad64(148, 1.965 * kGiga);
  t.mma_sync_fraction = {0.31, "assumed: mma.sync as fast per clock and SM as on sm_90, at twice the tensor rate"};
  set_h200_efficiency(t, true);
  return t;
}

constexpr std::array kSheets = {rtx4090(), rtx4080(), rtx3090(), rtx5090(), a100(),
                                l4(),      l40s(),    h100(),    h200(),    b200()};

// Other spellings, lower case without punctuation and without NVIDIA, GeForce and Tesla in front. A machine of another
// bandwidth or SM count (A100 40GB or PCIe, H100 PCIe, H100 NVL, 4090 D, 4080 SUPER) is none of them.
struct Alias {
  std::string_view alias, key;
};
constexpr Alias kAliases[] = {
    {"4090", "rtx4090"},        {"4080", "rtx4080"},      {"3090", "rtx3090"},      {"5090", "rtx5090"},
    {"a100sxm", "a100"},        {"a100sxm4", "a100"},     {"a10080gb", "a100"},     {"a100sxm480gb", "a100"},
    {"a100sxm80gb", "a100"},    {"a10080gbsxm", "a100"},  {"a10080gbsxm4", "a100"}, {"h100sxm", "h100"},
    {"h100sxm5", "h100"},       {"h10080gbhbm3", "h100"}, {"h100sxm580gb", "h100"}, {"h100sxm80gb", "h100"},
    {"h10080gb", "h100"},       {"h200sxm", "h200"},      {"h200141gb", "h200"},    {"h200sxm141gb", "h200"},
    {"h200141gbhbm3e", "h200"}, {"b200sxm", "b200"},      {"b200180gb", "b200"},
};

constexpr std::size_t kMaxName = 64;

std::string normalized(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c >= 'A' && c <= 'Z') plain += static_cast<char>(c - 'A' + 'a');
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) plain += c;
  }
  for (const std::string_view vendor : {"nvidia", "geforce", "tesla"}) {
    if (plain.starts_with(vendor)) plain.erase(0, vendor.size());
  }
  return plain;
}

}  // namespace

std::span<const Target> target_sheets() { return kSheets; }

const Target* find_target(std::string_view name) {
  if (name.size() > kMaxName) return nullptr;
  std::string key = normalized(name);
  const auto alias = std::ranges::find(kAliases, key, &Alias::alias);
  if (alias != std::end(kAliases)) key = alias->key;
  const auto sheet = std::ranges::find(kSheets, key, &Target::key);
  return sheet == kSheets.end() ? nullptr : &*sheet;
}

}  // namespace tconv
