// The phase arithmetic against the definition, by brute force over small random problems.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <vector>

#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "problem/phases.hpp"

namespace tconv {
namespace {

constexpr int kProblems = 5000;

// A valid random workload; small enough to count every (tap, input) pair.
Workload random_workload(std::mt19937_64& random) {
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  for (;;) {
    Workload w;
    w.problem.groups = draw(1, 3);
    w.problem.c_in = w.problem.groups * draw(1, 3);
    w.problem.c_out = w.problem.groups * draw(1, 3);
    w.problem.kernel = draw(1, 17);
    w.problem.stride = draw(1, 12);
    w.problem.dilation = draw(1, 12);
    w.problem.padding = draw(0, 30);
    w.problem.output_padding = draw(0, 11);
    w.problem.bias = draw(0, 1) == 1;
    w.extent = {.batch = draw(0, 2), .length = draw(0, 25)};
    if (!refuse(w.problem, w.extent)) return w;
  }
}

class PhasesOfRandomProblems : public testing::Test {
 protected:
  template <typename Check>
  void for_each_problem(Check check) {
    const auto seed = std::random_device{}();
    std::mt19937_64 random(seed);
    for (int i = 0; i < kProblems && !HasFailure(); ++i) {
      const Workload workload = random_workload(random);
      SCOPED_TRACE(testing::Message() << "seed " << seed << ", problem " << i << ", " << print_word(workload));
      check(workload);
    }
    RecordProperty("seed", std::to_string(seed));
    std::printf("seed %u, %d problems\n", seed, kProblems);
  }
};

TEST_F(PhasesOfRandomProblems, ListTheTapsOfTheDefinition) {
  for_each_problem([](const Workload& w) {
    const Problem& p = w.problem;
    const Phases phases(p);
    ASSERT_EQ(phases.count(), p.stride);
    std::int64_t live = 0, max_taps = 0, min_offset = INT64_MAX, max_offset = INT64_MIN;
    for (std::int64_t r = 0; r < p.stride; ++r) {
      std::vector<Tap> expected;
      for (std::int64_t k = 0; k < p.kernel; ++k) {
        const std::int64_t difference = r - k * p.dilation;
        if (difference % p.stride == 0) expected.push_back({k, difference / p.stride});
      }
      const Phase phase = phases.phase(r);
      std::vector<Tap> actual;
      for (std::int64_t j = 0; j < phase.count; ++j) actual.push_back(phase.tap(j));
      ASSERT_EQ(actual, expected) << "residue " << r;
      ASSERT_EQ(phase.residue, r);
      ASSERT_EQ(phase.dead(), expected.empty());
      live += expected.empty() ? 0 : 1;
      max_taps = std::max(max_taps, phase.count);
      for (const Tap& tap : expected) {
        min_offset = std::min(min_offset, tap.offset);
        max_offset = std::max(max_offset, tap.offset);
      }
    }
    ASSERT_EQ(phases.live(), live);
    ASSERT_EQ(phases.dead(), p.stride - live);
    ASSERT_EQ(phases.max_taps(), max_taps);
    ASSERT_EQ(phases.min_offset(), min_offset);
    ASSERT_EQ(phases.max_offset(), max_offset);
  });
}

// Scatter form: input i reaches output i*s - p + k*d. Gather form: phases. Both give the same pairs, output by output.
TEST_F(PhasesOfRandomProblems, GatherWhatTheDefinitionScatters) {
  for_each_problem([](const Workload& w) {
    const Problem& p = w.problem;
    const std::int64_t length = w.extent.length, out = out_length(p, length);
    std::map<std::int64_t, std::vector<std::pair<std::int64_t, std::int64_t>>> scattered, gathered;
    for (std::int64_t i = 0; i < length; ++i) {
      for (std::int64_t k = 0; k < p.kernel; ++k) {
        const std::int64_t t = i * p.stride - p.padding + k * p.dilation;
        if (t >= 0 && t < out) scattered[t].emplace_back(k, i);
      }
    }
    const Phases phases(p);
    std::int64_t pairs = 0, first = INT64_MAX, last = INT64_MIN;
    for (std::int64_t t = 0; t < out; ++t) {
      const std::int64_t u = t + p.padding, q = u / p.stride;
      first = std::min(first, q);
      last = std::max(last, q);
      const Phase phase = phases.phase(u % p.stride);
      for (std::int64_t j = 0; j < phase.count; ++j) {
        const Tap tap = phase.tap(j);
        const std::int64_t i = q + tap.offset;
        if (i >= 0 && i < length) {
          gathered[t].emplace_back(tap.k, i);
          ++pairs;
        }
      }
    }
    for (auto& [t, list] : scattered) std::ranges::sort(list);
    for (auto& [t, list] : gathered) std::ranges::sort(list);
    ASSERT_EQ(gathered, scattered);
    ASSERT_EQ(phases.useful_taps(length), pairs);
    ASSERT_EQ(phases.first_position(), first);
    ASSERT_EQ(phases.last_position(length), last);
    ASSERT_EQ(work(w).useful_flops, 2.0 * static_cast<double>(w.extent.batch * p.c_out * (p.c_in / p.groups) * pairs));
  });
}

TEST(Phases, FitTheOutputLengthExactly) {
  // Without padding and output_padding the last input's last tap is the last output.
  for (std::int64_t s = 1; s < 8; ++s) {
    for (std::int64_t d = 1; d < 8; ++d) {
      for (std::int64_t k = 1; k < 8; ++k) {
        const Problem p{.c_in = 1, .c_out = 1, .kernel = k, .stride = s, .dilation = d};
        EXPECT_EQ(out_length(p, 9), 8 * s + (k - 1) * d + 1);
        EXPECT_EQ(Phases(p).useful_taps(9), 9 * k);
      }
    }
  }
}

TEST(Phases, OfKernelBench79LeaveEveryEvenOutputDead) {
  const Workload w = find_in_catalogue("kb79")->workload;
  const Phases phases(w.problem);
  EXPECT_EQ(phases.gcd(), 2);
  EXPECT_EQ(phases.live(), 1);
  EXPECT_EQ(phases.dead(), 1);
  EXPECT_EQ(out_length(w.problem, w.extent.length), 262145);
  for (std::int64_t t = 0; t < 1000; ++t) {
    EXPECT_EQ(phases.phase((t + w.problem.padding) % 2).dead(), t % 2 == 0) << t;
  }
  const Phase live = phases.phase(0);
  EXPECT_EQ(live.count, 3);
  EXPECT_EQ(live.tap(0), (Tap{0, 0}));
  EXPECT_EQ(live.tap(2), (Tap{2, -2}));
  // Of 3 * 131072 pairs, the first input's first tap and the last input's last tap are cropped (t = -1 and 262145).
  EXPECT_EQ(phases.useful_taps(131072), 3 * 131072 - 2);
}

TEST(Phases, CountHostileSizesInClosedForm) {
  // L_in = 1: one pair for each tap that is not cropped, 2^40 taps.
  const std::int64_t taps = std::int64_t{1} << 40;
  Problem p{.c_in = 1, .c_out = 1, .kernel = taps, .stride = 999'999'937, .padding = 12345, .dilation = 7};
  ASSERT_FALSE(refuse(p, {.batch = 1, .length = 1}));
  // 7k >= 12345 and 7k <= 7 * (taps - 1) - 12345: 1764 taps are cropped at either end.
  EXPECT_EQ(Phases(p).useful_taps(1), taps - 2 * 1764);

  // The same counted the other way round: a stride-1 convolution of one tap over 2^40 inputs.
  p = {.c_in = 1, .c_out = 1, .kernel = 1, .stride = 7, .padding = 12345};
  EXPECT_EQ(Phases(p).useful_taps(taps), taps - 2 * 1764);

  // (k, i) and (i, k) play the same part when nothing is cropped on one side only.
  Problem a{
      .c_in = 1, .c_out = 1, .kernel = 1'000'003, .stride = 4'000'037, .padding = 3'000'000'019, .dilation = 999'983};
  Problem b = a;
  std::swap(b.stride, b.dilation);
  b.kernel = 2'000'003;
  ASSERT_FALSE(refuse(a, {.batch = 1, .length = 2'000'003}));
  ASSERT_FALSE(refuse(b, {.batch = 1, .length = 1'000'003}));
  EXPECT_EQ(Phases(a).useful_taps(2'000'003), Phases(b).useful_taps(1'000'003));
  EXPECT_LT(Phases(a).useful_taps(2'000'003), std::int64_t{1'000'003} * 2'000'003);

  // Residue tables of a stride that no table could hold.
  const Phases phases(a);
  const Phase phase = phases.phase(123'456);
  for (std::int64_t j = 0; j < phase.count; ++j) {
    EXPECT_EQ(phase.tap(j).k * a.dilation + phase.tap(j).offset * a.stride, 123'456);
  }
}

// Sizes up to the edge of int64, few taps: the closed form against a loop over the taps in 128 bits.
TEST(Phases, CountLargeSizesLikeALoopOverTaps) {
  __extension__ using Wide = __int128;
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t low, int bits) {
    const auto kept = std::uniform_int_distribution<int>(1, bits)(random);
    return std::max(low, static_cast<std::int64_t>(random() >> (64 - kept)));
  };
  int accepted = 0;
  for (int n = 0; n < 20000; ++n) {
    const Workload w{{.c_in = 1,
                      .c_out = 1,
                      .kernel = draw(1, 8),
                      .stride = draw(1, 60),
                      .padding = draw(0, 62),
                      .output_padding = draw(0, 4),
                      .dilation = draw(1, 60)},
                     {.batch = 1, .length = draw(1, 60)}};
    if (refuse(w.problem, w.extent)) continue;
    ++accepted;
    const Problem& p = w.problem;
    const Wide last = Wide{out_length(p, w.extent.length)} - 1 + p.padding;
    Wide pairs = 0;
    for (std::int64_t k = 0; k < p.kernel; ++k) {
      const Wide above = last - Wide{k} * p.dilation, below = Wide{p.padding} - Wide{k} * p.dilation;
      const Wide end = above < 0 ? 0 : std::min<Wide>(w.extent.length, above / p.stride + 1);
      const Wide begin = below <= 0 ? 0 : (below + p.stride - 1) / p.stride;
      pairs += std::max<Wide>(0, end - begin);
    }
    const Phases phases(p);
    ASSERT_EQ(phases.useful_taps(w.extent.length), static_cast<std::int64_t>(pairs))
        << "seed " << seed << ", " << print_word(w);
    const Phase phase = phases.phase((p.kernel - 1) * p.dilation % p.stride);
    ASSERT_FALSE(phase.dead()) << "seed " << seed << ", " << print_word(w);
    ASSERT_EQ(phase.tap(phase.count - 1), (Tap{p.kernel - 1, phases.min_offset()}))
        << "seed " << seed << ", " << print_word(w);
  }
  std::printf("%d problems\n", accepted);
  EXPECT_GT(accepted, 500);
}

TEST(Work, CountsEveryByteOnce) {
  const Work w = work(parse_workload("b2_i4_o6_l10_k3_s2_g2_f16_bias"));
  EXPECT_EQ(w.bytes_read, 2.0 * (2 * 4 * 10 + 4 * 3 * 3 + 6));
  EXPECT_EQ(w.bytes_written, 2.0 * (2 * 6 * 21));
  EXPECT_EQ(w.bytes(), w.bytes_read + w.bytes_written);
  EXPECT_EQ(w.useful_flops, 2.0 * 2 * 6 * 2 * 30);
}

}  // namespace
}  // namespace tconv
