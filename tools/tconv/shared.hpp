// What several verbs need.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

#include "problem/problem.hpp"
#include "target/target.hpp"

namespace tconv::tool {

// Throws Error(usage) that lists the sheets there are.
[[nodiscard]] const Target& require_target(const std::string& name);

// Colour is for a terminal whose user did not set NO_COLOR.
[[nodiscard]] bool use_colour();

// Results, to standard output. Throws Error(usage) when they do not arrive, such as on a full disk.
void print_result(std::string_view text);

// Bytes.
[[nodiscard]] double machine_memory();
// Throws Error(unsupported) for tensors that do not fit into this machine's memory.
void require_memory(const Workload& workload);

template <typename Body>
double wall_seconds(Body body) {
  const auto from = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
}

// On a terminal, a line that says what a long run is at.
class Progress {
 public:
  explicit Progress(std::size_t steps);
  void next(std::string_view what);
  void done();  // takes the line away

 private:
  std::size_t steps_;
  std::size_t at_ = 0;
  bool shown_;
};

}  // namespace tconv::tool
