// Problem words: what they mean, what they refuse, and that printing is the inverse of parsing.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <string>

#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "util/error.hpp"

namespace tconv {
namespace {

// The message of the Error that parsing `word` throws, with its exit code in front.
std::string refusal_of(std::string_view word) {
  try {
    (void)parse_word(word);
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.exit())) + " " + error.what();
  }
  return "accepted";
}

TEST(Grammar, ReadsEveryToken) {
  const Word word = parse_word("b16_i32_o64_l131072_k3_s2_p1_a1_d2_g4_tf32_bias");
  const Workload expected{{.c_in = 32,
                           .c_out = 64,
                           .kernel = 3,
                           .stride = 2,
                           .padding = 1,
                           .output_padding = 1,
                           .dilation = 2,
                           .groups = 4,
                           .arithmetic = Arithmetic::tf32,
                           .bias = true},
                          {.batch = 16, .length = 131072}};
  EXPECT_EQ(word.workload, expected);
  EXPECT_TRUE(word.has_length);
  EXPECT_EQ(parse_workload("bias_tf32_g4_d2_a1_p1_s2_k3_l131072_o64_i32_b16"), expected);  // any order
}

TEST(Grammar, FillsInDefaults) {
  const Word word = parse_word("i3_o5_k7");
  EXPECT_EQ(word.workload, (Workload{{.c_in = 3, .c_out = 5, .kernel = 7}, {.batch = 1, .length = 0}}));
  EXPECT_FALSE(word.has_length);
  EXPECT_EQ(print_word(word.workload.problem), "i3_o5_k7_s1_f32");
  EXPECT_EQ(print_word(parse_workload("i3_o5_k7_l9")), "b1_i3_o5_l9_k7_s1_f32");
}

TEST(Grammar, TellsChannelsFromTheArithmetic) {
  EXPECT_EQ(parse_word("i32_o64_k3").workload.problem.arithmetic, Arithmetic::f32);
  const Problem p = parse_word("i32_o64_k3_i32").workload.problem;
  EXPECT_EQ(p.c_in, 32);
  EXPECT_EQ(p.arithmetic, Arithmetic::i32);
  EXPECT_EQ(parse_word("i8_o64_k3_i32").workload.problem.arithmetic, Arithmetic::i32);
  EXPECT_EQ(refusal_of("i32_i32_i32_o1_k1"),
            "2 problem word 'i32_i32_i32_o1_k1': token 'i32' repeats 'arithmetic' (each at most once)");
  EXPECT_EQ(print_word(p), "i32_o64_k3_s1_i32");
}

TEST(Grammar, StartsFromTheCatalogue) {
  EXPECT_EQ(parse_workload("@kb79"), find_in_catalogue("kb_l1_79")->workload);
  Workload expected = find_in_catalogue("kb_l1_79")->workload;
  expected.extent.batch = 1;
  expected.problem.arithmetic = Arithmetic::f16;
  EXPECT_EQ(parse_workload("@kb79_b1_f16"), expected);
  EXPECT_EQ(parse_workload("@kb_l1_79_b1_f16"), expected);
  // A name that ends like a token is a name.
  EXPECT_EQ(parse_workload("@convtasnet_sepformer_dec_b2").extent.batch, 2);
  EXPECT_EQ(parse_workload("@convtasnet_sepformer_dec_b2_b3").extent.batch, 3);
}

TEST(Grammar, RefusesWithTheTokenAndTheRule) {
  const std::string token_rule =
      "(a token is one of b i o l k s p a d g and a number, one of f32 tf32 f16 bf16 f64 i32, or bias)";
  EXPECT_EQ(refusal_of("i1_o1"),
            "2 problem word 'i1_o1': token 'k' is missing (i (C_in), o (C_out) and k (kernel) are required)");
  EXPECT_EQ(refusal_of("i1_o1_k1_z3"), "2 problem word 'i1_o1_k1_z3': token 'z3' is unknown " + token_rule);
  EXPECT_EQ(refusal_of("i1_o1_k"), "2 problem word 'i1_o1_k': token 'k' has no decimal number after 'k' " + token_rule);
  EXPECT_EQ(refusal_of("i1__o1_k1"), "2 problem word 'i1__o1_k1': token '' is unknown " + token_rule);
  EXPECT_EQ(refusal_of("i1_o1_k1_k2"), "2 problem word 'i1_o1_k1_k2': token 'k2' repeats 'k' (each at most once)");
  EXPECT_EQ(refusal_of("i1_o1_k1_f16_f32"),
            "2 problem word 'i1_o1_k1_f16_f32': token 'f32' repeats 'arithmetic' (each at most once)");
  EXPECT_EQ(refusal_of("i1_o1_k9223372036854775808"),
            "2 problem word 'i1_o1_k9223372036854775808': the number of token 'k9223372036854775808' is too large "
            "(numbers fit in int64)");
  EXPECT_EQ(refusal_of("i1_o1_k1_s0"), "3 problem word 'i1_o1_k1_s0': stride is 0 (stride must be at least 1)");
  EXPECT_EQ(refusal_of("@nothing_like_it"),
            "2 problem word '@nothing_like_it': no workload is called 'nothing_like_it' (@name is a workload of the "
            "catalogue)");
}

TEST(Grammar, RefusesEverythingElse) {
  for (const std::string_view word : {"",
                                      "_",
                                      "@",
                                      "@_",
                                      "@kb79_",
                                      "i1_o1_k1_",
                                      "_i1_o1_k1",
                                      "i+1_o1_k1",
                                      "i-1_o1_k1",
                                      "i 1_o1_k1",
                                      "i1.0_o1_k1",
                                      "i0x1_o1_k1",
                                      "i1e3_o1_k1",
                                      "I1_o1_k1",
                                      "i1_o1_k1_BIAS",
                                      "i1_o1_k1_bias_bias",
                                      "i1_o1_k1_f8",
                                      "b_i1_o1_k1",
                                      "@kb79_@kb74",
                                      "@kb79_b1_b1",
                                      "@KB79",
                                      " i1_o1_k1",
                                      "i1_o1_k1\n",
                                      "i1-o1-k1"}) {
    EXPECT_TRUE(refusal_of(word).starts_with("2 ")) << word << ": " << refusal_of(word);
  }
  EXPECT_TRUE(refusal_of(std::string_view("i1_o1_k1\0", 9)).starts_with("2 "));
  EXPECT_EQ(refusal_of("i1_o1_k" + std::string(249, '0') + "1").substr(0, 2), "2 ");  // 257 characters
  EXPECT_EQ(refusal_of("i1_o1_k" + std::string(248, '0') + "1"), "accepted");         // 256
  EXPECT_EQ(refusal_of("i1_o1_l0_k1").substr(0, 2), "3 ");
  EXPECT_THROW((void)parse_workload("i1_o1_k1"), Error);
}

TEST(Grammar, MessagesAreOnePrintableLine) {
  const std::string message = refusal_of("i1_o1_k1_\x1b[31m\n\xff" + std::string(100, 'x'));
  EXPECT_TRUE(std::ranges::all_of(message, [](char c) { return c >= ' ' && c <= '~'; })) << message;
}

TEST(Grammar, RoundTripsTheCatalogue) {
  for (const CatalogueEntry& entry : catalogue()) {
    EXPECT_EQ(parse_workload(print_word(entry.workload)), entry.workload) << entry.name;
    EXPECT_EQ(parse_workload("@" + std::string(entry.name)), entry.workload) << entry.name;
  }
}

TEST(Grammar, RoundTripsRandomWorkloads) {
  const auto seed = std::random_device{}();
  std::printf("seed %u\n", seed);
  std::mt19937_64 random(seed);
  // Magnitudes from 1 to 2^20, so that digits of every count occur.
  const auto draw = [&] {
    const auto bits = std::uniform_int_distribution<int>(1, 20)(random);
    return std::uniform_int_distribution<std::int64_t>(1, std::int64_t{1} << bits)(random);
  };
  int accepted = 0;
  for (int i = 0; i < 20000; ++i) {
    const std::int64_t groups = draw() % 5 + 1;
    const Workload w{{.c_in = groups * (draw() % 1000 + 1),
                      .c_out = groups * (draw() % 1000 + 1),
                      .kernel = draw(),
                      .stride = draw(),
                      .padding = draw() - 1,
                      .output_padding = draw() - 1,
                      .dilation = draw(),
                      .groups = groups,
                      .arithmetic = static_cast<Arithmetic>(draw() % 6),
                      .bias = draw() % 2 == 0},
                     {.batch = draw() - 1, .length = draw()}};
    if (refuse(w.problem, w.extent)) continue;
    ++accepted;
    ASSERT_EQ(parse_workload(print_word(w)), w) << "seed " << seed << ", " << print_word(w);
    const Word problem = parse_word(print_word(w.problem));
    ASSERT_EQ(problem.workload.problem, w.problem) << "seed " << seed << ", " << print_word(w.problem);
    ASSERT_FALSE(problem.has_length);
  }
  EXPECT_GT(accepted, 1000);
}

constexpr std::string_view kNameCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";

TEST(Catalogue, HoldsValidLayersUnderDistinctNames) {
  EXPECT_EQ(catalogue().size(), 130u);
  std::set<std::string_view> names;
  for (const CatalogueEntry& entry : catalogue()) {
    EXPECT_TRUE(names.insert(entry.name).second) << entry.name;
    EXPECT_EQ(entry.name.find_first_not_of(kNameCharacters), std::string_view::npos) << entry.name;
    EXPECT_FALSE(entry.model.empty()) << entry.name;
    EXPECT_FALSE(refuse(entry.workload.problem, entry.workload.extent)) << entry.name;
  }
}

TEST(Catalogue, KnowsKernelBench) {
  EXPECT_EQ(print_word(find_in_catalogue("kb64")->workload), "b64_i128_o128_l65536_k3_s1_tf32");
  EXPECT_EQ(print_word(find_in_catalogue("kb74")->workload), "b32_i32_o64_l131072_k5_s1_d3_tf32");
  EXPECT_EQ(print_word(find_in_catalogue("kb79")->workload), "b16_i32_o64_l131072_k3_s2_p1_d2_tf32");
  EXPECT_EQ(find_in_catalogue("kb79"), find_in_catalogue("kb_l1_79"));
  EXPECT_EQ(print_word(find_in_catalogue("oobleck_285s_b2_int64")->workload),
            "b2_i128_o128_l6291456_k4_s2_p1_f16_bias");
  EXPECT_EQ(print_word(find_in_catalogue("kokoro_pool_dec")->workload),
            "b1_i1090_o1090_l400_k3_s2_p1_a1_g1090_tf32_bias");
  EXPECT_EQ(find_in_catalogue("qwen3tts_10s_up0")->workload.problem.arithmetic, Arithmetic::bf16);
  EXPECT_EQ(find_in_catalogue("kb80"), nullptr);
  EXPECT_EQ(find_in_catalogue(""), nullptr);
}

}  // namespace
}  // namespace tconv
