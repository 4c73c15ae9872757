// What the kernels on the matrix units share: types, the kernel index of a row's tap, and the way of a tile into y.
#pragma once

#include "call.h"
#include "element.cuh"
#include "ptx.cuh"

namespace tconv {

// How a data type is stored, multiplied and rounded. TERMS 3: value = hi + lo, both TF32; hi*hi + hi*lo + lo*hi.
struct AsTf32 {
  using Element = float;
  static constexpr ptx::Operand OPERAND = ptx::Operand::tf32;
  static constexpr int TERMS = 1;
  __device__ static float load(Element e) { return e; }
  __device__ static Element round(float v) { return v; }
  // Two, at an address that is aligned for both.
  __device__ static void store(Element* to, float first, float second) {
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
  }
};
struct AsF32 : AsTf32 {
  static constexpr int TERMS = 3;
};
struct AsF16 {
  using Element = unsigned short;
  static constexpr ptx::Operand OPERAND = ptx::Operand::f16;
  static constexpr int TERMS = 1;
  __device__ static float load(Element e) { return tconv::Element<F16>::widen({e}); }
  __device__ static Element round(float v) { return tconv::Element<F16>::narrow(v).bits; }
  // Two of them in a word, the first in its lower half.
  __device__ static unsigned round(float first, float second) { return tconv::Element<F16>::narrow(first, second); }
  __device__ static void store(Element* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = round(first, second);
  }
};
struct AsBf16 {
  using Element = unsigned short;
  static constexpr ptx::Operand OPERAND = ptx::Operand::bf16;
  static constexpr int TERMS = 1;
  __device__ static float load(Element e) { return tconv::Element<Bf16>::widen({e}); }
  __device__ static Element round(float v) { return tconv::Element<Bf16>::narrow(v).bits; }
  __device__ static unsigned round(float first, float second) { return tconv::Element<Bf16>::narrow(first, second); }
  __device__ static void store(Element* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = round(first, second);
  }
};

// value - hi in TF32; nothing where hi is infinite or NaN.
__device__ __forceinline__ unsigned low_part(float value, unsigned hi) {
  return (hi & 0x7F800000) == 0x7F800000 ? 0u : ptx::to_tf32(value - __uint_as_float(hi));
}

// The kernel index of tap `tap` of a live phase; K where the phase has no such tap.
template <class Layer>
__device__ __forceinline__ int kernel_index(int phase, int tap) {
  const int reach = phase + tap * (Layer::JUMP * Layer::LIVE);
  return reach % Layer::STEP == 0 && reach / Layer::STEP < Layer::K ? reach / Layer::STEP : Layer::K;
}

// Samples from one segment in shared memory to the next: whole 16 bytes, and room for a segment's own start.
template <class Element>
__host__ __device__ constexpr int segment_pitch(int samples) {
  constexpr int VECTOR = 16 / sizeof(Element);
  return (samples + VECTOR - 1) / VECTOR * VECTOR + VECTOR;
}

// A tile's outputs as segments of adjacent samples of y: one for each channel, of all positions (Shape::WHOLE), or one for
// each position, of some phases of one channel. In shared memory a segment starts as far past 16 bytes as in y, so that
// it leaves in 16-byte stores.
//
// Shape: WHOLE; SEGMENT, samples of one; PITCH, samples from one to the next in shared memory, segment_pitch() or more whole 16
// bytes; SEGMENTS; THREADS that write together; BATCH, 16-byte stores of a thread whose samples are loaded before the first
// of them; PAIRED: segments start at even samples in shared memory, for whoever lays two at once, and those that start at
// odd ones in y are put right on their way.
template <class Layer, class Shape>
struct Segments {
  using Element = typename Layer::Storage::Element;

  static constexpr int VECTOR = 16 / sizeof(Element);  // samples of a 16-byte store
  static constexpr int PITCH = Shape::PITCH;
  static_assert(PITCH % VECTOR == 0 && PITCH >= segment_pitch<Element>(Shape::SEGMENT));
  static constexpr int BYTES = Shape::SEGMENTS * PITCH * sizeof(Element);
  // Threads that write a segment together: sixteen, or more where there are not segments for all.
  static constexpr int lanes_from(int lanes) {
    return Shape::THREADS / (2 * lanes) >= Shape::SEGMENTS ? lanes_from(2 * lanes) : lanes;
  }
  static constexpr int LANES = lanes_from(16), STEP = Shape::THREADS / LANES;
  static constexpr int GRANULES = segment_pitch<Element>(Shape::SEGMENT) / VECTOR - 1;  // of a segment, at most
  // Of a batch: granules of a segment, and segments.
  static constexpr int ACROSS_ALL = (GRANULES + LANES - 1) / LANES, DOWN_ALL = (Shape::SEGMENTS + STEP - 1) / STEP;
  static constexpr int ACROSS = ACROSS_ALL < Shape::BATCH ? ACROSS_ALL : Shape::BATCH;
  static constexpr int DOWN_MOST = Shape::WHOLE ? Shape::BATCH / ACROSS : 1;
  static constexpr int DOWN = DOWN_ALL < DOWN_MOST ? DOWN_ALL : DOWN_MOST;

  const Call& call;
  // Of the first output.
  long long image, channel;  // channel of all groups
  int phase;
  long long position;

  // Where segment `segment` starts: sample and address.
  __device__ Element* start(int segment, long long& time) const {
    time = (position + (Shape::WHOLE ? 0 : segment)) * Layer::STRIDE + phase * Layer::GAP - Layer::PADDING;
    return static_cast<Element*>(call.y) + image * call.y_stride_b +
           (channel + (Shape::WHOLE ? segment : 0)) * call.y_stride_c + time;
  }
  __device__ static int misalignment(const Element* address) {
    return static_cast<int>(reinterpret_cast<unsigned long long>(address) / sizeof(Element) % VECTOR);
  }
  __device__ int first_shift() const {
    long long unused;
    return misalignment(start(0, unused));
  }
  // The start of segment `segment` modulo 16 bytes, from that of segment 0: starts differ by a multiple of the pitch of y.
  __device__ int shift(int first, int segment) const {
    const unsigned step = Shape::WHOLE ? static_cast<unsigned>(call.y_stride_c) : static_cast<unsigned>(Layer::STRIDE);
    return (first + segment * step) % VECTOR;
  }
  // Where a segment of that start begins in shared memory.
  __device__ static int placed(int shift) { return Shape::PAIRED ? shift & ~1 : shift; }

  // The part of a segment that is in y: samples [low, high) of those from `to`, which starts `shift` samples past 16 bytes.
  struct Span {
    Element* to;
    int shift, low, high;
  };
  __device__ Span span(int segment) const {
    long long time;
    Span span;
    span.to = start(segment, time);
    span.shift = misalignment(span.to);
    int length = Shape::SEGMENT;
    if (!Shape::WHOLE && Layer::LIVE * Layer::GAP % Shape::SEGMENT != 0) {
      const int rest = (Layer::LIVE - phase) * Layer::GAP;
      length = rest < length ? rest : length;
    }
    const long long left = call.out_length - time;
    span.low = time < 0 ? static_cast<int>(-time < length ? -time : length) : 0;
    span.high = left < length ? static_cast<int>(left > span.low ? left : span.low) : length;
    return span;
  }

  // Sixteen bytes from `from`, where `there`; ODD: which lies one sample before 16 bytes.
  template <bool ODD>
  __device__ static uint4 granule(bool there, const Element* from) {
    const uint4 whole = there ? *reinterpret_cast<const uint4*>(from + ODD) : uint4{};
    if constexpr (ODD && sizeof(Element) == 4) {
      return make_uint4(there ? __float_as_uint(*from) : 0, whole.x, whole.y, whole.z);
    } else if constexpr (ODD) {
      const unsigned first = there ? *from : 0;
      return make_uint4(first | whole.x << 16, __funnelshift_l(whole.x, whole.y, 16),
                        __funnelshift_l(whole.y, whole.z, 16), __funnelshift_l(whole.z, whole.w, 16));
    } else {
      return whole;
    }
  }

  // Every STEP-th of `count` segments from `row` to y, all as `now`: whole 16-byte granules, and one by one what is left at
  // either end.
  template <bool ODD>
  __device__ void write_alike(const Span& now, const Element* row, int count, int lane) const {
    constexpr int ROW = STEP * PITCH;
    const long long step = STEP * call.y_stride_c;
    const int first_at = lane * VECTOR + (VECTOR - now.shift) % VECTOR;
#pragma unroll 1
    for (int from = 0; from < GRANULES; from += ACROSS * LANES) {
      bool inside[ACROSS];
#pragma unroll
      for (int a = 0; a < ACROSS; ++a) {
        const int at = first_at + (from + a * LANES) * VECTOR;
        inside[a] = at >= now.low && at + VECTOR <= now.high;
      }
      const Element* source = row + first_at + from * VECTOR;
      Element* to = now.to + first_at + from * VECTOR;
#pragma unroll 1
      for (int segment = 0; segment < count; segment += DOWN * STEP) {
        uint4 held[DOWN][ACROSS];
#pragma unroll
        for (int d = 0; d < DOWN; ++d) {
#pragma unroll
          for (int a = 0; a < ACROSS; ++a)
            held[d][a] = granule<ODD>(segment + d * STEP < count && inside[a], source + d * ROW + a * LANES * VECTOR);
        }
#pragma unroll
        for (int d = 0; d < DOWN; ++d) {
#pragma unroll
          for (int a = 0; a < ACROSS; ++a)
            ptx::store_if(segment + d * STEP < count && inside[a], to + a * LANES * VECTOR, held[d][a]);
          to += step;
        }
        source += DOWN * ROW;
      }
    }
    const int head = now.low + (VECTOR - (now.shift + now.low) % VECTOR) % VECTOR;
    const int tail = now.high - (now.shift + now.high) % VECTOR;
    // Lanes of the first half: before the first granule; of the second: after the last.
    const int end = lane < LANES / 2 ? now.low + lane : (tail > head ? tail : head) + lane - LANES / 2;
    if (end >= (lane < LANES / 2 && head < now.high ? head : now.high)) return;
    Element* to = now.to + end;
    row += end;
#pragma unroll 1
    for (int segment = 0; segment < count; segment += DOWN * STEP) {
      Element held[DOWN];
#pragma unroll
      for (int d = 0; d < DOWN; ++d) {
        if (segment + d * STEP < count) held[d] = row[d * ROW];
      }
#pragma unroll
      for (int d = 0; d < DOWN; ++d) {
        if (segment + d * STEP < count) *to = held[d];
        to += step;
      }
      row += DOWN * ROW;
    }
  }

  __device__ void write_alike(const Span& now, const Element* row, int count, int lane) const {
    if constexpr (Shape::PAIRED) {
      if (now.shift % 2 != 0) return write_alike<true>(now, row, count, lane);
    }
    write_alike<false>(now, row, count, lane);
  }

  // The first `segments` from shared memory to y. A thread serves every STEP-th segment, whose starts agree modulo 16
  // bytes, so it has one alignment for all of them.
  __device__ void write(const Element* buffer, int segments, int thread) const {
    static_assert(STEP % VECTOR == 0 || STEP >= Shape::SEGMENTS, "STEP segments further, the alignment is the same");
    const int lane = thread % LANES, first = thread / LANES;
    if constexpr (Shape::WHOLE) {
      const Span now = span(first);
      write_alike(now, buffer + first * PITCH + placed(now.shift), segments - first, lane);
    } else {
#pragma unroll 1
      for (int segment = first; segment < segments; segment += STEP) {
        const Span now = span(segment);
        write_alike(now, buffer + segment * PITCH + placed(now.shift), 1, lane);
      }
    }
  }
};

}  // namespace tconv
