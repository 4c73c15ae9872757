// Where the verbs that run kernels run them: --device, and memory of either kind under one interface.
#pragma once

#include <CLI/CLI.hpp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cuda/driver.hpp"

namespace tconv::tool {

// A CUDA device's number, or nothing: the CPU.
using Device = std::optional<int>;

// `given`: "cpu", or a GPU's number; empty takes GPU 0 where there is one and says on standard error what it took.
// Throws Error(usage).
[[nodiscard]] Device choose_device(const std::string& given);

void add_device(CLI::App* verb, std::string& device);
// --threads, as many as there are cores without it.
void add_threads(CLI::App* verb, int& threads);

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

// Memory of a GPU, aligned to 256 bytes at least.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
    cuda::check(cuda::driver().cuMemAlloc(&pointer_, bytes > 0 ? bytes : 1), "cuMemAlloc");
  }
  ~DeviceMemory() {
    if (pointer_ != 0) cuda::driver().cuMemFree(pointer_);
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : pointer_(std::exchange(other.pointer_, 0)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
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
  void write(std::size_t offset, std::string_view bytes) {
    cuda::check(cuda::driver().cuMemcpyHtoD(pointer_ + offset, bytes.data(), bytes.size()), "cuMemcpyHtoD");
  }
  [[nodiscard]] std::string read() const {
    std::string bytes(bytes_, '\0');
    cuda::check(cuda::driver().cuMemcpyDtoH(bytes.data(), pointer_, bytes_), "cuMemcpyDtoH");
    return bytes;
  }

 private:
  cuda::Pointer pointer_ = 0;
  std::size_t bytes_ = 0;
};

// The same of the CPU.
class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(std::size_t bytes) : pointer_(static_cast<char*>(::operator new(bytes, kAlign))), bytes_(bytes) {}
  ~HostMemory() {
    if (pointer_ != nullptr) ::operator delete(pointer_, kAlign);
  }
  HostMemory(HostMemory&& other) noexcept
      : pointer_(std::exchange(other.pointer_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  HostMemory& operator=(HostMemory&& other) noexcept {
    std::swap(pointer_, other.pointer_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  [[nodiscard]] void* at(std::size_t offset) const { return pointer_ + offset; }
  void write(std::size_t offset, std::string_view bytes) { std::memcpy(pointer_ + offset, bytes.data(), bytes.size()); }
  [[nodiscard]] std::string read() const { return {pointer_, bytes_}; }

 private:
  static constexpr std::align_val_t kAlign{4096};
  char* pointer_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tconv::tool
