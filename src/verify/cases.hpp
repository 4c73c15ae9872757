// What to try on an answer: random workloads, data and layouts, each made again from its word and seed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "problem/layer.hpp"
#include "problem/problem.hpp"
#include "request/code.hpp"

namespace tconv::verify {

// How a module's constructor spells a problem.
struct Interface {
  // One role: the constructor's argument for it, or the value the code fixes it at.
  struct Role {
    std::string argument;
    std::int64_t fixed = 0;
    [[nodiscard]] bool free() const noexcept { return !argument.empty(); }
  };
  Role c_in, c_out, kernel, stride{{}, 1}, padding, output_padding, dilation{{}, 1}, groups{{}, 1}, bias;
  std::vector<Arithmetic> arithmetics;   // whose storage the code admits
  bool one_channel_per_program = false;  // slow under the interpreter: smaller cases

  // Arguments by name for a problem. bias is passed as 0 or 1.
  [[nodiscard]] std::map<std::string, std::int64_t> arguments(const Problem& problem) const;
  // Why the constructor cannot make this problem, if it cannot.
  [[nodiscard]] std::optional<std::string> refuse(const Problem& problem) const;
};

// Throws Error(unsupported) for a constructor with a required argument of no known role.
[[nodiscard]] Interface read_interface(const request::Code& code);

enum class Layout { contiguous, transposed, sliced, strided, expanded };  // of x
[[nodiscard]] std::string_view name(Layout layout) noexcept;

enum class Data {
  integers,  // small whole numbers: the answer must be exact
  normal,    // N(0,1), scaled
  spread,    // magnitudes over many powers of two, and zeros
};
[[nodiscard]] std::string_view name(Data data) noexcept;

struct Case {
  Workload workload;
  std::uint64_t seed = 0;
  Layout layout = Layout::contiguous;
  Data data = Data::integers;
  std::uint32_t config = 0;  // which autotune config runs, modulo their number
  bool repeat = false;       // run twice, compare bits
  // Around the problem, where the engine has them; none unless they were drawn.
  Activation before = Activation::none;
  Activation after = Activation::none;
  double before_parameter = 0;
  double after_parameter = 0;
};
// Everything but the workload follows from the seed.
[[nodiscard]] Case make_case(const Workload& workload, std::uint64_t seed);

// Gives every other case activations that the problem admits, from its seed.
void draw_activations(Case& c);

struct Ranges {
  std::int64_t max_stride = 9;
  std::vector<Arithmetic> arithmetics;  // among the interface's
};
// A random valid workload that the constructor admits, small enough for the interpreter.
[[nodiscard]] Workload draw_workload(const Interface& interface, const Ranges& ranges, std::uint64_t seed);

struct Tensors {  // values that are stored exactly
  std::vector<double> x, w, bias;
  std::vector<double> x_alpha = {}, y_alpha = {};  // of snake before and after: as f32 holds them, for f64 too
};
[[nodiscard]] Tensors make_tensors(const Case& c);

}  // namespace tconv::verify
