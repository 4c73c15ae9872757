#include "device.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <thread>

#include "cpu/threads.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::tool {
namespace {

bool have_gpu() {
  try {
    int count = 0;
    return cuda::driver().cuDeviceGetCount(&count) == 0 && count > 0;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace

Device choose_device(const std::string& given) {
  if (given.empty()) {
    const bool gpu = have_gpu();
    std::fprintf(stderr, "tconv: on %s (--device cpu, or a GPU's number, chooses)\n",
                 gpu ? "GPU 0" : "the CPU, as there is no GPU");
    return gpu ? Device(0) : Device();
  }
  if (given == "cpu") return std::nullopt;
  int ordinal = 0;
  const auto [end, code] = std::from_chars(given.data(), given.data() + given.size(), ordinal);
  if (code != std::errc() || end != given.data() + given.size() || ordinal < 0)
    throw Error(Exit::usage, "--device", fmt::format("is '{}'", printable(given)), "cpu, or a GPU's number");
  return ordinal;
}

void add_device(CLI::App* verb, std::string& device) {
  verb->add_option("--device", device, "cpu, or a GPU's number; without, the first GPU or else the CPU");
}

void add_threads(CLI::App* verb, int& threads) {
  threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, unsigned{cpu::kMaxThreads}));
  verb->add_option("--threads", threads, "Threads on the CPU")
      ->check(CLI::Range(1, cpu::kMaxThreads))
      ->capture_default_str();
}

}  // namespace tconv::tool
