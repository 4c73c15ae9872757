#include "request/code.hpp"

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "embedded/read_code_py.hpp"
#include "util/error.hpp"
#include "util/subprocess.hpp"
#include "util/text.hpp"

namespace tconv::request {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kTimeout{20};
// The reader and the code it reads share standard input: an argument may hold no more than 128 KiB.
constexpr std::string_view kBootstrap =
    "import sys; exec(compile(sys.stdin.buffer.read(int(sys.argv[1])).decode(), 'read_code.py', 'exec'))";

std::string place(const std::string& path, int first_line, int line) {
  if (line <= 0) return path.empty() ? "code" : fmt::format("{}:{}", path, first_line);
  return fmt::format("{}:{}", path.empty() ? "code" : path, first_line + line - 1);
}

template <typename T>
T field(const json& object, const char* key) {
  return object.at(key).get<T>();
}

GridSize grid_size(std::string_view name) {
  constexpr std::array<std::pair<std::string_view, GridSize>, 10> kSizes{{{"one", GridSize::one},
                                                                          {"batch", GridSize::batch},
                                                                          {"c_out", GridSize::c_out},
                                                                          {"c_in", GridSize::c_in},
                                                                          {"out_length", GridSize::out_length},
                                                                          {"in_length", GridSize::in_length},
                                                                          {"stride", GridSize::stride},
                                                                          {"groups", GridSize::groups},
                                                                          {"constant", GridSize::constant},
                                                                          {"unknown", GridSize::unknown}}};
  for (const auto& [text, size] : kSizes) {
    if (text == name) return size;
  }
  throw Error(Exit::defect, "read_code.py", fmt::format("names a grid size {}", printable(name)), "");
}

Finding::Severity severity(std::string_view name) {
  if (name == "wrong_result") return Finding::Severity::wrong_result;
  if (name == "limitation") return Finding::Severity::limitation;
  if (name == "performance") return Finding::Severity::performance;
  return Finding::Severity::note;
}

Kernel kernel_from(const json& object) {
  Kernel kernel;
  kernel.name = field<std::string>(object, "name");
  kernel.line = field<int>(object, "line");
  kernel.parameters = field<std::vector<std::string>>(object, "parameters");
  kernel.constexprs = field<std::vector<std::string>>(object, "constexprs");
  for (const json& config : object.at("autotune")) {
    kernel.autotune.push_back({field<std::map<std::string, std::int64_t>>(config, "meta"),
                               field<int>(config, "num_warps"), field<int>(config, "num_stages")});
  }
  kernel.autotune_key = field<std::vector<std::string>>(object, "autotune_key");
  kernel.uses_dot = field<bool>(object, "uses_dot");
  kernel.dot_precision = field<std::string>(object, "dot_precision");
  kernel.uses_atomics = field<bool>(object, "uses_atomics");
  kernel.float_index_arithmetic = field<bool>(object, "float_index_arithmetic");
  kernel.division_in_loop = field<bool>(object, "division_in_loop");
  kernel.scans_all_taps = field<bool>(object, "scans_all_taps");
  kernel.int64_offsets = field<bool>(object, "int64_offsets");
  kernel.masks_loads = field<bool>(object, "masks_loads");
  kernel.masks_stores = field<bool>(object, "masks_stores");
  kernel.activations = field<std::vector<std::string>>(object, "activations");
  return kernel;
}

Launch launch_from(const json& object) {
  Launch launch;
  launch.kernel = field<std::string>(object, "kernel");
  for (const json& axis : object.at("grid")) {
    GridAxis& made = launch.grid.emplace_back();
    for (const json& factor : axis.at("factors")) {
      made.factors.push_back({grid_size(field<std::string>(factor, "size")), field<std::int64_t>(factor, "constant"),
                              field<std::string>(factor, "block"), field<std::int64_t>(factor, "block_value")});
    }
  }
  launch.grid_text = field<std::string>(object, "grid_text");
  launch.meta = field<std::map<std::string, std::int64_t>>(object, "meta");
  launch.num_warps = field<int>(object, "num_warps");
  launch.num_stages = field<int>(object, "num_stages");
  return launch;
}

Module module_from(const json& object) {
  Module module;
  module.class_name = field<std::string>(object, "class_name");
  for (const json& parameter : object.at("parameters")) {
    module.parameters.push_back({field<std::string>(parameter, "name"), field<std::string>(parameter, "annotation"),
                                 field<std::string>(parameter, "default_value")});
  }
  module.body = field<std::vector<std::string>>(object, "body");
  module.input = field<std::string>(object, "input");
  module.weight = field<std::string>(object, "weight");
  module.bias = field<std::string>(object, "bias");
  module.stride = field<std::string>(object, "stride");
  module.padding = field<std::string>(object, "padding");
  module.output_padding = field<std::string>(object, "output_padding");
  module.dilation = field<std::string>(object, "dilation");
  module.groups = field<std::string>(object, "groups");
  module.bias_possible = field<bool>(object, "bias_possible");
  module.has_stride = field<bool>(object, "has_stride");
  module.has_padding = field<bool>(object, "has_padding");
  module.has_output_padding = field<bool>(object, "has_output_padding");
  module.has_dilation = field<bool>(object, "has_dilation");
  module.has_groups = field<bool>(object, "has_groups");
  module.has_bias = field<bool>(object, "has_bias");
  module.uses_conv_module = field<bool>(object, "uses_conv_module");
  module.bias_init_differs = field<bool>(object, "bias_init_differs");
  module.bias_init_note = field<std::string>(object, "bias_init_note");
  return module;
}

Code code_from(const json& object) {
  Code code;
  for (const json& kernel : object.at("kernels")) code.kernels.push_back(kernel_from(kernel));
  for (const json& launch : object.at("launches")) code.launches.push_back(launch_from(launch));
  code.module = module_from(object.at("module"));
  code.wrapper = field<std::string>(object, "wrapper");
  code.makes_input_contiguous = field<bool>(object, "makes_input_contiguous");
  code.makes_weight_contiguous = field<bool>(object, "makes_weight_contiguous");
  code.uses_strides = field<bool>(object, "uses_strides");
  code.admits_i32 = field<bool>(object, "admits_i32");
  code.dtypes = field<std::vector<std::string>>(object, "dtypes");
  code.output_length_formula = field<bool>(object, "output_length_formula");
  for (const json& finding : object.at("findings")) {
    code.findings.push_back({severity(field<std::string>(finding, "severity")), field<int>(finding, "line"),
                             field<std::string>(finding, "title"), field<std::string>(finding, "detail")});
  }
  return code;
}

}  // namespace

Code read_code(const std::string& source, const std::string& path, int first_line, Purpose purpose) {
  const std::string python = find_python();
  if (python.empty()) {
    throw Error(Exit::no_device, path, "no Python was found",
                "reading code needs python3, 3.9 or later; or TCONV_PYTHON");
  }
  const std::string_view reader = embedded::read_code_py;
  const ProcessResult result =
      run_process({python, "-I", "-S", "-c", std::string(kBootstrap), std::to_string(reader.size()),
                   purpose == Purpose::interface ? "interface" : "replace"},
                  std::string(reader) + source, kTimeout);
  if (result.timed_out || result.exit_code > 128) {
    throw Error(Exit::usage, place(path, first_line, 0), "the code is too large or too deep for Python's parser",
                "code is read within 20 s and 1 GiB");
  }
  const json answer = json::parse(result.out, nullptr, false);
  if (result.exit_code != 0 || !answer.is_object()) {
    const auto last = result.err.find_last_not_of('\n');
    const auto line = last == std::string::npos ? last : result.err.find_last_of('\n', last);
    throw Error(Exit::defect, place(path, first_line, 0),
                fmt::format("the code reader failed: {}",
                            printable(last == std::string::npos ? "" : result.err.substr(line + 1), 200)),
                "");
  }
  try {
    if (const auto refusal = answer.find("refusal"); refusal != answer.end()) {
      const auto kind = field<std::string>(*refusal, "kind");
      throw Error(kind == "usage"    ? Exit::usage
                  : kind == "python" ? Exit::no_device
                                     : Exit::unsupported,
                  place(path, first_line, field<int>(*refusal, "line")),
                  printable(field<std::string>(*refusal, "what"), 300), field<std::string>(*refusal, "rule"));
    }
    Code code = code_from(answer.at("code"));
    code.source = source;
    return code;
  } catch (const json::exception& error) {
    throw Error(Exit::defect, place(path, first_line, 0), fmt::format("the code reader's answer: {}", error.what()),
                "");
  }
}

}  // namespace tconv::request
