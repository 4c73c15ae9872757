#include "shared.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv::tool {

const Target& require_target(const std::string& name) {
  if (const Target* target = find_target(name)) return *target;
  std::vector<std::string_view> keys;
  for (const Target& sheet : target_sheets()) keys.push_back(sheet.key);
  throw Error(Exit::usage, "--target", fmt::format("there is no sheet for '{}'", printable(name)),
              fmt::format("one of: {}", fmt::join(keys, ", ")));
}

bool use_colour() {
  const char* refused = std::getenv("NO_COLOR");
  return (refused == nullptr || *refused == '\0') && ::isatty(STDOUT_FILENO) == 1;
}

void print_result(std::string_view text) {
  const bool ends = text.ends_with('\n');
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || (!ends && std::fputc('\n', stdout) == EOF) ||
      std::fflush(stdout) != 0)
    throw Error(Exit::usage, "standard output", fmt::format("cannot be written: {}", std::strerror(errno)),
                "results go to standard output");
}

double machine_memory() {
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGE_SIZE));
}

void require_memory(const Workload& workload) {
  const double bytes = work(workload).bytes();
  if (bytes > machine_memory())
    throw Error(Exit::unsupported, print_word(workload), fmt::format("has tensors of {:.3g} bytes", bytes),
                fmt::format("this machine has {:.3g}", machine_memory()));
}

// A step of a short run would only flicker.
Progress::Progress(std::size_t steps) : steps_(steps), shown_(steps > 1 && ::isatty(STDERR_FILENO) != 0) {}

void Progress::next(std::string_view what) {
  ++at_;
  if (shown_) std::fputs(fmt::format("\r\x1b[K{} of {}: {}", at_, steps_, printable(what, 100)).c_str(), stderr);
}

void Progress::done() {
  if (shown_) std::fputs("\r\x1b[K", stderr);
}

}  // namespace tconv::tool
