#include "cuda/machine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/compile.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::cuda {
namespace {

constexpr const char* kVariable = "TCONV_TARGET";
constexpr int kGraphsStartEarly = 12030;  // the driver's version from which on a graph may capture such launches

int attribute(int device, DeviceAttribute which) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute");
  return value;
}

// The sheet of this very GPU, else that of one with its instructions and this one's own counts.
Target target_of(const std::string& display, int sm, int sms, int shared) {
  const Target* sheet = find_target(display);
  if (sheet == nullptr || sheet->sm != sm) {
    const auto alike = std::ranges::find(target_sheets(), sm, &Target::sm);
    if (alike == target_sheets().end())
      throw Error(Exit::unsupported, display,
                  fmt::format("has compute capability {}.{}, for which there is no sheet", sm / 10, sm % 10),
                  "src/target/sheets.cpp has those that are known");
    sheet = &*alike;
  }
  Target target = *sheet;
  constexpr std::string_view kMeasured = "the device itself";
  // A part of a GPU, or a variant with fewer processors.
  if (sms != static_cast<int>(target.sms.value)) target.sms = {static_cast<double>(sms), kMeasured};
  if (shared != static_cast<int>(target.smem_per_block.value))
    target.smem_per_block = {static_cast<double>(shared), kMeasured};
  return target;
}

Machine make(int ordinal) {
  const Driver& api = driver();
  int count = 0;
  check(api.cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (ordinal < 0 || ordinal >= count)
    throw Error(Exit::no_device, fmt::format("device {}", ordinal), fmt::format("the driver shows {}", count),
                "devices count from 0");
  Machine made;
  check(api.cuDeviceGet(&made.device, ordinal), "cuDeviceGet");
  std::array<char, 256> text{};
  check(api.cuDeviceGetName(text.data(), static_cast<int>(text.size()), made.device), "cuDeviceGetName");
  made.display = text.data();
  const int sm = 10 * attribute(made.device, DeviceAttribute::major) + attribute(made.device, DeviceAttribute::minor);
  const int shared = attribute(made.device, DeviceAttribute::max_shared_bytes_of_block);
  made.architecture = architecture_of(sm);
  int version = 0;
  check(api.cuDriverGetVersion(&version), "cuDriverGetVersion");
  made.starts_early = sm >= 90 && version >= kGraphsStartEarly;
  if (const char* const name = std::getenv("TCONV_TARGET"); name != nullptr && *name != '\0') {
    made.target = stand_in(name, sm, shared);
    made.display = fmt::format("{}, planned as {}", made.display, made.target.display);
  } else {
    made.target = target_of(made.display, sm, attribute(made.device, DeviceAttribute::multiprocessors), shared);
  }
  check(api.cuDevicePrimaryCtxRetain(&made.context, made.device), "cuDevicePrimaryCtxRetain");
  return made;
}

}  // namespace

const Machine& machine(int ordinal) {
  static std::mutex mutex;
  static std::map<int, Machine> machines;
  const std::lock_guard lock(mutex);
  if (const auto known = machines.find(ordinal); known != machines.end()) return known->second;
  Machine& kept = machines.emplace(ordinal, make(ordinal)).first->second;
  kept.target.display = kept.display;
  return kept;
}

const Target& stand_in(std::string_view name, int sm, int shared) {
  const Target* const sheet = find_target(name);
  if (sheet == nullptr)
    throw Error(Exit::usage, kVariable, fmt::format("there is no target '{}'", printable(name)),
                "src/target/sheets.cpp has those that are known");
  // A chip's own instructions run on no other; all else runs on what came later.
  const bool own = architecture_of(sheet->sm).ends_with('a');
  if (sheet->sm != sm && (own || sheet->sm > sm))
    throw Error(Exit::usage, kVariable,
                fmt::format("a device of compute capability {}.{} does not run what is made for {}", sm / 10, sm % 10,
                            sheet->display),
                "an older target, or one of the same compute capability");
  if (sheet->smem_per_block.value > shared)
    throw Error(Exit::usage, kVariable,
                fmt::format("a block of {} has up to {} bytes of shared memory, here {}", sheet->display,
                            sheet->smem_per_block.value, shared),
                "a target with no more than the device");
  return *sheet;
}

}  // namespace tconv::cuda
