// Any bytes as an .npy file: refused in one line with its rule, or a tensor whose data are exactly its shape's.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "util/error.hpp"
#include "util/npy.hpp"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "npy_fuzz: %s\n", what);
  std::abort();
}

void check(const tconv::NpyArray& array) {
  std::uint64_t elements = 1;
  std::int64_t last = 0;  // the farthest element
  const std::vector<std::int64_t> strides = array.strides();
  for (std::size_t i = 0; i < array.shape.size(); ++i) {
    require(array.shape[i] >= 0, "a negative dimension");
    elements *= static_cast<std::uint64_t>(array.shape[i]);
    if (array.shape[i] > 0) last += (array.shape[i] - 1) * strides[i];
  }
  const auto size = static_cast<std::uint64_t>(bytes_per_element(array.type));
  require(array.data.size() == elements * size, "data of another size than the shape's");
  require(elements == 0 || static_cast<std::uint64_t>(last) == elements - 1, "strides that leave the data");

  const tconv::NpyArray again = tconv::parse_npy(tconv::npy_header(array.type, array.shape) + array.data, "again");
  require(again.type == array.type && again.shape == array.shape && again.data == array.data, "no round trip");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    check(tconv::parse_npy(std::string(reinterpret_cast<const char*>(data), size), "x.npy"));
  } catch (const tconv::Error& error) {
    const std::string_view what(error.what());
    require(what.find('\n') == std::string_view::npos, "a refusal of more than one line");
    require(what.starts_with("x.npy: ") && !error.rule().empty(), "a refusal without a place or a rule");
    require(error.exit() == tconv::Exit::usage, "another exit code");
  }
  return 0;
}
