// tconv optimize FILE: an optimization request in, a faster kernel and the evidence out.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "cuda/emit.hpp"
#include "plan/range.hpp"
#include "problem/grammar.hpp"
#include "report/format.hpp"
#include "report/report.hpp"
#include "request/diagnose.hpp"
#include "request/request.hpp"
#include "shared.hpp"
#include "triton/compile.hpp"
#include "triton/emit.hpp"
#include "util/error.hpp"
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
  std::vector<std::string> emit{"triton"};
  bool json = false;
};

// For the request's layer or, where nothing tells it, for a range of layers, which is said then.
plan::Plan make_plan(const request::Request& request, request::Diagnosis& diagnosis) {
  request::WorkloadGuess& guess = diagnosis.workload;
  if (guess.workload) return plan::plan_triton(*guess.workload, *diagnosis.target, request.stage.limits);
  plan::Range range = plan::plan_range(request.code.module, *diagnosis.target, request.stage.limits);
  guess.how +=
      fmt::format(". The schedule is therefore chosen for {}. --workload WORD plans for yours.", plan::describe(range));
  return std::move(range.plan);
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

// The same layer as CUDA C++, whose kernels have its sizes as constants.
cuda::Answer emit_cuda(const request::Request& request, const request::Diagnosis& diagnosis) {
  if (!diagnosis.workload.workload)
    throw Error(Exit::usage, "--emit cuda", "nothing tells which layer the request is about",
                "a CUDA kernel is compiled for one layer: --workload WORD names it");
  return cuda::emit(request.code.module, *diagnosis.workload.workload, *diagnosis.target);
}

Exit run(const Options& options) {
  if (!options.out.empty()) require_folder(options.out);
  const Target* target = options.target.empty() ? nullptr : &require_target(options.target);
  std::optional<Workload> given;
  if (!options.workload.empty()) given = parse_workload(options.workload);

  const request::Request request = request::read_request(options.file);
  request::Diagnosis diagnosis = request::diagnose(request, target, given ? &*given : nullptr);
  const plan::Plan plan = make_plan(request, diagnosis);

  report::Answer answer;
  answer.request = &request;
  answer.diagnosis = &diagnosis;
  answer.plan = &plan;
  answer.source = triton::emit(request.code.module, plan);
  std::optional<cuda::Answer> cuda;
  if (std::ranges::count(options.emit, "cuda") > 0) {
    cuda = emit_cuda(request, diagnosis);
    answer.also = fmt::format(
        "answer.cu and answer_cuda.py: this layer as CUDA C++ by {}, predicted {}; answer_cuda.py is a drop-in for it "
        "and "
        "no other layer",
        cuda->solver, report::seconds_text(cuda->seconds));
  }
  compile(options, answer);

  if (!options.out.empty()) {
    const std::string markdown = report::markdown(answer);
    const std::string html = report::html(answer);
    std::vector<NamedText> files{{"answer.py", answer.source}, {"report.md", markdown}, {"report.html", html}};
    if (cuda) files.insert(files.end(), {{"answer.cu", cuda->source}, {"answer_cuda.py", cuda->drop_in}});
    write_files(options.out, files);
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
  verb->add_option("--emit", options->emit, "With cuda, answer.cu and answer_cuda.py beside answer.py")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::IsMember({"triton", "cuda"}))
      ->capture_default_str();
  verb->add_option("--target", options->target, "Answer for this GPU instead of the request's");
  verb->add_option("--workload", options->workload, "The layer to plan for, where the metrics do not tell it");
  verb->add_option("--compile", options->compile, "Compile the answer with Triton, without a GPU")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str();
  verb->add_flag("--json", options->json, "JSON on standard output");
  verb->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace tconv::tool
