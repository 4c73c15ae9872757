#include "util/npy.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <optional>
#include <utility>

#include "util/error.hpp"
#include "util/files.hpp"
#include "util/text.hpp"

namespace tconv {
namespace {

static_assert(std::endian::native == std::endian::little, "data is used as it lies in the file");

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kMaxHeader = 10000;  // NumPy's own limit
constexpr std::size_t kMaxDimensions = 32;
constexpr std::size_t kAlign = 64;  // of the data in the file

struct Type {
  NpyType type;
  std::string_view descr;
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array<Type, 4> kTypes{{{NpyType::f2, "<f2", "float16", 2},
                                      {NpyType::f4, "<f4", "float32", 4},
                                      {NpyType::f8, "<f8", "float64", 8},
                                      {NpyType::i4, "<i4", "int32", 4}}};
const Type& entry(NpyType type) { return kTypes[static_cast<std::size_t>(type)]; }

// The header: a Python dictionary with the keys descr, fortran_order and shape.
class Header {
 public:
  Header(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  NpyArray parse() {
    expect('{');
    while (!take('}')) {
      const std::string_view key = string();
      expect(':');
      if (key == "descr" && !type_) {
        type_ = type();
      } else if (key == "fortran_order" && !fortran_) {
        fortran_ = boolean();
      } else if (key == "shape" && !shape_) {
        shape_ = shape();
      } else {
        refuse(fmt::format("its header has a key '{}'", printable(key, 40)),
               "descr, fortran_order and shape, each once");
      }
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) refuse("its header goes on behind the dictionary", "spaces and a line end");
    if (!type_ || !fortran_ || !shape_) refuse("its header lacks a key", "descr, fortran_order and shape, each once");
    return {.type = *type_, .fortran = *fortran_, .shape = std::move(*shape_), .data = {}};
  }

 private:
  [[noreturn]] void refuse(std::string what, std::string rule) const {
    throw Error(Exit::usage, where_, std::move(what), std::move(rule));
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t')) ++at_;
  }
  bool take(char due) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != due) return false;
    ++at_;
    return true;
  }
  void expect(char due) {
    if (!take(due))
      refuse(fmt::format("its header has no '{}' at byte {}", due, at_), "a dictionary as NumPy writes it");
  }
  std::string_view string() {
    const char quote = take('\'') ? '\'' : '"';
    if (quote == '"') expect('"');
    const std::size_t end = text_.find(quote, at_);
    if (end == std::string_view::npos) refuse("its header ends in a string", "a dictionary as NumPy writes it");
    const std::string_view inside = text_.substr(at_, end - at_);
    at_ = end + 1;
    return inside;
  }
  NpyType type() {
    constexpr const char* kRule = "one of <f2 <f4 <f8 <i4; bfloat16 has no type in .npy files";
    if (take('[')) refuse("its elements are records of several fields", kRule);
    const std::string_view descr = string();
    for (const Type& known : kTypes) {
      if (known.descr == descr) return known.type;
    }
    if (descr.find('O') != std::string_view::npos)
      refuse("its elements are Python objects, which are never loaded", kRule);
    if (descr.starts_with('>')) refuse(fmt::format("its elements are big-endian, '{}'", printable(descr, 40)), kRule);
    refuse(fmt::format("its elements are '{}'", printable(descr, 40)), kRule);
  }
  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"}) {
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return word == "True";
    }
    refuse("its fortran_order is neither True nor False", "a dictionary as NumPy writes it");
  }
  std::vector<std::int64_t> shape() {
    std::vector<std::int64_t> dimensions;
    expect('(');
    while (!take(')')) {
      skip_space();
      std::int64_t value = 0;
      const char* const first = text_.data() + at_;
      const auto [end, code] = std::from_chars(first, text_.data() + text_.size(), value);
      if (code != std::errc() || value < 0)
        refuse("its shape has a dimension that is no number", "whole numbers from 0 to 2^63 - 1");
      at_ += static_cast<std::size_t>(end - first);
      dimensions.push_back(value);
      if (dimensions.size() > kMaxDimensions)
        refuse("its shape has too many dimensions", fmt::format("at most {}", kMaxDimensions));
      if (!take(',')) {
        expect(')');
        // (3) is a number to Python, not a tuple.
        if (dimensions.size() == 1) refuse("its shape is no tuple", "a dictionary as NumPy writes it");
        break;
      }
    }
    return dimensions;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::optional<NpyType> type_;
  std::optional<bool> fortran_;
  std::optional<std::vector<std::int64_t>> shape_;
};

}  // namespace

std::string_view name(NpyType type) noexcept { return entry(type).name; }
std::int64_t bytes_per_element(NpyType type) noexcept { return entry(type).bytes; }

std::vector<std::int64_t> NpyArray::strides() const {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t next = 1;
  for (std::size_t i = 0; i < shape.size(); ++i) {
    const std::size_t at = fortran ? i : shape.size() - 1 - i;
    strides[at] = next;
    next *= std::max<std::int64_t>(shape[at], 1);
  }
  return strides;
}

NpyArray parse_npy(std::string bytes, const std::string& where) {
  const auto refuse = [&](std::string what, std::string rule) -> Error {
    return {Exit::usage, where, std::move(what), std::move(rule)};
  };
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  if (!bytes.starts_with(kMagic) || bytes.size() < 10) throw refuse("is no .npy file", "it begins with \\x93NUMPY");
  const std::size_t major = byte(6);
  if (major < 1 || major > 3 || byte(7) != 0)
    throw refuse(fmt::format("is of format {}.{}", major, byte(7)), "1.0, 2.0 or 3.0");
  const std::size_t start = major == 1 ? 10 : 12;
  if (bytes.size() < start) throw refuse("ends in its header", "a whole file");
  std::size_t length = byte(8) | byte(9) << 8;
  if (major > 1) length |= byte(10) << 16 | byte(11) << 24;
  if (length > kMaxHeader)
    throw refuse(fmt::format("says that its header has {} bytes", length), fmt::format("at most {}", kMaxHeader));
  if (bytes.size() - start < length)
    throw refuse(fmt::format("ends in its header, after {} bytes", bytes.size()), "a whole file");
  NpyArray array = Header(std::string_view(bytes).substr(start, length), where).parse();

  // Dimensions of 0 count as 1 here: strides must not overflow either.
  std::int64_t size = bytes_per_element(array.type);
  bool empty = false;
  for (const std::int64_t dimension : array.shape) {
    empty = empty || dimension == 0;
    if (__builtin_mul_overflow(size, std::max<std::int64_t>(dimension, 1), &size))
      throw refuse(fmt::format("says that its shape is {}", print_shape(array.shape)), "less than 2^63 bytes");
  }
  const std::size_t due = empty ? 0 : static_cast<std::size_t>(size);
  if (bytes.size() - start - length != due)
    throw refuse(fmt::format("has {} bytes of data", bytes.size() - start - length),
                 fmt::format("{} of {} are {}", print_shape(array.shape), name(array.type), due));
  bytes.erase(0, start + length);  // to an aligned place
  array.data = std::move(bytes);
  return array;
}

NpyArray read_npy(const std::filesystem::path& path, std::size_t max_bytes) {
  return parse_npy(read_file(path, max_bytes), printable(path.string(), 200));
}

std::string npy_header(NpyType type, std::span<const std::int64_t> shape) {
  std::string text =
      fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}", entry(type).descr, print_shape(shape));
  // NumPy leaves room for the first dimension to grow to 20 digits, since 1.23.
  if (!shape.empty()) text.append(21 - std::to_string(shape[0]).size(), ' ');
  constexpr std::size_t kBefore = 10;
  text.append(kAlign - (kBefore + text.size() + 1) % kAlign, ' ');
  text += '\n';
  std::string header(kMagic);
  header += {'\x01', '\x00', static_cast<char>(text.size() & 0xff), static_cast<char>(text.size() >> 8)};
  return header + text;
}

std::string print_shape(std::span<const std::int64_t> shape) {
  return fmt::format("({}{})", fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
}

}  // namespace tconv
