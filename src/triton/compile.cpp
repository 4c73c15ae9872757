#include "triton/compile.hpp"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "embedded/compile_py.hpp"
#include "plan/model.hpp"
#include "util/error.hpp"
#include "util/subprocess.hpp"

namespace tconv::triton {
namespace {

using Json = nlohmann::ordered_json;

std::string storage(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::f32:
    case Arithmetic::tf32:
      return "fp32";
    case Arithmetic::f16:
      return "fp16";
    case Arithmetic::bf16:
      return "bf16";
    case Arithmetic::f64:
      return "fp64";
    case Arithmetic::i32:
      return "i32";
  }
  throw Error(Exit::defect, "compile", "unknown arithmetic", "");
}

// The constexpr arguments that the wrapper in kernels.py passes for this layer.
Json constants(const plan::Plan& plan) {
  const Problem& p = plan.workload.problem;
  const plan::Shape shape = plan::shape_of(plan.workload);
  const std::int64_t phases = plan.chosen.front().schedule.phases;
  Json c = {{"C_IN", p.c_in / p.groups}, {"C_OUT", p.c_out / p.groups},
            {"GROUPS", p.groups},        {"STRIDE", p.stride},
            {"PADDING", p.padding},      {"GAP", shape.gap},
            {"GAP_PAD", shape.gap_pad},  {"LIVE", shape.live},
            {"TAPS", shape.taps},        {"JUMP", shape.live == 1 ? p.dilation / shape.gap : 1},
            {"PHASES", phases},          {"PHASE_BLOCKS", (shape.live + phases - 1) / phases},
            {"HAS_BIAS", p.bias}};
  if (plan.exact_body) {
    c["K"] = p.kernel;
    c["STEP"] = p.dilation / shape.gap;
    c["ACC"] = p.arithmetic == Arithmetic::i32 ? "int32" : p.arithmetic == Arithmetic::f64 ? "float64" : "float32";
  } else {
    c["PRECISION"] = p.arithmetic == Arithmetic::f32 ? "ieee" : "tf32";
  }
  return c;
}

}  // namespace

CompileResult compile(const std::string& answer, const plan::Plan& plan) {
  CompileResult result;
  const std::string python = find_python();
  if (python.empty()) {
    result.why_not = "no Python found; set TCONV_PYTHON to one with triton";
    return result;
  }
  Json configs = Json::array();
  for (const plan::Candidate& candidate : plan.chosen) {
    const plan::Schedule& s = candidate.schedule;
    Json config = {{"BLOCK_ROWS", s.block_rows}, {"BLOCK_POSITIONS", s.block_positions}};
    if (!plan.exact_body) config["BLOCK_CHANNELS"] = s.block_channels;
    config["num_warps"] = s.warps;
    config["num_stages"] = s.stages;
    configs.push_back(config);
  }
  const Json job = {{"source", answer},
                    {"sm", plan.target->sm},
                    {"dtype", storage(plan.workload.problem.arithmetic)},
                    {"kernel", plan.exact_body ? "conv_transpose1d_fma_kernel" : "conv_transpose1d_kernel"},
                    {"constants", constants(plan)},
                    {"configs", configs}};
  const ProcessResult run =
      run_process({python, "-c", std::string(embedded::compile_py)}, job.dump(), std::chrono::minutes(5));
  if (run.exit_code == 3) {
    result.why_not = python + " has no triton; install it: pip install torch==2.13.0 triton==3.6.0";
    return result;
  }
  const Json reply = Json::parse(run.out, nullptr, false);
  if (run.exit_code != 0 || reply.is_discarded() || !reply.contains("configs")) {
    const auto from = run.err.size() > 400 ? run.err.size() - 400 : 0;
    throw Error(Exit::defect, "compile", "Triton's compiler failed: " + run.err.substr(from), "");
  }
  for (std::size_t i = 0; i < plan.chosen.size(); ++i) {
    const Json& config = reply["configs"].at(i);
    const plan::Schedule& schedule = plan.chosen[i].schedule;
    if (config.contains("error")) {
      throw Error(Exit::defect, "compile", plan::print_schedule(schedule) + ": " + config["error"].get<std::string>(),
                  "every chosen schedule must compile for " + std::string(plan.target->key));
    }
    Compiled compiled;
    compiled.schedule = schedule;
    compiled.registers = config["registers"];
    compiled.shared_memory = config["shared"];
    compiled.spills = config["spills"];
    compiled.occupancy = occupancy(*plan.target, compiled.registers, compiled.shared_memory, 32 * schedule.warps);
    compiled.triton_version = reply["triton"];
    result.compiled.push_back(compiled);
  }
  return result;
}

}  // namespace tconv::triton
