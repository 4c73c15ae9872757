// Child processes, started from an argument vector (never through a shell).
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tconv {

struct ProcessResult {
  int exit_code = -1;  // 128 + signal when it was killed
  std::string out;
  std::string err;
  bool timed_out = false;
};

// Runs to the end, feeding `input` to its standard input. Output beyond `max_output` bytes is dropped.
// Throws Error(no_device) when the program cannot be started.
[[nodiscard]] ProcessResult run_process(const std::vector<std::string>& argv, std::string_view input,
                                        std::chrono::milliseconds timeout, std::size_t max_output = 16u << 20);

// A child that answers line by line.
class Child {
 public:
  // Extra environment entries replace those of the same name.
  Child(const std::vector<std::string>& argv, const std::vector<std::pair<std::string, std::string>>& environment);
  ~Child();  // closes its input, waits briefly, then kills
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void write_line(std::string_view line);
  // The next line of its standard output. Throws Error(check_failed) with the end of its standard error
  // when it died or did not answer in time.
  [[nodiscard]] std::string read_line(std::chrono::milliseconds timeout);

 private:
  struct State;
  State* state_;
};

// The Python that runs answers: TCONV_PYTHON, then the environment scripts/test makes (build/venv beside
// the binary's build folder), then python3 on PATH. Empty when there is none.
[[nodiscard]] std::string find_python();

}  // namespace tconv
