// Both solvers, on every instruction set of this machine, against the float64 oracle.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cpu/plan.hpp"
#include "cpu/threads.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"
#include "verify/cases.hpp"
#include "verify/number.hpp"
#include "verify/verify.hpp"

namespace tconv::cpu {
namespace {

constexpr char kPoison = '\xdb';
constexpr Arithmetic kArithmetics[] = {Arithmetic::f32,  Arithmetic::tf32, Arithmetic::f16,
                                       Arithmetic::bf16, Arithmetic::f64,  Arithmetic::i32};

// Another seed each run; TCONV_TEST_SEED repeats one.
std::uint64_t fresh_seed() {
  const char* given = std::getenv("TCONV_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::cout << "TCONV_TEST_SEED=" << seed << '\n';
  return seed;
}

// As they are before one of them is chosen.
const std::vector<std::string>& all_instruction_sets() {
  static const std::vector<std::string> sets = instruction_sets();
  return sets;
}

template <typename Body>
void on_every_instruction_set(Body body) {
  const std::vector<std::string>& sets = all_instruction_sets();
  ASSERT_FALSE(sets.empty());
  for (const std::string& set : sets) {
    use_instruction_set(set);
    ASSERT_EQ(instruction_sets(), std::vector<std::string>{set});
    SCOPED_TRACE(set);
    body(set);
    if (testing::Test::HasFatalFailure()) break;
  }
  use_instruction_set(sets.front());
}

// Slow, as it computes one element at a time: fewer cases.
bool is_scalar(const std::string& set) { return set == "SCALAR" || set == "EMU128"; }

// Bytes at `shift` behind a multiple of 64 that end where their allocation does, so that AddressSanitizer sees the
// first byte that is read or written behind them.
class Memory {
 public:
  explicit Memory(std::size_t bytes, std::size_t shift = 0)
      : bytes_(bytes), shift_(shift), all_(static_cast<char*>(::operator new(shift + bytes, kAlign))) {
    std::memset(all_, kPoison, shift + bytes);
  }
  explicit Memory(const std::string& content, std::size_t shift = 0) : Memory(content.size(), shift) {
    if (!content.empty()) std::memcpy(data(), content.data(), content.size());
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::operator delete(all_, kAlign); }

  [[nodiscard]] char* data() { return all_ + shift_; }
  [[nodiscard]] std::string content() const { return {all_ + shift_, bytes_}; }

 private:
  static constexpr std::align_val_t kAlign{64};
  std::size_t bytes_, shift_;
  char* all_;
};

// How a tensor of three dimensions lies in memory, in elements; `first`: of the element 0,0,0, where strides are
// negative.
struct Place {
  std::int64_t b = 0, c = 0, t = 0, first = 0, elements = 0;
};
Place place(std::int64_t batch, std::int64_t channels, std::int64_t length, std::int64_t b, std::int64_t c,
            std::int64_t t) {
  Place p{b, c, t, 0, 0};
  std::int64_t last = 0;
  for (const auto& [count, stride] : {std::pair{batch, b}, {channels, c}, {length, t}})
    (stride < 0 ? p.first : last) += (stride < 0 ? -1 : 1) * std::max<std::int64_t>(count - 1, 0) * stride;
  p.elements = batch * channels * length == 0 ? 0 : p.first + last + 1;
  return p;
}

constexpr int kInputLayouts = 10, kOutputLayouts = 5;

// A view of x that PyTorch can make. The last three repeat what they hold: expanded batches, channels, samples.
Place input_place(int layout, std::int64_t batch, std::int64_t c, std::int64_t l) {
  switch (layout) {
    case 0:
      return place(batch, c, l, c * l, l, 1);
    case 1:
      return place(batch, c, l, c * l, 1, c);  // transposed
    case 2:
      return place(batch, c, l, c * (l + 3) + 5, l + 3, 1);  // sliced
    case 3:
      return place(batch, c, l, c * l * 3, l * 3, 3);  // every third sample
    case 4:
      return place(batch, c, l, l, batch * l, 1);  // batch and channels swapped
    case 5:
      return place(batch, c, l, c * l, l, -1);  // time reversed
    case 6:
      return place(batch, c, l, -c * (l + 1), -(l + 1), 1);  // batch and channels reversed
    case 7:
      return place(batch, c, l, 0, l, 1);
    case 8:
      return place(batch, c, l, l, 0, 1);
    default:
      return place(batch, c, l, c, 1, 0);
  }
}
Place output_place(int layout, std::int64_t batch, std::int64_t c, std::int64_t l) {
  switch (layout) {
    case 0:
      return place(batch, c, l, c * l, l, 1);
    case 1:
      return place(batch, c, l, c * (l + 7) + 3, l + 7, 1);  // padded rows
    case 2:
      return place(batch, c, l, l + 1, batch * (l + 1), 1);  // batch and channels swapped
    case 3:
      return place(batch, c, l, c * (l + 2), -(l + 2), 1);  // channels reversed
    default:
      return place(batch, c, l, -c * l, l, 1);  // batches reversed
  }
}

template <typename Body>
void each_element(std::int64_t batch, std::int64_t channels, std::int64_t length, const Place& p, Body body) {
  std::size_t dense = 0;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t t = 0; t < length; ++t)
        body(dense++, static_cast<std::size_t>(p.first + b * p.b + c * p.c + t * p.t));
}

struct How {
  int x_layout = 0, y_layout = 0;
  std::size_t shift = 0;  // elements that every tensor lies behind a multiple of 64 bytes
  std::vector<int> threads{1};
};
How draw_how(std::mt19937_64& random) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<std::uint64_t>(n)); };
  How how;
  how.x_layout = below(2) == 0 ? 0 : below(kInputLayouts);
  how.y_layout = below(2) == 0 ? 0 : below(kOutputLayouts);
  how.shift = static_cast<std::size_t>(below(4));
  how.threads = {1, 2, 3, 10};
  return how;
}

// Runs one case by one solver. Returns what is wrong, or nothing: the result against the oracle, every thread count's
// bits against the first's, bytes of y's memory that are none of its elements, the inputs' bytes.
std::string fault_of(const verify::Case& c, std::string_view solver, const How& how) {
  const Workload& w = c.workload;
  const Problem& p = w.problem;
  const auto size = static_cast<std::size_t>(bytes_per_element(p.arithmetic));
  const std::size_t shift = how.shift * size;
  const std::int64_t batch = w.extent.batch, length = w.extent.length, out = out_length(p, length);

  verify::Tensors tensors = verify::make_tensors(c);
  const Place xp = input_place(how.x_layout, batch, p.c_in, length);
  // Elements that share memory have one value, the first's.
  if (xp.b == 0 || xp.c == 0 || xp.t == 0) {
    std::vector<double> values(static_cast<std::size_t>(xp.elements), std::nan(""));
    each_element(batch, p.c_in, length, xp, [&](std::size_t dense, std::size_t at) {
      if (std::isnan(values[at])) values[at] = tensors.x[dense];
      tensors.x[dense] = values[at];
    });
  }
  const std::string dense_x = verify::encode(tensors.x, p.arithmetic);
  Memory x(static_cast<std::size_t>(xp.elements) * size, shift);
  each_element(batch, p.c_in, length, xp, [&](std::size_t dense, std::size_t at) {
    std::memcpy(x.data() + at * size, dense_x.data() + dense * size, size);
  });
  Memory weights(verify::encode(tensors.w, p.arithmetic), shift);
  Memory bias(verify::encode(tensors.bias, p.arithmetic), shift);

  const Plan plan({.problem = p}, solver);
  Memory packed(static_cast<std::size_t>(plan.packed_bytes()));
  plan.pack({weights.data(), packed.data(), p.c_out / p.groups * p.kernel, p.kernel, 1}, how.threads.back());
  const std::string inputs = x.content() + weights.content() + bias.content() + packed.content();

  constexpr std::int64_t kGuard = 64;  // elements before and behind y
  const Place yp = output_place(how.y_layout, batch, p.c_out, out);
  std::string first;
  for (const int threads : how.threads) {
    Memory y(static_cast<std::size_t>(yp.elements + 2 * kGuard) * size, shift);
    Call call{.x = x.data() + static_cast<std::size_t>(xp.first) * size,
              .w = packed.data(),
              .bias = p.bias ? bias.data() : nullptr,
              .y = y.data() + static_cast<std::size_t>(kGuard + yp.first) * size,
              .batch = batch,
              .length = length,
              .out_length = out,
              .x_stride_b = xp.b,
              .x_stride_c = xp.c,
              .x_stride_t = xp.t,
              .y_stride_b = yp.b,
              .y_stride_c = yp.c};
    plan.run(call, threads);
    std::string dense(static_cast<std::size_t>(batch * p.c_out * out) * size, '\0');
    each_element(batch, p.c_out, out, yp, [&](std::size_t to, std::size_t at) {
      char* element = y.data() + (at + kGuard) * size;
      std::memcpy(dense.data() + to * size, element, size);
      std::memset(element, kPoison, size);
    });
    if (y.content().find_first_not_of(kPoison) != std::string::npos) return "wrote beside y";
    if (threads == how.threads.front()) first = dense;
    if (dense != first) return fmt::format("{} threads make other bits", threads);
  }
  if (x.content() + weights.content() + bias.content() + packed.content() != inputs) return "changed an input";
  const verify::Judgement judgement = verify::judge(c, tensors, first, verify::Engine::ieee);
  return judgement.fault ? judgement.fault->kind + ": " + judgement.fault->detail : "";
}

// By every solver that serves it.
void expect_right(const verify::Case& c, const How& how) {
  for (const Solver* solver : solvers()) {
    if (solver->refuse({.problem = c.workload.problem})) continue;
    EXPECT_EQ(fault_of(c, solver->name, how), "")
        << solver->name << ' ' << print_word(c.workload) << ", case seed " << c.seed << ", " << verify::name(c.data)
        << " data, layouts " << how.x_layout << ' ' << how.y_layout << ", shift " << how.shift;
  }
}

verify::Interface every_problem() {
  verify::Interface all;
  for (verify::Interface::Role* role : {&all.c_in, &all.c_out, &all.kernel, &all.stride, &all.padding,
                                        &all.output_padding, &all.dilation, &all.groups, &all.bias})
    role->argument = "free";
  return all;
}

TEST(CpuPlan, RandomProblems) {
  const std::uint64_t seed = fresh_seed();
  on_every_instruction_set([&](const std::string& set) {
    for (std::uint64_t i = seed; i < seed + (is_scalar(set) ? 60 : 250); ++i) {
      const Workload w = verify::draw_workload(
          every_problem(), {.max_stride = 9, .arithmetics = {std::begin(kArithmetics), std::end(kArithmetics)}}, i);
      std::mt19937_64 random(i);
      expect_right(verify::make_case(w, i), draw_how(random));
    }
  });
}

// What random problems seldom are.
TEST(CpuPlan, ProblemsAtTheEdges) {
  const std::uint64_t seed = fresh_seed();
  std::mt19937_64 random(seed);
  on_every_instruction_set([&](const std::string& set) {
    for (const char* word : {
             "i3_o5_l1_k1_s1",             // one product
             "b2_i3_o5_l7_k1_s4_a3",       // a kernel of one, three dead phases
             "i4_o2_l9_k3_s7",             // a kernel below the stride
             "i4_o2_l1_k8_s4_p2",          // one input
             "i2_o3_l11_k5_s2_d6_a5",      // dilation above the stride, and even: dead phases
             "i6_o3_l11_k4_s3_d6",         // a stride that divides the dilation
             "i3_o4_l20_k6_s4_d6_p9_a5",   // gcd 2
             "b2_i2_o3_l40_k3_s3_p9",      // padding beyond the kernel's reach
             "b2_g3_i3_o3_l60_k2_s2_p40",  // the same, depthwise
             "i5_o4_l9_k7_s5_p1_a4",       // the largest output_padding of the stride
             "i5_o4_l9_k7_s2_d5_a4",       // and of the dilation
             "b3_g4_i8_o12_l10_k4_s4",     // groups
             "g3_i3_o6_l33_k7_s8",         // one channel in a group, two out
             "g7_i7_o7_l45_k5_s3_d2_p2",   // depthwise, its phases' offsets unlike
             "g5_i5_o5_l70_k3_d40",        // a span longer than a vector
             "i2_o2_l5_k1500_s1000_p500",  // a large stride
             "i1_o1_l3_k7_s1000_a999",     // most phases dead
             "i1_o33_l50_k16_s8_p4",       // one channel in
             "i70_o1_l50_k16_s8_p4",       // one channel out
             "i5000_o3_l9_k4_s2",          // deep sums
             "b2_i140_o5_l99_k4_s2_p1",    // sums in three parts of the channels
             "i90_o1_l70_k64_s32",         // in two, which end in y at once
             "b2_i30_o16_l600_k4_s2_p1",   // one panel of few channels, several tiles
             "g2_i40_o26_l130_k6_s1_p2",   // blocks of eight rows and of five
             "b0_i3_o2_l7_k4_s2",          // nothing
             // Depthwise: rows in blocks.
             "b2_g70_i70_o70_l1_k4_s2",       // of one sample
             "b2_g40_i40_o40_l13_k3_s2_p1",   // of more samples than a vector has lanes, their ends cropped
             "b2_g40_i40_o40_l6_k12_s2_p3",   // shorter than the kernel reaches
             "g37_i37_o111_l11_k7_s4",        // three rows of y for one of x
             "g9_i9_o9_l20_k5_s6",            // phases that are not woven in registers
             "b2_g33_i33_o33_l9_k2_d5_a4",    // outputs behind all taps
             "g3_i3_o3_l1030_k9_s3_p4",       // a chunk and a few positions
             "b2_g2_i2_o2_l1100_k40_s2_p11",  // two chunks, a long kernel
             // Images beside each other.
             "b64_i5_o90_l4_k4_s2_p1",     // in several tiles
             "b7_i30_o80_l3_k8_s4_p2",     // each position with other taps
             "b5_i40_o70_l1_k9_s3",        // one sample
             "b9_i7_o65_l5_k5_s3_d2_p2",   // bundles of unlike taps
             "b6_g2_i8_o150_l4_k7_s2_d4",  // groups, dead phases
             "b30_i200_o33_l2_k9_d2_p1",   // sums in parts
             "b4_i3_o75_l6_k2_s2_d5_a4",   // outputs without a tap
         }) {
      for (const Arithmetic arithmetic : kArithmetics) {
        if (is_scalar(set) && arithmetic != kArithmetics[random() % std::size(kArithmetics)]) continue;
        Workload w = parse_workload(word);
        w.problem.arithmetic = arithmetic;
        w.problem.bias = random() % 2 == 0;
        expect_right(verify::make_case(w, random()), draw_how(random));
      }
    }
  });
}

TEST(CpuPlan, EveryBatchAndLengthOfSmallSize) {
  on_every_instruction_set([&](const std::string& set) {
    for (const char* word :
         {"i3_o2_l1_k4_s2_p1", "g3_i3_o3_l1_k4_s2_p1", "i2_o5_l1_k3_s1_d2_f64", "i2_o65_l1_k6_s2_p1"}) {
      Workload w = parse_workload(word);
      for (w.extent.batch = 1; w.extent.batch <= 5; ++w.extent.batch) {
        for (w.extent.length = 1; w.extent.length <= (is_scalar(set) ? 9 : 40); ++w.extent.length)
          if (!refuse(w.problem, w.extent)) expect_right({.workload = w, .seed = 7}, {.threads = {1, 3}});
      }
    }
  });
}

// So large that a tile holds eleven.
TEST(CpuPlan, LargeImagesBesideEachOther) {
  expect_right({.workload = parse_workload("b13_i2100_o70_l4_k4_s2_p1"), .seed = 6}, {.threads = {1, 2}});
}

// Lengths that end before, at and behind every tile and chunk of the solvers.
TEST(CpuPlan, ConsecutiveLengths) {
  on_every_instruction_set([&](const std::string& set) {
    const std::int64_t step = is_scalar(set) ? 37 : 1;
    Workload w = parse_workload("i3_o2_l40_k5_s2_p1");
    for (w.extent.length = 40; w.extent.length <= 540; w.extent.length += step)
      expect_right({.workload = w, .seed = 8}, {.threads = {1, 2}});
    w = parse_workload("g2_i2_o2_l1000_k4_s2_p1_bf16");
    for (w.extent.length = 1000; w.extent.length <= 1050; w.extent.length += step)
      expect_right({.workload = w, .seed = 9}, {.threads = {1, 2}});
    w = parse_workload("g2_i2_o2_l2020_k5_s2_p3");
    for (w.extent.length = 2020; w.extent.length <= 2080; w.extent.length += 4 * step)
      expect_right({.workload = w, .seed = 9}, {.threads = {1, 2}});
  });
}

// A problem with tensors of its own, run plainly.
struct Ready {
  explicit Ready(const Layer& layer, std::int64_t batch, std::int64_t length, std::string_view solver = {},
                 std::uint64_t seed = 3)
      : c{.workload = {layer.problem, {.batch = batch, .length = length}}, .seed = seed, .data = verify::Data::normal},
        tensors(verify::make_tensors(c)),
        plan(layer, solver),
        x(encoded(tensors.x)),
        w(encoded(tensors.w)),
        bias(encoded(tensors.bias)),
        packed(static_cast<std::size_t>(plan.packed_bytes())),
        y(static_cast<std::size_t>(output_elements(c.workload) * bytes_per_element(layer.problem.arithmetic))) {
    const Problem& p = layer.problem;
    plan.pack({w.data(), packed.data(), p.c_out / p.groups * p.kernel, p.kernel, 1}, 1);
    const std::int64_t out = tconv::out_length(p, length);
    call = {.x = x.data(),
            .w = packed.data(),
            .bias = p.bias ? bias.data() : nullptr,
            .y = y.data(),
            .batch = batch,
            .length = length,
            .out_length = out,
            .x_stride_b = p.c_in * length,
            .x_stride_c = length,
            .x_stride_t = 1,
            .y_stride_b = p.c_out * out,
            .y_stride_c = out};
  }
  [[nodiscard]] std::string encoded(const std::vector<double>& values) const {
    return verify::encode(values, c.workload.problem.arithmetic);
  }

  verify::Case c;
  verify::Tensors tensors;
  Plan plan;
  Memory x, w, bias, packed, y;
  Call call{};
};

// An image's outputs do not depend on what else is in the batch.
TEST(CpuPlan, AnImageAloneHasTheBitsItHasInABatch) {
  on_every_instruction_set([&](const std::string&) {
    for (const char* word :
         {"i12_o9_l61_k7_s3_p2_bias", "g6_i6_o6_l61_k4_s2_p1", "i30_o40_l5_k8_s4_p2_bf16", "i150_o70_l4_k4_s2_p1"}) {
      const Workload w = parse_workload(word);
      for (const Solver* solver : solvers()) {
        if (solver->refuse({.problem = w.problem})) continue;
        constexpr std::size_t kBatch = 5;
        Ready all({.problem = w.problem}, kBatch, w.extent.length, solver->name);
        all.plan.run(all.call, 3);
        const auto size = static_cast<std::size_t>(bytes_per_element(w.problem.arithmetic));
        const std::string together = all.y.content();
        const std::size_t image = together.size() / kBatch;
        for (std::size_t b = 0; b < kBatch; ++b) {
          Memory y(image);
          Call alone = all.call;
          alone.batch = 1;
          alone.x = all.x.data() + b * static_cast<std::size_t>(all.call.x_stride_b) * size;
          alone.y = y.data();
          all.plan.run(alone, 1);
          EXPECT_EQ(y.content() == together.substr(b * image, image), true) << solver->name << ' ' << word << ' ' << b;
        }
      }
    }
  });
}

TEST(CpuPlan, PackedWeightsAreTheSameOnEveryInstructionSet) {
  for (const char* word : {"i13_o9_l1_k7_s3", "g6_i12_o18_l1_k4_s2", "g6_i6_o6_l1_k5_s2_d3", "i2_o3_l1_k4_s6_d4"}) {
    for (const Arithmetic arithmetic : kArithmetics) {
      Problem p = parse_workload(word).problem;
      p.arithmetic = arithmetic;
      const auto size = static_cast<std::size_t>(bytes_per_element(arithmetic));
      const verify::Case c{.workload = {p, {.batch = 1, .length = 1}}, .seed = 5, .data = verify::Data::integers};
      const std::string dense = verify::encode(verify::make_tensors(c).w, arithmetic);
      const std::int64_t out = p.c_out / p.groups;
      // w as (C_out/groups, K, C_in) in memory, taps backwards.
      const Place wp = place(p.c_in, out, p.kernel, 1, p.kernel * p.c_in, -p.c_in);
      Memory turned(static_cast<std::size_t>(wp.elements) * size);
      each_element(p.c_in, out, p.kernel, wp, [&](std::size_t from, std::size_t to) {
        std::memcpy(turned.data() + to * size, dense.data() + from * size, size);
      });
      Memory w(dense, size);
      for (const Solver* solver : solvers()) {
        if (solver->refuse({.problem = p})) continue;
        const Plan plan({.problem = p}, solver->name);
        std::string first;
        on_every_instruction_set([&](const std::string&) {
          for (const int threads : {1, 5}) {
            Memory plain(static_cast<std::size_t>(plan.packed_bytes())), strided(plain.content().size());
            std::memset(strided.data(), 0x24, strided.content().size());  // what is not written would differ
            plan.pack({w.data(), plain.data(), out * p.kernel, p.kernel, 1}, threads);
            plan.pack({turned.data() + static_cast<std::size_t>(wp.first) * size, strided.data(), wp.b, wp.c, wp.t},
                      threads);
            if (first.empty()) first = plain.content();
            EXPECT_TRUE(plain.content() == first) << solver->name << ' ' << print_word(p);
            EXPECT_TRUE(strided.content() == first) << solver->name << ' ' << print_word(p);
          }
        });
      }
    }
  }
}

TEST(CpuPlan, SeveralThreadsRunOnePlanAtOnce) {
  for (const char* word : {"i12_o9_l1_k8_s4_p2_bias", "g6_i6_o6_l1_k4_s2_p1"}) {
    const Problem p = parse_workload(word).problem;
    std::vector<std::unique_ptr<Ready>> calls;
    std::vector<std::string> due;
    for (int i = 0; i < 6; ++i) {
      Ready& one = *calls.emplace_back(std::make_unique<Ready>(Layer{.problem = p}, 1 + i % 3, 40 + 97 * i));
      one.call.w = calls[0]->packed.data();
      calls[0]->plan.run(one.call, 1);
      due.push_back(one.y.content());
    }
    std::vector<int> wrong(calls.size());
    {
      std::vector<std::jthread> callers;
      for (std::size_t i = 0; i < calls.size(); ++i) {
        callers.emplace_back([&, i] {
          for (int round = 0; round < 20; ++round) {
            std::memset(calls[i]->y.data(), kPoison, due[i].size());
            calls[0]->plan.run(calls[i]->call, 1 + (round + static_cast<int>(i)) % 4);
            wrong[i] += calls[i]->y.content() == due[i] ? 0 : 1;
          }
        });
      }
    }
    for (std::size_t i = 0; i < calls.size(); ++i) EXPECT_EQ(wrong[i], 0) << word << ' ' << i;
  }
}

// Activations. A kernel of ones as long as its stride repeats each input, so that y shows the activation alone.

constexpr Activation kActivations[] = {Activation::relu, Activation::leaky_relu, Activation::elu,
                                       Activation::gelu, Activation::tanh,       Activation::snake};
constexpr double kParameter = 0.1;
constexpr double kAlphas[] = {0.3, 1.0, 4.7};  // one a channel

struct Expected {
  long double y;
  double error;
};

// The formula, with the parameters as sums hold them, and how far from it a computed value may be before it is stored.
// u is the unit roundoff of the sums. Highway's functions err by so many ulp, of 2u each: Exp by 1, Expm1 by 4, Tanh by
// 4, Sin by 3.
// - leaky_relu: one product, u|y|. elu: Expm1 and a product, 8u + u. tanh: 8u.
// - gelu: v/2 * (1 + erf(z)), z = v/sqrt(2). erf errs by at most 6u, absolutely:
//   below |z| = 1 by the series' sum, whose n-th partial sum is rounded once (their magnitudes add up to 1.65), its
//   coefficients (another 1.65), its product with z (0.84), the argument's square (0.4) and the argument itself, which
//   two roundings move by 2u|z|, times the slope exp(-z^2) * 2/sqrt(pi) (0.97 at most): 5.5u together;
//   from there on by erfc's relative error, some 20u, times erfc(1) = 0.157, the argument's 0.97u and the last
//   subtraction, u: 5.2u together.
//   Adding 1 rounds, as does the last product: 6u|v|/2 + 2u|y|.
// - snake: the argument alpha*v errs by u|alpha*v|, which moves the square by as much; the sine's 6u make 12u of the
//   square, which its rounding, the division and its divisor bring to 15u; then the sum: u(|v| + 15 sin^2/alpha + |y|).
//   Behind 39000 the sine counts as 0; an argument that overflows makes NaN, as in PyTorch.
Expected expected(Activation activation, double v, double parameter, double alpha, double u) {
  const long double x = v;
  const auto within = [](long double y, long double error) { return Expected{y, static_cast<double>(error)}; };
  switch (activation) {
    case Activation::none:
      break;
    case Activation::relu:
      return within(x < 0 ? 0 : x, 0);
    case Activation::leaky_relu: {
      const long double y = x < 0 ? parameter * x : x;
      return within(y, u * std::fabs(y));
    }
    case Activation::elu: {
      const long double y = x < 0 ? parameter * std::expm1(x) : x;
      return within(y, 9 * u * std::fabs(y));
    }
    case Activation::gelu: {
      const long double y = x / 2 * (1 + std::erf(x / std::sqrt(2.0L)));
      return within(y, u * (3 * std::fabs(x) + 2 * std::fabs(y)));
    }
    case Activation::tanh: {
      const long double y = std::tanh(x);
      return within(y, 8 * u * std::fabs(y));
    }
    case Activation::snake: {
      const double angle = u < 0x1p-50 ? alpha * v : static_cast<double>(static_cast<float>(alpha * v));
      if (!std::isfinite(angle)) return within(std::nan(""), 0);
      const long double sine = std::sin(alpha * x);
      const long double square = sine * sine / (alpha + 1e-9L);
      const long double y = x + square;
      if (std::fabs(angle) > 39000) return within(y, 1 / alpha + u * std::fabs(y));
      return within(y, u * (std::fabs(x) + 15 * square + std::fabs(y)));
    }
  }
  return within(x, 0);
}

// A layer of three channels whose y is x, each input twice, activated.
Layer activated(Activation activation, bool before, Arithmetic arithmetic) {
  Layer layer{.problem = {.c_in = 3, .c_out = 3, .kernel = 2, .stride = 2, .groups = 3, .arithmetic = arithmetic}};
  (before ? layer.before : layer.after) = activation;
  (before ? layer.before_parameter : layer.after_parameter) = kParameter;
  return layer;
}

// y of these inputs of each channel: activation(x[t/2]).
std::vector<double> activate(Activation activation, bool before, Arithmetic arithmetic, std::string_view solver,
                             const std::vector<double>& values) {
  const Plan plan(activated(activation, before, arithmetic), solver);
  const auto length = static_cast<std::int64_t>(values.size());
  std::vector<double> x;
  for (int c = 0; c < 3; ++c) x.insert(x.end(), values.begin(), values.end());
  Memory input(verify::encode(x, arithmetic)), w(verify::encode(std::vector<double>(6, 1.0), arithmetic));
  Memory alphas(verify::encode(kAlphas, arithmetic == Arithmetic::f64 ? Arithmetic::f64 : Arithmetic::f32));
  Memory packed(static_cast<std::size_t>(plan.packed_bytes())), y(2 * input.content().size());
  plan.pack({w.data(), packed.data(), 2, 2, 1}, 1);
  const void* alpha = activation == Activation::snake ? alphas.data() : nullptr;
  plan.run({.x = input.data(),
            .w = packed.data(),
            .bias = nullptr,
            .y = y.data(),
            .batch = 1,
            .length = length,
            .out_length = 2 * length,
            .x_stride_b = 3 * length,
            .x_stride_c = length,
            .x_stride_t = 1,
            .y_stride_b = 6 * length,
            .y_stride_c = 2 * length,
            .x_alpha = before ? alpha : nullptr,
            .y_alpha = before ? nullptr : alpha},
           2);
  return verify::decode(y.content(), arithmetic);
}

void expect_activated(Activation activation, Arithmetic arithmetic, const std::vector<double>& values) {
  const bool wide = arithmetic == Arithmetic::f64;
  const verify::Format stored = verify::storage_format(arithmetic);
  const auto as_sums = [&](double v) { return wide ? v : static_cast<double>(static_cast<float>(v)); };
  for (const Solver* solver : solvers()) {
    for (const bool before : {false, true}) {
      if (solver->refuse(activated(activation, before, arithmetic))) continue;
      const std::vector<double> y = activate(activation, before, arithmetic, solver->name, values);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double v = values[i / 2 % values.size()];
        const double alpha = as_sums(kAlphas[i / 2 / values.size()]);
        const Expected due = expected(activation, v, as_sums(kParameter), alpha, std::ldexp(1.0, wide ? -53 : -24));
        const std::string where = fmt::format("{} {} {} {}: of {} with alpha {}", solver->name, name(activation),
                                              before ? "before" : "after", name(arithmetic), v, alpha);
        if (!std::isfinite(due.y)) {
          EXPECT_TRUE(std::isnan(due.y) ? std::isnan(y[i]) : y[i] == due.y) << where << " comes " << y[i];
          continue;
        }
        // f16 and bf16 are rounded once more, and a result may be denormal.
        const bool narrow = bytes_per_element(arithmetic) == 2;
        const long double error =
            due.error + (narrow ? stored.unit() * (std::fabs(due.y) + due.error) : 0) + 2 * stored.smallest();
        EXPECT_LE(std::fabs(y[i] - due.y), error) << where << " comes " << y[i] << " for " << due.y;
      }
    }
  }
}

TEST(CpuActivation, WithinTheBoundOfItsFormula) {
  const std::uint64_t seed = fresh_seed();
  std::mt19937_64 random(seed);
  on_every_instruction_set([&](const std::string& set) {
    for (const Arithmetic arithmetic : {Arithmetic::f32, Arithmetic::f16, Arithmetic::bf16, Arithmetic::f64}) {
      std::vector<double> values{0, 1, -1};
      for (int i = 0; i < (is_scalar(set) ? 60 : 300); ++i) {
        const double magnitude = i % 2 == 0 ? std::uniform_real_distribution(0.0, 9.0)(random)
                                            : std::exp2(std::uniform_real_distribution(-30.0, 6.0)(random));
        values.push_back(verify::round_to_storage(i % 3 == 0 ? magnitude : -magnitude, arithmetic));
      }
      for (const Activation activation : kActivations) expect_activated(activation, arithmetic, values);
    }
  });
}

// Infinities and NaN make what PyTorch's formulas make of them: gelu(-inf) and snake(+-inf) are NaN, the others'
// limits.
TEST(CpuActivation, SpecialValues) {
  const double infinity = std::numeric_limits<double>::infinity();
  on_every_instruction_set([&](const std::string&) {
    for (const Arithmetic arithmetic : {Arithmetic::f32, Arithmetic::f16, Arithmetic::bf16, Arithmetic::f64}) {
      const verify::Format stored = verify::storage_format(arithmetic);
      const std::vector<double> values{0,  -0.0, infinity,         -infinity,         std::nan(""),
                                       -5, 17,   stored.largest(), -stored.largest(), -stored.smallest()};
      for (const Activation activation : kActivations) expect_activated(activation, arithmetic, values);
    }
  });
}

TEST(CpuActivation, ReluOfIntegers) {
  on_every_instruction_set([&](const std::string&) {
    for (const Solver* solver : solvers()) {
      for (const bool before : {false, true}) {
        if (solver->refuse(activated(Activation::relu, before, Arithmetic::i32))) continue;
        const std::vector<double> values{-2147483648.0, -7, 0, 5, 2147483647.0};
        const std::vector<double> y = activate(Activation::relu, before, Arithmetic::i32, solver->name, values);
        for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(y[i], std::max(0.0, values[i / 2 % values.size()]));
      }
    }
  });
}

// One NaN of x reaches the outputs of its taps and no other.
TEST(CpuPlan, ANanReachesWhatItsTapsReach) {
  on_every_instruction_set([&](const std::string&) {
    for (const char* word : {"i4_o3_l60_k5_s2_p1", "g3_i3_o3_l60_k5_s2_p1", "b2_g60_i60_o60_l3_k8_s2_p1",
                             "b5_i4_o70_l5_k5_s2_p1", "b4_i3_o70_l3_k6_s3_p2"}) {
      const Workload w = parse_workload(word);
      const Problem& p = w.problem;
      const std::int64_t length = w.extent.length;
      for (const Solver* solver : solvers()) {
        if (solver->refuse({.problem = p})) continue;
        Ready ready({.problem = p}, w.extent.batch, length, solver->name);
        ready.plan.run(ready.call, 1);
        const std::vector<double> clean = verify::decode(ready.y.content(), p.arithmetic);
        for (const std::int64_t sample : {std::int64_t{0}, length / 3, length - 1}) {
          const std::int64_t batch = w.extent.batch - 1, channel = 1;
          float& at = reinterpret_cast<float*>(ready.x.data())[(batch * p.c_in + channel) * length + sample];
          const float before = at;
          at = std::nanf("");
          ready.plan.run(ready.call, 1);
          at = before;
          const std::vector<double> y = verify::decode(ready.y.content(), p.arithmetic);
          const auto out = static_cast<std::size_t>(ready.call.out_length), c_out = static_cast<std::size_t>(p.c_out);
          for (std::size_t i = 0; i < y.size(); ++i) {
            const auto k = static_cast<std::int64_t>(i % out) + p.padding - sample * p.stride;
            const bool reached = k >= 0 && k < p.kernel &&
                                 (p.groups == 1 || static_cast<std::int64_t>(i / out % c_out) == channel) &&
                                 static_cast<std::int64_t>(i / out / c_out) == batch;
            EXPECT_TRUE(reached ? std::isnan(y[i]) : y[i] == clean[i]) << solver->name << ' ' << word << ' ' << i;
          }
        }
      }
    }
  });
}

// The choice of a solver, and bad input.

Exit refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_FALSE(error.rule().empty()) << error.what();
    return error.exit();
  }
  return Exit::ok;
}

TEST(CpuPlan, ChoosesTheFirstThatServesAndSaysWhyOthersWerePassedOver) {
  const Problem dense = parse_workload("i8_o40_l9_k5_s2_p1").problem, few = parse_workload("i8_o4_l9_k5_s2_p1").problem,
                depthwise = parse_workload("g8_i8_o8_l9_k5_s2").problem;
  const Plan plan({.problem = dense});
  EXPECT_EQ(plan.solver().name, "gemm");
  ASSERT_EQ(plan.passed_over().size(), 2u);
  EXPECT_EQ(plan.passed_over()[0].solver, "depthwise");
  EXPECT_EQ(plan.passed_over()[1].solver, "few_rows");
  EXPECT_NE(plan.explain({.batch = 1, .length = 9}).find("not depthwise: " + plan.passed_over()[0].why),
            std::string::npos);
  EXPECT_EQ(Plan({.problem = few}).solver().name, "few_rows");
  EXPECT_EQ(Plan({.problem = depthwise}).solver().name, "depthwise");
  EXPECT_EQ(Plan({.problem = depthwise}, "gemm").solver().name, "gemm");
  EXPECT_EQ(refusal([&] { Plan({.problem = dense}, "depthwise"); }), Exit::unsupported);
  EXPECT_EQ(refusal([&] { Plan({.problem = dense}, "nothing"); }), Exit::usage);
  EXPECT_EQ(refusal([&] { Plan({.problem = Problem{}}); }), Exit::unsupported);
  EXPECT_EQ(refusal([&] { use_instruction_set("Z80"); }), Exit::usage);
}

TEST(CpuPlan, AnUnknownSolversRefusalNamesIt) {
  try {
    const Plan plan({.problem = parse_workload("i8_o4_l9_k5").problem}, "nothing");
    FAIL();
  } catch (const Error& error) {
    for (const char* part : {"solver", "gemm", "few_rows", "depthwise"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(CpuPlan, RefusesBadCallsAndWritesNothing) {
  Ready ready({.problem = parse_workload("i4_o3_l20_k5_s2_p1_bias").problem}, 2, 20);
  const auto bad = [&](Exit due, int threads, const std::function<void(Call&)>& change) {
    Call call = ready.call;
    change(call);
    EXPECT_EQ(refusal([&] { ready.plan.run(call, threads); }), due);
    EXPECT_EQ(ready.y.content().find_first_not_of(kPoison), std::string::npos);
  };
  const auto unchanged = [](Call&) {};
  for (const int threads : {0, -1, kMaxThreads + 1, 10000}) bad(Exit::usage, threads, unchanged);
  bad(Exit::usage, 1, [](Call& c) { c.x = nullptr; });
  bad(Exit::usage, 1, [](Call& c) { c.w = nullptr; });
  bad(Exit::usage, 1, [](Call& c) { c.bias = nullptr; });
  bad(Exit::usage, 1, [](Call& c) { c.y = nullptr; });
  bad(Exit::usage, 1, [](Call& c) { c.out_length += 1; });
  bad(Exit::usage, 1, [](Call& c) { c.out_length -= 1; });
  bad(Exit::unsupported, 1, [](Call& c) { c.length = -1; });
  bad(Exit::unsupported, 1, [](Call& c) { c.batch = -1; });
  bad(Exit::unsupported, 1, [](Call& c) { c.length = INT64_MAX / 2; });
  bad(Exit::usage, 1, [](Call& c) { c.w = static_cast<const char*>(c.w) + 16; });
  bad(Exit::usage, 1, [](Call& c) { c.x_alpha = c.x; });
  bad(Exit::usage, 1, [](Call& c) { c.y_alpha = c.x; });
  for (const long long stride : {INT64_MAX, INT64_MIN, INT64_MAX / 4, INT64_MIN / 4}) {
    bad(Exit::usage, 1, [&](Call& c) { c.x_stride_b = stride; });
    bad(Exit::usage, 1, [&](Call& c) { c.x_stride_c = stride; });
    bad(Exit::usage, 1, [&](Call& c) { c.x_stride_t = stride; });
    bad(Exit::usage, 1, [&](Call& c) { c.y_stride_b = stride; });
    bad(Exit::usage, 1, [&](Call& c) { c.y_stride_c = stride; });
  }
  ready.plan.run(ready.call, kMaxThreads);
  EXPECT_FALSE(verify::judge(ready.c, ready.tensors, ready.y.content(), verify::Engine::ieee).fault);
}

TEST(CpuPlan, RefusesMemoryThatOverlaps) {
  Ready ready({.problem = parse_workload("i4_o4_l20_k4_s2_p1_bias").problem}, 2, 20);
  const auto bytes = ready.y.content().size();
  // One memory for all, far enough apart, then y over each of the others.
  Memory all(std::size_t{1} << 16);
  const std::string before = all.content();
  const auto bad = [&](const std::function<void(Call&)>& change) {
    Call call = ready.call;
    call.y = all.data() + 16384;
    change(call);
    EXPECT_EQ(refusal([&] { ready.plan.run(call, 2); }), Exit::usage);
    EXPECT_TRUE(all.content() == before);
  };
  const std::size_t x_bytes = ready.x.content().size();
  bad([&](Call& c) { c.x = c.y; });
  bad([&](Call& c) { c.x = static_cast<char*>(c.y) + bytes - 4; });
  bad([&](Call& c) { c.x = static_cast<char*>(c.y) - x_bytes + 4; });
  bad([&](Call& c) {  // backwards from behind y into it
    c.x = static_cast<char*>(c.y) + bytes + 40;
    c.x_stride_t = -1;
  });
  bad([&](Call& c) { c.w = c.y; });
  bad([&](Call& c) { c.bias = static_cast<char*>(c.y) + bytes - 4; });
  bad([&](Call& c) { c.y_stride_c = c.out_length - 1; });
  bad([&](Call& c) { c.y_stride_c = 0; });
  bad([&](Call& c) { c.y_stride_b = 1 - c.out_length; });
  bad([&](Call& c) { c.y_stride_b = c.y_stride_c; });          // the second batch on the second channel
  bad([&](Call& c) { c.y_stride_b = 4 * c.y_stride_c - 1; });  // its first sample on the last one's last
  bad([&](Call& c) { c.y_stride_b = c.out_length, c.y_stride_c = c.out_length; });

  Ready snake({.problem = parse_workload("i4_o4_l20_k4_s2_p1").problem,
               .before = Activation::snake,
               .after = Activation::snake},
              2, 20);
  Memory alphas(verify::encode(std::vector<double>{1, 2, 3, 4}, Arithmetic::f32));
  for (const bool x : {true, false}) {
    Call call = snake.call;
    call.y = all.data() + 16384;
    call.x_alpha = call.y_alpha = alphas.data();
    (x ? call.x_alpha : call.y_alpha) = call.y;
    EXPECT_EQ(refusal([&] { snake.plan.run(call, 2); }), Exit::usage);
    EXPECT_TRUE(all.content() == before);
  }

  // Neighbours that only touch are apart.
  Call call = ready.call;
  call.y = all.data() + 16384;
  Memory& x = ready.x;
  std::memcpy(static_cast<char*>(call.y) + bytes, x.data(), x_bytes);
  call.x = static_cast<char*>(call.y) + bytes;
  EXPECT_EQ(refusal([&] { ready.plan.run(call, 2); }), Exit::ok);
  EXPECT_FALSE(verify::judge(ready.c, ready.tensors, all.content().substr(16384, bytes), verify::Engine::ieee).fault);
}

TEST(CpuPlan, RefusesBadPackingAndWritesNothing) {
  const Problem p = parse_workload("i4_o3_l20_k5_s2_p1").problem;
  Ready ready({.problem = p}, 1, 20);
  Memory packed(static_cast<std::size_t>(ready.plan.packed_bytes()) + 64);
  const Pack good{ready.w.data(), packed.data(), p.c_out * p.kernel, p.kernel, 1};
  const auto bad = [&](int threads, const std::function<void(Pack&)>& change) {
    Pack call = good;
    change(call);
    EXPECT_EQ(refusal([&] { ready.plan.pack(call, threads); }), Exit::usage);
    EXPECT_EQ(packed.content().find_first_not_of(kPoison), std::string::npos);
  };
  for (const int threads : {0, -1, 10000}) bad(threads, [](Pack&) {});
  bad(1, [](Pack& c) { c.w = nullptr; });
  bad(1, [](Pack& c) { c.packed = nullptr; });
  bad(1, [](Pack& c) { c.packed = static_cast<char*>(c.packed) + 32; });
  bad(1, [](Pack& c) { c.w = c.packed; });
  for (const long long stride : {INT64_MAX, INT64_MIN, INT64_MAX / 4, INT64_MIN / 4}) {
    bad(1, [&](Pack& c) { c.stride_in = stride; });
    bad(1, [&](Pack& c) { c.stride_out = stride; });
    bad(1, [&](Pack& c) { c.stride_k = stride; });
  }
  ready.plan.pack(good, kMaxThreads);
  EXPECT_TRUE(packed.content().substr(0, static_cast<std::size_t>(ready.plan.packed_bytes())) ==
              ready.packed.content());
}

TEST(CpuPlan, AnEmptyBatchNeedsNoMemory) {
  const Plan plan({.problem = parse_workload("i4_o3_l20_k5_s2_p1").problem});
  Call call{};
  call.length = 20;
  call.out_length = out_length(plan.problem(), 20);
  EXPECT_EQ(refusal([&] { plan.run(call, 1); }), Exit::ok);
}

TEST(CpuPlan, EveryLayerOfTheCatalogueTakesLessThanFourMegabytesAThread) {
  for (const CatalogueEntry& entry : catalogue()) {
    const Plan plan({.problem = entry.workload.problem});
    EXPECT_LT(plan.workspace_bytes(entry.workload.extent), 4000000) << entry.name;
  }
}

}  // namespace
}  // namespace tconv::cpu
