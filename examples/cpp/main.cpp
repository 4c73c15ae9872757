// The first upsampler of HiFi-GAN V1 on the CPU: 512 to 256 channels, 100 samples to 800.
#include <chrono>
#include <cstdio>
#include <exception>
#include <numeric>
#include <tconv/tconv.hpp>
#include <vector>

int main() try {
  const tconv::Plan plan({.c_in = 512, .c_out = 256, .kernel = 16, .stride = 8, .padding = 4});
  const std::int64_t length = 100;
  std::vector<float> x(512 * length), w(512 * 256 * 16), y(256 * plan.out_length(length));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 7) - 2;
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 5) - 1;

  const tconv::Memory packed(plan.packed_bytes());
  plan.pack(w.data(), packed.data());

  const auto from = std::chrono::steady_clock::now();
  plan.run({.x = x.data(), .packed = packed.data(), .y = y.data(), .length = length});
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - from;

  std::printf("sum %.0f\ntime %.3f ms\n", std::accumulate(y.begin(), y.end(), 0.0), time.count());
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
