#include "cuda/driver.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include "util/error.hpp"

namespace tconv::cuda {
namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Error(Exit::no_device, "cuda", what, "the CUDA driver and a device are needed");
}

// "NAME (text)" for a result, as the driver words it.
std::string text_of(const Driver& driver, int result) {
  const char* name = nullptr;
  const char* text = nullptr;
  if (driver.cuGetErrorName(result, &name) != kSuccess || name == nullptr) return fmt::format("error {}", result);
  if (driver.cuGetErrorString(result, &text) != kSuccess || text == nullptr) return name;
  return fmt::format("{}, {}", name, text);
}

template <typename Entry>
void resolve(void* library, Entry& entry, const char* symbol) {
  void* const address = dlsym(library, symbol);
  if (address == nullptr) refuse(fmt::format("libcuda.so.1 is too old: it has no {}", symbol));
  entry = reinterpret_cast<Entry>(address);
}

Driver open_driver() {
  // Never closed: the driver keeps threads and handlers of its own.
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const why = dlerror();
    refuse(fmt::format("libcuda.so.1 cannot be opened: {}", why != nullptr ? why : "no reason given"));
  }
  Driver d{};
  resolve(library, d.cuInit, "cuInit");
  resolve(library, d.cuDriverGetVersion, "cuDriverGetVersion");
  resolve(library, d.cuGetErrorName, "cuGetErrorName");
  resolve(library, d.cuGetErrorString, "cuGetErrorString");
  resolve(library, d.cuDeviceGet, "cuDeviceGet");
  resolve(library, d.cuDeviceGetCount, "cuDeviceGetCount");
  resolve(library, d.cuDeviceGetAttribute, "cuDeviceGetAttribute");
  resolve(library, d.cuDeviceGetName, "cuDeviceGetName");
  resolve(library, d.cuDeviceTotalMem, "cuDeviceTotalMem_v2");
  resolve(library, d.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
  resolve(library, d.cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");
  resolve(library, d.cuCtxSetCurrent, "cuCtxSetCurrent");
  resolve(library, d.cuCtxGetCurrent, "cuCtxGetCurrent");
  resolve(library, d.cuCtxPushCurrent, "cuCtxPushCurrent_v2");
  resolve(library, d.cuCtxPopCurrent, "cuCtxPopCurrent_v2");
  resolve(library, d.cuCtxGetDevice, "cuCtxGetDevice");
  resolve(library, d.cuCtxSynchronize, "cuCtxSynchronize");
  resolve(library, d.cuMemAlloc, "cuMemAlloc_v2");
  resolve(library, d.cuMemFree, "cuMemFree_v2");
  resolve(library, d.cuMemGetInfo, "cuMemGetInfo_v2");
  resolve(library, d.cuMemcpyHtoD, "cuMemcpyHtoD_v2");
  resolve(library, d.cuMemcpyDtoH, "cuMemcpyDtoH_v2");
  resolve(library, d.cuMemsetD8, "cuMemsetD8_v2");
  resolve(library, d.cuMemsetD8Async, "cuMemsetD8Async");
  resolve(library, d.cuModuleLoadData, "cuModuleLoadData");
  resolve(library, d.cuModuleGetFunction, "cuModuleGetFunction");
  resolve(library, d.cuModuleUnload, "cuModuleUnload");
  resolve(library, d.cuFuncSetAttribute, "cuFuncSetAttribute");
  resolve(library, d.cuFuncGetAttribute, "cuFuncGetAttribute");
  resolve(library, d.cuLaunchKernel, "cuLaunchKernel");
  resolve(library, d.cuLaunchKernelEx, "cuLaunchKernelEx");
  resolve(library, d.cuEventCreate, "cuEventCreate");
  resolve(library, d.cuEventRecord, "cuEventRecord");
  resolve(library, d.cuEventSynchronize, "cuEventSynchronize");
  resolve(library, d.cuEventElapsedTime, "cuEventElapsedTime");
  resolve(library, d.cuEventDestroy, "cuEventDestroy_v2");
  resolve(library, d.cuStreamCreate, "cuStreamCreate");
  resolve(library, d.cuStreamSynchronize, "cuStreamSynchronize");
  resolve(library, d.cuStreamGetCtx, "cuStreamGetCtx");
  resolve(library, d.cuStreamDestroy, "cuStreamDestroy_v2");
  resolve(library, d.cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode");
  resolve(library, d.cuPointerGetAttribute, "cuPointerGetAttribute");

  if (const int result = d.cuInit(0); result != kSuccess) {
    refuse(fmt::format("the driver does not start: {}", text_of(d, result)));
  }
  int devices = 0;
  if (const int result = d.cuDeviceGetCount(&devices); result != kSuccess) {
    refuse(fmt::format("the driver does not count devices: {}", text_of(d, result)));
  }
  if (devices == 0) refuse("there is no device");
  return d;
}

}  // namespace

const Driver& driver() {
  static const Driver opened = open_driver();
  return opened;
}

void check(int result, std::string_view call) {
  if (result == kSuccess) return;
  throw Error(Exit::no_device, "cuda", fmt::format("{} failed: {}", call, text_of(driver(), result)),
              "the driver's own word");
}

}  // namespace tconv::cuda
