#include "cuda/emit.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "cuda/compile.hpp"
#include "cuda/layer.hpp"
#include "cuda/plan.hpp"
#include "embedded/binding_cuh.hpp"
#include "embedded/drop_in_py.hpp"
#include "embedded/kernels.hpp"
#include "embedded/launcher_cuh.hpp"
#include "problem/grammar.hpp"
#include "request/drop_in.hpp"
#include "util/error.hpp"
#include "util/sha256.hpp"
#include "util/text.hpp"

namespace tconv::cuda {
namespace {

// --- headers --------------------------------------------------------------------------------------

// A text that includes headers of kernels/ by bare name: those names, and the text without their lines.
struct Split {
  std::vector<std::string> includes;
  std::string rest;
};

Split split_includes(std::string_view text) {
  Split split;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end);
    if (line.starts_with("#include \"")) {
      split.includes.emplace_back(line.substr(10, line.rfind('"') - 10));
    } else if (!line.starts_with("#pragma once") && !(line == "\n" && split.rest.ends_with("\n\n"))) {
      split.rest += line;
    }
  }
  return split;
}

// Every header once, after those that it includes.
class Headers {
 public:
  void add(const std::vector<std::string>& names) {
    for (const std::string& name : names) {
      if (!known_.insert(name).second) continue;
      const auto header = std::ranges::find(embedded::kernels, name, &embedded::Kernel::name);
      if (header == std::end(embedded::kernels))
        throw Error(Exit::defect, "emit", fmt::format("no header is named {}", printable(name)), "");
      const Split split = split_includes(header->text);
      add(split.includes);
      text_ +=
          fmt::format("// --- {} {:-<{}}\n\n{}\n", name, "", 92 - std::min<std::size_t>(name.size(), 80), split.rest);
    }
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::set<std::string> known_;
  std::string text_;
};

// --- a schedule's grid ----------------------------------------------------------------------------

// A solver's launch in closed form: min(batch * ceil(positions / Schedule::positions) * tiles, most) blocks.
struct Grid {
  std::int64_t tiles = 0;  // of one sample of the batch and one tile's positions
  std::int64_t most = 0;
  Launch launch;  // but for its blocks
};

// The least length that has an output, and with it the positions that a length touches: one more sample, one more.
std::int64_t least_length(const Problem& p) {
  const std::int64_t first = out_length(p, 1);
  return first >= 1 ? 1 : 1 + ceil_div(1 - first, p.stride);
}
Workload of_positions(const Problem& p, std::int64_t count) {
  const Workload least{p, {.batch = 1, .length = least_length(p)}};
  return {p, {.batch = 1, .length = least.extent.length + std::max<std::int64_t>(0, count - positions(least))}};
}

// Read off the solver's own `launch` and held against it, so that its arithmetic stands in one place. Every solver
// gives a block as many positions as its schedule says, and caps the grid or does not. Where it does, blocks take tiles
// in turn and those without one do nothing, so a solver that needs fewer, as images share a tile, is served as well.
Grid grid_of(const Solver& solver, const Problem& problem, const Target& target, const Schedule& schedule) {
  const auto along = [&](const Workload& workload) { return ceil_div(positions(workload), schedule.positions); };
  const auto launch = [&](const Workload& workload) { return solver.launch(workload, target, schedule); };
  const Workload least = of_positions(problem, 1);
  Workload huge = of_positions(problem, std::int64_t{1} << 20);
  huge.extent.batch = std::int64_t{1} << 20;
  Grid grid{.tiles = 0, .most = launch(huge).blocks, .launch = launch(least)};
  huge.extent.batch *= 2;
  const bool capped = launch(huge).blocks == grid.most;
  grid.tiles = ceil_div(grid.launch.blocks, along(least));
  for (const std::int64_t batch : {1, 3, 64}) {
    for (const std::int64_t count : {1, 7, 300, 5000, 100001, 4000000}) {
      Workload probe = of_positions(problem, count);
      probe.extent.batch = batch;
      const Launch due = launch(probe);
      const std::int64_t blocks = std::min(batch * along(probe) * grid.tiles, grid.most);
      if (due.blocks > blocks || (due.blocks < blocks && !capped) || due.threads != grid.launch.threads ||
          due.shared_bytes != grid.launch.shared_bytes || due.cluster != grid.launch.cluster)
        throw Error(Exit::defect, std::string(solver.name), "launches by another rule than batch, positions and a cap",
                    "answer.cu computes its grid from these");
    }
  }
  return grid;
}

// --- a layer in one arithmetic ----------------------------------------------------------------------

// From how many positions of the whole batch on which of the schedules is predicted fastest: at each power of two, for
// one sample, and at the workload itself.
using Ranges = std::vector<std::pair<std::int64_t, std::size_t>>;
Ranges ranges_of(const Solver& solver, const std::vector<Schedule>& schedules, const Workload& workload,
                 const Target& target) {
  std::map<std::int64_t, std::size_t> at;
  constexpr int kMostPositions = 24;  // log2; above, nothing changes any more
  for (int j = 0; j <= kMostPositions; ++j) {
    const Workload sample = of_positions(workload.problem, std::int64_t{1} << j);
    at.insert({positions(sample), fastest(solver, schedules, sample, target)});
  }
  at.insert_or_assign(workload.extent.batch * positions(workload), fastest(solver, schedules, workload, target));
  Ranges ranges;
  for (const auto& [count, index] : at) {
    if (ranges.empty() || ranges.back().second != index) ranges.emplace_back(ranges.empty() ? 0 : count, index);
  }
  return ranges;
}

const char* boolean(bool value) { return value ? "true" : "false"; }

// Everything between the headers and the launcher.
struct Text {
  std::string solver;
  double seconds = 0;
  std::vector<std::string> includes{};
  std::string text{};
};

// A solver's text beside those of its other schedules: its entries have their names in a namespace of its own, and an
// image of the weights is packed by one of those that read it.
std::string kernel_source(std::string source, bool packs) {
  constexpr std::string_view kLinkage = "extern \"C\" __global__";
  for (std::size_t at = 0; (at = source.find(kLinkage, at)) != std::string::npos;)
    source.replace(at, kLinkage.size(), "__global__");
  if (const std::size_t at = source.find("\n__global__ void pack("); !packs && at != std::string::npos)
    source.erase(at, source.find("\n}\n", at) + 3 - at);
  while (source.starts_with('\n')) source.erase(0, 1);
  return source;
}

constexpr std::string_view kLaunch = R"(struct Launch {
  long long from;  // positions of the whole batch, from which on it is predicted to be the fastest
  void (*run)(tconv::Call);
  long long positions;  // of a tile
  long long tiles;      // of one sample of the batch and so many positions
  long long blocks;     // at most; of each multiprocessor where the blocks are persistent
  bool persistent;
  int threads, shared_bytes, cluster;
  int image;  // of the weights
};
)";
constexpr std::string_view kImage = R"(// The weights as some of the schedules read them.
struct Image {
  void (*pack)(tconv::Pack);
  long long offset;  // bytes into the packed weights
  unsigned blocks, threads;
};
)";

Text text_of(const Workload& workload, const Target& target) {
  const Problem& p = workload.problem;
  Problem other = p;
  other.bias = !p.bias;
  const Choice choice = choose_solver(p, target);
  const Solver& solver = *choice.solver;
  const Schedule& chosen = choice.schedules[fastest(solver, choice.schedules, workload, target)];
  // A kernel whose text does not depend on the bias sees at run time whether there is one.
  const bool either =
      !solver.refuse(other, target) && solver.source({p}, target, chosen) == solver.source({other}, target, chosen);

  Text out{.solver = std::string(solver.name), .seconds = solver.seconds(workload, target, chosen)};
  std::string schedules, launches, images;
  std::vector<std::size_t> named;   // schedules, by their number in the text
  std::vector<std::size_t> packed;  // a schedule of each image
  std::int64_t packed_bytes = 0;
  const auto number_in = [](auto& known, auto same) {
    return static_cast<std::size_t>(std::ranges::find_if(known, same) - known.begin());
  };
  const auto sms = static_cast<std::int64_t>(target.sms.value);
  for (const auto& [from, index] : ranges_of(solver, choice.schedules, workload, target)) {
    const Schedule& schedule = choice.schedules[index];
    const std::size_t number = number_in(named, [&, at = index](std::size_t i) { return i == at; });
    const std::size_t image =
        number_in(packed, [&](std::size_t i) { return same_image(solver, p, choice.schedules[i], schedule); });
    const bool packs = image == packed.size();
    if (packs) {
      packed.push_back(index);
      const Launch pack = solver.pack_launch(p, schedule);
      images +=
          fmt::format("    {{schedule_{}::pack, {}, {}, {}}},\n", number, packed_bytes, pack.blocks, pack.threads);
      constexpr std::int64_t kAlignment = 256;
      packed_bytes = ceil_div(packed_bytes + solver.packed_bytes(p, schedule), kAlignment) * kAlignment;
    }
    if (number == named.size()) {
      named.push_back(index);
      Split source = split_includes(solver.source({p}, target, schedule));
      out.includes = std::move(source.includes);
      schedules += fmt::format("// {}\nnamespace schedule_{} {{\n\n{}\n}}  // namespace schedule_{}\n\n",
                               print(schedule), number, kernel_source(std::move(source.rest), packs), number);
    }
    const Grid grid = grid_of(solver, p, target, schedule);
    const std::int64_t each = ceil_div(grid.most, sms);  // of a multiprocessor, less what fills no cluster
    const bool persistent = each <= 64 && each * sms / grid.launch.cluster * grid.launch.cluster == grid.most;
    launches += fmt::format("    {{{}, schedule_{}::run, {}, {}, {}, {}, {}, {}, {}, {}}},\n", from, number,
                            schedule.positions, grid.tiles, persistent ? each : grid.most, boolean(persistent),
                            grid.launch.threads, grid.launch.shared_bytes, grid.launch.cluster, image);
  }
  out.text = fmt::format(
      "// --- the layer {:-<83}\n\n"
      "struct Sizes {{\n"
      "  static constexpr long long C_IN = {}, C_OUT = {}, GROUPS = {}, K = {};\n"
      "  static constexpr long long STRIDE = {}, PADDING = {}, OUTPUT_PADDING = {}, DILATION = {};\n"
      "  static constexpr bool TAKES_BIAS = {}, NEEDS_BIAS = {};\n"
      "  static constexpr long long PACKED_BYTES = {};\n"
      "}};\n\n"
      "{}{}\nstatic const Launch LAUNCHES[] = {{\n{}}};\n\n{}\nstatic const Image IMAGES[] = {{\n{}}};\n\n",
      "", p.c_in, p.c_out, p.groups, p.kernel, p.stride, p.padding, p.output_padding, p.dilation,
      boolean(either || p.bias), boolean(!either && p.bias), packed_bytes, schedules, kLaunch, launches, kImage,
      images);
  return out;
}

// --- the files ------------------------------------------------------------------------------------

// A chip's own instructions are for it alone; other code also runs on what comes after.
std::vector<std::string> architecture_flags(const Target& target) {
  const std::string name = architecture_of(target.sm).substr(3);
  std::vector<std::string> flags{fmt::format("-gencode=arch=compute_{},code=sm_{}", name, name)};
  if (!name.ends_with('a')) flags.push_back(fmt::format("-gencode=arch=compute_{},code=compute_{}", name, name));
  return flags;
}

std::string describe(const Problem& p) {
  return fmt::format("ConvTranspose1d({}, {}, {}, stride={}, padding={}, output_padding={}, dilation={}, groups={})",
                     p.c_in, p.c_out, p.kernel, p.stride, p.padding, p.output_padding, p.dilation, p.groups);
}

std::string literal(const std::string& text) {
  if (text.find("\"\"\"") != std::string::npos || text.ends_with('\\'))
    throw Error(Exit::defect, "emit", "a kernel's text ends Python's string", "");
  return "r\"\"\"" + text + "\"\"\"";
}

const char* python(bool value) { return value ? "True" : "False"; }

std::string drop_in(const request::Module& module, const Workload& workload, const Target& target) {
  const Problem& planned = workload.problem;
  std::vector<Arithmetic> arithmetics{Arithmetic::tf32, Arithmetic::f32, Arithmetic::f16, Arithmetic::bf16,
                                      Arithmetic::f64};
  if (planned.arithmetic == Arithmetic::i32) arithmetics.push_back(Arithmetic::i32);
  Headers headers;
  std::map<std::string, std::string> known;  // a text -> its name
  std::string kernels, text_of_arithmetic, first;
  for (const Arithmetic arithmetic : arithmetics) {
    for (const bool bias : {false, true}) {
      if (bias != planned.bias && !module.has_bias) continue;
      Workload one = workload;
      one.problem.arithmetic = arithmetic;
      one.problem.bias = bias;
      const Text text = text_of(one, target);
      headers.add(text.includes);
      const auto [at, added] = known.insert({text.text, fmt::format("{}{}", name(arithmetic), bias ? "_bias" : "")});
      if (added) kernels += fmt::format("    \"{}\": {},\n", at->second, literal(text.text));
      text_of_arithmetic += fmt::format("    (\"{}\", {}): \"{}\",\n", name(arithmetic), python(bias), at->second);
      if (arithmetic == planned.arithmetic && bias == planned.bias) first = at->second;
    }
  }
  const std::string binding(embedded::binding_cuh), launcher(embedded::launcher_cuh);
  const std::string digest = hex(sha256(headers.text() + kernels + launcher + binding)).substr(0, 12);
  std::vector<std::string> flags = architecture_flags(target);
  for (std::string& flag : flags) flag = '"' + flag + '"';

  std::string text(embedded::drop_in_py);
  replace_line(
      text, "# @about",
      fmt::format("# {}\n# for {}: every batch and length, and no other layer.\n", describe(planned), target.display));
  replace_line(text, "# @headers", fmt::format("HEADERS = {}\n", literal(headers.text())));
  replace_line(text, "# @kernels", fmt::format("KERNELS = {{\n{}}}\n", kernels));
  replace_line(text, "# @text_of", fmt::format("TEXT_OF = {{\n{}}}\n", text_of_arithmetic));
  replace_line(text, "# @launcher", fmt::format("LAUNCHER = {}\n", literal(launcher)));
  replace_line(text, "# @binding", fmt::format("BINDING = {}\n", literal(binding)));
  replace_line(text, "# @layer",
               fmt::format("LAYER = ({}, {}, {}, {}, {}, {}, {}, {})\n", planned.c_in, planned.c_out / planned.groups,
                           planned.kernel, planned.stride, planned.padding, planned.output_padding, planned.dilation,
                           planned.groups));
  replace_line(text, "# @architecture", fmt::format("ARCHITECTURE = [{}]\n", fmt::join(flags, ", ")));
  replace_line(text, "# @digest", fmt::format("            name=\"tconv_\" + text + \"_{}\",\n", digest));
  replace_line(text, "# @first", fmt::format("extension(\"{}\")\n", first));
  return text + request::module_class(module, "require_layer");
}

}  // namespace

Answer emit(const request::Module& module, const Workload& workload, const Target& target) {
  Workload own = workload;
  if (!module.has_bias) own.problem.bias = module.bias_possible;
  const Text text = text_of(own, target);
  Headers headers;
  headers.add(text.includes);
  return {.solver = text.solver,
          .seconds = text.seconds,
          .source = fmt::format("// {}\n"
                                "// in {}, for {} by tconv's solver {}; every batch and length.\n"
                                "//\n"
                                "//     nvcc -c -O3 {} answer.cu\n"
                                "//\n"
                                "// The functions to call are at the end.\n\n"
                                "#include <cuda_runtime.h>\n\n"
                                "{}{}{}",
                                describe(own.problem), name(own.problem.arithmetic), target.display, text.solver,
                                fmt::join(architecture_flags(target), " "), headers.text(), text.text,
                                embedded::launcher_cuh),
          .drop_in = drop_in(module, own, target)};
}

}  // namespace tconv::cuda
