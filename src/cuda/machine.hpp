// The GPUs of this process, each with its context and the target that plans are made for.
#pragma once

#include <string>
#include <string_view>

#include "cuda/driver.hpp"
#include "target/target.hpp"

namespace tconv::cuda {

// A device as it stays for the life of the process: its primary context is retained once and never released, since
// static destruction may run after the driver's own.
struct Machine {
  int device = 0;
  Context context = nullptr;
  std::string architecture;  // what is compiled for it, whatever the target
  // Its kernels wait for those before them by themselves (ptx.cuh), so that they may be launched beside their end.
  bool starts_early = false;
  std::string display;  // Target has views only
  Target target;
};

// The same one every time. TCONV_TARGET in the environment names a sheet to plan for instead of the device's own: its
// solvers, its shared memory, its rates. Throws Error(no_device | unsupported | usage).
[[nodiscard]] const Machine& machine(int ordinal);

// The sheet named, for a device of compute capability `sm` with blocks of up to `shared` bytes of shared memory. Throws
// Error(usage) where there is none, or the device lacks what kernels planned for it may use.
[[nodiscard]] const Target& stand_in(std::string_view name, int sm, int shared);

}  // namespace tconv::cuda
