import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.autotune(
    configs=[
        triton.Config({"BLOCK_O": 16, "BLOCK_T": 64, "BLOCK_I": 16}, num_warps=4),
        triton.Config({"BLOCK_O": 32, "BLOCK_T": 32, "BLOCK_I": 32}, num_warps=4),
    ],
    key=["C_IN", "C_OUT"],
)
@triton.jit
def conv_transpose1d_kernel(
    x_ptr, w_ptr, b_ptr, y_ptr, L_IN, L_OUT, stride, padding, dilation, C_IN, C_OUT, K,
    x_stride_b, x_stride_c, x_stride_l,
    HAS_BIAS: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_O: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_I: tl.constexpr,
):
    """One block of outputs of one batch and group; every tap is tried for every output."""
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    b = (tl.program_id(2) // GROUPS).to(tl.int64)
    group = tl.program_id(2) % GROUPS
    acc = tl.zeros((BLOCK_O, BLOCK_T), dtype=tl.float32)
    for first in range(0, C_IN, BLOCK_I):
        i = first + tl.arange(0, BLOCK_I)
        for k in range(0, K):
            u = t + padding - k * dilation
            source = u // stride
            valid = (u >= 0) & (u % stride == 0) & (source < L_IN)
            x_offsets = b * x_stride_b + (group * C_IN + i)[:, None] * x_stride_c + source[None, :] * x_stride_l
            x = tl.load(x_ptr + x_offsets, mask=(i < C_IN)[:, None] & valid[None, :], other=0.0)
            w_offsets = ((group * C_IN + i)[None, :] * C_OUT + o[:, None]) * K + k
            w = tl.load(w_ptr + w_offsets, mask=(i < C_IN)[None, :] & (o < C_OUT)[:, None], other=0.0)
            acc = tl.dot(w, x, acc)
    if HAS_BIAS:
        acc += tl.load(b_ptr + group * C_OUT + o, mask=o < C_OUT, other=0.0).to(tl.float32)[:, None]
    y_offsets = ((b * GROUPS + group) * C_OUT + o)[:, None] * L_OUT + t[None, :]
    tl.store(y_ptr + y_offsets, acc.to(y_ptr.dtype.element_ty), mask=(o < C_OUT)[:, None] & (t < L_OUT)[None, :])


def conv_transpose1d(x, weight, bias, stride, padding, output_padding, dilation, groups):
    B, C_IN, L_IN = x.shape
    C_OUT, K = weight.shape[1], weight.shape[2]
    L_OUT = (L_IN - 1) * stride - 2 * padding + dilation * (K - 1) + output_padding + 1
    y = torch.empty((B, C_OUT * groups, L_OUT), device=x.device, dtype=x.dtype)
    grid = lambda meta: (triton.cdiv(L_OUT, meta["BLOCK_T"]), triton.cdiv(C_OUT, meta["BLOCK_O"]), B * groups)
    conv_transpose1d_kernel[grid](
        x, weight, bias if bias is not None else weight, y, L_IN, L_OUT, stride, padding, dilation,
        C_IN // groups, C_OUT, K, x.stride(0), x.stride(1), x.stride(2),
        HAS_BIAS=bias is not None, GROUPS=groups,
    )
    return y


class ModelNew(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
    ):
        super().__init__()
        self.conv = nn.ConvTranspose1d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, output_padding=output_padding,
            groups=groups, bias=bias, dilation=dilation,
        )
        self.stride = stride
        self.padding = padding
        self.output_padding = output_padding
        self.dilation = dilation
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return conv_transpose1d(
            x, self.conv.weight, self.conv.bias, self.stride, self.padding, self.output_padding, self.dilation,
            self.groups,
        )
