// Memory and events on a GPU, for the verbs that run kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "cuda/driver.hpp"

namespace tconv::tool {

// The device's primary context, current in this thread until the end.
class UsedDevice {
 public:
  explicit UsedDevice(int ordinal) {
    const cuda::Driver& api = cuda::driver();
    cuda::check(api.cuDeviceGet(&device_, ordinal), "cuDeviceGet");
    cuda::Context context = nullptr;
    cuda::check(api.cuDevicePrimaryCtxRetain(&context, device_), "cuDevicePrimaryCtxRetain");
    cuda::check(api.cuCtxPushCurrent(context), "cuCtxPushCurrent");
  }
  ~UsedDevice() {
    cuda::Context popped = nullptr;
    cuda::driver().cuCtxPopCurrent(&popped);
    cuda::driver().cuDevicePrimaryCtxRelease(device_);
  }
  UsedDevice(const UsedDevice&) = delete;
  UsedDevice& operator=(const UsedDevice&) = delete;

 private:
  int device_ = 0;
};

class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t bytes) : bytes_(bytes) {
    cuda::check(cuda::driver().cuMemAlloc(&pointer_, bytes > 0 ? bytes : 1), "cuMemAlloc");
  }
  ~Memory() {
    if (pointer_ != 0) cuda::driver().cuMemFree(pointer_);
  }
  Memory(Memory&& other) noexcept
      : pointer_(std::exchange(other.pointer_, 0)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  [[nodiscard]] cuda::Pointer pointer() const { return pointer_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] void* at(std::size_t offset) const {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the driver's own type for device memory is an integer
    return reinterpret_cast<void*>(static_cast<std::uintptr_t>(pointer_ + offset));
  }

 private:
  cuda::Pointer pointer_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace tconv::tool
