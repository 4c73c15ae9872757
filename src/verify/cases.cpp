#include "verify/cases.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <numbers>
#include <span>

#include "util/error.hpp"
#include "verify/bound.hpp"
#include "verify/number.hpp"

namespace tconv::verify {
namespace {

// Names that public ConvTranspose1d modules give a constructor's arguments.
struct Alias {
  Interface::Role Interface::*role;
  std::array<std::string_view, 6> names;
};
constexpr std::array<Alias, 9> kAliases{{
    {&Interface::c_in, {"in_channels", "c_in", "C_in", "C_IN", "in_ch", "input_channels"}},
    {&Interface::c_out, {"out_channels", "c_out", "C_out", "C_OUT", "out_ch", "output_channels"}},
    {&Interface::kernel, {"kernel_size", "kernel", "K", "k", "ksize", "kernel_width"}},
    {&Interface::stride, {"stride", "s", "", "", "", ""}},
    {&Interface::padding, {"padding", "pad", "p", "", "", ""}},
    {&Interface::output_padding, {"output_padding", "out_padding", "output_pad", "", "", ""}},
    {&Interface::dilation, {"dilation", "dil", "d", "", "", ""}},
    {&Interface::groups, {"groups", "num_groups", "g", "", "", ""}},
    {&Interface::bias, {"bias", "use_bias", "has_bias", "", "", ""}},
}};

// Role, its value in a problem, its name for messages.
struct Field {
  Interface::Role Interface::*role;
  std::int64_t Problem::*value;
  std::string_view name;
};
constexpr std::array<Field, 8> kFields{{
    {&Interface::c_in, &Problem::c_in, "in_channels"},
    {&Interface::c_out, &Problem::c_out, "out_channels"},
    {&Interface::kernel, &Problem::kernel, "kernel_size"},
    {&Interface::stride, &Problem::stride, "stride"},
    {&Interface::padding, &Problem::padding, "padding"},
    {&Interface::output_padding, &Problem::output_padding, "output_padding"},
    {&Interface::dilation, &Problem::dilation, "dilation"},
    {&Interface::groups, &Problem::groups, "groups"},
}};

// SplitMix64 (Steele, Lea, Flood 2014): every seed, 0 and neighbours included, starts a stream of its own,
// and unlike <random>'s distributions the same on every standard library.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) : state_(seed) { state_ = next() ^ (stream * 0xd1342543de82ef95u); }

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)
  std::int64_t between(std::int64_t low, std::int64_t high) {            // both included
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(double probability) { return unit() < probability; }
  double normal() { return std::sqrt(-2 * std::log(1 - unit())) * std::cos(2 * std::numbers::pi * unit()); }
  // Small values as likely as large ones.
  std::int64_t log_between(std::int64_t low, std::int64_t high) {
    const double bits = std::log2(static_cast<double>(high + 1) / static_cast<double>(low));
    return std::min(high, static_cast<std::int64_t>(static_cast<double>(low) * std::exp2(bits * unit())));
  }

 private:
  std::uint64_t state_;
};

enum Stream : std::uint64_t { kOptions = 1, kShape = 2, kValues = 3, kActivations = 4, kAlphas = 5 };

std::optional<std::int64_t> integer(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::int64_t cdiv(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Roughly the block operations Triton's interpreter must step through, at some 0.3 ms each.
std::int64_t interpreter_steps(const Workload& workload, std::int64_t out, bool one_channel_per_program) {
  const Problem& p = workload.problem;
  const std::int64_t batch = std::max<std::int64_t>(workload.extent.batch, 1);
  const std::int64_t in_group = p.c_in / p.groups;
  if (one_channel_per_program) return batch * p.c_out * cdiv(out, 128) * in_group * p.kernel;
  return 3 * batch * p.groups * cdiv(p.c_out / p.groups, 16) * cdiv(out, 64) * cdiv(in_group, 16) * p.kernel;
}

constexpr std::int64_t kMaxSteps = 3000;

double largest(std::span<const double> values) {
  double result = 0;
  for (const double v : values) result = std::max(result, std::fabs(v));
  return result;
}

// snake's alphas: small enough that the sine's argument stays below 2000, within what its error is stated for.
void make_alphas(const Case& c, Tensors& t) {
  Random random(c.seed, kAlphas);
  const Problem& p = c.workload.problem;
  const auto draw = [&](std::int64_t channels, double reach) {
    std::vector<double> alphas(static_cast<std::size_t>(channels));
    for (double& alpha : alphas)
      alpha =
          round_to_storage((0.2 + 1.8 * random.unit()) * std::min(1.0, 1000 / std::max(reach, 1.0)), Arithmetic::f32);
    return alphas;
  };
  double reach = largest(t.x);
  if (c.before == Activation::snake) {
    t.x_alpha = draw(p.c_in, reach);
    reach += 1 / *std::ranges::min_element(t.x_alpha);
  }
  reach *= std::max(1.0, std::fabs(c.before_parameter));
  if (c.after == Activation::snake)
    t.y_alpha = draw(p.c_out, reach * largest(t.w) * static_cast<double>(products_per_output(p)) + largest(t.bias));
}

}  // namespace

std::string_view name(Layout layout) noexcept {
  constexpr std::array<std::string_view, 5> kNames{"contiguous", "transposed", "sliced", "strided", "expanded"};
  return kNames[static_cast<std::size_t>(layout)];
}

std::string_view name(Data data) noexcept {
  constexpr std::array<std::string_view, 3> kNames{"integers", "normal", "spread"};
  return kNames[static_cast<std::size_t>(data)];
}

std::map<std::string, std::int64_t> Interface::arguments(const Problem& problem) const {
  std::map<std::string, std::int64_t> result;
  for (const Field& field : kFields) {
    if (const Role& role = this->*field.role; role.free()) result[role.argument] = problem.*field.value;
  }
  if (bias.free()) result[bias.argument] = problem.bias ? 1 : 0;
  return result;
}

std::optional<std::string> Interface::refuse(const Problem& problem) const {
  for (const Field& field : kFields) {
    const Role& role = this->*field.role;
    if (!role.free() && role.fixed != problem.*field.value) {
      return "the constructor fixes " + std::string(field.name) + " at " + std::to_string(role.fixed);
    }
  }
  if (!bias.free() && (bias.fixed != 0) != problem.bias) {
    return bias.fixed != 0 ? "the constructor always makes a bias" : "the constructor makes no bias";
  }
  return std::nullopt;
}

Interface read_interface(const request::Code& code) {
  Interface result;
  const request::Module& module = code.module;
  const std::array<std::pair<Interface::Role Interface::*, const std::string*>, 5> fixed{{
      {&Interface::stride, &module.stride},
      {&Interface::padding, &module.padding},
      {&Interface::output_padding, &module.output_padding},
      {&Interface::dilation, &module.dilation},
      {&Interface::groups, &module.groups},
  }};
  for (const auto& [role, expression] : fixed) {
    if (const auto value = integer(*expression)) (result.*role).fixed = *value;
  }
  result.bias.fixed = module.bias_possible ? 1 : 0;
  for (const request::Parameter& parameter : module.parameters) {
    const auto alias = std::find_if(kAliases.begin(), kAliases.end(), [&](const Alias& a) {
      return std::find(a.names.begin(), a.names.end(), parameter.name) != a.names.end();
    });
    if (alias != kAliases.end()) {
      (result.*(alias->role)).argument = parameter.name;
    } else if (parameter.default_value.empty()) {
      throw Error(Exit::unsupported, module.class_name + ".__init__",
                  "argument '" + parameter.name + "' has no known role", "a constructor like nn.ConvTranspose1d's");
    }
  }
  for (const Field& field : {kFields[0], kFields[1], kFields[2]}) {
    if (!(result.*field.role).free()) {
      throw Error(Exit::unsupported, module.class_name + ".__init__", "has no argument for " + std::string(field.name),
                  "a constructor like nn.ConvTranspose1d's");
    }
  }
  result.arithmetics = {Arithmetic::f32, Arithmetic::tf32, Arithmetic::f16, Arithmetic::bf16};
  if (code.admits_i32) result.arithmetics.push_back(Arithmetic::i32);
  result.one_channel_per_program =
      std::any_of(code.kernels.begin(), code.kernels.end(), [](const request::Kernel& k) { return !k.uses_dot; });
  return result;
}

Case make_case(const Workload& workload, std::uint64_t seed) {
  Random random(seed, kOptions);
  Case c{.workload = workload, .seed = seed};
  c.data = random.chance(0.5) ? Data::integers : random.chance(0.75) ? Data::normal : Data::spread;
  if (workload.problem.arithmetic == Arithmetic::i32) c.data = Data::integers;
  if (random.chance(0.4)) c.layout = static_cast<Layout>(random.between(1, 4));
  c.config = static_cast<std::uint32_t>(random.next() >> 32);
  c.repeat = random.chance(0.125);
  return c;
}

void draw_activations(Case& c) {
  Random random(c.seed, kActivations);
  if (random.chance(0.5)) return;
  const bool integers = c.workload.problem.arithmetic == Arithmetic::i32;
  const auto draw = [&](Activation& activation, double& parameter) {
    if (random.chance(0.4)) return;
    activation = integers ? Activation::relu : static_cast<Activation>(random.between(1, 6));
    if (activation == Activation::leaky_relu || activation == Activation::elu)
      parameter = std::array{0.01, 0.1, 0.2, 1.0, 1.5}[static_cast<std::size_t>(random.between(0, 4))];
  };
  draw(c.before, c.before_parameter);
  draw(c.after, c.after_parameter);
}

Workload draw_workload(const Interface& interface, const Ranges& ranges, std::uint64_t seed) {
  Random random(seed, kShape);
  const std::int64_t budget = random.log_between(30, kMaxSteps);
  auto choose = [&](const Interface::Role& role, auto draw) { return role.free() ? draw() : role.fixed; };
  constexpr int kAttempts = 100000;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Workload workload;
    Problem& p = workload.problem;
    p.groups = choose(interface.groups, [&] { return random.chance(0.6) ? 1 : random.between(2, 5); });
    const bool depthwise = p.groups > 1 && random.chance(0.25);
    const std::int64_t widest = random.chance(0.1) ? 150 : 40;
    p.c_in = p.groups * (depthwise ? 1 : random.log_between(1, widest));
    p.c_out = p.groups * (depthwise ? 1 : random.log_between(1, widest));
    p.kernel = random.between(1, 17);
    p.stride = choose(interface.stride, [&] {
      // Neighbouring seeds take turns, so that a fault at one stride in many is met.
      return 1 + static_cast<std::int64_t>(seed % static_cast<std::uint64_t>(ranges.max_stride));
    });
    p.dilation = choose(interface.dilation, [&] { return random.between(1, 4); });
    p.padding = choose(interface.padding, [&] {
      return random.chance(0.4) ? 0 : random.between(0, p.dilation * (p.kernel - 1) + (random.chance(0.1) ? 9 : 0));
    });
    p.output_padding = choose(interface.output_padding, [&] {
      return random.chance(0.4) ? 0 : random.between(0, std::max(p.stride, p.dilation) - 1);
    });
    p.arithmetic = ranges.arithmetics[static_cast<std::size_t>(
        random.between(0, static_cast<std::int64_t>(ranges.arithmetics.size()) - 1))];
    p.bias = interface.bias.free() ? random.chance(0.5) : interface.bias.fixed != 0;
    workload.extent.batch = random.chance(0.05) ? 0 : random.between(1, 3);
    workload.extent.length = random.chance(0.08) ? 1 : random.log_between(1, 400);
    if (refuse(p, workload.extent)) continue;
    if (interpreter_steps(workload, out_length(p, workload.extent.length), interface.one_channel_per_program) <=
        budget) {
      return workload;
    }
  }
  throw Error(Exit::unsupported, "verify", "found no small problem that the constructor admits", "");
}

Tensors make_tensors(const Case& c) {
  Random random(c.seed, kValues);
  const Problem& p = c.workload.problem;
  const Arithmetic arithmetic = p.arithmetic;
  const bool narrow = arithmetic == Arithmetic::f16;

  // Integers: every partial sum stays below 2^24, exact in f32. i32 goes through its whole range, wrapping
  // around, with sums that are still exact in the float64 reference.
  const double terms = static_cast<double>(products_per_output(p) + 1);
  const double largest = arithmetic == Arithmetic::i32 ? std::sqrt(0x1p52 / terms) : std::sqrt(0x1p24 / terms);
  const auto amplitude = random.log_between(
      1, std::max<std::int64_t>(
             1, static_cast<std::int64_t>(std::min(largest, arithmetic == Arithmetic::i32 ? 0x1p30 : 64.0))));
  const double scale =
      std::exp2(static_cast<double>(random.chance(0.5) ? 0 : random.between(narrow ? -6 : -10, narrow ? 4 : 10)));
  const std::int64_t spread = narrow ? 5 : 12;

  auto fill = [&](std::int64_t count, double factor) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& v : values) {
      switch (c.data) {
        case Data::integers:
          v = static_cast<double>(random.between(-amplitude, amplitude));
          break;
        case Data::normal:
          v = factor * random.normal();
          break;
        case Data::spread:
          v = random.chance(0.1) ? 0
                                 : random.normal() * std::exp2(static_cast<double>(random.between(-spread, spread)));
          break;
      }
      v = round_to_storage(v, arithmetic);
    }
    return values;
  };
  Tensors t;
  t.x = fill(input_elements(c.workload), scale);
  t.w = fill(weight_elements(p), 1);
  if (p.bias) t.bias = fill(p.c_out, scale);
  if (c.layout == Layout::expanded) {  // every batch is the same memory
    const std::size_t one = static_cast<std::size_t>(p.c_in * c.workload.extent.length);
    for (std::size_t i = one; i < t.x.size(); ++i) t.x[i] = t.x[i - one];
  }
  make_alphas(c, t);
  return t;
}

}  // namespace tconv::verify
