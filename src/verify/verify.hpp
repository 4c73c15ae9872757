// Runs an answer on random problems and compares it with the float64 reference.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "verify/bound.hpp"
#include "verify/harness.hpp"

namespace tconv::verify {

struct Options {
  std::filesystem::path answer;
  Device device = Device::interpreter;
  std::int64_t cases = 200;
  std::uint64_t seed = 0;               // case i has seed + i
  std::optional<Workload> only;         // this workload for every case, instead of random ones
  std::vector<Arithmetic> arithmetics;  // empty: those the device and the code serve
  std::int64_t max_stride = 9;
  std::chrono::seconds timeout{120};                                     // of one case
  int jobs = 1;                                                          // child processes
  std::function<void(std::int64_t done, std::int64_t failed)> progress;  // may be empty; called under a lock
};

struct Failure {
  Case c;
  Fault fault;
};

struct Share {  // of failed cases among those with one property
  std::int64_t failed = 0;
  std::int64_t cases = 0;
};

// Faults of one kind.
struct FailureGroup {
  std::string kind;
  std::int64_t count = 0;
  Failure smallest;  // by multiply-adds
  std::map<std::int64_t, Share> by_stride;
  std::map<std::string, Share> by_layout;
  std::map<std::string, Share> by_arithmetic;
};

struct Accuracy {
  std::int64_t cases = 0;
  std::int64_t exact = 0;  // of them, with integer data: compared with ==
  double worst_ratio = 0;  // max |error| / bound over the other cases that passed
};

struct Verification {
  std::string versions;  // device, torch, triton
  std::uint64_t seed = 0;
  std::int64_t cases = 0;
  std::int64_t failed = 0;
  std::map<Arithmetic, Accuracy> accuracy;
  std::vector<FailureGroup> groups;  // most frequent first
};

// Compares the stored bytes of an output with the reference. A fault, or max |error| / bound (0 for exact
// data that is equal).
struct Judgement {
  std::optional<Fault> fault;
  double ratio = 0;
};
[[nodiscard]] Judgement judge(const Case& c, const Tensors& tensors, std::string_view y, Engine engine);

// The reference alone, for answers that are judged more than once.
struct Expected {
  std::vector<double> y;
  std::vector<double> bound;  // of |answer - y|; not used for exact data
  bool exact = false;         // the answer must be y, rounded to storage
};
[[nodiscard]] Expected expect(const Case& c, const Tensors& tensors, Engine engine);
[[nodiscard]] Judgement judge(const Case& c, const Expected& expected, std::string_view y);

// The largest workload that is verified: the reference is slow and in memory.
void require_verifiable(const Workload& workload);  // throws Error(unsupported)

// `interface`: of the answer's constructor. Throws Error(no_device) when the answer cannot be run here,
// Error(unsupported) when no case can be made.
[[nodiscard]] Verification verify(const Options& options, const Interface& interface);

// The command that repeats one case.
[[nodiscard]] std::string reproducer(const Options& options, const Case& c, std::string_view file);

[[nodiscard]] std::string text(const Verification& verification, const Options& options, std::string_view file);
[[nodiscard]] std::string json(const Verification& verification, const Options& options, std::string_view file);

}  // namespace tconv::verify
