// Tensors in NumPy's .npy files, formats 1.0, 2.0 and 3.0: little-endian numbers, no Python objects. Any bytes are safe
// to read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tconv {

enum class NpyType { f2, f4, f8, i4 };
[[nodiscard]] std::string_view name(NpyType type) noexcept;  // "float16", ...
[[nodiscard]] std::int64_t bytes_per_element(NpyType type) noexcept;

struct NpyArray {
  NpyType type = NpyType::f4;
  bool fortran = false;  // the first dimension is the dense one
  std::vector<std::int64_t> shape;
  std::string data;  // exactly the elements

  // In elements. A dimension of 0 or 1 has some stride.
  [[nodiscard]] std::vector<std::int64_t> strides() const;
};

// `bytes`: a whole file; `where`: its name, for messages. Throws Error(usage) that says which rule of the format a
// malformed file breaks: its header, a type of other bytes than above, a shape that the data does not have.
[[nodiscard]] NpyArray parse_npy(std::string bytes, const std::string& where);
[[nodiscard]] NpyArray read_npy(const std::filesystem::path& path, std::size_t max_bytes);

// What comes before the data of a dense array in C order. Together they are the bytes that numpy.save writes.
[[nodiscard]] std::string npy_header(NpyType type, std::span<const std::int64_t> shape);

// "(1, 2, 3)", as Python writes a tuple.
[[nodiscard]] std::string print_shape(std::span<const std::int64_t> shape);

}  // namespace tconv
