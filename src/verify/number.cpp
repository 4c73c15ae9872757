#include "verify/number.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "util/error.hpp"

namespace tconv::verify {
namespace {

std::uint16_t to_half_bits(double value, const Format& format) {
  const int exponent_bias = format.max_exponent;
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(value);
  const int infinite = (2 * exponent_bias + 1) << format.mantissa_bits;
  int bits = 0;
  if (std::isnan(value)) {
    bits = infinite | (1 << (format.mantissa_bits - 1));
  } else if (std::isinf(value)) {
    bits = infinite;
  } else if (magnitude < std::ldexp(1.0, format.min_exponent)) {
    bits = static_cast<int>(magnitude / format.smallest());  // exact: the value is stored exactly
  } else {
    const int exponent = std::ilogb(magnitude);
    bits = ((exponent + exponent_bias - 1) << format.mantissa_bits) +
           static_cast<int>(std::ldexp(magnitude, format.mantissa_bits - exponent));
  }
  return static_cast<std::uint16_t>(sign | bits);
}

double from_half_bits(std::uint16_t bits, const Format& format) {
  const int mantissa = bits & ((1 << format.mantissa_bits) - 1);
  const int exponent = (bits & 0x7fff) >> format.mantissa_bits;
  double magnitude = 0;
  if (exponent == 2 * format.max_exponent + 1) {
    magnitude = mantissa == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = mantissa * format.smallest();
  } else {
    magnitude =
        std::ldexp(mantissa + (1 << format.mantissa_bits), exponent - format.max_exponent - format.mantissa_bits);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

template <typename Stored, typename Convert>
std::string encode_as(std::span<const double> values, Convert convert) {
  std::string bytes(values.size() * sizeof(Stored), '\0');
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Stored stored = convert(values[i]);
    std::memcpy(bytes.data() + i * sizeof(Stored), &stored, sizeof(Stored));
  }
  return bytes;
}

template <typename Stored, typename Convert>
std::vector<double> decode_as(std::string_view bytes, Convert convert) {
  if (bytes.size() % sizeof(Stored) != 0) throw Error(Exit::defect, "tensor", "its bytes end inside an element", "");
  std::vector<double> values(bytes.size() / sizeof(Stored));
  for (std::size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
  return values;
}

static_assert(std::endian::native == std::endian::little, "tensors travel as the machine's own bytes");

}  // namespace

double Format::unit() const { return std::ldexp(1.0, -(mantissa_bits + 1)); }
double Format::smallest() const { return std::ldexp(1.0, min_exponent - mantissa_bits); }
double Format::largest() const { return std::ldexp(2.0 - std::ldexp(1.0, -mantissa_bits), max_exponent); }

Format storage_format(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f16:
      return {10, -14, 15};
    case Arithmetic::bf16:
      return {7, -126, 127};
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return {23, -126, 127};
    case Arithmetic::f64:
      return {52, -1022, 1023};
    case Arithmetic::i32:
      break;
  }
  throw Error(Exit::defect, "storage format", "integers have none", "");
}

double round_to_storage(double value, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::i32) {
    return static_cast<double>(static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int64_t>(value))));
  }
  if (arithmetic == Arithmetic::f64 || value == 0 || !std::isfinite(value)) return value;
  const Format format = storage_format(arithmetic);
  const int exponent = std::max(std::ilogb(value), format.min_exponent);
  const double step = std::ldexp(1.0, exponent - format.mantissa_bits);
  const double rounded = std::nearbyint(value / step) * step;  // the default rounding mode: ties to even
  return std::fabs(rounded) > format.largest() ? std::copysign(INFINITY, value) : rounded;
}

std::string encode(std::span<const double> values, Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f64:
      return encode_as<double>(values, [](double v) { return v; });
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return encode_as<float>(values, [](double v) { return static_cast<float>(v); });
    case Arithmetic::i32:
      return encode_as<std::int32_t>(values, [](double v) { return static_cast<std::int32_t>(v); });
    case Arithmetic::f16:
    case Arithmetic::bf16:
      break;
  }
  const Format format = storage_format(arithmetic);
  return encode_as<std::uint16_t>(values, [&](double v) { return to_half_bits(v, format); });
}

std::vector<double> decode(std::string_view bytes, Arithmetic arithmetic) {
  auto widen = [](auto v) { return static_cast<double>(v); };
  switch (arithmetic) {
    case Arithmetic::f64:
      return decode_as<double>(bytes, widen);
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return decode_as<float>(bytes, widen);
    case Arithmetic::i32:
      return decode_as<std::int32_t>(bytes, widen);
    case Arithmetic::f16:
    case Arithmetic::bf16:
      break;
  }
  const Format format = storage_format(arithmetic);
  return decode_as<std::uint16_t>(bytes, [&](std::uint16_t bits) { return from_half_bits(bits, format); });
}

}  // namespace tconv::verify
