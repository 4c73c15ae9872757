#include "request/request.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "request/metrics.hpp"
#include "util/error.hpp"
#include "util/files.hpp"
#include "util/text.hpp"

namespace tconv::request {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxCodeBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxLines = 200000;
constexpr std::size_t kMaxRules = 1000;
constexpr std::size_t kMaxEntries = 10000;  // metrics in all
constexpr int kMaxJsonDepth = 32;
constexpr double kKibi = 1024, kMebi = 1024.0 * 1024, kGiga = 1e9, kTera = 1e12;

std::string_view trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n\f\v";
  const auto first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

bool starts_with_any_case(std::string_view text, std::string_view prefix) {
  const auto small = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return text.size() >= prefix.size() &&
         std::equal(prefix.begin(), prefix.end(), text.begin(), [&](char a, char b) { return small(a) == small(b); });
}

struct Line {
  int number = 0;
  std::string_view text;  // without the end of line
  std::size_t begin = 0;  // in the request
  std::size_t end = 0;    // past the end of line
};

std::vector<Line> lines_of(std::string_view text) {
  std::vector<Line> lines;
  for (std::size_t at = 0; at < text.size();) {
    const auto newline = text.find('\n', at);
    const std::size_t end = newline == std::string_view::npos ? text.size() : newline + 1;
    std::string_view line = text.substr(at, (newline == std::string_view::npos ? text.size() : newline) - at);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back({static_cast<int>(lines.size()) + 1, line, at, end});
    at = end;
  }
  return lines;
}

enum class Part { none, target, stage, code, metrics, failure, rest };

struct Heading {
  std::string_view text;
  Part part;
};
constexpr auto kHeadings = std::to_array<Heading>({
    {"# Target GPU", Part::target},
    {"[OPTIMIZATION STAGE]", Part::stage},
    {"[CURRENT CODE]", Part::code},
    {"[NCU PROFILING METRICS]", Part::metrics},
    {"## Previous Attempt Failed", Part::failure},
    {"**Task**", Part::rest},
    {"Task:", Part::rest},
    {"TRITON API CONSTRAINTS", Part::rest},
    {"OUTPUT RULES", Part::rest},
    {"## OUTPUT FORMAT", Part::rest},
    {"## CRITICAL", Part::rest},
});

// Splits a request into its parts and reads each but the code.
class Parser {
 public:
  Parser(std::string_view text, std::string path) : text_(text) { request_.path = std::move(path); }

  Request parse() && {
    check_bytes();
    lines_ = lines_of(text_);
    split();
    for (const auto& [part, what] : {std::pair{Part::target, "# Target GPU"},
                                     {Part::stage, "[OPTIMIZATION STAGE]"},
                                     {Part::code, "[CURRENT CODE]"},
                                     {Part::metrics, "[NCU PROFILING METRICS]"}}) {
      if (!seen(part)) {
        refuse(last_line(), fmt::format("the request has no {} section", what),
               "a request has target, stage, code and metrics");
      }
    }
    if (code_blocks_ == 0)
      refuse(heading_line(Part::code), "no code block under [CURRENT CODE]", "one ```python block");
    read_target(section(Part::target), heading_text_);
    const Section stage = section(Part::stage);
    read_stage(stage.text, stage.line, request_.stage);
    if (request_.stage.kind == StageKind::unknown) note("the stage is none of the known ones");
    read_metrics(section(Part::metrics));
    read_failure(section(Part::failure));
    if (request_.stated.name.empty()) {
      refuse(heading_line(Part::target), "the target has no name", "# Target GPU: NAME, or a line GPU Name: NAME");
    }
    return std::move(request_);
  }

 private:
  struct Section {
    std::string_view text;
    int line = 0;  // of its first line
  };

  [[noreturn]] void refuse(int line, std::string what, std::string rule) const {
    throw Error(Exit::usage, fmt::format("{}:{}", request_.path, std::max(line, 1)), std::move(what), std::move(rule));
  }
  void note(std::string text) { request_.notes.push_back(std::move(text)); }
  [[nodiscard]] int last_line() const { return lines_.empty() ? 1 : lines_.back().number; }
  [[nodiscard]] int line_at(std::size_t offset) const {
    return 1 + static_cast<int>(std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(offset), '\n'));
  }

  void check_bytes() {
    if (text_.size() > kMaxRequestBytes) {
      refuse(1, fmt::format("the request has {} bytes", text_.size()),
             fmt::format("a request has at most {} bytes", kMaxRequestBytes));
    }
    if (const auto at = text_.find('\0'); at != std::string_view::npos) {
      refuse(line_at(at), fmt::format("a NUL byte at offset {}", at), "a request is text");
    }
    if (const auto at = first_invalid_utf8(text_)) {
      refuse(line_at(*at),
             fmt::format("byte {:#04x} at offset {} is no UTF-8", static_cast<unsigned char>(text_[*at]), *at),
             "a request is UTF-8");
    }
    if (const auto lines = static_cast<std::size_t>(std::ranges::count(text_, '\n')); lines > kMaxLines) {
      refuse(1, fmt::format("the request has {} lines", lines),
             fmt::format("a request has at most {} lines", kMaxLines));
    }
    if (text_.starts_with("\xef\xbb\xbf")) text_.remove_prefix(3);  // a byte order mark
  }

  // --- sections ------------------------------------------------------------------------------------------------

  [[nodiscard]] bool seen(Part part) const {
    return std::ranges::any_of(starts_, [&](const auto& start) { return start.first == part; });
  }
  [[nodiscard]] int heading_line(Part part) const {
    const auto found = std::ranges::find(starts_, part, [](const auto& start) { return start.first; });
    return found == starts_.end() ? last_line() : lines_[found->second].number;
  }
  // From the line after the heading to the next heading.
  [[nodiscard]] Section section(Part part) const {
    const auto found = std::ranges::find(starts_, part, [](const auto& start) { return start.first; });
    if (found == starts_.end()) return {};
    const auto next = std::next(found);
    const std::size_t begin = lines_[found->second].end;
    const std::size_t end = next == starts_.end() ? text_.size() : lines_[next->second].begin;
    return {text_.substr(begin, end - begin), lines_[found->second].number + 1};
  }

  void split() {
    Part part = Part::none;
    for (std::size_t i = 0; i < lines_.size(); ++i) {
      const std::string_view line = trim(lines_[i].text);
      if (line.starts_with("```")) {
        i = fence(i, part);
        continue;
      }
      for (const Heading& heading : kHeadings) {
        if (!starts_with_any_case(line, heading.text)) continue;
        if (heading.part != Part::rest && seen(heading.part)) {
          refuse(lines_[i].number, fmt::format("a second {} section", heading.text), "each section stands once");
        }
        // Part of the failed attempt's story, not the request's own task.
        if (heading.part == Part::rest && part == Part::failure && !seen(Part::code)) continue;
        if (heading.part == Part::target) heading_text_ = line.substr(heading.text.size());
        if (heading.part == Part::stage && !trim(line.substr(heading.text.size())).empty()) {
          note(fmt::format("the stage heading is \"{}\"", printable(line)));
        }
        part = heading.part;
        starts_.emplace_back(part, i);
        break;
      }
    }
  }

  // A fenced block that starts at line `first`. Returns its last line.
  std::size_t fence(std::size_t first, Part part) {
    std::size_t last = first + 1;
    while (last < lines_.size() && trim(lines_[last].text) != "```") ++last;
    if (last == lines_.size()) {
      refuse(lines_[first].number, "the block that starts here does not end", "a block ends with ```; truncated?");
    }
    const bool after_code = seen(Part::metrics) || (part == Part::rest && seen(Part::code));
    if (part == Part::code) {
      if (++code_blocks_ == 1) {
        take_code(first, last);
      } else {
        refuse(lines_[first].number, "a second code block under [CURRENT CODE]", "one ```python block");
      }
    } else if (after_code && part == Part::rest && holds_code(first, last)) {
      // The block that closes a request is an empty template for the answer.
      refuse(lines_[first].number, "a second code block, after the metrics",
             "one ```python block, under [CURRENT CODE]");
    }
    return last;
  }

  [[nodiscard]] bool holds_code(std::size_t first, std::size_t last) const {
    return std::any_of(lines_.begin() + static_cast<std::ptrdiff_t>(first) + 1,
                       lines_.begin() + static_cast<std::ptrdiff_t>(last), [](const Line& line) {
                         const std::string_view text = trim(line.text);
                         return !text.empty() && !text.starts_with("#");
                       });
  }

  void take_code(std::size_t first, std::size_t last) {
    std::string& source = request_.code.source;
    for (std::size_t i = first + 1; i < last; ++i) {
      source += lines_[i].text;
      source += '\n';
    }
    request_.code_line = lines_[first].number + 1;
    if (trim(source).empty())
      refuse(lines_[first].number, "the code block is empty", "one ```python block with the code");
    if (source.size() > kMaxCodeBytes) {
      refuse(lines_[first].number, fmt::format("the code block has {} bytes", source.size()),
             fmt::format("code has at most {} bytes", kMaxCodeBytes));
    }
  }

  // --- target --------------------------------------------------------------------------------------------------

  static std::string_view without_bullet(std::string_view line) {
    for (const std::string_view mark : {"\u2022", "-", "*"}) {
      if (line.starts_with(mark)) return trim(line.substr(mark.size()));
    }
    return line;
  }

  void read_target(const Section& section, std::string_view heading) {
    heading = trim(heading);
    if (heading.starts_with(":")) heading = trim(heading.substr(1));
    if (!heading.empty()) {
      request_.stated.name = std::string(heading);
      note("the target is named on one line, without its figures");
    }
    read_facts(section);
  }

  void read_facts(const Section& section) {
    std::string_view rest = section.text;
    for (int line = section.line; !rest.empty(); ++line) {
      const auto end = rest.find('\n');
      const std::string_view text = without_bullet(trim(rest.substr(0, end)));
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      const auto colon = text.find(':');
      if (colon != std::string_view::npos) read_fact(line, trim(text.substr(0, colon)), trim(text.substr(colon + 1)));
    }
  }

  void read_fact(int line, std::string_view raw_key, std::string_view value) {
    const std::string key = lower(raw_key);
    const auto has = [&](std::string_view word) { return key.find(word) != std::string::npos; };
    StatedTarget& stated = request_.stated;
    if (key == "gpu name" || key == "name" || key == "gpu") {
      if (stated.name.empty()) stated.name = std::string(value);
    } else if (has("architecture")) {
      stated.architecture = std::string(value);
    } else if (has("compute capability")) {
      stated.sm = compute_capability(line, value);
    } else if (has("number of sms") || key == "sms" || has("sm count")) {
      stated.sms = number(line, raw_key, value, {});
    } else if (has("memory bandwidth")) {
      stated.dram_bytes_per_s = number(line, raw_key, value, {{"TB/s", kTera}, {"GB/s", kGiga}, {"MB/s", 1e6}});
    } else if (has("tflops")) {
      // Values such as "82.6 with dense" leave the unit to the key.
      const auto rate = number(line, raw_key, value, {{"PFLOPS", 1e15}}, kTera);
      if (has("tf32")) {
        stated.tf32_flops = rate;
      } else if (has("bfloat16") || has("bf16")) {
        stated.bf16_flops = rate;
      } else if (has("fp16") || has("float16")) {
        stated.f16_flops = rate;
      }
    } else if (has("registers per thread")) {
      stated.registers_per_thread = number(line, raw_key, value, {});
    } else if (has("threads per block")) {
      stated.threads_per_block = number(line, raw_key, value, {});
    } else if (has("threads per sm")) {
      stated.threads_per_sm = number(line, raw_key, value, {});
    } else if (has("warps per sm")) {
      stated.warps_per_sm = number(line, raw_key, value, {});
    } else if (has("shared memory") && has("block")) {
      stated.smem_per_block = bytes(line, raw_key, value);
    } else if (has("shared memory") && has("per sm")) {
      stated.smem_per_sm = bytes(line, raw_key, value);
    } else if (has("l2 cache") || key == "l2") {
      stated.l2_bytes = bytes(line, raw_key, value);
    }
  }

  struct Unit {
    std::string_view name;
    double factor;
  };

  [[nodiscard]] std::optional<double> bytes(int line, std::string_view key, std::string_view value) const {
    return number(line, key, value,
                  {{"GB", kMebi * kKibi},
                   {"GiB", kMebi * kKibi},
                   {"MB", kMebi},
                   {"MiB", kMebi},
                   {"KB", kKibi},
                   {"KiB", kKibi},
                   {"K", kKibi}});
  }

  // The number that a value starts with, in SI units or bytes. Absent for "unknown", "N/A" and the like.
  [[nodiscard]] std::optional<double> number(int line, std::string_view key, std::string_view value,
                                             std::initializer_list<Unit> units, double factor = 1) const {
    std::string digits;
    std::size_t at = 0;
    for (; at < value.size(); ++at) {
      const char c = value[at];
      if (c == ',' && at + 1 < value.size() && value[at + 1] >= '0' && value[at + 1] <= '9') continue;
      if (!((c >= '0' && c <= '9') || c == '.' || (at == 0 && c == '-'))) break;
      digits += c;
    }
    double result = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), result);
    if (digits.empty()) {
      const std::string word = lower(value);
      if (word.empty() || word == "unknown" || word == "n/a" || word == "none") return std::nullopt;
      refuse(line, fmt::format("{} is \"{}\"", printable(key), printable(value)), "a figure starts with a number");
    }
    if (error != std::errc{} || end != digits.data() + digits.size()) {
      refuse(line, fmt::format("{} is \"{}\"", printable(key), printable(value)), "a figure starts with a number");
    }
    const std::string_view rest = trim(value.substr(at));
    for (const Unit& unit : units) {
      if (!starts_with_any_case(rest, unit.name)) continue;
      factor = unit.factor;
      break;
    }
    result *= factor;
    if (!std::isfinite(result) || result <= 0) {
      refuse(line, fmt::format("{} is \"{}\"", printable(key), printable(value)), "a figure of a GPU is positive");
    }
    return result;
  }

  [[nodiscard]] std::optional<int> compute_capability(int line, std::string_view value) const {
    const auto wrong = [&] {
      refuse(line, fmt::format("compute capability is \"{}\"", printable(value)), "MAJOR.MINOR, as in 8.9");
    };
    int major = 0, minor = 0;
    const char* const stop = value.data() + value.size();
    const auto [dot, first_error] = std::from_chars(value.data(), stop, major);
    if (first_error != std::errc{} || dot == stop || *dot != '.' || major < 1 || major > 99) wrong();
    const auto [end, second_error] = std::from_chars(dot + 1, stop, minor);
    if (second_error != std::errc{} || minor < 0 || minor > 9) wrong();
    static_cast<void>(end);
    return 10 * major + minor;
  }

  // --- metrics -------------------------------------------------------------------------------------------------

  void read_metrics(const Section& section) {
    constexpr std::string_view kNone = "No NCU metrics available";
    const std::string_view text = trim(section.text);
    if (text.empty()) {
      refuse(section.line, "the metrics section is empty", "JSON, or \"No NCU metrics available\"");
    }
    if (starts_with_any_case(text, kNone)) {
      note("the request has no metrics");
      read_facts(section);  // one template states the GPU's figures here instead
      return;
    }
    // A label or a fence may stand in front.
    std::size_t begin = 0;
    for (std::size_t at = 0; at < section.text.size();) {
      const std::string_view line = section.text.substr(at, section.text.find('\n', at) - at);
      const std::string_view bare = trim(line);
      if (bare.starts_with("{") || bare.starts_with("[")) {
        begin = at;
        break;
      }
      if (!bare.empty() && !bare.starts_with("#") && !bare.starts_with("```") && !bare.ends_with(":")) {
        refuse(section.line + static_cast<int>(std::count(
                                  section.text.begin(), section.text.begin() + static_cast<std::ptrdiff_t>(at), '\n')),
               fmt::format("the metrics are no JSON: \"{}\"", printable(bare, 60)),
               "JSON, or \"No NCU metrics available\"");
      }
      const auto next = section.text.find('\n', at);
      at = next == std::string_view::npos ? section.text.size() : next + 1;
      begin = at;
    }
    if (begin >= section.text.size()) refuse(section.line, "the metrics section holds no JSON", "an object or a list");
    json_line_ =
        section.line + static_cast<int>(std::count(section.text.begin(),
                                                   section.text.begin() + static_cast<std::ptrdiff_t>(begin), '\n'));
    json_ = json_extent(section.text.substr(begin));
    json value;
    try {
      value = json::parse(json_);
    } catch (const json::parse_error& error) {
      const std::size_t at = std::min(error.byte == 0 ? 0 : error.byte - 1, json_.size());
      refuse(line_in_json(at), "the metrics are no JSON", "JSON (RFC 8259)");
    }
    take_metrics(value);
    if (request_.metrics.empty()) note("the metrics are empty");
  }

  // From the first bracket to the one that closes it.
  [[nodiscard]] std::string_view json_extent(std::string_view text) const {
    int depth = 0;
    bool in_string = false;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if (in_string) {
        if (c == '\\') {
          ++i;
        } else if (c == '"' || c == '\n') {
          in_string = false;
        }
        continue;
      }
      if (c == '"') in_string = true;
      if (c == '{' || c == '[') {
        if (++depth > kMaxJsonDepth) {
          refuse(json_line_ +
                     static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(i), '\n')),
                 "the metrics nest too deeply", fmt::format("at most {} levels", kMaxJsonDepth));
        }
      }
      if ((c == '}' || c == ']') && --depth == 0) return text.substr(0, i + 1);
    }
    refuse(json_line_, "the metrics' JSON does not end", "JSON (RFC 8259); truncated?");
  }

  [[nodiscard]] int line_in_json(std::size_t offset) const {
    return json_line_ +
           static_cast<int>(std::count(json_.begin(), json_.begin() + static_cast<std::ptrdiff_t>(offset), '\n'));
  }

  void take_metrics(const json& value) {
    if (value.is_array()) {
      if (!value.empty()) note("the metrics are a list");
      for (const json& row : value) take_row("", row);
      return;
    }
    const bool rows = std::ranges::any_of(value, [](const json& entry) { return entry.is_structured(); });
    if (!rows) {
      if (!value.empty()) take_row("", value);
      return;
    }
    for (const auto& [kernel, entry] : value.items()) {
      if (!entry.is_array()) {
        take_row(kernel, entry);
        continue;
      }
      note(fmt::format("{} launches of {} were profiled", entry.size(), printable(kernel)));
      for (const json& row : entry) take_row(kernel, row);
    }
  }

  void take_row(const std::string& kernel, const json& row) {
    if (!row.is_object()) {
      refuse(kernel.empty() ? json_line_ : find_key(kernel, nullptr),
             fmt::format("the metrics of {} are no object", kernel.empty() ? "a kernel" : printable(kernel)),
             "metric names with numbers");
    }
    KernelMetrics metrics;
    metrics.kernel = kernel;
    for (const auto& [name, value] : row.items()) {
      if (++entries_ > kMaxEntries) {
        refuse(json_line_, "too many metrics", fmt::format("at most {} in a request", kMaxEntries));
      }
      if (name == "Kernel Name" && value.is_string()) {
        metrics.kernel = value.get<std::string>();
        continue;
      }
      take_value(metrics, name, value);
    }
    require_possible_here(metrics);
    request_.metrics.push_back(std::move(metrics));
  }

  void take_value(KernelMetrics& metrics, const std::string& name, const json& value) {
    if (value.is_null()) {
      metrics.null_values.push_back(name);
      return;
    }
    std::optional<double> number;
    if (value.is_number()) {
      number = value.get<double>();
    } else if (value.is_string()) {
      number = spelt_number(value.get<std::string>());
    }
    if (!number) {
      refuse(find_key(name, nullptr), fmt::format("metric {} is no number", printable(name, 120)),
             "a number, null, or \"inf\"");
    }
    if (std::isnan(*number)) {
      metrics.null_values.push_back(name);
    } else {
      metrics.values[name] = *number;
    }
  }

  // "inf", "2,098,176".
  static std::optional<double> spelt_number(std::string text) {
    std::erase(text, ',');
    const std::string word = lower(trim(text));
    if (word == "inf" || word == "+inf" || word == "infinity") return std::numeric_limits<double>::infinity();
    if (word == "-inf" || word == "-infinity") return -std::numeric_limits<double>::infinity();
    if (word == "nan" || word == "n/a") return std::numeric_limits<double>::quiet_NaN();
    double value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (word.empty() || error != std::errc{} || end != word.data() + word.size()) return std::nullopt;
    return value;
  }

  // The check of diagnose, with the metric's line.
  void require_possible_here(const KernelMetrics& metrics) const {
    for (const auto& [name, value] : metrics.values) {
      if (!is_percentage(name) || (value >= 0 && value <= 100)) continue;
      require_possible({metrics.kernel, {{name, value}}, {}},
                       fmt::format("{}:{}", request_.path, find_key(name, &value)));
    }
  }

  // The line of `"name":`, in front of this value where one is given. The section's first line when the name is
  // written with escapes.
  [[nodiscard]] int find_key(const std::string& name, const double* value) const {
    const std::string quoted = '"' + name + '"';
    std::optional<int> first;
    for (auto at = json_.find(quoted); at != std::string_view::npos; at = json_.find(quoted, at + 1)) {
      if (!first) first = line_in_json(at);
      if (value == nullptr) break;
      const auto start = json_.find_first_not_of(" \t\r\n:\"", at + quoted.size());
      if (start == std::string_view::npos) break;
      double here = 0;
      const auto [end, error] = std::from_chars(json_.data() + start, json_.data() + json_.size(), here);
      if (error == std::errc{} && here == *value && end != json_.data() + start) return line_in_json(at);
    }
    return first.value_or(json_line_);
  }

  // --- failure -------------------------------------------------------------------------------------------------

  void read_failure(const Section& section) {
    request_.failure = std::string(trim(section.text));
    if (request_.failure.empty()) return;
    note("an earlier attempt failed");
    // What it asks of the next attempt is a rule like the stage's own.
    std::string_view rest = section.text;
    bool asks = false;
    for (int line = section.line; !rest.empty(); ++line) {
      const auto end = rest.find('\n');
      const std::string_view text = trim(rest.substr(0, end));
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      if (starts_with_any_case(text, "**Your Task**")) {
        asks = true;
      } else if (asks && !text.empty() && request_.stage.rules.size() < kMaxRules) {
        request_.stage.rules.push_back({line, std::string(text)});
      }
    }
  }

  std::string_view text_;
  Request request_;
  std::vector<Line> lines_;
  std::vector<std::pair<Part, std::size_t>> starts_;  // headings in order: what starts, at which line
  std::string_view heading_text_;                     // what follows "# Target GPU"
  int code_blocks_ = 0;
  std::string_view json_;
  int json_line_ = 0;
  std::size_t entries_ = 0;
};

}  // namespace

Request parse_sections(std::string_view text, std::string path) { return Parser(text, std::move(path)).parse(); }

Request parse_request(std::string_view text, std::string path) {
  Request request = parse_sections(text, std::move(path));
  request.code = read_code(request.code.source, request.path, request.code_line);
  return request;
}

Request read_request(const std::filesystem::path& path) {
  return parse_request(read_file(path, kMaxRequestBytes), printable(path.string(), 200));
}

}  // namespace tconv::request
