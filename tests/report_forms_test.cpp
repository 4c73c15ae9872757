// Text, Markdown, HTML and JSON of one answer: well-formed, hostile strings harmless, figures the same.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "report/format.hpp"
#include "report/report.hpp"
#include "report_fixture.hpp"
#include "report_xml.hpp"
#include "util/error.hpp"

namespace tconv::report {
namespace {

using test::kKernelBench79;
using test::Markup;
using test::report_case;

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

// Every string that a request can influence, set to one hostile text.
void poison(test::ReportCase& made, const std::string& evil) {
  request::Request& request = made.request;
  request.path = request.stated.name = request.stage.focus = request.failure = evil;
  request.notes = {evil};
  request::Diagnosis& diagnosis = made.diagnosis;
  diagnosis.target_overridden = true;
  diagnosis.workload.how = diagnosis.workload.catalogue_name = evil;
  diagnosis.workload.also = diagnosis.units = {evil};
  diagnosis.workload.config = {{evil, 1}};
  diagnosis.metric_notes = {{evil, evil, evil}};
  diagnosis.findings = {{request::Finding::Severity::note, 1, evil, evil}};
  diagnosis.rules = {{1, evil, request::Verdict::conflict, evil}};
  diagnosis.disagreements = {{evil, 1, 2, evil}};
  made.plan.rejected = {{evil, evil}};
  made.answer.source = made.answer.also = evil;
  for (Compiled& compiled : made.answer.compiled) compiled.triton_version = evil;
}

TEST(ReportForms, SayTheSameFigures) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const auto facts = nlohmann::json::parse(json(made->answer));
  const std::string shown[] = {text(made->answer, false), markdown(made->answer), html(made->answer)};
  const auto& times = facts.at("times");
  EXPECT_DOUBLE_EQ(times.at("speedup").get<double>(),
                   times.at("current_seconds").get<double>() / times.at("answer_seconds").get<double>());
  for (const std::string& form : shown) {
    for (const char* key : {"current_seconds", "answer_seconds", "limit_seconds"}) {
      EXPECT_TRUE(contains(form, seconds_text(times.at(key).get<double>()))) << key;
    }
    EXPECT_TRUE(contains(form, ratio_text(times.at("speedup").get<double>())));
    EXPECT_TRUE(contains(form, quantity_text(times.at("limit").at("useful_flops").get<double>(), "FLOP")));
    for (const auto& schedule : facts.at("schedules")) {
      EXPECT_TRUE(contains(form, seconds_text(schedule.at("predicted_seconds").get<double>())));
    }
    for (const auto& compiled : facts.at("compiled")) {
      EXPECT_TRUE(contains(form, fmt::format("{} B", compiled.at("shared_memory_bytes").get<int>())));
    }
    EXPECT_TRUE(contains(form, facts.at("workload").at("word").get<std::string>()));
  }
}

TEST(ReportForms, NameOtherFilesWhereThereAreAny) {
  const auto made = report_case(kKernelBench79, "h200");
  for (const bool more : {false, true}) {
    made->answer.also = more ? "answer.cu, for the same layer" : "";
    for (const std::string& form :
         {text(made->answer, false), markdown(made->answer), html(made->answer), json(made->answer)})
      EXPECT_EQ(contains(form, "answer.cu, for the same layer"), more);
  }
}

TEST(ReportForms, AreTheSameOnEveryRun) {
  const auto first = report_case(kKernelBench79, "h200");
  const auto second = report_case(kKernelBench79, "h200");
  EXPECT_EQ(text(first->answer, true), text(second->answer, true));
  EXPECT_EQ(markdown(first->answer), markdown(second->answer));
  EXPECT_EQ(html(first->answer), html(second->answer));
  EXPECT_EQ(json(first->answer), json(second->answer));
}

TEST(ReportForms, CompareNothingAcrossMachines) {
  const auto made = report_case(kKernelBench79, "h200");
  made->diagnosis.target_overridden = true;
  EXPECT_TRUE(nlohmann::json::parse(json(made->answer)).at("times").at("speedup").is_null());
  EXPECT_FALSE(contains(text(made->answer, false), "faster"));
  EXPECT_TRUE(contains(text(made->answer, false), "on 4090: another machine"));
}

TEST(ReportForms, SayWhatIsNotKnown) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  made->diagnosis.implied_seconds.reset();
  made->diagnosis.workload = {};
  made->answer.compiled.clear();
  made->answer.not_compiled = "no Python with triton 3 was found";
  for (const std::string& form : {text(made->answer, false), markdown(made->answer), html(made->answer)}) {
    EXPECT_TRUE(contains(form, "no Python with triton 3 was found"));
    EXPECT_TRUE(contains(form, "the metrics do not determine it"));
    EXPECT_TRUE(contains(form, "serves any length"));
    EXPECT_FALSE(contains(form, "faster"));
  }
  const auto facts = nlohmann::json::parse(json(made->answer));
  EXPECT_TRUE(facts.at("times").at("current_seconds").is_null());
  EXPECT_FALSE(facts.at("workload").at("determined").get<bool>());
}

TEST(ReportForms, ImpossibleTimesAreNoTimes) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  for (const double bad : {0.0, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    made->diagnosis.implied_seconds = bad;
    EXPECT_TRUE(nlohmann::json::parse(json(made->answer)).at("times").at("current_seconds").is_null());
    EXPECT_EQ(test::read_markup(html(made->answer)).error, "");
  }
}

TEST(ReportForms, RefuseAnIncompleteAnswer) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  made->answer.plan = nullptr;
  EXPECT_THROW((void)text(made->answer, false), Error);
}

TEST(ReportText, FitsTheTerminal) {
  for (const char* word : {"b16_i32_o64_l131072_k3_s2_p1_d2_tf32", "i512_o256_l862_k16_s8_p4_tf32_bias"}) {
    const auto made = report_case(word, "rtx4090");
    for (int hostile = 0; hostile < 2; ++hostile) {
      for (const std::string& line : lines_of(text(made->answer, false))) EXPECT_LE(columns(line), 120u) << line;
      poison(*made, std::string(5000, 'x') + " y 界 " + std::string(300, ' ') + "z");
    }
  }
}

TEST(ReportText, ColourOnlyWhereAsked) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const std::string coloured = text(made->answer, true);
  const std::string bare = text(made->answer, false);
  EXPECT_EQ(bare.find('\x1b'), std::string::npos);
  std::string stripped;
  for (std::size_t i = 0; i < coloured.size(); ++i) {
    if (coloured[i] == '\x1b') {
      i = coloured.find('m', i);
    } else {
      stripped += coloured[i];
    }
  }
  EXPECT_EQ(stripped, bare);
  EXPECT_NE(coloured, bare);
}

TEST(ReportText, OrdersFindingsBySeverity) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const std::string out = text(made->answer, false);
  EXPECT_LT(out.find("divides in floating point"), out.find("goes through float32"));
  EXPECT_LT(out.find("goes through float32"), out.find("No matrix unit"));
  EXPECT_LT(out.find("No matrix unit"), out.find("The launch fixes"));
}

TEST(ReportText, ListsFewRejectedAndMarkdownAll) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const std::string out = text(made->answer, false);
  const std::string full = markdown(made->answer);
  std::size_t in_text = 0;
  for (const plan::Rejection& rejection : made->plan.rejected) {
    if (contains(out, rejection.what)) ++in_text;
    EXPECT_TRUE(contains(full, rejection.what)) << rejection.what;
  }
  EXPECT_GT(in_text, 0u);
  EXPECT_TRUE(contains(out, fmt::format("and {} more, in report.md", made->plan.rejected.size() - in_text)));
}

TEST(ReportText, HostileStringsReachNoTerminal) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  poison(*made, "\x1b]0;owned\x07\x1b[2J\xE2\x80\xAE\xFF\r\nnext");
  const std::string forms[] = {text(made->answer, false), markdown(made->answer), html(made->answer),
                               json(made->answer)};
  for (const std::string& form : forms) {
    EXPECT_FALSE(contains(form, "\x1b"));
    EXPECT_FALSE(contains(form, "\x07"));
    EXPECT_FALSE(contains(form, "\r"));
    EXPECT_FALSE(contains(form, "\xE2\x80\xAE"));
    EXPECT_FALSE(contains(form, "\xFF"));
  }
}

TEST(ReportMarkdown, TablesKeepTheirColumns) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  poison(*made, "a|b `c|d` \\| \n| e");
  std::size_t expected = 0;
  for (const std::string& line : lines_of(markdown(made->answer))) {
    if (!line.starts_with("|")) {
      expected = 0;
      continue;
    }
    std::size_t bars = 0;
    for (std::size_t i = 0; i < line.size(); ++i) {
      if (line[i] == '|' && (i == 0 || line[i - 1] != '\\')) ++bars;
    }
    if (expected == 0) expected = bars;
    EXPECT_EQ(bars, expected) << line;
  }
}

TEST(ReportMarkdown, EndsWithTheSource) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  EXPECT_TRUE(markdown(made->answer).ends_with("```python\n" + made->answer.source + "```\n"));
}

TEST(ReportHtml, IsWellFormedAndSelfContained) {
  for (const char* word : {"b16_i32_o64_l131072_k3_s2_p1_d2_tf32", "i512_o256_l862_k16_s8_p4_tf32_bias",
                           "i768_o768_l3762_k12_s2_g768", "i1_o1_l1_k1_s1"}) {
    const std::string page = html(report_case(word, "h200")->answer);
    const Markup markup = test::read_markup(page);
    EXPECT_EQ(markup.error, "") << word;
    EXPECT_EQ(test::count(markup, "svg"), 3u);
    EXPECT_GE(test::count(markup, "title"), 4u);
    EXPECT_EQ(test::count(markup, "desc"), 3u);
    for (const test::Element& element : markup.elements) {
      EXPECT_NE(element.name, "script");
      EXPECT_NE(element.name, "link");
      for (const char* key : {"src", "href", "onclick", "onload"})
        EXPECT_FALSE(element.attributes.contains(key)) << key;
    }
    EXPECT_FALSE(contains(page, "http:"));
    EXPECT_FALSE(contains(page, "https:"));
    EXPECT_FALSE(contains(page, "@import"));
  }
}

TEST(ReportHtml, IdentifiersAreUnique) {
  const Markup markup = test::read_markup(html(report_case(kKernelBench79, "h200")->answer));
  std::vector<std::string> ids;
  for (const test::Element& element : markup.elements) {
    if (element.attributes.contains("id")) ids.push_back(element.attributes.at("id"));
  }
  std::sort(ids.begin(), ids.end());
  EXPECT_GE(ids.size(), 6u);
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

TEST(ReportHtml, HostileStringsAreText) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const std::string before = html(made->answer);
  poison(*made, "</title></style></svg></pre><script>alert(1)</script><img src=x onerror=\"a\" alt='b'>&copy;");
  const std::string page = html(made->answer);
  const Markup markup = test::read_markup(page);
  EXPECT_EQ(markup.error, "");
  EXPECT_EQ(test::count(markup, "script"), 0u);
  EXPECT_EQ(test::count(markup, "img"), 0u);
  EXPECT_FALSE(contains(page, "<script"));
  EXPECT_TRUE(contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_EQ(test::count(test::read_markup(before), "svg"), test::count(markup, "svg"));
}

TEST(ReportJson, KeepsTheOrderOfItsKeysAndTheSource) {
  const auto made = report_case(kKernelBench79, "rtx4090");
  const std::string out = json(made->answer);
  EXPECT_LT(out.find("\"request\""), out.find("\"target\""));
  EXPECT_LT(out.find("\"target\""), out.find("\"workload\""));
  EXPECT_LT(out.find("\"workload\""), out.find("\"times\""));
  EXPECT_EQ(nlohmann::json::parse(out).at("source").get<std::string>(), made->answer.source);
  EXPECT_EQ(nlohmann::json::parse(out).at("rejected").size(), made->plan.rejected.size());
}

}  // namespace
}  // namespace tconv::report
