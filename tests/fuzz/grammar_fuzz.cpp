// Any bytes as a problem word: refused in one line, or understood, printed and read back the same.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "problem/grammar.hpp"
#include "problem/phases.hpp"
#include "util/error.hpp"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "grammar_fuzz: %s\n", what);
  std::abort();
}

void check_phases(const tconv::Word& word) {
  const tconv::Problem& problem = word.workload.problem;
  const tconv::Phases phases(problem);
  for (const std::int64_t residue :
       {std::int64_t{0}, phases.gcd() % problem.stride, problem.stride / 2, problem.stride - 1}) {
    const tconv::Phase phase = phases.phase(residue);
    if (phase.dead()) continue;
    const tconv::Tap first = phase.tap(0), last = phase.tap(phase.count - 1);
    require(first.k >= 0 && last.k < problem.kernel, "a tap lies outside the kernel");
    require(last.offset >= phases.min_offset() && first.offset <= phases.max_offset(),
            "an offset lies outside its range");
    require(last.offset * problem.stride + last.k * problem.dilation == residue, "a tap misses its residue");
  }
  if (!word.has_length) return;
  const std::int64_t length = word.workload.extent.length;
  const std::int64_t taps = phases.useful_taps(length);
  require(taps >= 0 && taps <= problem.kernel * length, "more useful taps than taps");
  require(phases.first_position() <= phases.last_position(length), "positions run backwards");
  require(tconv::work(word.workload).bytes() >= 0, "negative bytes");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  tconv::Word word;
  try {
    word = tconv::parse_word(text);
  } catch (const tconv::Error& error) {
    require(std::string_view(error.what()).find('\n') == std::string_view::npos, "a refusal of more than one line");
    return 0;
  }
  if (word.has_length) {
    require(tconv::parse_workload(tconv::print_word(word.workload)) == word.workload, "no round trip of a workload");
  }
  require(tconv::parse_word(tconv::print_word(word.workload.problem)).workload.problem == word.workload.problem,
          "no round trip of a problem");
  check_phases(word);
  return 0;
}
