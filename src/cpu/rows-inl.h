// Rows of a tensor on their way in and out: storage to sums and back, activations. Per target of Highway's.
// The guard toggles, as foreach_target.h includes this once a target.
#if defined(TCONV_CPU_ROWS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef TCONV_CPU_ROWS_INL_H
#undef TCONV_CPU_ROWS_INL_H
#else
#define TCONV_CPU_ROWS_INL_H
#endif

#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/call.h"
#include "problem/layer.hpp"

HWY_BEFORE_NAMESPACE();
namespace tconv::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What sums are held in.
template <typename S>
using SumOf = std::conditional_t<sizeof(S) == 2, float, S>;

// body.template operator()<S>() for what an arithmetic stores.
template <typename Body>
void WithStorage(Arithmetic arithmetic, const Body& body) {
  switch (arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return body.template operator()<float>();
    case Arithmetic::f16:
      return body.template operator()<hwy::float16_t>();
    case Arithmetic::bf16:
      return body.template operator()<hwy::bfloat16_t>();
    case Arithmetic::f64:
      return body.template operator()<double>();
    case Arithmetic::i32:
      return body.template operator()<std::int32_t>();
  }
}

// body.template operator()<T>() for what an arithmetic sums in.
template <typename Body>
void WithSums(Arithmetic arithmetic, const Body& body) {
  switch (arithmetic) {
    case Arithmetic::f64:
      return body.template operator()<double>();
    case Arithmetic::i32:
      return body.template operator()<std::int32_t>();
    default:
      return body.template operator()<float>();
  }
}

template <class V>
HWY_INLINE V AddProduct(V a, V b, V sum) {
  if constexpr (hwy::IsFloat<hn::TFromV<V>>()) {
    return hn::MulAdd(a, b, sum);
  } else {
    return hn::Add(sum, hn::Mul(a, b));
  }
}

// erf(z): its Taylor series for |z| < 1, the continued fraction of erfc beyond.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Erf(D d, V z) {
  using T = hn::TFromD<D>;
  const V a = hn::Abs(z);
  const V square = hn::Mul(z, z);
  // Series: 2/sqrt(pi) * sum (-1)^n z^(2n+1) / (n! (2n+1)), for |z| < 1; its 17 terms reach 1e-15 there.
  constexpr int kTerms = 17;
  double coefficients[kTerms];
  double factorial = 1;
  for (int n = 0; n < kTerms; ++n) {
    if (n > 0) factorial *= n;
    coefficients[n] = (n % 2 == 0 ? 1.0 : -1.0) * 1.1283791670955126 / (factorial * (2 * n + 1));
  }
  V series = hn::Set(d, static_cast<T>(coefficients[kTerms - 1]));
  for (int n = kTerms - 2; n >= 0; --n)
    series = hn::MulAdd(series, square, hn::Set(d, static_cast<T>(coefficients[n])));
  series = hn::Mul(series, z);
  // Continued fraction of erfc: exp(-z^2)/sqrt(pi) / (z + (1/2)/(z + 1/(z + (3/2)/(z + ...)))), for |z| >= 1.
  constexpr int kLevels = sizeof(T) == 4 ? 56 : 208;  // within a tenth of an ulp of 1 at |z| = 1
  V fraction = a;
  for (int n = kLevels; n >= 1; --n) fraction = hn::Add(a, hn::Div(hn::Set(d, static_cast<T>(0.5 * n)), fraction));
  const V tail =
      hn::Div(hn::Mul(hn::Exp(d, hn::Neg(square)), hn::Set(d, static_cast<T>(0.5641895835477563))), fraction);
  const V one = hn::Set(d, static_cast<T>(1));
  const V far = hn::CopySign(hn::Sub(one, tail), z);
  return hn::IfThenElse(hn::Lt(a, one), series, far);
}

// `parameter`: of leaky_relu and elu; `alpha`: of snake, a value for each lane.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Activate(D d, V v, Activation activation, hn::TFromD<D> parameter, V alpha) {
  using T = hn::TFromD<D>;
  const V zero = hn::Zero(d);
  if constexpr (!hwy::IsFloat<T>()) {
    return activation == Activation::relu ? hn::Max(v, zero) : v;
  } else {
    switch (activation) {
      case Activation::none:
        return v;
      case Activation::relu:  // a NaN stays one, as torch.relu's does
        return hn::IfThenElse(hn::Lt(v, zero), zero, v);
      case Activation::leaky_relu:
        return hn::IfThenElse(hn::Lt(v, zero), hn::Mul(v, hn::Set(d, parameter)), v);
      case Activation::elu:
        return hn::IfThenElse(hn::Lt(v, zero), hn::Mul(hn::Set(d, parameter), hn::Expm1(d, hn::Min(v, zero))), v);
      case Activation::gelu: {
        const V erf = Erf(d, hn::Mul(v, hn::Set(d, static_cast<T>(0.7071067811865476))));
        return hn::Mul(hn::Mul(v, hn::Set(d, static_cast<T>(0.5))), hn::Add(hn::Set(d, static_cast<T>(1)), erf));
      }
      case Activation::tanh:
        return hn::Tanh(d, v);
      case Activation::snake: {
        // Highway's Sin reduces arguments up to 39000; beyond, v alone is taken. Infinities make NaN.
        const V angle = hn::Mul(alpha, v);
        const V reducible = hn::Set(d, static_cast<T>(39000));
        const V sine = hn::IfThenElse(hn::Le(hn::Abs(angle), reducible), hn::Sin(d, angle), hn::Sub(angle, angle));
        return hn::Add(v, hn::Div(hn::Mul(sine, sine), hn::Add(alpha, hn::Set(d, static_cast<T>(1e-9)))));
      }
    }
    return v;
  }
}

// Targets without an instruction for float16, where Highway cuts off what does not fit and knows no infinities.
constexpr bool kSoftwareF16 =
    HWY_TARGET == HWY_SSSE3 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128;

// A vector of storage as sums hold it.
template <typename S, class D>
HWY_INLINE hn::Vec<D> LoadSums(D d, const S* from) {
  if constexpr (std::is_same_v<S, hn::TFromD<D>>) {
    return hn::LoadU(d, from);
  } else {
    const hn::Rebind<S, D> narrow;
    const auto v = hn::LoadU(narrow, from);
    const auto wide = hn::PromoteTo(d, v);
    if constexpr (!kSoftwareF16 || !std::is_same_v<S, hwy::float16_t>) return wide;
    const hn::RebindToUnsigned<D> du;
    const auto bits = hn::PromoteTo(du, hn::BitCast(hn::RebindToUnsigned<decltype(narrow)>(), v));
    const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffu));
    const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
    const auto mantissa = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x3ffu)));
    const auto special = hn::Or(sign, hn::Or(mantissa, hn::Set(du, 0x7f800000u)));
    const hn::RebindToSigned<D> di;
    const auto finite = hn::Lt(hn::BitCast(di, magnitude), hn::Set(di, 0x7c00));
    return hn::BitCast(d, hn::IfThenElse(hn::RebindMask(du, finite), hn::BitCast(du, wide), special));
  }
}

// Copies n elements by two moves of at most kLanes, which may overlap, and by calling itself where n is less than one.
template <std::size_t kLanes, typename T>
HWY_INLINE void CopyShort(const T* HWY_RESTRICT from, std::int64_t n, T* HWY_RESTRICT to) {
  const hn::CappedTag<T, kLanes> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  if (n >= lanes) {
    const auto last = hn::LoadU(d, from + n - lanes);
    hn::StoreU(hn::LoadU(d, from), d, to);
    hn::StoreU(last, d, to + n - lanes);
  } else if constexpr (kLanes > 1) {
    CopyShort<kLanes / 2>(from, n, to);
  }
}

// n elements as they are. A call of memcpy takes longer where they are few, as the ends of rows and short rows are.
template <typename T>
HWY_INLINE void CopyRow(const T* HWY_RESTRICT from, std::int64_t n, T* HWY_RESTRICT to) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  for (; n > 2 * lanes; n -= lanes, from += lanes, to += lanes) hn::StoreU(hn::LoadU(d, from), d, to);
  CopyShort<hn::MaxLanes(hn::ScalableTag<T>())>(from, n, to);
}

// LoadRow for what takes more than a copy.
template <typename S, typename T = SumOf<S>>
void LoadRowAny(const S* from, std::int64_t stride, std::int64_t n, T* to, Activation activation, T parameter,
                T alpha) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  constexpr std::int64_t kStaged = 256;
  S staged[kStaged];
  const auto alphas = hn::Set(d, alpha);
  const auto load = [&](const S* at) { return Activate(d, LoadSums(d, at), activation, parameter, alphas); };
  for (std::int64_t done = 0; done < n;) {
    const std::int64_t now = HWY_MIN(n - done, kStaged);
    const S* source = from + done * stride;
    if (stride != 1) {
      for (std::int64_t i = 0; i < now; ++i) std::memcpy(&staged[i], source + i * stride, sizeof(S));
      source = staged;
    }
    T* out = to + done;
    std::int64_t i = 0;
    for (; i + lanes <= now; i += lanes) hn::StoreU(load(source + i), d, out + i);
    if (i < now && now >= lanes) {  // some twice
      hn::StoreU(load(source + now - lanes), d, out + now - lanes);
    } else if (i < now) {
      HWY_ALIGN T whole[hn::MaxLanes(hn::ScalableTag<T>())] = {};
      HWY_ALIGN S rest[hn::MaxLanes(hn::ScalableTag<T>())] = {};
      std::memcpy(rest, source + i, static_cast<std::size_t>(now - i) * sizeof(S));
      hn::StoreU(load(rest), d, whole);
      std::memcpy(out + i, whole, static_cast<std::size_t>(now - i) * sizeof(T));
    }
    done += now;
  }
}

// n elements of one row of x, `stride` apart, as sums hold them, activated.
template <typename S, typename T = SumOf<S>>
HWY_INLINE void LoadRow(const S* from, std::int64_t stride, std::int64_t n, T* to, Activation activation, T parameter,
                        T alpha) {
  if constexpr (std::is_same_v<S, T>) {
    if (stride == 1 && activation == Activation::none) return CopyRow(from, n, to);
  }
  LoadRowAny(from, stride, n, to, activation, parameter, alpha);
}

// n elements of weights or biases, a row as it is.
template <typename S, typename T = SumOf<S>>
void LoadPlain(const S* from, std::int64_t n, T* to) {
  LoadRow(from, 1, n, to, Activation::none, T{0}, T{0});
}

// Of one output channel; 0 where the layer has none.
template <typename S, typename T = SumOf<S>>
HWY_INLINE T BiasOf(const Call& call, std::int64_t channel) {
  if (call.bias == nullptr) return T{0};
  if constexpr (std::is_same_v<S, T>) return static_cast<const T*>(call.bias)[channel];
  T bias{0};
  LoadPlain(static_cast<const S*>(call.bias) + channel, 1, &bias);
  return bias;
}

// Of one channel, from x_alpha or y_alpha; 0 where there are none.
template <typename T>
T AlphaOf(const void* alphas, std::int64_t channel) {
  return alphas != nullptr ? static_cast<const T*>(alphas)[channel] : T{0};
}

// To the nearest bfloat16, ties to even, still in 32 bits: Highway's DemoteTo cuts the rest off.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V RoundToBf16(D d, V v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));  // a NaN's own bits may all lie in what is cut off
  return hn::IfThenElse(hn::IsNaN(v), hn::BitCast(d, quiet), hn::BitCast(d, rounded));
}

// To the nearest float16, ties to even, where Highway's DemoteTo does not.
template <class N, class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<N> NarrowToF16(N narrow, D d, V v) {
  if constexpr (!kSoftwareF16) return hn::DemoteTo(narrow, v);
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 1u));
  const auto sum = hn::Add(bits, hn::Add(odd, hn::Set(du, 0xfffu)));
  const V normal = hn::BitCast(d, hn::And(sum, hn::Set(du, 0xffffe000u)));
  // Below 2^-14 float16 has steps of 2^-24, which are float's between 1/2 and 1.
  const V half = hn::Set(d, 0.5f);
  const V small = hn::CopySign(hn::Sub(hn::Add(hn::Abs(v), half), half), v);
  const V rounded = hn::IfThenElse(hn::Lt(hn::Abs(v), hn::Set(d, 6.103515625e-05f)), small, normal);
  // From 65520 on it is an infinity; a NaN is a quiet one.
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u));
  const auto infinity = hn::Or(sign, hn::Set(du, 0x7c00u));
  const auto special =
      hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Or(infinity, hn::Set(du, 0x200u)), infinity);
  const auto finite = hn::Lt(hn::Abs(v), hn::Set(d, 65520.0f));
  const hn::RebindToUnsigned<N> narrow_bits;
  const auto chosen =
      hn::DemoteTo(narrow_bits, hn::BitCast(di, hn::IfThenElse(hn::RebindMask(du, finite), hn::Zero(du), special)));
  const auto regular = hn::BitCast(narrow_bits, hn::DemoteTo(narrow, hn::IfThenElse(finite, rounded, hn::Zero(d))));
  return hn::BitCast(narrow, hn::Or(chosen, regular));
}

// Sums as storage holds them: themselves, or in `to`; n is a multiple of the lanes.
template <typename S, typename T = SumOf<S>>
const S* Narrow(const T* from, std::int64_t n, [[maybe_unused]] S* to) {
  if constexpr (std::is_same_v<S, T>) {
    return from;
  } else {
    const hn::ScalableTag<T> d;
    const hn::Rebind<S, decltype(d)> narrow;
    const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
    for (std::int64_t i = 0; i < n; i += lanes) {
      const auto v = hn::LoadU(d, from + i);
      if constexpr (std::is_same_v<S, hwy::bfloat16_t>) {
        hn::StoreU(hn::DemoteTo(narrow, RoundToBf16(d, v)), narrow, to + i);
      } else {
        hn::StoreU(NarrowToF16(narrow, d, v), narrow, to + i);
      }
    }
    return to;
  }
}

}  // namespace tconv::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
