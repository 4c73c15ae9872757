// The child process that runs an answer (harness.py), one case at a time.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "util/subprocess.hpp"
#include "verify/cases.hpp"

namespace tconv::verify {

enum class Device { interpreter, cuda };
[[nodiscard]] std::string_view name(Device device) noexcept;

struct Fault {
  std::string kind;  // "wrong result", "raises", "crashes", ...
  std::string detail;
};

// What an answer made of one case: a fault the harness saw, or the bytes of its output.
struct Outcome {
  std::optional<Fault> fault;
  std::string y;  // dense, in storage type; empty when there is a fault
};

// Not thread-safe; use one for each thread. Executes the code in `answer`.
class Harness {
 public:
  Harness(std::filesystem::path answer, Device device, std::chrono::seconds timeout);
  ~Harness();
  Harness(const Harness&) = delete;
  Harness& operator=(const Harness&) = delete;

  // Starts the child unless it runs. Throws Error(no_device), with what to install, when there is no
  // Python with torch, triton and numpy, or no such device.
  void start();
  [[nodiscard]] const std::string& versions() const noexcept { return versions_; }  // of torch, triton; the device

  // A child that crashes, hangs or overruns its memory is a fault of the case; the next case starts another.
  [[nodiscard]] Outcome run(const Case& c, const Interface& interface, const Tensors& tensors);

 private:
  void stop();

  std::filesystem::path answer_;
  Device device_;
  std::chrono::seconds timeout_;
  std::unique_ptr<Child> child_;
  std::filesystem::path folder_;  // the child's, which removes it unless it is killed
  std::string versions_;
};

}  // namespace tconv::verify
