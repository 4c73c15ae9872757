// The CUDA driver, opened at run time: nothing of CUDA is linked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tconv::cuda {

// Opaque handles with the driver's own layout.
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
using Pointer = std::uint64_t;  // device memory

// Every entry point this project calls; `check` turns a result into an Error with the driver's own text.
struct Driver;
// Opens libcuda.so.1 once and initialises it. Throws Error(no_device) with the reason: no library, no driver, no device.
[[nodiscard]] const Driver& driver();

}  // namespace tconv::cuda
