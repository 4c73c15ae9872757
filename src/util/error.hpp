// The one way this project says no: what is wrong, where, and which rule it breaks.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace tconv {

// Exit codes of the command line. Every refusal carries one of them.
enum class Exit : int {
  ok = 0,
  check_failed = 1,  // the answer was computed and is wrong
  usage = 2,         // the request or the command is malformed
  unsupported = 3,   // well formed, but nothing here can serve it
  no_device = 4,     // a device or a tool that is needed is absent
  defect = 70,       // our fault
};

// Thrown for every refusal. `what()` is one line: "<where>: <what> (<rule>)".
class Error : public std::runtime_error {
 public:
  Error(Exit exit, std::string where, std::string what, std::string rule)
      : std::runtime_error((where.empty() ? "" : where + ": ") + std::move(what) +
                           (rule.empty() ? "" : " (" + rule + ")")),
        exit_(exit),
        where_(std::move(where)),
        rule_(std::move(rule)) {}

  [[nodiscard]] Exit exit() const noexcept { return exit_; }
  [[nodiscard]] const std::string& where() const noexcept { return where_; }
  [[nodiscard]] const std::string& rule() const noexcept { return rule_; }

 private:
  Exit exit_;
  std::string where_;
  std::string rule_;
};

}  // namespace tconv
