// The one-word grammar: b16_i32_o64_l131072_k3_s2_p1_d2_tf32.
//
// Tokens, joined by '_', in any order, each at most once: b batch, i C_in, o C_out, l L_in, k kernel,
// s stride, p padding, a output_padding, d dilation, g groups; one arithmetic (f32 tf32 f16 bf16 f64
// i32); `bias`. Required: i, o, k. Defaults: b1 s1 p0 a0 d1 g1 f32, no bias; l may be left out where
// only the problem is meant. `@name` is a workload of the catalogue, and may be followed by tokens
// that replace its own: @kb79_b1_f16. The first `i32` of a word is 32 input channels, the second the
// arithmetic: i32_o64_k3_i32. A name is read as far as it can be: @convtasnet_sepformer_dec_b1 is one.
// Numbers are decimal digits that fit in int64; a word has at most 256 characters.
#pragma once

#include <string>
#include <string_view>

#include "problem/problem.hpp"

namespace tconv {

// A word as parsed: `has_length` tells whether it names an extent or only a problem.
struct Word {
  Workload workload;
  bool has_length = false;
};

// Throws Error(usage) for a word that does not parse, Error(unsupported) for one that does and that
// the validator refuses.
[[nodiscard]] Word parse_word(std::string_view word);
[[nodiscard]] Workload parse_workload(std::string_view word);  // as above; also requires a length

// Canonical form: tokens in the order above, defaults left out except b, i, o, l, k, s and the
// arithmetic. parse(print(w)) == w.
[[nodiscard]] std::string print_word(const Problem& problem);
[[nodiscard]] std::string print_word(const Workload& workload);

}  // namespace tconv
