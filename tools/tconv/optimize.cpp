// tconv optimize FILE: an optimization request in, a faster kernel and the evidence out.
#include <fmt/format.h>

#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "plan/plan.hpp"
#include "problem/catalogue.hpp"
#include "problem/grammar.hpp"
#include "report/report.hpp"
#include "request/diagnose.hpp"
#include "request/request.hpp"
#include "shared.hpp"
#include "triton/compile.hpp"
#include "triton/emit.hpp"
#include "util/files.hpp"
#include "verbs.hpp"

namespace tconv::tool {
namespace {

struct Options {
  std::string file;
  std::string out;
  std::string target;
  std::string workload;
  std::string compile = "auto";
  bool json = false;
};

void replace_fixed(std::int64_t& role, bool chosen_by_caller, const std::string& expression) {
  if (chosen_by_caller) return;
  std::int64_t value = 0;
  const char* end = expression.data() + expression.size();
  const auto [stop, error] = std::from_chars(expression.data(), end, value);
  if (error == std::errc() && stop == end) role = value;
}

// The layer to plan for when the evidence names none: KernelBench 74 with the numbers that the module
// fixes. Only the schedule depends on it; the answer runs every layer that the constructor admits.
Workload stand_in(const request::Module& module) {
  Workload workload = find_in_catalogue("kb74")->workload;
  Problem problem = workload.problem;
  replace_fixed(problem.stride, module.has_stride, module.stride);
  replace_fixed(problem.padding, module.has_padding, module.padding);
  replace_fixed(problem.output_padding, module.has_output_padding, module.output_padding);
  replace_fixed(problem.dilation, module.has_dilation, module.dilation);
  replace_fixed(problem.groups, module.has_groups, module.groups);
  if (!refuse(problem, workload.extent)) workload.problem = problem;
  return workload;
}

// Triton's own compiler on the answer, for the registers, the spills and the shared memory it takes.
void compile(const Options& options, report::Answer& answer) {
  if (options.compile == "never") {
    answer.not_compiled = "--compile never";
    return;
  }
  if (options.compile == "auto" && options.target.empty()) {
    answer.not_compiled = "--target NAME or --compile always compiles the answer with Triton, without the GPU";
    return;
  }
  triton::CompileResult result = triton::compile(answer.source, *answer.plan);
  answer.compiled = std::move(result.compiled);
  answer.not_compiled = std::move(result.why_not);
  if (answer.compiled.empty() && options.compile == "always")
    throw Error(Exit::no_device, "--compile always", answer.not_compiled, "--compile auto goes on without");
}

Exit run(const Options& options) {
  if (!options.out.empty()) require_folder(options.out);
  const Target* target = options.target.empty() ? nullptr : &require_target(options.target);
  std::optional<Workload> given;
  if (!options.workload.empty()) given = parse_workload(options.workload);

  const request::Request request = request::read_request(options.file);
  request::Diagnosis diagnosis = request::diagnose(request, target, given ? &*given : nullptr);
  const Workload workload = diagnosis.workload.workload.value_or(stand_in(request.code.module));
  if (!diagnosis.workload.workload)
    diagnosis.workload.how = fmt::format(
        "nothing in the request tells the layer, so the schedule is chosen for {} as a stand-in; the answer runs "
        "every layer and length that the constructor admits; --workload WORD plans for yours",
        print_word(workload));
  const plan::Plan plan = plan::plan_triton(workload, *diagnosis.target, request.stage.limits);

  report::Answer answer;
  answer.request = &request;
  answer.diagnosis = &diagnosis;
  answer.plan = &plan;
  answer.source = triton::emit(request.code.module, plan);
  compile(options, answer);

  if (!options.out.empty()) {
    const std::string markdown = report::markdown(answer);
    const std::string html = report::html(answer);
    write_files(options.out, {{"answer.py", answer.source}, {"report.md", markdown}, {"report.html", html}});
  }
  print_result(options.json ? report::json(answer) : report::text(answer, use_colour()));
  return Exit::ok;
}

}  // namespace

void add_optimize(CLI::App& app, Action& action) {
  const auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("optimize", "Answer an optimization request with a faster Triton kernel");
  verb->add_option("FILE", options->file, "The request: target, stage, current code, metrics")->required();
  verb->add_option("--out", options->out, "Folder for answer.py, report.md and report.html; made when absent");
  verb->add_option("--target", options->target, "Answer for this GPU instead of the request's");
  verb->add_option("--workload", options->workload, "The layer to plan for, where the metrics do not tell it");
  verb->add_option("--compile", options->compile, "Compile the answer with Triton, without a GPU")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
