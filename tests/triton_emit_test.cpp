// The emitted answer as text: the strict layout, KernelBench's static rules, what the plan decides.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <string>
#include <vector>

#include "problem/grammar.hpp"
#include "request/diagnose.hpp"
#include "request/request.hpp"
#include "triton/emit.hpp"

namespace tconv::triton {
namespace {

namespace fs = std::filesystem;

// The project's own requests, and those in the folder that may lie beside the project.
const std::vector<request::Request>& requests() {
  static const std::vector<request::Request> all = [] {
    std::vector<fs::path> paths;
    const fs::path root(TCONV_SOURCE_DIR);
    for (const fs::path& folder : {root / "examples" / "requests", root / ".." / "shared" / "requests"}) {
      std::error_code absent;
      for (const auto& entry : fs::directory_iterator(folder, absent)) {
        if (entry.path().extension() == ".txt") paths.push_back(entry.path());
      }
    }
    std::sort(paths.begin(), paths.end());
    std::vector<request::Request> read;
    for (const fs::path& path : paths) read.push_back(request::read_request(path));
    return read;
  }();
  return all;
}

struct Emitted {
  std::string name;  // for messages
  const request::Module* module;
  plan::Plan plan;
  std::string text;
};

// Every request, planned for layers of each kind: matrix unit and FMA, dead phases, padded phases, many phases.
const std::vector<Emitted>& answers() {
  static const std::vector<Emitted> all = [] {
    std::vector<Emitted> result;
    request::StageLimits list;
    list.max_configs = 4;
    for (const request::Request& r : requests()) {
      for (const char* word : {"@kb79", "@hifigan_v1_up0", "@encodec24_up1", "@istft_1024_256", "@bigvgan_aa_up_C96"}) {
        for (const auto& [key, limits] : std::vector<std::pair<const char*, request::StageLimits>>{
                 {"rtx4090", r.stage.limits}, {"h200", list}, {"b200", {}}}) {
          plan::Plan plan = plan::plan_triton(parse_workload(word), *find_target(key), limits);
          std::string text = emit(r.code.module, plan);
          result.push_back({fs::path(r.path).filename().string() + " " + word + " " + key, &r.code.module,
                            std::move(plan), std::move(text)});
        }
      }
    }
    return result;
  }();
  return all;
}

// --- a scanner for the strict layout ---------------------------------------------------------------

// The text without comments and string contents, so that neither can satisfy or break a rule. kernels.py has no
// triple-quoted string; one would show as an odd quote.
std::string code_only(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '#') {
      while (i < text.size() && text[i] != '\n') ++i;
      out += '\n';
    } else if (c == '"' || c == '\'') {
      const std::size_t close = text.find_first_of(std::string(1, c) + "\n", i + 1);
      if (close == std::string::npos || text[close] == '\n') throw std::runtime_error("a string does not close");
      out += "''";
      i = close;
    } else {
      out += c;
    }
  }
  return out;
}

// The statements that start in column 0, with their continuation lines inside brackets.
struct TopLevel {
  std::string head;
  std::string block;  // what is indented under it
};
std::vector<TopLevel> top_level(const std::string& code) {
  std::vector<TopLevel> result;
  int depth = 0;
  std::string line;
  for (std::size_t at = 0; at < code.size(); at += line.size() + 1) {
    line = code.substr(at, code.find('\n', at) - at);
    const bool starts = depth == 0 && !line.empty() && line[0] != ' ';
    const bool inside_head = depth > 0 && !result.empty() && result.back().block.empty();
    if (starts) {
      result.push_back({line, ""});
    } else if (inside_head) {
      result.back().head += " " + line;
    } else if (!result.empty()) {
      result.back().block += line + "\n";
    }
    for (const char c : line) {
      if (c == '(' || c == '[' || c == '{') ++depth;
      if (c == ')' || c == ']' || c == '}') --depth;
    }
  }
  EXPECT_EQ(depth, 0) << "brackets do not close";
  return result;
}

// imports; kernels; wrappers; one class. Empty when the text keeps to it, else what does not.
std::string layout_fault(const std::string& text) {
  const std::vector<TopLevel> statements = top_level(code_only(text));
  const std::string imports[] = {"import torch", "import torch.nn as nn", "import triton",
                                 "import triton.language as tl"};
  if (statements.size() < std::size(imports)) return "too short";
  for (std::size_t i = 0; i < std::size(imports); ++i) {
    if (statements[i].head != imports[i]) return "statement " + std::to_string(i) + " is " + statements[i].head;
  }
  enum Part { kernels, wrappers, module, end } part = kernels;
  bool jit = false;
  bool decorated = false;
  int launched = 0;
  for (std::size_t i = std::size(imports); i < statements.size(); ++i) {
    const std::string& head = statements[i].head;
    if (head.starts_with("@")) {
      const bool autotune = head.starts_with("@triton.autotune(");
      const bool is_jit = head == "@triton.jit" || head.starts_with("@triton.jit(");
      if (!autotune && !is_jit) return "decorator " + head;
      if (autotune && decorated) return "autotune under another decorator";
      if (part != kernels) return "a kernel behind the wrappers";
      decorated = true;
      jit = is_jit;
    } else if (head.starts_with("def ")) {
      if (decorated && !jit) return "autotune on something that is no kernel: " + head;
      if (!decorated && part == kernels) part = wrappers;
      if (part == module) return "a function behind the class: " + head;
      if (part == wrappers && statements[i].block.find("[grid](") != std::string::npos) ++launched;
      decorated = jit = false;
    } else if (head.starts_with("class ")) {
      if (part != wrappers) return "class in the wrong place: " + head;
      if (!std::regex_match(head, std::regex(R"(class \w+\(nn\.Module\):)"))) return "class " + head;
      part = module;
    } else {
      return "statement " + head;
    }
  }
  if (part != module) return "no class";
  return launched > 0 ? "" : "no wrapper launches a kernel";
}

TEST(Layout, TheScannerSeesFaults) {
  const std::string good =
      emit(requests().front().code.module, plan::plan_triton(parse_workload("@kb74"), *find_target("h200"), {}));
  EXPECT_EQ(layout_fault(good), "");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const std::size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    return text.replace(at, from.size(), to);
  };
  EXPECT_NE(layout_fault(good + "\nmodel = ModelNew(1, 1, 1)\n"), "");
  EXPECT_NE(layout_fault(good + "\ndef get_inputs():\n    return []\n"), "");
  EXPECT_NE(layout_fault(good + "\nif __name__ == '__main__':\n    print(1)\n"), "");
  EXPECT_NE(layout_fault(good + "\nclass Other(nn.Module):\n    x = 1\n"), "");
  EXPECT_NE(layout_fault(with("import triton\n", "import triton\nimport os\n")), "");
  EXPECT_NE(layout_fault(with("import torch\nimport torch.nn as nn", "import torch.nn as nn\nimport torch")), "");
  EXPECT_NE(layout_fault(with("(nn.Module)", "(torch.nn.Conv1d)")), "");
  EXPECT_NE(layout_fault(with("@triton.jit\n", "@torch.compile\n")), "");
  EXPECT_NE(layout_fault(with("def conv_transpose1d(", "LIMIT = 3\n\n\ndef conv_transpose1d(")), "");
  EXPECT_NE(layout_fault(with("\n\nclass ", "\n\n@triton.jit\ndef late(x):\n    x\n\n\nclass ")), "");
}

TEST(Emit, KeepsToTheStrictLayout) {
  ASSERT_GE(requests().size(), 4U);
  for (const Emitted& answer : answers()) EXPECT_EQ(layout_fault(answer.text), "") << answer.name;
}

// KernelBench's static checks, and the fences around an answer: no fallback, no PyTorch arithmetic, no other
// stream or thread, no clock, no lower precision than asked for, no testing code.
TEST(Emit, PassesStaticRules) {
  const std::map<std::string, std::string> rules{
      {"fallback", R"(\b(try|except|finally)\b|\bpass\b)"},
      {"PyTorch computes", R"(\b(torch|F|functional)\.(conv\w*|matmul|mm|bmm|addmm|einsum|nn\.functional\w*|fft|unfold)"
                           R"(|fold|sum|dot|baddbmm|tensordot|cumsum|cat|stack)\b)"},
      {"PyTorch computes by a method", R"(\.(matmul|mm|bmm|einsum|unfold|fold|sum|conv\w*1d)\()"},
      {"a module is called", R"(\bself\.\w+\((?!\)))"},
      {"torch.nn in full", R"(\btorch\.nn\.(?!Module|Parameter|init)\w)"},
      {"threads", R"(\b(threading|multiprocessing|concurrent|asyncio|subprocess|Thread|\w*PoolExecutor)\b)"},
      {"streams", R"(\b(Stream|wait_stream|record_stream|current_stream|synchronize)\b)"},
      {"clocks", R"(\b(perf_counter|elapsed_time|time\.time|cuda\.Event)\b)"},
      {"lazy tensors", R"(_make_subclass|__torch_function__|__torch_dispatch__|Tensor\.__new__)"},
      {"lower precision", R"(\.half\(|\.bfloat16\(|float16|float8|__float2half|\.to\(tl\.(float16|bfloat16)\))"},
      {"reflection", R"(\b(eval|exec|globals|locals|getattr|setattr|__import__|open|compile)\b\()"},
      {"testing code", R"(__name__|__main__|\b(get_inputs|get_init_inputs|test_\w+|assert|print)\b)"},
      {"a second import", R"((^|\n)\s+(import|from)\b)"},
  };
  for (const auto& [rule, pattern] : rules) {
    const std::regex regex(pattern);
    for (const Emitted& answer : answers()) {
      std::string code = code_only(answer.text);
      // What the request's constructor says is its own; the rest is ours.
      const std::size_t from = code.find("def __init__");
      if (rule == "a module is called") code.erase(from, code.find("def forward") - from);
      std::smatch found;
      EXPECT_FALSE(std::regex_search(code, found, regex)) << answer.name << ": " << rule << ": " << found.str();
    }
  }
}

TEST(Emit, IsTriton) {
  for (const Emitted& answer : answers()) {
    EXPECT_NE(answer.text.find("@triton.jit"), std::string::npos);
    EXPECT_NE(answer.text.find("tl.dot("), std::string::npos);
    EXPECT_EQ(answer.text.back(), '\n');
    EXPECT_EQ(answer.text.find('\t'), std::string::npos);
    EXPECT_EQ(answer.text.find(" \n"), std::string::npos) << answer.name;
    EXPECT_TRUE(std::all_of(answer.text.begin(), answer.text.end(),
                            [](char c) { return c == '\n' || (c >= ' ' && c <= '~'); }));
  }
}

TEST(Emit, GivesTheSameBytes) {
  for (const Emitted& answer : answers()) {
    ASSERT_EQ(emit(*answer.module, answer.plan), answer.text) << answer.name;
  }
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(Emit, ReplacesTheMarks) {
  for (const Emitted& answer : answers()) {
    for (const char* mark : {"# @", "@autotune", "@phase_limit", "@blocks"}) {
      EXPECT_EQ(count(answer.text, mark), 0U) << answer.name << " " << mark;
    }
    EXPECT_EQ(count(answer.text, "    phase_limit = "), 1U) << answer.name;
  }
}

// One schedule stands at the launch; several stand in an autotune list, and then nowhere else: Triton refuses a
// block size that is given twice.
TEST(Emit, WritesTheChosenSchedules) {
  for (const Emitted& answer : answers()) {
    SCOPED_TRACE(answer.name);
    const auto& chosen = answer.plan.chosen;
    const std::size_t launch = answer.text.find("    conv_transpose1d_kernel[grid](");
    ASSERT_NE(launch, std::string::npos);
    const std::string call = answer.text.substr(launch, answer.text.find("    return y", launch) - launch);
    EXPECT_EQ(count(answer.text, "@triton.autotune("), chosen.size() > 1 ? 1U : 0U);
    EXPECT_EQ(count(answer.text, "triton.Config("), chosen.size() > 1 ? chosen.size() : 0U);
    EXPECT_EQ(count(call, "BLOCK_ROWS="), chosen.size() > 1 ? 0U : 1U);
    EXPECT_EQ(count(call, "num_warps="), chosen.size() > 1 ? 0U : 1U);
    if (chosen.size() > 1) {
      for (const plan::Candidate& candidate : chosen) {
        const plan::Schedule& s = candidate.schedule;
        EXPECT_EQ(count(answer.text, "triton.Config({\"BLOCK_ROWS\": " + std::to_string(s.block_rows) +
                                         ", \"BLOCK_POSITIONS\": " + std::to_string(s.block_positions) +
                                         ", \"BLOCK_CHANNELS\": " + std::to_string(s.block_channels) + "}, num_warps=" +
                                         std::to_string(s.warps) + ", num_stages=" + std::to_string(s.stages) + ")"),
                  1U);
      }
      const std::string key = answer.text.substr(answer.text.find("    key=["));
      const std::string names = key.substr(0, key.find(']'));
      for (const char* length : {"\"l_in\"", "\"l_out\"", "\"positions\"", "stride_b"}) {
        EXPECT_EQ(count(names, length), 0U) << "a new length would tune again";
      }
    } else if (!answer.plan.exact_body) {
      const plan::Schedule& s = chosen.front().schedule;
      EXPECT_NE(call.find("BLOCK_ROWS=" + std::to_string(s.block_rows) + ", BLOCK_POSITIONS=" +
                          std::to_string(s.block_positions) + ", BLOCK_CHANNELS=" + std::to_string(s.block_channels) +
                          ", num_warps=" + std::to_string(s.warps) + ", num_stages=" + std::to_string(s.stages)),
                std::string::npos);
    }
  }
}

// Phases padded to a power of two, at most phase_limit, must fit the rows of every schedule in the answer; for
// the layer planned for they are those that were planned.
TEST(Emit, LimitsThePhasesToTheRows) {
  const std::regex limit(R"(    phase_limit = (\d+)\n)");
  const std::regex rows(R"(BLOCK_ROWS(?:": |=)(\d+))");
  for (const Emitted& answer : answers()) {
    SCOPED_TRACE(answer.name);
    std::smatch found;
    ASSERT_TRUE(std::regex_search(answer.text, found, limit));
    const int phase_limit = std::stoi(found[1]);
    EXPECT_TRUE(phase_limit > 0 && (phase_limit & (phase_limit - 1)) == 0) << phase_limit;
    const std::size_t tail = answer.text.find("def conv_transpose1d(");
    for (const std::string& part : {answer.text.substr(0, tail), answer.text.substr(answer.text.rfind("[grid]("))}) {
      for (std::sregex_iterator at(part.begin(), part.end(), rows), end; at != end; ++at) {
        EXPECT_GE(std::stoi((*at)[1]), phase_limit) << at->str();
      }
    }
    const std::int64_t live = answer.plan.workload.problem.stride / Phases(answer.plan.workload.problem).gcd();
    std::int64_t phases = 1;
    while (phases < live && phases < phase_limit) phases *= 2;
    EXPECT_EQ(phases, answer.plan.chosen.front().schedule.phases);
  }
}

// The class of the code it replaces, in the project's own words.
TEST(Emit, RepeatsTheConstructor) {
  for (const Emitted& answer : answers()) {
    SCOPED_TRACE(answer.name);
    const std::string module = answer.text.substr(answer.text.find("\nclass "));
    EXPECT_EQ(module.rfind("\nclass " + answer.module->class_name + "(nn.Module):\n    def __init__(self, ", 0), 0U);
    const std::string head = module.substr(0, module.find("):\n", module.find("def __init__")));
    std::size_t at = 0;
    for (const request::Parameter& parameter : answer.module->parameters) {
      std::string spelled = ", " + parameter.name;
      if (!parameter.annotation.empty()) spelled += ": " + parameter.annotation;
      if (!parameter.default_value.empty()) {
        spelled += (parameter.annotation.empty() ? "=" : " = ") + parameter.default_value;
      }
      const std::size_t found = head.find(spelled, at);
      ASSERT_NE(found, std::string::npos) << spelled;
      at = found + spelled.size();
    }
    EXPECT_EQ(at, head.size()) << "more parameters than the code has";
    for (const std::string& line : answer.module->body) {
      EXPECT_NE(module.find("\n        " + line + "\n"), std::string::npos) << line;
    }
    EXPECT_NE(module.find("    def forward(self, " + answer.module->input + "):\n        return conv_transpose1d(" +
                          answer.module->input + ", " + answer.module->weight + ", "),
              std::string::npos);
    EXPECT_EQ(count(module, "\n    def "), 2U);
  }
}

}  // namespace
}  // namespace tconv::triton
