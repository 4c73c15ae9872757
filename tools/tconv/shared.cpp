#include "shared.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

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

}  // namespace tconv::tool
