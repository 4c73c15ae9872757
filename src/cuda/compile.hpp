// Kernel source -> cubin for one architecture, by NVRTC opened at run time; cached on disk.
#pragma once

#include <string>
#include <string_view>

namespace tconv::cuda {

struct Cubin {
  std::string bytes;
  int registers = 0;    // per thread, of the entry named `run`
  int spill_bytes = 0;  // stores plus loads
  int stack_bytes = 0;  // local-memory frame
  int static_shared_bytes = 0;
  int serialized = 0;  // 1: ptxas lets every wgmma wait for the one before it
  bool cached = false;
};

// `source`: a translation unit that includes the kernel headers (kernels/*.cuh, *.h travel inside the binary) by bare
// name and defines extern "C" entries `run` and, where weights are packed, `pack`. `architecture`: "sm_80", "sm_89",
// "sm_90a", ... Throws Error(no_device) without NVRTC (the line says what was looked for), Error(defect) with the
// compiler's log when the source does not compile.
[[nodiscard]] Cubin compile(std::string_view source, std::string_view architecture);

// "sm_90a" for compute capability 90, "sm_89" for 89: the suffix where the kernels use that chip's own instructions.
[[nodiscard]] std::string architecture_of(int sm);

}  // namespace tconv::cuda
