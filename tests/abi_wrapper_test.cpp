// tconv.hpp over the C interface: defaults, dense strides, exceptions.
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <tconv/tconv.hpp>
#include <utility>
#include <vector>

namespace {

// Stride 2, kernel 2: each input makes two outputs of its own.
const tconv::Problem kLayer{.c_in = 1, .c_out = 2, .kernel = 2, .stride = 2, .arithmetic = TCONV_I32};
const std::vector<std::int32_t> kWeights{1, 10, 100, 1000};  // (1, 2, 2)

class Layer {
 public:
  explicit Layer(const tconv::Problem& problem = kLayer, const void* w = kWeights.data())
      : plan(problem), packed(plan.packed_bytes()) {
    plan.pack(w, packed.data());
  }
  tconv::Plan plan;
  tconv::Memory packed;
};

tconv_status status_of(const tconv::Problem& problem, int device = TCONV_CPU, const char* solver = nullptr) {
  try {
    const tconv::Plan plan(problem, device, solver);
    return TCONV_OK;
  } catch (const tconv::Error& error) {
    EXPECT_STRNE(error.what(), "");
    return error.status();
  }
}

TEST(Wrapper, RunsDenseTensors) {
  tconv::Problem problem = kLayer;
  problem.c_in = problem.groups = 2;  // each channel has two of the weights
  const Layer layer(problem);
  const std::vector<std::int32_t> x{1, 2, 3, 4, 5, 6, 7, 8};  // (2, 2, 2)
  std::vector<std::int32_t> y(16);
  ASSERT_EQ(layer.plan.out_length(2), 4);
  layer.plan.run({.x = x.data(), .packed = layer.packed.data(), .y = y.data(), .batch = 2, .length = 2});
  EXPECT_EQ(y, (std::vector<std::int32_t>{1, 10, 2, 20, 300, 3000, 400, 4000,  //
                                          5, 50, 6, 60, 700, 7000, 800, 8000}));
}

TEST(Wrapper, RunsStridedTensors) {
  const Layer layer;
  const std::vector<std::int32_t> x{3, 0, 2, 0, 1};
  std::vector<std::int32_t> y(14, -1);
  layer.plan.run({.x = &x[4],
                  .packed = layer.packed.data(),
                  .y = y.data(),
                  .length = 3,
                  .x_strides = tconv::InputStrides{0, 0, -2},
                  .y_strides = tconv::OutputStrides{0, 8}},
                 {.threads = 2});
  EXPECT_EQ(y, (std::vector<std::int32_t>{1, 10, 2, 20, 3, 30, -1, -1, 100, 1000, 200, 2000, 300, 3000}));
}

TEST(Wrapper, PacksStridedWeights) {
  const Layer dense;
  const std::vector<std::int32_t> transposed{1, 100, 10, 1000};  // (1, kernel, c_out)
  Layer strided;
  strided.plan.pack(transposed.data(), {4, 1, 2}, strided.packed.data());
  const std::string_view one(static_cast<const char*>(dense.packed.data()),
                             static_cast<std::size_t>(dense.packed.bytes()));
  EXPECT_EQ(one, std::string_view(static_cast<const char*>(strided.packed.data()),
                                  static_cast<std::size_t>(strided.packed.bytes())));
}

TEST(Wrapper, PassesEveryMemberOn) {
  tconv::Problem problem{.c_in = 2,
                         .c_out = 2,
                         .kernel = 2,
                         .stride = 2,
                         .padding = 1,
                         .output_padding = 1,
                         .dilation = 3,
                         .groups = 2,
                         .bias = true,
                         .before = TCONV_LEAKY_RELU,
                         .after = TCONV_SNAKE,
                         .before_parameter = 0.5};
  const std::vector<float> w{1, 0, 0, 1}, x{-2, -2, 4, 4}, bias{8, 16}, alpha{0, 0};
  const Layer layer(problem, w.data());
  ASSERT_EQ(layer.plan.out_length(2), 1 * 2 - 2 * 1 + 3 * 1 + 1 + 1);
  std::vector<float> y(10);
  layer.plan.run({.x = x.data(),
                  .packed = layer.packed.data(),
                  .y = y.data(),
                  .length = 2,
                  .bias = bias.data(),
                  .y_alpha = alpha.data()});
  // Channel 0 takes x where t = 2*i - 1, channel 1 where t = 2*i - 1 + 3; leaky_relu halves -2; snake of alpha 0 keeps.
  EXPECT_EQ(y, (std::vector<float>{8, 7, 8, 8, 8, 16, 16, 20, 16, 20}));
  problem.after = TCONV_ELU;
  problem.after_parameter = std::numeric_limits<double>::infinity();
  EXPECT_EQ(status_of(problem), TCONV_UNSUPPORTED);
}

TEST(Wrapper, TakesRowsInAnyOrder) {
  const Layer layer;
  const std::vector<std::int32_t> x{1, 2};  // (2, 1, 1)
  std::vector<std::int32_t> y(8);
  layer.plan.run({.x = x.data(),
                  .packed = layer.packed.data(),
                  .y = &y[6],
                  .batch = 2,
                  .length = 1,
                  .y_strides = tconv::OutputStrides{-2, -4}});
  EXPECT_EQ(y, (std::vector<std::int32_t>{200, 2000, 100, 1000, 2, 20, 1, 10}));
}

TEST(Wrapper, RefusesAnOutputThatIsAlsoRead) {
  const tconv::Problem problem{
      .c_in = 1, .c_out = 1, .kernel = 1, .bias = true, .before = TCONV_SNAKE, .after = TCONV_SNAKE};
  const std::vector<float> w{1};
  const Layer layer(problem, w.data());
  std::vector<float> x{1, 2, 3, 4}, bias{0}, alpha{1}, y(4, -1);
  const tconv::Run good{.x = x.data(),
                        .packed = layer.packed.data(),
                        .y = y.data(),
                        .length = 4,
                        .bias = bias.data(),
                        .x_alpha = alpha.data(),
                        .y_alpha = alpha.data()};
  for (const auto member : {&tconv::Run::x, &tconv::Run::bias, &tconv::Run::x_alpha, &tconv::Run::y_alpha}) {
    tconv::Run run = good;
    run.*member = &y[3];
    EXPECT_THROW(layer.plan.run(run), tconv::Error);
    EXPECT_EQ(y, std::vector<float>(4, -1));
  }
  EXPECT_NO_THROW(layer.plan.run(good));
}

TEST(Wrapper, RunsAnEmptyBatch) {
  tconv::Problem problem = kLayer;
  problem.c_out = 1;
  problem.kernel = 4;  // reaches beyond the stride, so that no input makes an output
  const Layer layer(problem);
  EXPECT_NO_THROW(layer.plan.run({.packed = layer.packed.data(), .batch = 0, .length = 0}));
  EXPECT_NO_THROW(layer.plan.run({.packed = layer.packed.data(), .batch = 0, .length = 5}));
  EXPECT_THROW(layer.plan.run({.packed = layer.packed.data(), .batch = 1, .length = 0}), tconv::Error);
}

TEST(Wrapper, ThrowsWhatTheLibraryRefuses) {
  tconv::Problem problem = kLayer;
  EXPECT_EQ(status_of({}), TCONV_UNSUPPORTED);
  EXPECT_EQ(status_of(problem, -2), TCONV_NO_DEVICE);
  EXPECT_EQ(status_of(problem, TCONV_CPU, "no_such"), TCONV_INVALID);
  problem.arithmetic = static_cast<tconv_arithmetic>(6);
  EXPECT_EQ(status_of(problem), TCONV_INVALID);

  const Layer layer;
  std::vector<std::int32_t> y(4, -1);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW((void)layer.plan.out_length(0), tconv::Error);
  EXPECT_THROW((void)layer.plan.explain(1, huge), tconv::Error);
  EXPECT_THROW(layer.plan.pack(nullptr, layer.packed.data()), tconv::Error);
  EXPECT_THROW(layer.plan.run({.x = y.data(), .packed = layer.packed.data(), .y = y.data(), .length = 1}),
               tconv::Error);
  EXPECT_THROW(layer.plan.run({.x = kWeights.data(), .packed = layer.packed.data(), .y = y.data(), .length = huge}),
               tconv::Error);
  EXPECT_EQ(y, std::vector<std::int32_t>(4, -1));
  EXPECT_THROW(tconv::Memory(-1), std::bad_alloc);
}

TEST(Wrapper, MovesAndExplains) {
  Layer layer;
  const tconv::Plan plan = std::move(layer.plan);
  EXPECT_NE(plan.explain(1, 3).find("CPU"), std::string::npos);
  EXPECT_EQ(plan.explain(1, 3).find('\0'), std::string::npos);
  EXPECT_EQ(plan.problem().c_out, 2);
  EXPECT_EQ(layer.packed.bytes(), plan.packed_bytes());
  EXPECT_EQ(layer.plan.get(), nullptr);  // NOLINT(bugprone-use-after-move): what is left is empty
  EXPECT_FALSE(tconv::version().empty());
}

}  // namespace
