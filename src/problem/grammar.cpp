#include "problem/grammar.hpp"

#include <fmt/format.h>

#include <charconv>
#include <set>

#include "problem/catalogue.hpp"
#include "util/error.hpp"
#include "util/text.hpp"

namespace tconv {
namespace {

constexpr std::size_t kMaxWord = 256;
constexpr std::string_view kTokenRule =
    "a token is one of b i o l k s p a d g and a number, one of f32 tf32 f16 bf16 f64 i32, or bias";

std::string quoted(std::string_view text) { return fmt::format("'{}'", printable(text, 40)); }

class Parser {
 public:
  explicit Parser(std::string_view word) : word_(word) {}

  Word parse() {
    if (word_.empty()) fail("the word is empty", "a problem is named like b1_i32_o64_l1000_k4_s2_f32");
    if (word_.size() > kMaxWord) {
      fail(fmt::format("the word has {} characters", word_.size()), fmt::format("at most {}", kMaxWord));
    }
    std::string_view rest = word_;
    if (rest.front() == '@') {
      rest = start_from_catalogue(rest.substr(1));
    } else {
      rest = take_token(rest);
    }
    while (!rest.empty()) rest = take_token(rest.substr(1));  // drops the '_'

    if (!from_catalogue_) {
      for (const char key : {'i', 'o', 'k'}) {
        if (!seen_.contains(std::string(1, key))) {
          fail(fmt::format("token '{}' is missing", key), "i (C_in), o (C_out) and k (kernel) are required");
        }
      }
    }
    result_.has_length = from_catalogue_ || seen_.contains("l");
    const Workload& workload = result_.workload;
    const auto refusal = result_.has_length ? refuse(workload.problem, workload.extent) : refuse(workload.problem);
    if (refusal) throw Error(Exit::unsupported, where(), refusal->what, refusal->rule);
    return result_;
  }

 private:
  // The longest catalogue name that `text` starts with; returns what follows it, "" or "_...".
  std::string_view start_from_catalogue(std::string_view text) {
    for (std::size_t end = text.size(); end != std::string_view::npos;
         end = end == 0 ? end - 1 : text.rfind('_', end - 1)) {
      if (const CatalogueEntry* entry = find_in_catalogue(text.substr(0, end))) {
        result_.workload = entry->workload;
        from_catalogue_ = true;
        return text.substr(end);
      }
    }
    fail(fmt::format("no workload is called {}", quoted(text)), "@name is a workload of the catalogue");
  }

  // Reads the token `text` starts with; returns what follows it, "" or "_...".
  std::string_view take_token(std::string_view text) {
    const std::string_view token = text.substr(0, text.find('_'));
    Problem& problem = result_.workload.problem;
    // `i32` is both 32 input channels and an arithmetic: the first is the channels, the second the arithmetic.
    const bool second_i32 = token == "i32" && seen_.contains("i");
    if (token == "bias") {
      mark("bias", token);
      problem.bias = true;
    } else if (const auto arithmetic = arithmetic_named(token); arithmetic && (token != "i32" || second_i32)) {
      mark("arithmetic", token);
      problem.arithmetic = *arithmetic;
    } else {
      std::int64_t* field = token.empty() ? nullptr : field_of(token.front());
      if (field == nullptr) fail(fmt::format("token {} is unknown", quoted(token)), kTokenRule);
      mark(token.substr(0, 1), token);
      *field = number(token);
    }
    return text.substr(token.size());
  }

  std::int64_t* field_of(char key) {
    Problem& p = result_.workload.problem;
    Extent& e = result_.workload.extent;
    switch (key) {
      case 'b':
        return &e.batch;
      case 'i':
        return &p.c_in;
      case 'o':
        return &p.c_out;
      case 'l':
        return &e.length;
      case 'k':
        return &p.kernel;
      case 's':
        return &p.stride;
      case 'p':
        return &p.padding;
      case 'a':
        return &p.output_padding;
      case 'd':
        return &p.dilation;
      case 'g':
        return &p.groups;
      default:
        return nullptr;
    }
  }

  std::int64_t number(std::string_view token) const {
    const std::string_view digits = token.substr(1);
    if (digits.empty() || digits.find_first_not_of("0123456789") != std::string_view::npos) {
      fail(fmt::format("token {} has no decimal number after '{}'", quoted(token), token.front()), kTokenRule);
    }
    std::int64_t value = 0;
    if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ec != std::errc()) {
      fail(fmt::format("the number of token {} is too large", quoted(token)), "numbers fit in int64");
    }
    return value;
  }

  void mark(std::string_view kind, std::string_view token) {
    if (!seen_.emplace(kind).second)
      fail(fmt::format("token {} repeats '{}'", quoted(token), kind), "each at most once");
  }

  [[nodiscard]] std::string where() const { return "problem word " + quoted(word_); }
  [[noreturn]] void fail(std::string what, std::string_view rule) const {
    throw Error(Exit::usage, where(), std::move(what), std::string(rule));
  }

  std::string_view word_;
  Word result_;
  bool from_catalogue_ = false;
  std::set<std::string, std::less<>> seen_;
};

std::string print(const Problem& p, const Extent* extent) {
  std::string word = extent == nullptr ? "" : fmt::format("b{}_", extent->batch);
  word += fmt::format("i{}_o{}_", p.c_in, p.c_out);
  if (extent != nullptr) word += fmt::format("l{}_", extent->length);
  word += fmt::format("k{}_s{}_", p.kernel, p.stride);
  if (p.padding != 0) word += fmt::format("p{}_", p.padding);
  if (p.output_padding != 0) word += fmt::format("a{}_", p.output_padding);
  if (p.dilation != 1) word += fmt::format("d{}_", p.dilation);
  if (p.groups != 1) word += fmt::format("g{}_", p.groups);
  word += name(p.arithmetic);
  if (p.bias) word += "_bias";
  return word;
}

}  // namespace

Word parse_word(std::string_view word) { return Parser(word).parse(); }

Workload parse_workload(std::string_view word) {
  const Word parsed = parse_word(word);
  if (!parsed.has_length) {
    throw Error(Exit::usage, "problem word " + quoted(word), "token 'l' is missing", "a workload names its length");
  }
  return parsed.workload;
}

std::string print_word(const Problem& problem) { return print(problem, nullptr); }
std::string print_word(const Workload& workload) { return print(workload.problem, &workload.extent); }

}  // namespace tconv
