// The CUDA driver, opened at run time: nothing of CUDA is linked and none of its headers is needed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tconv::cuda {

// Opaque handles with the driver's own layout.
using Context = struct CUctx_st*;
using Module = struct CUmod_st*;
using Function = struct CUfunc_st*;
using Stream = struct CUstream_st*;
using Event = struct CUevent_st*;
using Pointer = std::uint64_t;  // device memory

// Values of the driver's enumerations that this project uses.
enum class FunctionAttribute : int {
  max_threads = 0,
  static_shared_bytes = 1,
  local_bytes = 3,
  registers = 4,
  max_dynamic_shared_bytes = 8,
  non_portable_cluster = 14,
};
enum class DeviceAttribute : int {
  clock_khz = 13,
  multiprocessors = 16,
  memory_clock_khz = 36,
  memory_bus_bits = 37,
  l2_bytes = 38,
  major = 75,
  minor = 76,
  max_shared_bytes_of_block = 97,
};
enum class PointerAttribute : int { context = 1, memory_type = 2, device_ordinal = 9 };
inline constexpr unsigned kMemoryTypeDevice = 2;   // what PointerAttribute::memory_type says of device memory
inline constexpr unsigned kEventDefault = 0;       // a flag of cuEventCreate
inline constexpr unsigned kStreamNonBlocking = 1;  // a flag of cuStreamCreate
inline constexpr int kCaptureModeRelaxed = 2;      // of cuThreadExchangeStreamCaptureMode
inline constexpr int kSuccess = 0;                 // every entry point returns it

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
  enum class Id : int { cluster_dimension = 4, programmatic_stream_serialization = 6 };
  Id id{};
  int padding = 0;
  union Value {
    char bytes[64];
    struct {
      unsigned x, y, z;
    } cluster;
    int programmatic_stream_serialization;
  } value{};
};
static_assert(sizeof(LaunchAttribute) == 72);

struct LaunchConfig {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned block_x = 1, block_y = 1, block_z = 1;
  unsigned shared_bytes = 0;  // dynamic
  Stream stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned attribute_count = 0;
};
static_assert(sizeof(void*) != 8 || sizeof(LaunchConfig) == 56);

// Every entry point this project calls, by its public name (the symbol may end in _v2); `check` turns a result into an
// Error. A device is the driver's own CUdevice, an int.
struct Driver {
  int (*cuInit)(unsigned flags);
  int (*cuDriverGetVersion)(int* version);
  int (*cuGetErrorName)(int result, const char** name);
  int (*cuGetErrorString)(int result, const char** text);
  int (*cuDeviceGet)(int* device, int ordinal);
  int (*cuDeviceGetCount)(int* count);
  int (*cuDeviceGetAttribute)(int* value, DeviceAttribute attribute, int device);
  int (*cuDeviceGetName)(char* name, int bytes, int device);
  int (*cuDeviceTotalMem)(std::size_t* bytes, int device);
  int (*cuDevicePrimaryCtxRetain)(Context* context, int device);
  int (*cuDevicePrimaryCtxRelease)(int device);
  int (*cuCtxSetCurrent)(Context context);
  int (*cuCtxGetCurrent)(Context* context);
  int (*cuCtxPushCurrent)(Context context);
  int (*cuCtxPopCurrent)(Context* context);
  int (*cuCtxGetDevice)(int* device);
  int (*cuCtxSynchronize)();
  int (*cuMemAlloc)(Pointer* pointer, std::size_t bytes);
  int (*cuMemFree)(Pointer pointer);
  int (*cuMemGetInfo)(std::size_t* free, std::size_t* total);
  int (*cuMemcpyHtoD)(Pointer to, const void* from, std::size_t bytes);
  int (*cuMemcpyDtoH)(void* to, Pointer from, std::size_t bytes);
  int (*cuMemsetD8)(Pointer to, unsigned char value, std::size_t bytes);
  int (*cuMemsetD8Async)(Pointer to, unsigned char value, std::size_t bytes, Stream stream);
  int (*cuModuleLoadData)(Module* module, const void* image);
  int (*cuModuleGetFunction)(Function* function, Module module, const char* name);
  int (*cuModuleUnload)(Module module);
  int (*cuFuncSetAttribute)(Function function, FunctionAttribute attribute, int value);
  int (*cuFuncGetAttribute)(int* value, FunctionAttribute attribute, Function function);
  int (*cuLaunchKernel)(Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, Stream stream, void** arguments,
                        void** extra);
  int (*cuLaunchKernelEx)(const LaunchConfig* config, Function function, void** arguments, void** extra);
  int (*cuEventCreate)(Event* event, unsigned flags);
  int (*cuEventRecord)(Event event, Stream stream);
  int (*cuEventSynchronize)(Event event);
  int (*cuEventElapsedTime)(float* milliseconds, Event from, Event to);
  int (*cuEventDestroy)(Event event);
  int (*cuStreamCreate)(Stream* stream, unsigned flags);
  int (*cuStreamSynchronize)(Stream stream);
  int (*cuStreamGetCtx)(Stream stream, Context* context);
  int (*cuThreadExchangeStreamCaptureMode)(int* mode);
  int (*cuStreamDestroy)(Stream stream);
  int (*cuPointerGetAttribute)(void* value, PointerAttribute attribute, Pointer pointer);
};

// Opens libcuda.so.1 once and initialises it; safe from many threads. Throws Error(no_device) with the reason: no
// library, no driver, no device. A failure is tried again by the next call.
[[nodiscard]] const Driver& driver();

// Throws Error(no_device) with the driver's own name and text unless `result` is success. `call` says what was called.
void check(int result, std::string_view call);

}  // namespace tconv::cuda
