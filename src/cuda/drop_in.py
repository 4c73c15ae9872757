import torch
import torch.nn as nn
from torch.utils.cpp_extension import load_inline

# @about

# What the kernels are made of, as it lies in kernels/ of tconv.
HEADERS = r""""""  # @headers

# The layer and its schedules, one text for all arithmetics and biases that are computed alike.
KERNELS = {}  # @kernels

# Which of these texts serves an arithmetic, without and with a bias.
TEXT_OF = {}  # @text_of

LAUNCHER = r""""""  # @launcher

BINDING = r""""""  # @binding

LAYER = ()  # @layer
ARCHITECTURE = []  # @architecture
EXTENSIONS = {}


def extension(text):
    # The compiled extension of one of KERNELS; its name changes with its source, so that no older build is taken.
    if text not in EXTENSIONS:
        EXTENSIONS[text] = load_inline(
            name="tconv_" + text + "_DIGEST",  # @digest
            cpp_sources="torch::Tensor conv_transpose1d_forward(const torch::Tensor& x, const torch::Tensor& weight, "
                        "const std::optional<torch::Tensor>& bias);",
            cuda_sources=HEADERS + KERNELS[text] + LAUNCHER + BINDING,
            functions=["conv_transpose1d_forward"],
            extra_cuda_cflags=["-O3", *ARCHITECTURE],
        )
    return EXTENSIONS[text]


# What the layer was planned in is compiled on import, where KernelBench expects it; the others on first use.
extension("")  # @first


def require_layer(weight, stride, padding, output_padding, dilation, groups):
    given = (*weight.shape, stride, padding, output_padding, dilation, groups)
    if given != LAYER:
        raise ValueError("this file is compiled for the layer (C_in, C_out / groups, K, stride, padding, "
                         f"output_padding, dilation, groups) = {LAYER}, not {given}: tconv optimize --workload WORD "
                         "--emit cuda writes the one for another")


def conv_transpose1d(x, weight, bias, stride, padding, output_padding, dilation, groups):
    # x (B, C_in, L), weight (C_in, C_out / groups, K), bias (C_out) or None -> y (B, C_out, L_out).
    require_layer(weight, stride, padding, output_padding, dilation, groups)
    if x.dtype == torch.float32:
        arithmetic = "tf32" if torch.backends.cudnn.allow_tf32 else "f32"
    else:
        arithmetic = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64",
                      torch.int32: "i32"}.get(x.dtype)
    if (arithmetic, bias is not None) not in TEXT_OF:
        raise TypeError(f"{x.dtype} {'without' if bias is None else 'with'} a bias is not served")
    return extension(TEXT_OF[arithmetic, bias is not None]).conv_transpose1d_forward(x, weight, bias)
