#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "util/error.hpp"
#include "util/npy.hpp"

namespace tconv {
namespace {

using Shape = std::vector<std::int64_t>;

// A file of format `major` with this dictionary, padded as NumPy pads it, and `data` bytes of zeros.
std::string file(const std::string& dictionary, std::size_t data, int major = 1) {
  const std::size_t before = major == 1 ? 10 : 12;
  std::string header = dictionary;
  header.append(63 - (before + header.size()) % 64, ' ');
  header += '\n';
  std::string bytes = "\x93NUMPY";
  bytes +=
      {static_cast<char>(major), '\0', static_cast<char>(header.size() & 0xff), static_cast<char>(header.size() >> 8)};
  if (major > 1) bytes += std::string(2, '\0');
  return bytes + header + std::string(data, '\0');
}

std::string dictionary(const std::string& descr, const std::string& shape, const std::string& fortran = "False") {
  return "{'descr': " + descr + ", 'fortran_order': " + fortran + ", 'shape': " + shape + ", }";
}

std::string refusal(const std::string& bytes) {
  try {
    (void)parse_npy(bytes, "x.npy");
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    EXPECT_EQ(error.where(), "x.npy");
    EXPECT_FALSE(error.rule().empty());
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "";
}

#define EXPECT_REFUSED(bytes, says) EXPECT_NE(refusal(bytes).find(says), std::string::npos) << refusal(bytes)

TEST(Npy, ReadsEveryTypeAndFormat) {
  const std::vector<std::pair<std::string, NpyType>> types = {
      {"'<f2'", NpyType::f2}, {"'<f4'", NpyType::f4}, {"'<f8'", NpyType::f8}, {"'<i4'", NpyType::i4}};
  for (const auto& [descr, type] : types) {
    for (const int major : {1, 2, 3}) {
      const auto bytes = static_cast<std::size_t>(6 * bytes_per_element(type));
      const NpyArray array = parse_npy(file(dictionary(descr, "(1, 2, 3)"), bytes, major), "x.npy");
      EXPECT_EQ(array.type, type);
      EXPECT_EQ(array.shape, (Shape{1, 2, 3}));
      EXPECT_FALSE(array.fortran);
      EXPECT_EQ(array.data.size(), bytes);
    }
  }
}

TEST(Npy, TheDataAreThoseBehindTheHeader) {
  const float values[] = {1.5f, -2, 3e30f};
  std::string bytes = file(dictionary("'<f4'", "(3,)"), 0);
  bytes.append(reinterpret_cast<const char*>(values), sizeof values);
  const NpyArray array = parse_npy(bytes, "x.npy");
  ASSERT_EQ(array.data.size(), sizeof values);
  EXPECT_EQ(std::memcmp(array.data.data(), values, sizeof values), 0);
}

TEST(Npy, StridesOfBothOrders) {
  const NpyArray c = parse_npy(file(dictionary("'<f4'", "(2, 3, 4)"), 96), "x.npy");
  EXPECT_EQ(c.strides(), (Shape{12, 4, 1}));
  const NpyArray fortran = parse_npy(file(dictionary("'<f4'", "(2, 3, 4)", "True"), 96), "x.npy");
  EXPECT_EQ(fortran.strides(), (Shape{1, 2, 6}));
}

TEST(Npy, OtherSpellingsOfTheSameHeader) {
  EXPECT_EQ(parse_npy(file("{\"shape\":(2,3),\"fortran_order\":True,\"descr\":\"<i4\"}", 24), "x.npy").shape,
            (Shape{2, 3}));
  EXPECT_EQ(parse_npy(file(dictionary("'<f4'", "()"), 4), "x.npy").shape, Shape{});
  EXPECT_EQ(parse_npy(file(dictionary("'<f4'", "(0, 5)"), 0), "x.npy").data, "");
}

TEST(Npy, WhatIsWrittenIsWhatNumpyWrites) {
  // numpy.save of zeros((1, 2, 3), 'f4'), NumPy 2.4.
  const std::string header = npy_header(NpyType::f4, Shape{1, 2, 3});
  std::string due = "\x93NUMPY\x01";
  due += std::string(1, '\0') + "v" + std::string(1, '\0');
  due += "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 3), }";
  due.append(127 - due.size(), ' ');
  EXPECT_EQ(header, due + '\n');
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{1 << 20, 3}, Shape(32, 1)}) {
    std::size_t elements = 1;
    for (const std::int64_t dimension : shape) elements *= static_cast<std::size_t>(dimension);
    const std::string one = npy_header(NpyType::f2, shape);
    EXPECT_EQ(one.size() % 64, 0u);
    EXPECT_EQ(parse_npy(one + std::string(2 * elements, '\0'), "x.npy").shape, shape);
  }
}

TEST(Npy, EveryCutIsRefused) {
  const std::string whole = file(dictionary("'<f4'", "(1, 2, 3)"), 24);
  ASSERT_EQ(refusal(whole), "");
  for (std::size_t cut = 0; cut < whole.size(); ++cut) EXPECT_NE(refusal(whole.substr(0, cut)), "") << cut;
  EXPECT_REFUSED(whole + '\0', "25 bytes of data");
}

TEST(Npy, HeadersThatLieAboutTheirLength) {
  std::string bytes = file(dictionary("'<f4'", "(1, 2, 3)"), 24);
  bytes[8] = static_cast<char>(bytes[8] + 1);  // takes a byte of the data into the header
  EXPECT_NE(refusal(bytes), "");
  bytes[9] = '\x7f';
  EXPECT_REFUSED(bytes, "says that its header has");
  std::string long_header = file(dictionary("'<f4'", "(1, 2, 3)"), 24, 2);
  long_header[11] = '\xff';
  EXPECT_REFUSED(long_header, "says that its header has");
}

TEST(Npy, ShapesThatOverflowOrDoNotFit) {
  EXPECT_REFUSED(file(dictionary("'<f4'", "(4294967296, 4294967296)"), 24), "less than 2^63 bytes");
  EXPECT_REFUSED(file(dictionary("'<f8'", "(1152921504606846976,)"), 24), "less than 2^63 bytes");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(0, 9223372036854775807, 2)"), 0), "less than 2^63 bytes");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(9223372036854775808,)"), 24), "no number");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(-1,)"), 24), "no number");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(1.5,)"), 24), "no ')'");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(6)"), 24), "no tuple");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(1000000,)"), 24), "(1000000,) of float32 are 4000000");
  std::string many = "(1";
  for (int i = 0; i < 40; ++i) many += ", 1";
  EXPECT_REFUSED(file(dictionary("'<f4'", many + ")"), 4), "too many dimensions");
}

TEST(Npy, TypesThatAreNotRead) {
  EXPECT_REFUSED(file(dictionary("'|O'", "(6,)"), 24), "Python objects, which are never loaded");
  EXPECT_REFUSED(file(dictionary("'>f4'", "(6,)"), 24), "big-endian");
  EXPECT_REFUSED(file(dictionary("'|V2'", "(6,)"), 12), "bfloat16 has no type");
  EXPECT_REFUSED(file(dictionary("'<i8'", "(3,)"), 24), "'<i8'");
  EXPECT_REFUSED(file(dictionary("[('a', '<f4')]", "(6,)"), 24), "records");
}

TEST(Npy, DictionariesThatAreNone) {
  EXPECT_REFUSED(file("{'descr': '<f4', 'shape': (6,), }", 24), "lacks a key");
  EXPECT_REFUSED(file("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24), "key 'descr'");
  EXPECT_REFUSED(file("{'descr': '<f4', 'fortran_order': 0, 'shape': (6,), }", 24), "neither True nor False");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(6,)") + " 1", 24), "goes on");
  EXPECT_REFUSED(file("{'descr': '<f4", 24), "ends in a string");
  EXPECT_REFUSED("PK\x03\x04 a zip archive, as .npz is", "is no .npy file");
  EXPECT_REFUSED(file(dictionary("'<f4'", "(6,)"), 24, 4), "format 4.0");
}

}  // namespace
}  // namespace tconv
