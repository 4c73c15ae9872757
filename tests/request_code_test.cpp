#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "request/code.hpp"
#include "util/error.hpp"

namespace tconv::request {
namespace {

constexpr std::string_view kImports = R"(import torch
import torch.nn as nn
import triton
import triton.language as tl
)";

constexpr std::string_view kKernel = R"(
@triton.jit
def deconv_kernel(x_ptr, w_ptr, b_ptr, y_ptr, C_IN, C_OUT, L_IN, L_OUT, stride, padding, dilation,
                  HAS_BIAS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    co = tl.program_id(1)
    t = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for ci in range(C_IN):
        for k in range(K):
            u = t + padding - k * dilation
            i = u // stride
            hit = (u >= 0) & (u % stride == 0) & (i < L_IN)
            x = tl.load(x_ptr + (b * C_IN + ci) * L_IN + i, mask=hit, other=0.0)
            w = tl.load(w_ptr + (ci * C_OUT + co) * K + k)
            acc += x * w
    if HAS_BIAS:
        acc += tl.load(b_ptr + co)
    tl.store(y_ptr + (b * C_OUT + co) * L_OUT + t, acc, mask=t < L_OUT)
)";

constexpr std::string_view kWrapper = R"(
def deconv(x, w, bias, stride, padding, dilation):
    x = x.contiguous()
    B, C_IN, L_IN = x.shape
    _, C_OUT, K = w.shape
    L_OUT = (L_IN - 1) * stride - 2 * padding + dilation * (K - 1) + 1
    y = torch.empty((B, C_OUT, L_OUT), device=x.device, dtype=x.dtype)
    BLOCK = 128
    grid = (B, C_OUT, triton.cdiv(L_OUT, BLOCK))
    deconv_kernel[grid](x, w, bias if bias is not None else w, y, C_IN, C_OUT, L_IN, L_OUT, stride, padding, dilation,
                        HAS_BIAS=bias is not None, K=K, BLOCK=BLOCK, num_warps=4, num_stages=2)
    return y
)";

constexpr std::string_view kModule = R"(
class ModelNew(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 dilation: int = 1, bias: bool = False):
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, padding=padding,
                                       dilation=dilation, bias=bias)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation

    def forward(self, x):
        return deconv(x, self.conv.weight, self.conv.bias, self.stride, self.padding, self.dilation)
)";

// A module whose __init__ has these statements after super().__init__(), and the usual forward.
std::string raw_module(std::string_view statements, std::string_view imports = "") {
  std::string body;
  for (std::size_t at = 0; at < statements.size();) {
    const auto end = std::min(statements.find('\n', at), statements.size());
    body += "        " + std::string(statements.substr(at, end - at)) + "\n";
    at = end + 1;
  }
  return fmt::format(R"({}{}{}{}
class ModelNew(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
                 dilation: int = 1, bias: bool = False):
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
{}
    def forward(self, x):
        return deconv(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
)",
                     kImports, imports, kKernel, kWrapper, body);
}

std::string whole(std::string_view kernel = kKernel, std::string_view wrapper = kWrapper,
                  std::string_view module = kModule, std::string_view imports = kImports) {
  return fmt::format("{}{}{}{}", imports, kernel, wrapper, module);
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << "nothing to replace: " << from;
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

const Finding* finding(const Code& code, std::string_view title) {
  const auto found =
      std::ranges::find_if(code.findings, [&](const Finding& f) { return f.title.find(title) != std::string::npos; });
  return found == code.findings.end() ? nullptr : &*found;
}

struct Refused {
  Exit exit = Exit::ok;
  std::string what;
};
Refused refusal(const std::string& source) {
  try {
    static_cast<void>(read_code(source));
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return {error.exit(), error.what()};
  }
  return {};
}

void expect_refused(const std::string& source, std::string_view says, Exit exit = Exit::unsupported) {
  const Refused refused = refusal(source);
  EXPECT_EQ(refused.exit, exit) << refused.what;
  EXPECT_NE(refused.what.find(says), std::string::npos) << "says: " << refused.what << "\nnot: " << says;
}

std::vector<GridSize> sizes(const GridAxis& axis) {
  std::vector<GridSize> result;
  for (const GridFactor& factor : axis.factors) result.push_back(factor.size);
  return result;
}
using Sizes = std::vector<GridSize>;

// The one launch of the code with this grid expression.
Launch launch_with_grid(std::string_view grid, std::string_view launch_block = "BLOCK=BLOCK") {
  std::string wrapper = replaced(std::string(kWrapper), "(B, C_OUT, triton.cdiv(L_OUT, BLOCK))", grid);
  wrapper = replaced(wrapper, "BLOCK=BLOCK,", launch_block.empty() ? "" : std::string(launch_block) + ",");
  const Code code = read_code(whole(kKernel, wrapper));
  EXPECT_EQ(code.launches.size(), 1u);
  return code.launches.at(0);
}

std::vector<std::string> lines(std::string_view text) {
  std::vector<std::string> result;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    result.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  return result;
}

// --- what is read ------------------------------------------------------------------------------------------------

TEST(ReadCode, ConvModule) {
  const std::string source = whole();
  const Code code = read_code(source);
  EXPECT_EQ(code.source, source);
  ASSERT_EQ(code.kernels.size(), 1u);
  const Kernel& kernel = code.kernels[0];
  EXPECT_EQ(kernel.name, "deconv_kernel");
  EXPECT_EQ(kernel.line, 7);
  EXPECT_EQ(kernel.parameters.size(), 14u);
  EXPECT_EQ(kernel.constexprs, (std::vector<std::string>{"HAS_BIAS", "K", "BLOCK"}));
  EXPECT_FALSE(kernel.uses_dot || kernel.uses_atomics || kernel.float_index_arithmetic || kernel.int64_offsets);
  EXPECT_TRUE(kernel.scans_all_taps && kernel.division_in_loop && kernel.masks_loads && kernel.masks_stores);
  EXPECT_TRUE(kernel.activations.empty());

  ASSERT_EQ(code.launches.size(), 1u);
  const Launch& launch = code.launches[0];
  EXPECT_EQ(launch.kernel, "deconv_kernel");
  EXPECT_EQ(launch.grid_text, "(B, C_OUT, triton.cdiv(L_OUT, BLOCK))");
  ASSERT_EQ(launch.grid.size(), 3u);
  EXPECT_EQ(sizes(launch.grid[0]), Sizes{GridSize::batch});
  EXPECT_EQ(sizes(launch.grid[1]), Sizes{GridSize::c_out});
  EXPECT_EQ(sizes(launch.grid[2]), Sizes{GridSize::out_length});
  EXPECT_EQ(launch.grid[2].factors[0].block, "BLOCK");
  EXPECT_EQ(launch.grid[2].factors[0].block_value, 128);
  EXPECT_EQ(launch.meta, (std::map<std::string, std::int64_t>{{"BLOCK", 128}, {"num_stages", 2}, {"num_warps", 4}}));
  EXPECT_EQ(launch.num_warps, 4);
  EXPECT_EQ(launch.num_stages, 2);

  const Module& module = code.module;
  EXPECT_EQ(module.class_name, "ModelNew");
  ASSERT_EQ(module.parameters.size(), 7u);
  EXPECT_EQ(module.parameters[0].name, "in_channels");
  EXPECT_EQ(module.parameters[0].annotation, "int");
  EXPECT_EQ(module.parameters[0].default_value, "");
  EXPECT_EQ(module.parameters[6].default_value, "False");
  EXPECT_EQ(module.body[0], "super().__init__()");
  EXPECT_EQ(module.body[1],
            "self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, "
            "dilation=dilation, bias=bias)");
  EXPECT_EQ(module.input, "x");
  EXPECT_EQ(module.weight, "self.conv.weight");
  EXPECT_EQ(module.bias, "self.conv.bias");
  EXPECT_EQ(module.stride, "self.stride");
  EXPECT_EQ(module.output_padding, "0");
  EXPECT_EQ(module.groups, "1");
  EXPECT_TRUE(module.has_stride && module.has_padding && module.has_dilation && module.has_bias &&
              module.bias_possible);
  EXPECT_FALSE(module.has_output_padding || module.has_groups || module.bias_init_differs);
  EXPECT_TRUE(module.uses_conv_module);

  EXPECT_EQ(code.wrapper, "deconv");
  EXPECT_TRUE(code.makes_input_contiguous && code.output_length_formula);
  EXPECT_FALSE(code.makes_weight_contiguous || code.uses_strides || code.admits_i32);
}

TEST(ReadCode, RolesFromTheChildsOwnAttributes) {
  std::string module = replaced(std::string(kModule), "self.stride, self.padding, self.dilation)",
                                "self.conv.stride[0], self.conv.padding[0], self.conv.dilation[0])");
  for (const char* line :
       {"        self.stride = stride\n", "        self.padding = padding\n", "        self.dilation = dilation\n"}) {
    module = replaced(module, line, "");
  }
  const Code code = read_code(whole(kKernel, kWrapper, module));
  EXPECT_EQ(code.module.stride, "self.conv.stride[0]");
  EXPECT_EQ(code.module.dilation, "self.conv.dilation[0]");
  EXPECT_TRUE(code.module.has_stride);
}

TEST(ReadCode, NumbersThatTheModuleFixes) {
  std::string module = replaced(std::string(kModule), "stride=stride", "stride=2");
  module = replaced(module, "stride: int = 1, ", "");
  module = replaced(module, "self.stride = stride", "self.stride = 2");
  const Code conv = read_code(whole(kKernel, kWrapper, module));
  EXPECT_EQ(conv.module.stride, "2");
  EXPECT_FALSE(conv.module.has_stride);

  // Raw parameters: the number stands in forward only.
  std::string raw = raw_module(
      "self.weight = nn.Parameter(torch.randn(in_channels, out_channels, kernel_size) * 0.02)\nself.bias = None");
  raw = replaced(raw, "self.weight, self.bias, self.stride,", "self.weight, self.bias, 3,");
  raw = replaced(raw, "stride: int = 1, ", "");
  raw = replaced(raw, "        self.stride = stride\n", "");
  const Code code = read_code(raw);
  EXPECT_EQ(code.module.stride, "3");
  EXPECT_EQ(code.module.padding, "self.padding");
  EXPECT_FALSE(code.module.has_stride);
}

TEST(ReadCode, BiasThatIsAlwaysThereOrNever) {
  std::string always = replaced(std::string(kModule), ", bias=bias", "");
  always = replaced(always, ", bias: bool = False", "");
  const Code with = read_code(whole(kKernel, kWrapper, always));
  EXPECT_TRUE(with.module.bias_possible);
  EXPECT_FALSE(with.module.has_bias);
  const Code without =
      read_code(whole(kKernel, kWrapper, replaced(always, "dilation=dilation", "bias=False, dilation=dilation")));
  EXPECT_FALSE(without.module.bias_possible || without.module.has_bias);
  EXPECT_EQ(without.module.bias, "self.conv.bias");
}

TEST(ReadCode, DerivedSizesAreNamed) {
  std::string module = replaced(std::string(kModule), "padding=padding", "padding=(kernel_size - stride) // 2");
  module = replaced(module, "padding: int = 0,", "");
  module = replaced(module, "self.padding = padding", "self.padding = (kernel_size - stride) // 2");
  const Code code = read_code(whole(kKernel, kWrapper, module));
  EXPECT_EQ(code.module.padding, "self.padding");
  EXPECT_FALSE(code.module.has_padding);
  EXPECT_NE(finding(code, "padding is computed by the constructor"), nullptr);
}

TEST(ReadCode, RawParametersWithAnotherBiasBound) {
  const Code code =
      read_code(raw_module(R"(self.weight = nn.Parameter(torch.empty(in_channels, out_channels, kernel_size))
nn.init.kaiming_uniform_(self.weight, a=5**0.5)
self.bias = None
if bias:
    self.bias = nn.Parameter(torch.empty(out_channels))
    fan_in = in_channels * kernel_size
    bound = 1 / (fan_in ** 0.5)
    nn.init.uniform_(self.bias, -bound, bound))"));
  EXPECT_EQ(code.module.weight, "self.weight");
  EXPECT_EQ(code.module.bias, "self.bias");
  EXPECT_FALSE(code.module.uses_conv_module);
  EXPECT_TRUE(code.module.has_bias && code.module.bias_possible && code.module.bias_init_differs);
  EXPECT_NE(code.module.bias_init_note.find("1/sqrt(C_in*K)"), std::string::npos);
  EXPECT_NE(code.module.bias_init_note.find("1/sqrt(C_out/groups*K)"), std::string::npos);
  EXPECT_NE(finding(code, "the bias starts differently"), nullptr);
  EXPECT_EQ(finding(code, "the weight starts differently"), nullptr);
  const std::vector<std::string> body(code.module.body.begin() + 4, code.module.body.end());
  EXPECT_EQ(body, lines(R"(self.weight = nn.Parameter(torch.empty(in_channels, out_channels, kernel_size))
nn.init.kaiming_uniform_(self.weight, a=5 ** 0.5)
self.bias = None
if bias:
    self.bias = nn.Parameter(torch.empty(out_channels))
    fan_in = in_channels * kernel_size
    bound = 1 / fan_in ** 0.5
    nn.init.uniform_(self.bias, -bound, bound))"));
}

TEST(ReadCode, RawParametersAsPyTorchMakesThem) {
  const Code code =
      read_code(raw_module(R"(self.weight = nn.Parameter(torch.empty((in_channels, out_channels, kernel_size)))
if bias:
    self.bias = nn.Parameter(torch.empty(out_channels))
else:
    self.register_parameter("bias", None)
init.kaiming_uniform_(self.weight, a=math.sqrt(5))
if self.bias is not None:
    fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0
    init.uniform_(self.bias, -bound, bound))",
                           "import math\nfrom torch.nn import init\n"));
  EXPECT_FALSE(code.module.bias_init_differs) << code.module.bias_init_note;
  EXPECT_EQ(finding(code, "starts differently"), nullptr);
  const std::vector<std::string> body(code.module.body.begin() + 5, code.module.body.end());
  EXPECT_EQ(body, lines(R"(if bias:
    self.bias = nn.Parameter(torch.empty(out_channels))
else:
    self.register_parameter('bias', None)
nn.init.kaiming_uniform_(self.weight, a=5 ** 0.5)
if self.bias is not None:
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(self.weight)
    bound = 1 / fan_in ** 0.5 if fan_in > 0 else 0
    nn.init.uniform_(self.bias, -bound, bound))"));
}

TEST(ReadCode, MethodsThatInitialiseAreInlined) {
  const std::string source =
      replaced(raw_module("self.weight = nn.Parameter(torch.zeros(in_channels, out_channels, kernel_size))\n"
                          "self.bias = nn.Parameter(torch.zeros(out_channels))\nself.reset_parameters()"),
               "    def forward(self, x):",
               "    def reset_parameters(self):\n        with torch.no_grad():\n            "
               "self.weight.normal_(0.0, 0.02)\n            self.bias.zero_()\n\n    def forward(self, x):");
  const Code code = read_code(source);
  const std::vector<std::string> body(code.module.body.end() - 3, code.module.body.end());
  EXPECT_EQ(body, (std::vector<std::string>{"with torch.no_grad():", "    self.weight.normal_(0.0, 0.02)",
                                            "    self.bias.zero_()"}));
  EXPECT_TRUE(code.module.bias_init_differs);
  EXPECT_NE(finding(code, "the weight starts differently"), nullptr);
}

TEST(ReadCode, GroupsAndOutputPadding) {
  std::string module =
      replaced(std::string(kModule), "dilation: int = 1,", "output_padding=0, groups=1, dilation: int = 1,");
  module = replaced(module, "bias=bias)",
                    "bias=bias, output_padding=output_padding, groups=groups)\n"
                    "        self.output_padding, self.g = output_padding, groups");
  // Two targets at once are refused; one by one they are fine.
  expect_refused(whole(kKernel, kWrapper, module), "the constructor has");
  module = replaced(module, "self.output_padding, self.g = output_padding, groups",
                    "self.output_padding = output_padding\n        self.g = groups");
  module = replaced(module, "self.dilation)\n", "self.dilation, self.output_padding, self.g)\n");
  std::string wrapper = replaced(std::string(kWrapper), "padding, dilation):", "padding, dilation, op, groups):");
  wrapper = replaced(wrapper, "_, C_OUT, K = w.shape", "C_OUT = w.shape[1] * groups\n    K = w.shape[2]");
  wrapper = replaced(wrapper, "(K - 1) + 1", "(K - 1) + op + 1");
  wrapper = replaced(wrapper, "(B, C_OUT, triton", "(B * groups, C_OUT // groups, triton");
  const Code code = read_code(whole(kKernel, wrapper, module));
  EXPECT_EQ(code.module.output_padding, "self.output_padding");
  EXPECT_EQ(code.module.groups, "self.g");
  EXPECT_TRUE(code.module.has_output_padding && code.module.has_groups);
  EXPECT_EQ(sizes(code.launches[0].grid[0]), (Sizes{GridSize::batch, GridSize::groups}));
  EXPECT_EQ(sizes(code.launches[0].grid[1]), Sizes{GridSize::unknown});  // C_out of one group is no size of its own
  EXPECT_EQ(finding(code, "is ignored"), nullptr);
}

TEST(ReadCode, GridForms) {
  for (const std::string_view axis :
       {"triton.cdiv(L_OUT, BLOCK)", "-(-L_OUT // BLOCK)", "(L_OUT + BLOCK - 1) // BLOCK",
        "(L_OUT + (BLOCK - 1)) // BLOCK", "max(1, 1) * triton.cdiv(L_OUT, BLOCK)", "int(triton.cdiv(L_OUT, BLOCK))"}) {
    SCOPED_TRACE(axis);
    const Launch launch = launch_with_grid(fmt::format("(B, C_OUT, {})", axis));
    ASSERT_EQ(launch.grid.size(), 3u);
    const GridFactor& factor = launch.grid[2].factors.back();
    EXPECT_EQ(factor.size, GridSize::out_length);
    EXPECT_EQ(factor.block, "BLOCK");
    EXPECT_EQ(factor.block_value, 128);
  }
}

TEST(ReadCode, GridOfOneAxisAndOfLambda) {
  const Launch flat = launch_with_grid("(B * C_OUT * triton.cdiv(L_OUT, BLOCK),)");
  ASSERT_EQ(flat.grid.size(), 1u);
  EXPECT_EQ(sizes(flat.grid[0]), (Sizes{GridSize::batch, GridSize::c_out, GridSize::out_length}));

  const Launch lambda = launch_with_grid("lambda META: (triton.cdiv(L_OUT, META['BLOCK']), triton.cdiv(C_OUT, 16), B)");
  ASSERT_EQ(lambda.grid.size(), 3u);
  EXPECT_EQ(lambda.grid[0].factors[0].size, GridSize::out_length);
  EXPECT_EQ(lambda.grid[0].factors[0].block_value, 128);
  EXPECT_EQ(lambda.grid[1].factors[0].size, GridSize::c_out);
  EXPECT_EQ(lambda.grid[1].factors[0].block_value, 16);

  const Launch constant = launch_with_grid("(B, 7, triton.cdiv(L_OUT, BLOCK))");
  EXPECT_EQ(sizes(constant.grid[1]), Sizes{GridSize::constant});
  EXPECT_EQ(constant.grid[1].factors[0].constant, 7);
  EXPECT_EQ(sizes(launch_with_grid("(B, 1, triton.cdiv(L_IN, BLOCK) * stride)").grid[2]),
            (Sizes{GridSize::in_length, GridSize::stride}));
  EXPECT_EQ(sizes(launch_with_grid("(B, C_OUT + 1, triton.cdiv(L_OUT, BLOCK))").grid[1]), Sizes{GridSize::unknown});
  EXPECT_TRUE(launch_with_grid("make_grid(B)").grid.empty());
}

TEST(ReadCode, Autotune) {
  const std::string_view kPlain =
      "configs=[triton.Config({'BLOCK': 64}, num_warps=4, num_stages=3), "
      "triton.Config({'BLOCK': 256}, num_warps=8)], key=['C_IN', 'K']";
  const std::string kernel =
      replaced(std::string(kKernel), "@triton.jit", fmt::format("@triton.autotune({})\n@triton.jit", kPlain));
  std::string wrapper =
      replaced(std::string(kWrapper), "triton.cdiv(L_OUT, BLOCK))", "triton.cdiv(L_OUT, meta['BLOCK']))");
  wrapper = replaced(wrapper, "grid = (", "grid = lambda meta: (");
  wrapper = replaced(wrapper, "BLOCK=BLOCK, num_warps=4, num_stages=2", "");
  const Code code = read_code(whole(kernel, wrapper));
  const Kernel& tuned = code.kernels.at(0);
  ASSERT_EQ(tuned.autotune.size(), 2u);
  EXPECT_EQ(tuned.autotune[0].meta.at("BLOCK"), 64);
  EXPECT_EQ(tuned.autotune[0].num_stages, 3);
  EXPECT_EQ(tuned.autotune[1].num_warps, 8);
  EXPECT_EQ(tuned.autotune[1].num_stages, 0);
  EXPECT_EQ(tuned.autotune_key, (std::vector<std::string>{"C_IN", "K"}));
  EXPECT_EQ(code.launches[0].grid[2].factors[0].block, "BLOCK");
  EXPECT_EQ(code.launches[0].grid[2].factors[0].block_value, 0);  // the autotuner's choice
  EXPECT_EQ(code.launches[0].num_warps, 0);

  const std::string product = replaced(
      kernel, kPlain, "[triton.Config({'BLOCK': b}, num_warps=w) for b in (64, 128, 256) for w in [4, 8]], ['C_IN']");
  const Code many = read_code(whole(product, wrapper));
  ASSERT_EQ(many.kernels[0].autotune.size(), 6u);
  EXPECT_EQ(many.kernels[0].autotune[5].meta.at("BLOCK"), 256);
  EXPECT_EQ(many.kernels[0].autotune[5].num_warps, 8);

  const std::string named = replaced(kernel, kPlain, "configs=CONFIGS, key=['K']");
  const Code by_name = read_code(whole("\nCONFIGS = [triton.Config(dict(BLOCK=32), num_warps=2)]\n" + named, wrapper));
  ASSERT_EQ(by_name.kernels[0].autotune.size(), 1u);
  EXPECT_EQ(by_name.kernels[0].autotune[0].meta.at("BLOCK"), 32);

  const Code computed = read_code(whole(replaced(kernel, kPlain, "configs=make(), key=['K']"), wrapper));
  EXPECT_TRUE(computed.kernels[0].autotune.empty());
  EXPECT_NE(finding(computed, "the autotune list was not understood"), nullptr);
}

TEST(ReadCode, LaunchInlineAndThroughMethods) {
  std::string inline_module = std::string(kModule);
  const auto forward = inline_module.find("    def forward");
  std::string body(kWrapper.substr(kWrapper.find('\n', 2) + 1));  // without its def line
  std::string indented;
  for (const std::string& line : lines(body)) indented += "    " + line + "\n";
  inline_module =
      inline_module.substr(0, forward) +
      "    def forward(self, x):\n        w, bias = self.conv.weight, self.conv.bias\n        stride, padding, "
      "dilation = self.stride, self.padding, self.dilation\n" +
      indented;
  const Code code = read_code(whole(kKernel, "", inline_module));
  EXPECT_EQ(code.wrapper, "ModelNew.forward");
  EXPECT_EQ(sizes(code.launches.at(0).grid.at(2)), Sizes{GridSize::out_length});

  std::string method = replaced(std::string(kModule), "return deconv(",
                                "return self.run(x)\n\n    def run(self, x):\n        return deconv(");
  EXPECT_EQ(read_code(whole(kKernel, kWrapper, method)).wrapper, "deconv");
}

TEST(ReadCode, ConditionsThatCannotBeKnown) {
  const std::string helper = R"(
def to_triton(dtype):
    if dtype == torch.float32:
        return tl.float32
    if dtype in (torch.float16, torch.int32):
        return tl.float16
    raise NotImplementedError(f"unsupported {dtype}")
)";
  std::string wrapper = helper + replaced(std::string(kWrapper), "    BLOCK = 128\n",
                                          "    kind = to_triton(x.dtype)\n    BLOCK = 128\n    if x.dtype == "
                                          "torch.float16:\n        warps = 8\n    else:\n        warps = 4\n");
  wrapper = replaced(wrapper, "num_warps=4", "num_warps=warps");
  const Code code = read_code(whole(kKernel, wrapper));
  EXPECT_EQ(code.launches.at(0).num_warps, 0);  // not fixed
  EXPECT_TRUE(code.admits_i32);
  EXPECT_EQ(code.dtypes, (std::vector<std::string>{"float16", "float32", "int32"}));

  // A fallback on PyTorch for other devices is no part of the answer.
  const std::string fallback = replaced(
      std::string(kWrapper), "    x = x.contiguous()\n",
      "    if not x.is_cuda:\n        return torch.nn.functional.conv_transpose1d(x, w, bias, stride, padding)\n"
      "    x = x.contiguous()\n");
  EXPECT_EQ(read_code(whole(kKernel, fallback)).launches.size(), 1u);
}

TEST(ReadCode, ImportsUnderOtherNames) {
  std::string source = whole();
  for (std::size_t at = 0; (at = source.find("tl.", at)) != std::string::npos; at += 3) source.replace(at, 3, "lg.");
  source = replaced(source, "import triton.language as tl", "from triton import language as lg, cdiv");
  source = replaced(source, "import torch.nn as nn", "from torch import nn");
  source = replaced(source, "triton.cdiv(", "cdiv(");
  const Code code = read_code(source);
  EXPECT_EQ(code.kernels[0].constexprs.size(), 3u);
  EXPECT_TRUE(code.kernels[0].masks_loads && code.kernels[0].scans_all_taps);
  EXPECT_EQ(sizes(code.launches[0].grid[2]), Sizes{GridSize::out_length});
}

TEST(ReadCode, DotAndItsPrecision) {
  const auto with_dot = [](std::string_view dot) {
    return read_code(whole(replaced(std::string(kKernel), "acc += x * w", dot))).kernels[0];
  };
  EXPECT_TRUE(with_dot("acc += tl.dot(x, w)").uses_dot);
  EXPECT_EQ(with_dot("acc += tl.dot(x, w)").dot_precision, "");
  EXPECT_EQ(with_dot("acc = tl.dot(x, w, acc, input_precision='ieee')").dot_precision, "ieee");
  EXPECT_EQ(with_dot("acc += tl.dot(x, w, allow_tf32=True)").dot_precision, "tf32");
  EXPECT_TRUE(with_dot("tl.atomic_add(y_ptr, x * w)").uses_atomics);
  EXPECT_TRUE(with_dot("acc += tl.load(x_ptr + b.to(tl.int64) * L_IN)").int64_offsets);
}

TEST(ReadCode, HelpersBelongToTheKernelsThatCallThem) {
  std::string kernel = R"(
@triton.jit
def tap(t, k, stride, padding, dilation):
    u = t + padding - k * dilation
    return u // stride, (u >= 0) & (u % stride == 0)


@triton.jit
def rounded(v):
    bits = v.to(tl.int32, bitcast=True)
    return tl.where((bits & 0x7F800000) != 0x7F800000, (bits + 0x1000) & -8192, bits).to(tl.float32, bitcast=True)

)" + std::string(kKernel);
  kernel = replaced(kernel, "            u = t + padding - k * dilation\n            i = u // stride\n",
                    "            i, hit = tap(t, k, stride, padding, dilation)\n");
  kernel = replaced(kernel, "hit = (u >= 0) & (u % stride == 0) & (i < L_IN)", "hit = hit & (i < L_IN)");
  kernel = replaced(kernel, "acc += x * w", "acc += rounded(x) * rounded(w)");
  const Code code = read_code(whole(kernel));
  ASSERT_EQ(code.kernels.size(), 1u);
  EXPECT_EQ(code.kernels[0].name, "deconv_kernel");
  EXPECT_TRUE(code.kernels[0].division_in_loop && code.kernels[0].scans_all_taps);
  EXPECT_TRUE(code.kernels[0].activations.empty());
}

// --- findings ----------------------------------------------------------------------------------------------------

TEST(ReadCodeFindings, LostTapsAreThoseOfFloatArithmetic) {
  std::string kernel =
      replaced(std::string(kKernel), "i = u // stride", "i = tl.floor(u.to(tl.float32) * inv).to(tl.int32)");
  kernel = replaced(kernel, "u % stride == 0", "u == i * stride");
  kernel = replaced(kernel, "dilation,\n", "dilation, inv,\n");
  const std::string wrapper = replaced(std::string(kWrapper), "dilation,\n", "dilation, 1.0 / float(stride),\n");
  const Code code = read_code(whole(kernel, wrapper));
  EXPECT_TRUE(code.kernels[0].float_index_arithmetic && code.kernels[0].scans_all_taps);
  const Finding* lost = finding(code, "taps are lost");
  ASSERT_NE(lost, nullptr);
  EXPECT_EQ(lost->severity, Finding::Severity::wrong_result);

  std::vector<std::string> expected;
  for (int s = 1; s <= 64; ++s) {
    const auto inverse = static_cast<float>(1.0 / s);
    for (int n = s; n <= 300000; n += s) {
      const volatile float product = static_cast<float>(n) * inverse;  // volatile: rounded to float
      if (static_cast<int>(std::floor(product)) == n / s) continue;
      expected.push_back(fmt::format("{} at {}", s, n));
      break;
    }
  }
  ASSERT_FALSE(expected.empty());
  EXPECT_NE(lost->detail.find(fmt::format("first at n: {}", fmt::join(expected, ", "))), std::string::npos)
      << lost->detail << "\nexpected " << fmt::format("{}", fmt::join(expected, ", "));
  EXPECT_NE(lost->detail.find(fmt::format("for {} of the strides", expected.size())), std::string::npos);
  EXPECT_NE(finding(code, "positions past 2^24"), nullptr);
}

TEST(ReadCodeFindings, InputLayout) {
  const Finding* none = finding(read_code(whole()), "non-contiguous");
  EXPECT_EQ(none, nullptr);
  const std::string bare = replaced(std::string(kWrapper), "    x = x.contiguous()\n", "");
  const Code code = read_code(whole(kKernel, bare));
  ASSERT_NE(finding(code, "non-contiguous"), nullptr);
  EXPECT_EQ(finding(code, "non-contiguous")->severity, Finding::Severity::wrong_result);
  EXPECT_FALSE(code.makes_input_contiguous);

  std::string kernel = replaced(std::string(kKernel), "dilation,\n", "dilation, xs, xc, xl,\n");
  std::string strided = replaced(bare, "dilation,\n", "dilation, *x.stride(),\n");
  EXPECT_EQ(finding(read_code(whole(kernel, strided)), "non-contiguous"), nullptr);
  EXPECT_TRUE(read_code(whole(kernel, strided)).uses_strides);

  const std::string when_needed = replaced(std::string(kWrapper), "    x = x.contiguous()",
                                           "    if not x.is_contiguous():\n        x = x.contiguous()");
  EXPECT_EQ(finding(read_code(whole(kKernel, when_needed)), "non-contiguous"), nullptr);
}

TEST(ReadCodeFindings, OffsetsGridsAndMasks) {
  const Code code = read_code(whole());
  ASSERT_NE(finding(code, "offsets are 32-bit"), nullptr);
  EXPECT_NE(finding(code, "offsets are 32-bit")->detail.find("b * C_IN"), std::string::npos);
  ASSERT_NE(finding(code, "L_out has a limit on grid axis 2"), nullptr);
  EXPECT_NE(finding(code, "L_out has a limit")->detail.find(std::to_string(65535 * 128 + 1)), std::string::npos);
  EXPECT_NE(finding(code, "one output channel per program"), nullptr);
  EXPECT_NE(finding(code, "no matrix unit"), nullptr);
  EXPECT_NE(finding(code, "every output scans all K taps"), nullptr);
  EXPECT_NE(finding(code, "no output_padding and no groups"), nullptr);
  EXPECT_EQ(finding(code, "stores are not masked"), nullptr);

  const Code wide =
      read_code(whole(replaced(std::string(kKernel), "b = tl.program_id(0)", "b = tl.program_id(0).to(tl.int64)")));
  EXPECT_EQ(finding(wide, "offsets are 32-bit"), nullptr);
  const Code unmasked = read_code(whole(replaced(std::string(kKernel), ", acc, mask=t < L_OUT)", ", acc)")));
  EXPECT_NE(finding(unmasked, "stores are not masked"), nullptr);
  EXPECT_FALSE(unmasked.kernels[0].masks_stores);
}

TEST(ReadCodeFindings, ArgumentsThatAreIgnored) {
  std::string module =
      replaced(std::string(kModule), "dilation: int = 1,", "output_padding: int = 0, dilation: int = 1,");
  module = replaced(module, "bias=bias)", "bias=bias, output_padding=output_padding)");
  const Code code = read_code(whole(kKernel, kWrapper, module));
  ASSERT_NE(finding(code, "output_padding is ignored"), nullptr);
  EXPECT_EQ(finding(code, "output_padding is ignored")->severity, Finding::Severity::wrong_result);
  EXPECT_EQ(code.module.output_padding, "self.conv.output_padding[0]");
}

TEST(ReadCodeFindings, ArgumentsThatAreRefused) {
  std::string module = replaced(std::string(kModule), "dilation: int = 1,", "groups: int = 1, dilation: int = 1,");
  module = replaced(module, "bias=bias)", "bias=bias, groups=groups)");
  module = replaced(
      module, "    def forward(self, x):\n",
      "    def forward(self, x):\n        if self.conv.groups != 1:\n            raise NotImplementedError()\n");
  const Code code = read_code(whole(kKernel, kWrapper, module));
  ASSERT_NE(finding(code, "some arguments are refused"), nullptr);
  EXPECT_NE(finding(code, "some arguments are refused")->detail.find("groups is 1"), std::string::npos);
  EXPECT_EQ(code.module.groups, "self.conv.groups");
  EXPECT_EQ(code.launches.size(), 1u);
}

// --- refusals ----------------------------------------------------------------------------------------------------

TEST(ReadCodeRefusals, FusedOperations) {
  const auto in_forward = [](std::string_view result) {
    std::string module = replaced(std::string(kModule), "return deconv(", "y = deconv(");
    return whole(kKernel, kWrapper, module + "        return " + std::string(result) + "\n",
                 std::string(kImports) + "import torch.nn.functional as F\n");
  };
  expect_refused(in_forward("torch.relu(y)"), "'torch.relu' is applied to a tensor");
  expect_refused(in_forward("F.gelu(y)"), "F.gelu");
  expect_refused(in_forward("y.sigmoid()"), "'.sigmoid(...)'");
  expect_refused(in_forward("y * 0.5"), "'y * 0.5' computes on a tensor");
  expect_refused(in_forward("-y"), "'-y'");
  expect_refused(in_forward("y[:, :, 1:]"), "takes part of a tensor");
  expect_refused(in_forward("x"), "does not return the kernel's output");
  expect_refused(in_forward("self.conv(y)"), "PyTorch's own layer");
  expect_refused(in_forward("self.act(y)"), "'self.act' is applied to a tensor");
  EXPECT_EQ(refusal(in_forward("y.contiguous()")).exit, Exit::ok);

  const auto in_kernel = [](std::string_view statement) {
    return whole(replaced(std::string(kKernel), "    tl.store(", fmt::format("    {}\n    tl.store(", statement)));
  };
  expect_refused(in_kernel("acc = tl.sigmoid(acc)"), "code:23: kernel deconv_kernel fuses tl.sigmoid");
  expect_refused(in_kernel("acc = tl.maximum(acc, 0.0)"), "tl.maximum");
  expect_refused(in_kernel("acc = tl.where(acc > 0, acc, 0.1 * acc)"), "fuses");
  expect_refused(in_kernel("acc = acc * acc"), "a square");
  expect_refused(in_kernel("acc = acc * 0.5"), "'acc * 0.5'");
  expect_refused(in_kernel("acc = acc * stride"), "'acc * stride'");
  EXPECT_EQ(refusal(in_kernel("acc = tl.where(t < L_OUT, acc, 0.0).to(tl.float32)")).exit, Exit::ok);

  // A helper of the kernel's.
  const std::string helper = std::string("\n@triton.jit\ndef act(v):\n    return v * tl.sigmoid(v)\n") +
                             replaced(std::string(kKernel), "    tl.store(", "    acc = act(acc)\n    tl.store(");
  expect_refused(whole(helper), "fuses tl.sigmoid");
}

TEST(ReadCodeRefusals, AnActivationThatTheLaunchSwitchesOffIsListedOnly) {
  std::string kernel = replaced(std::string(kKernel), "K: tl.constexpr", "ACT: tl.constexpr, K: tl.constexpr");
  kernel =
      replaced(kernel, "    tl.store(", "    if ACT == 'relu':\n        acc = tl.maximum(acc, 0.0)\n    tl.store(");
  const std::string off = replaced(std::string(kWrapper), "K=K", "ACT='none', K=K");
  EXPECT_EQ(read_code(whole(kernel, off)).kernels[0].activations, (std::vector<std::string>{"tl.maximum"}));
  expect_refused(whole(kernel, replaced(std::string(kWrapper), "K=K", "ACT='relu', K=K")), "fuses tl.maximum");
}

TEST(ReadCodeRefusals, NoTransposedConvolution) {
  expect_refused(fmt::format("{}\nclass ModelNew(nn.Module):\n    def __init__(self):\n        super().__init__()\n\n"
                             "    def forward(self, x):\n        return x\n",
                             kImports),
                 "no transposed convolution");
  // A convolution: its weight is (C_out, C_in, K).
  const std::string conv =
      raw_module("self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size))\nself.bias = None");
  expect_refused(conv, "no transposed convolution: the weight is (C_out, C_in, K)");
  // The output of a plain convolution.
  const std::string wrapper =
      replaced(std::string(kWrapper), "(L_IN - 1) * stride - 2 * padding + dilation * (K - 1) + 1",
               "(L_IN + 2 * padding - dilation * (K - 1) - 1) // stride + 1");
  expect_refused(whole(kKernel, wrapper), "no transposed convolution: the output is not");
  // A matrix product has no 3-D weight.
  expect_refused(raw_module("self.weight = nn.Parameter(torch.randn(in_channels, out_channels))\nself.bias = None"),
                 "2-D parameter");
  expect_refused(replaced(whole(), "class ModelNew(", "class Model("), "no class ModelNew");
  expect_refused(replaced(whole(), "return deconv(x, self.conv.weight", "return self.conv(x)  # ("),
                 "PyTorch's own layer");
  expect_refused(replaced(whole(), "deconv_kernel[grid](", "print("), "no launch of a Triton kernel");
}

TEST(ReadCodeRefusals, ConstructorsOutsideTheClosedSet) {
  const auto with = [](std::string_view statement) {
    return whole(kKernel, kWrapper,
                 replaced(std::string(kModule), "        self.stride = stride\n",
                          fmt::format("        self.stride = stride\n        {}\n", statement)));
  };
  for (const std::string_view statement : {"open('/tmp/x', 'w')",
                                           "import os",
                                           "self.x = __import__('os')",
                                           "self.x = eval('1')",
                                           "exec('1')",
                                           "self.x = [i for i in range(3)]",
                                           "for i in range(3): self.x = i",
                                           "while True: self.x = 1",
                                           "self.x = lambda: 1",
                                           "self.x = f'{stride}'",
                                           "self.x = 'rm -rf /;$(x)'",
                                           "self.forward = stride",
                                           "self.__class__ = stride",
                                           "del self.stride",
                                           "self.x = stride.__class__",
                                           "self.x = undefined_name",
                                           "self.x = 1e999",
                                           "global stride",
                                           "self.conv.weight.data = stride",
                                           "nn.init.normal_(x)",
                                           "self.apply(print)",
                                           "self.x = torch.load('f')",
                                           "x: int",
                                           "yield 1",
                                           "self.x = 9"
                                           "99999999999999999999"}) {
    SCOPED_TRACE(statement);
    const std::string source = with(statement);
    const Refused refused = refusal(source);
    const auto before =
        source.begin() + static_cast<std::ptrdiff_t>(source.find("\n        " + std::string(statement)));
    const auto line = std::count(source.begin(), before, '\n') + 2;
    EXPECT_EQ(refused.exit, Exit::unsupported) << refused.what;
    EXPECT_NE(refused.what.find(fmt::format("code:{}: the constructor has", line)), std::string::npos) << refused.what;
    EXPECT_NE(refused.what.find("closed set of statements"), std::string::npos) << refused.what;
  }
  expect_refused(with("self.act = nn.ReLU()"), "the module has a layer nn.ReLU");
  expect_refused(with("self.other = nn.ConvTranspose1d(1, 1, 1)"), "two nn.ConvTranspose1d");
  expect_refused(replaced(whole(), "bias: bool = False", "bias: bool = False, **kwargs"),
                 "parameters other than plain");
  expect_refused(replaced(whole(), "bias: bool = False", "bias: bool = print(1)"), "the default 'print(1)'");
  expect_refused(replaced(whole(), "def forward(self, x)", "def forward(self, x, y)"), "other than one tensor");
  expect_refused(replaced(whole(), "dilation=dilation,", "dilation=dilation, padding_mode='reflect',"), "padding_mode");
  for (const std::string_view statement :
       {"assert stride > 0, 'text'", "if stride < 1:\n            raise ValueError('text')", "pass", "'a docstring'",
        "self.tile: int = 64", "self.pair = (stride, padding)",
        "self.s = stride if isinstance(stride, int) else stride[0]"}) {
    SCOPED_TRACE(statement);
    const Code code = read_code(with(statement));
    for (const std::string& line : code.module.body) EXPECT_EQ(line.find("text"), std::string::npos) << line;
  }
}

TEST(ReadCodeRefusals, NamesOutsideAscii) {
  std::string source = whole();
  for (std::size_t at = 0; (at = source.find("self.stride", at)) != std::string::npos; at += 10) {
    source.replace(at, 11, "self.str\u0131de");
  }
  expect_refused(source, "which the answer cannot use");
}

TEST(ReadCodeRefusals, CodeThatDoesNotParse) {
  expect_refused(replaced(whole(), "def deconv(", "def deconv(("), "code does not parse", Exit::usage);
  const Refused at = refusal("import torch\nx = (1,\ny = = 2\n");
  EXPECT_EQ(at.exit, Exit::usage);
  EXPECT_TRUE(at.what.starts_with("code:")) << at.what;
  expect_refused("x = " + std::string(5000, '(') + std::string(5000, ')'), "", Exit::usage);
  expect_refused("x = " + std::string(20000, '-') + "1", "", Exit::usage);
  expect_refused("x = a" + std::string(40000, '.') + "b", "", Exit::usage);
  std::string deep = "x = a";
  for (int i = 0; i < 3000; ++i) deep += ".b";
  expect_refused(deep, "nests too deeply", Exit::usage);
  expect_refused(std::string("x = 1\0y", 7), "does not parse", Exit::usage);
  expect_refused("x = '\xff'", "UTF-8", Exit::usage);
  expect_refused("", "no class ModelNew");
}

TEST(ReadCodeRefusals, PlaceInALargerFile) {
  try {
    static_cast<void>(read_code("x = = 1\n", "request.txt", 44));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), "request.txt:44");
  }
}

TEST(ReadCodeRefusals, NothingIsRunAndNothingRunsAway) {
  const auto marker = std::filesystem::temp_directory_path() / fmt::format("tconv-code-{}", ::getpid());
  const std::string effect = fmt::format("open({:?}, 'w').write('ran')\n", marker.string());
  static_cast<void>(refusal(effect + whole()));
  static_cast<void>(refusal(replaced(whole(), "    BLOCK = 128\n", "    BLOCK = 128\n    " + effect)));
  EXPECT_FALSE(std::filesystem::exists(marker));

  const auto start = std::chrono::steady_clock::now();
  const auto wrapper_with = [](std::string_view statement) {
    return refusal(whole(kKernel, replaced(std::string(kWrapper), "    BLOCK = 128\n",
                                           fmt::format("    BLOCK = 128\n    {}\n", statement))));
  };
  EXPECT_EQ(wrapper_with("z = 9 ** 9 ** 9 ** 9").exit, Exit::ok);
  EXPECT_EQ(wrapper_with("z = 'a' * 10 ** 12").exit, Exit::ok);
  EXPECT_EQ(wrapper_with("z = list(range(10 ** 15))").exit, Exit::ok);
  EXPECT_EQ(wrapper_with("for i in range(10 ** 15): z = i").exit, Exit::ok);
  EXPECT_EQ(wrapper_with("while True: z = 1").exit, Exit::unsupported);
  EXPECT_EQ(wrapper_with("z = deconv(x, w, bias, stride, padding, dilation)").exit, Exit::unsupported);
  std::string doubling = "z0 = (1, 2)";
  for (int i = 0; i < 60; ++i) doubling += fmt::format("\n    z{} = z{} + z{}", i + 1, i, i);
  EXPECT_EQ(wrapper_with(doubling).exit, Exit::ok);
  EXPECT_EQ(wrapper_with("for a in range(99):\n        for b in range(99):\n            for c in range(99):\n"
                         "                for d in range(99):\n                    for e in range(99): z = e")
                .exit,
            Exit::unsupported);
  EXPECT_NE(
      refusal(whole(kKernel, "\nA = B\nB = A\n" + replaced(std::string(kWrapper), "BLOCK = 128", "BLOCK = A"))).exit,
      Exit::defect);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

// The two requests that started the project, where they are at hand.
TEST(ReadCodeShared, CurrentKernels) {
  const auto folder = std::filesystem::path(TCONV_SOURCE_DIR).parent_path() / "shared" / "requests";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  int read = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream file(entry.path());
    std::string text{std::istreambuf_iterator<char>(file), {}};
    text = text.substr(text.find("```python\n") + 10);
    const Code code = read_code(text.substr(0, text.find("\n```") + 1));
    EXPECT_EQ(code.kernels.size(), 1u);
    EXPECT_TRUE(code.kernels.at(0).scans_all_taps);
    EXPECT_FALSE(code.findings.empty());
    ++read;
  }
  EXPECT_GT(read, 0);
}

}  // namespace
}  // namespace tconv::request
