// tconv run WORD --x x.npy --w w.npy --out y.npy: one layer on the CPU, from files to a file.
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cpu/plan.hpp"
#include "device.hpp"
#include "problem/grammar.hpp"
#include "problem/layer.hpp"
#include "report/format.hpp"
#include "shared.hpp"
#include "util/error.hpp"
#include "util/files.hpp"
#include "util/npy.hpp"
#include "util/text.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::string word;
  std::string x, w, bias, out;
  std::string before, after;
  std::string solver;
  int threads = 1;
  bool json = false;
};

NpyType storage(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f16:
      return NpyType::f2;
    case Arithmetic::f64:
      return NpyType::f8;
    case Arithmetic::i32:
      return NpyType::i4;
    case Arithmetic::bf16:
      throw Error(Exit::unsupported, "bf16", "cannot be read from files",
                  ".npy has no type for bfloat16; f32 holds it");
    case Arithmetic::f32:
    case Arithmetic::tf32:
      break;
  }
  return NpyType::f4;
}

NpyArray read_tensor(const std::string& path, NpyType type) {
  NpyArray array = read_npy(path, static_cast<std::size_t>(machine_memory()));
  if (array.type != type)
    throw Error(Exit::usage, printable(path, 200), fmt::format("holds {}", name(array.type)),
                fmt::format("the word's arithmetic takes {}", name(type)));
  return array;
}

NpyArray read_tensor(const std::string& path, NpyType type, const std::vector<std::int64_t>& shape) {
  NpyArray array = read_tensor(path, type);
  if (array.shape != shape)
    throw Error(Exit::usage, printable(path, 200), fmt::format("has the shape {}", print_shape(array.shape)),
                fmt::format("the word takes {}", print_shape(shape)));
  return array;
}

// --before and --after: a name, and behind a colon a number or, for snake, a file.
struct Chosen {
  Activation activation = Activation::none;
  double parameter = 0;
  std::optional<NpyArray> alpha;
};

Chosen choose_activation(const std::string& option, const std::string& given, Arithmetic arithmetic,
                         std::int64_t channels) {
  constexpr const char* kRule = "relu, leaky_relu:0.01, elu:1, gelu, tanh or snake:alpha.npy";
  const auto refuse = [&](std::string_view what) -> Error {
    return {Exit::usage, option, fmt::format("'{}' {}", printable(given), what), kRule};
  };
  Chosen chosen;
  if (given.empty()) return chosen;
  const std::size_t colon = given.find(':');
  const std::optional<Activation> activation = activation_named(given.substr(0, colon));
  if (!activation) throw refuse("is no activation");
  chosen.activation = *activation;
  const std::string argument = colon == std::string::npos ? "" : given.substr(colon + 1);
  const bool takes_number = *activation == Activation::leaky_relu || *activation == Activation::elu;
  if (*activation == Activation::snake) {
    if (argument.empty()) throw refuse("names no file of alphas");
    chosen.alpha = read_tensor(argument, arithmetic == Arithmetic::f64 ? NpyType::f8 : NpyType::f4, {channels});
  } else if (takes_number) {
    chosen.parameter = *activation == Activation::elu ? 1 : 0.01;  // PyTorch's own
    if (colon == std::string::npos) return chosen;
    const auto [end, code] = std::from_chars(argument.data(), argument.data() + argument.size(), chosen.parameter);
    if (code != std::errc() || end != argument.data() + argument.size() || !std::isfinite(chosen.parameter))
      throw refuse("has no number behind the colon");
  } else if (colon != std::string::npos) {
    throw refuse("takes nothing behind a colon");
  }
  return chosen;
}

const void* data(const std::optional<NpyArray>& array) { return array ? array->data.data() : nullptr; }

Exit run(const Options& options) {
  const Problem p = parse_word(options.word).workload.problem;
  const NpyType type = storage(p.arithmetic);
  require_writable(options.out);
  if (p.bias != !options.bias.empty())
    throw Error(Exit::usage, "--bias", p.bias ? "is missing" : "is given",
                p.bias ? "the word has a bias" : "the word has none; _bias at its end adds one");

  const NpyArray x = read_tensor(options.x, type);
  const bool batched = x.shape.size() == 3;
  if ((!batched && x.shape.size() != 2) || x.shape[batched ? 1 : 0] != p.c_in)
    throw Error(Exit::usage, printable(options.x, 200), fmt::format("has the shape {}", print_shape(x.shape)),
                fmt::format("the word takes (B, {0}, L) or ({0}, L)", p.c_in));
  const NpyArray w = read_tensor(options.w, type, {p.c_in, p.c_out / p.groups, p.kernel});
  std::optional<NpyArray> bias;
  if (p.bias) bias = read_tensor(options.bias, type, {p.c_out});
  const Chosen before = choose_activation("--before", options.before, p.arithmetic, p.c_in);
  const Chosen after = choose_activation("--after", options.after, p.arithmetic, p.c_out);

  const Workload workload{.problem = p, .extent = {.batch = batched ? x.shape[0] : 1, .length = x.shape.back()}};
  require_valid(p, workload.extent);
  require_memory(workload);
  const cpu::Plan plan({.problem = p,
                        .before = before.activation,
                        .after = after.activation,
                        .before_parameter = before.parameter,
                        .after_parameter = after.parameter},
                       options.solver);
  const HostMemory packed(static_cast<std::size_t>(plan.packed_bytes()));
  const std::int64_t out = out_length(p, workload.extent.length);
  const HostMemory y(static_cast<std::size_t>(output_elements(workload) * bytes_per_element(type)));
  const std::vector<std::int64_t> x_strides = x.strides(), w_strides = w.strides();

  const double pack_seconds = wall_seconds([&] {
    plan.pack({.w = w.data.data(),
               .packed = packed.at(0),
               .stride_in = w_strides[0],
               .stride_out = w_strides[1],
               .stride_k = w_strides[2]},
              options.threads);
  });
  const double seconds = wall_seconds([&] {
    plan.run({.x = x.data.data(),
              .w = packed.at(0),
              .bias = data(bias),
              .y = y.at(0),
              .batch = workload.extent.batch,
              .length = workload.extent.length,
              .out_length = out,
              .x_stride_b = batched ? x_strides[0] : 0,
              .x_stride_c = x_strides[batched ? 1 : 0],
              .x_stride_t = x_strides.back(),
              .y_stride_b = p.c_out * out,
              .y_stride_c = out,
              .x_alpha = data(before.alpha),
              .y_alpha = data(after.alpha)},
             options.threads);
  });
  std::vector<std::int64_t> shape = {p.c_out, out};
  if (batched) shape.insert(shape.begin(), workload.extent.batch);
  write_file(options.out, {npy_header(type, shape), {static_cast<const char*>(y.at(0)), y.bytes()}});

  const nlohmann::ordered_json json = {{"out", printable(options.out, 4000)},
                                       {"shape", shape},
                                       {"type", std::string(name(type))},
                                       {"workload", print_word(workload)},
                                       {"solver", std::string(plan.solver().name)},
                                       {"threads", options.threads},
                                       {"pack_seconds", pack_seconds},
                                       {"seconds", seconds}};
  print_result(options.json ? json.dump(2)
                            : fmt::format("{}: {} of {}, by {} on {} thread{} in {}", printable(options.out, 200),
                                          print_shape(shape), name(type), plan.solver().name, options.threads,
                                          options.threads == 1 ? "" : "s", report::seconds_text(seconds)));
  return Exit::ok;
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("run", "Run one layer on the CPU, from .npy files to one");
  verb->add_option("WORD", options->word, "The layer; batch and length are those of x")->required();
  verb->add_option("--x", options->x, "The input, (B, C_in, L) or (C_in, L)")->required();
  verb->add_option("--w", options->w, "The weights, (C_in, C_out/groups, K)")->required();
  verb->add_option("--bias", options->bias, "The bias, (C_out,)");
  verb->add_option("--out", options->out, "Where the output goes, in place of a file that is there")->required();
  verb->add_option("--before", options->before, "relu, leaky_relu:0.1, elu:1, gelu, tanh or snake:alpha.npy, of x");
  verb->add_option("--after", options->after, "Likewise, of the output");
  verb->add_option("--solver", options->solver, "This solver instead of the first that serves the layer");
  add_threads(verb, options->threads);
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
