// The current code of a request, read without running it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "problem/problem.hpp"

namespace tconv::request {

// One `triton.Config(...)` of an autotune list.
struct AutotuneConfig {
  std::map<std::string, std::int64_t> meta;  // BLOCK_* and the like
  int num_warps = 0;                         // 0: not given
  int num_stages = 0;
};

struct Kernel {
  std::string name;
  int line = 0;  // of the `def`, within the code block, from 1
  std::vector<std::string> parameters;
  std::vector<std::string> constexprs;  // the parameters annotated tl.constexpr
  std::vector<AutotuneConfig> autotune;
  std::vector<std::string> autotune_key;
  // What the body does, as facts from the syntax tree.
  bool uses_dot = false;                // tl.dot
  std::string dot_precision;            // "tf32", "ieee", "tf32x3", "" (default)
  bool uses_atomics = false;            // tl.atomic_*
  bool float_index_arithmetic = false;  // an index goes through a floating-point value (floor of x*inv)
  bool division_in_loop = false;        // // or % by a run-time stride inside a loop
  bool scans_all_taps = false;          // a divisibility test masks taps inside the tap loop
  bool int64_offsets = false;           // some offset is widened to int64
  bool masks_loads = false;
  bool masks_stores = false;
  std::vector<std::string> activations;  // tl.maximum, tl.sigmoid, tl.exp, ... seen in the body
};

// One axis of the launch grid, as an expression over named sizes.
enum class GridSize { one, batch, c_out, c_in, out_length, in_length, stride, groups, constant, unknown };
struct GridFactor {
  GridSize size = GridSize::unknown;
  std::int64_t constant = 1;     // for GridSize::constant
  std::string block;             // non-empty: cdiv(size, block), a name in the launch or autotune meta
  std::int64_t block_value = 0;  // the block's value where it is fixed; 0 where autotune chooses it
};
struct GridAxis {
  std::vector<GridFactor> factors;  // multiplied
};

struct Launch {
  std::string kernel;
  std::vector<GridAxis> grid;                // 1 to 3 axes; empty when the expression was not understood
  std::string grid_text;                     // for messages only
  std::map<std::string, std::int64_t> meta;  // integer keyword arguments (BLOCK_T=128, num_warps=4)
  int num_warps = 0;
  int num_stages = 0;
};

// ModelNew, as far as a drop-in must repeat it. Every string here was rebuilt from a closed set of
// syntax (identifiers that match [A-Za-z_][A-Za-z0-9_]*, numbers, whitelisted calls): nothing of the
// request's text reaches the answer unread.
struct Parameter {
  std::string name;
  std::string annotation;     // "int", "bool", "float", "" ...
  std::string default_value;  // "" when there is none: 1, 0, False, True, None
};
struct Module {
  std::string class_name;             // ModelNew
  std::vector<Parameter> parameters;  // of __init__, without self
  std::vector<std::string> body;      // statements of __init__, one line each, relative indentation kept
  std::string input;                  // the argument of forward
  // How forward reaches each role, as Python expressions over self: "self.conv.weight", "self.stride", "1".
  std::string weight, bias, stride, padding, output_padding, dilation, groups;
  bool bias_possible = false;  // a constructor argument, or always
  // Roles that the constructor lets the caller choose (else the role is fixed at its expression).
  bool has_stride = false, has_padding = false, has_output_padding = false, has_dilation = false, has_groups = false,
       has_bias = false;
  // Initialisation, compared with nn.ConvTranspose1d.
  bool uses_conv_module = false;   // an nn.ConvTranspose1d child holds the parameters
  bool bias_init_differs = false;  // e.g. the bound from C_in*K where PyTorch uses C_out/groups*K
  std::string bias_init_note;      // what differs, in words
};

struct Finding {
  enum class Severity { wrong_result, limitation, performance, note };
  Severity severity = Severity::note;
  int line = 0;        // within the code block; 0 when it is about the whole
  std::string title;   // one line
  std::string detail;  // when it happens, in numbers where there are any
};

struct Code {
  std::string source;  // as in the request
  std::vector<Kernel> kernels;
  std::vector<Launch> launches;
  Module module;
  std::string wrapper;  // the function that launches
  bool makes_input_contiguous = false;
  bool makes_weight_contiguous = false;
  bool uses_strides = false;           // passes tensor strides to the kernel
  bool admits_i32 = false;             // names torch.int32 among the accepted dtypes
  std::vector<std::string> dtypes;     // dtypes named in the code
  bool output_length_formula = false;  // computes L_out of a transposed convolution
  std::vector<Finding> findings;       // faults visible in the code alone
};

// Parses with Python's own `ast` in a subprocess (`python3 -I`); the code is never imported or run.
// Throws Error(usage) when it does not parse, Error(unsupported) when it is no transposed convolution
// that a drop-in can be written for, Error(no_device) without a Python 3.9; the message names the line and
// the rule. `path` and `first_line` say where the code stands in a larger file; "" is the code itself.
// Reading for the interface alone, to call the module and not to replace it, admits kernels that compute
// more than a transposed convolution.
enum class Purpose { replace, interface };
[[nodiscard]] Code read_code(const std::string& source, const std::string& path = "", int first_line = 1,
                             Purpose purpose = Purpose::replace);

}  // namespace tconv::request
