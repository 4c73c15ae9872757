"""torch.nn.functional.conv_transpose1d and torch.nn.ConvTranspose1d on tconv's engine. Works with torch 2.4 and later.

    import tconv.torch

    print(tconv.torch.replace(model))           # every nn.ConvTranspose1d of a model, in place
    y = tconv.torch.conv_transpose1d(x, weight, bias, stride=2, padding=1)
    layer = tconv.torch.ConvTranspose1d(512, 256, 16, stride=8, padding=4)

The engine serves float32, float64, float16 and bfloat16 on the CPU and on CUDA GPUs. PyTorch's own operator serves what
else it can: other dtypes and devices, tensor subclasses, forward-mode derivatives, torch.func's transforms, and what
torch.jit.trace and the ONNX exporter record. It also computes the gradients, so they exist to any order.

Arguments, results and errors are PyTorch's, with two differences: dilation 0 and an output length below 1 are refused
on every device (tconv.Error, a RuntimeError, where PyTorch has no error of its own); and y is always contiguous.

On the CPU a call takes torch.get_num_threads() threads. On a GPU it runs on the current stream and uses TF32 where
PyTorch's convolutions would (torch.backends.cudnn.allow_tf32).

Weights are packed once and found again by the tensor's identity, memory and version, so whatever PyTorch counts as a
change is followed: optimizer steps, in-place operations, load_state_dict, assignments to .data. Changes it does not
count (in place through weight.data, a NumPy array or a raw pointer) are noticed on the CPU where they alter the first
4096 bytes; after others call clear_cache(). Every call packs anew where it differentiates by the weight, but for calls
from compiled code and of the bare operator, and where the weight was made under torch.inference_mode, which gives it no
version. Compiled code and the bare operator use again what is packed of an nn.Parameter alone. A CUDA graph packs in
the graph: its replays follow the weight.
"""

import torch
from torch import get_num_threads, is_grad_enabled
from torch.autograd import forward_ad
from torch.compiler import is_compiling
from torch.nn import Parameter

from tconv import _native, _packed
from tconv._calls import (KINDS, current_device, current_stream, derived, direct, empty_cpu, empty_cuda, lasting_stream,
                          recorded, transformed)
from tconv._native import Error
from tconv._normed import parameters_of
from tconv._packed import find
from tconv._replace import Report, replace_modules, retyped

__all__ = ["ConvTranspose1d", "Error", "Report", "clear_cache", "conv_transpose1d", "replace"]

_own = torch.nn.functional.conv_transpose1d
_ARITHMETIC = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}
_LARGEST = 2**62  # beyond it, sums of the arguments leave int64


def conv_transpose1d(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """torch.nn.functional.conv_transpose1d: input (N, C_in, L) or (C_in, L), weight (C_in, C_out/groups, K), bias
    (C_out), any strides. Returns (N, C_out, L_out) or (C_out, L_out) with
    L_out = (L-1)*stride - 2*padding + dilation*(K-1) + output_padding + 1. Raises what PyTorch raises, or Error."""
    if is_compiling():
        return _checked(_operator, input, weight, bias, stride, padding, output_padding, groups, dilation)
    if transformed():
        return _own(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if type(weight) in KINDS and type(input) in KINDS and (bias is None or type(bias) in KINDS):
        if direct(input, bias):
            if _needs_gradient(input, weight, bias):
                return _checked(_differentiable, input, weight, bias, stride, padding, output_padding, groups, dilation)
            y = _engine(input, weight, bias, _one(stride), _one(padding), _one(output_padding), groups, _one(dilation))
            if y is not None:
                return y
    elif any(map(_overrides, (type(weight), type(input), type(bias)))):
        return _own(input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _checked(_operator, input, weight, bias, stride, padding, output_padding, groups, dilation)


def clear_cache():
    """Forgets every packed weight."""
    _packed.clear()


# --- from the call to the engine -----------------------------------------------------------------

def _overrides(kind):
    return getattr(kind, "__torch_function__", None) not in (
        None, torch.Tensor.__torch_function__, torch._C._disabled_torch_function_impl)


def _needs_gradient(input, weight, bias):
    return is_grad_enabled() and (input.requires_grad or weight.requires_grad
                                  or bias is not None and bias.requires_grad)


def _one(value):
    """The one number of an int or of a sequence of one; None where PyTorch has to look at it."""
    if type(value) is int:
        return value
    if type(value) is tuple and len(value) == 1 and type(value[0]) is int:  # a module's: what follows takes longer
        return value[0]
    if isinstance(value, (tuple, list)) and len(value) == 1 and isinstance(value[0], (int, torch.SymInt)) and \
            type(value[0]) is not bool:
        return value[0]
    return value if isinstance(value, torch.SymInt) else None


_cpu_hows, _gpu_hows = {}, {}  # threads -> struct tconv_how; stream -> the same


def _engine(input, weight, bias, stride, padding, output_padding, groups, dilation, keep=True, served=False):
    """The result, or None where the engine does not serve the call: PyTorch then serves or refuses it. keep: whether
    packed weights are looked up and kept; served: whether _served() said yes before."""
    dtype = input.dtype
    arithmetic = _ARITHMETIC.get(dtype)
    if input.is_cpu:
        device, stream = -1, 0
        how = _cpu_hows.get(get_num_threads()) or _cpu_how()
    elif input.is_cuda:
        device = input.get_device()
        stream = current_stream(device)
        how = _gpu_hows.get(stream) or _gpu_how(stream)
        if keep and stream:
            keep = not recorded(device, stream)
        if arithmetic == "f32" and _tf32():
            arithmetic = "tf32"
    else:
        return None
    key = (stride, padding, output_padding, groups, dilation, bias is not None, arithmetic, stream)
    layer = find(weight, key) if keep and type(groups) is int else None
    if layer is None:
        if weight.is_neg() or not (served or _served(input, weight, bias, stride, padding, output_padding, groups,
                                                     dilation)):
            return None
        try:
            layer = _packed.make(weight, key, keep)
        except Error as refusal:
            if refusal.status == _native.UNSUPPORTED:
                return None
            raise
    if layer.device != device:
        return None
    c_out = layer.c_out
    pointer = 0
    if bias is not None:
        if bias.dtype is not dtype or bias.shape != layer.bias_shape or bias.get_device() != device:
            return None
        if not bias.is_contiguous():
            bias = bias.contiguous()
        pointer = bias.data_ptr()
    shape = input.shape
    if len(shape) == 3:
        batch, channels, length = shape
        step, row, sample = input.stride()
        out_length = (length - 1) * stride + layer.extra
        size = (batch, c_out, out_length)
        strides = (c_out * out_length, out_length, 1)
    elif len(shape) == 2:
        channels, length = shape
        batch, step = 1, 0
        row, sample = input.stride()
        out_length = (length - 1) * stride + layer.extra
        size, strides = (c_out, out_length), (out_length, 1)
    else:
        return None
    if channels != layer.c_in or length < 1 or out_length < 1:
        return None
    if device < 0:
        y = empty_cpu(size, strides, dtype)
        if y.nbytes in _native.HUGE_PAGES:
            _native.prefer_huge_pages(y.data_ptr(), y.nbytes)
    else:
        y = empty_cuda(size, strides, dtype) if device == current_device() else input.new_empty(size)
    layer.launch(how, input.data_ptr(), layer.packed, pointer, y.data_ptr(), batch, length, step, row, sample,
                 c_out * out_length, out_length)
    return y


def _cpu_how():
    how = _cpu_hows[get_num_threads()] = _native.how(0, _packed.threads(), _packed.PARALLEL)
    return how


def _gpu_how(stream):
    how = _gpu_hows[stream] = _native.how(stream, 1)
    return how


def _served(input, weight, bias, stride, padding, output_padding, groups, dilation):
    """Whether the engine has this problem. Works on fake tensors and symbolic sizes."""
    numbers = (stride, padding, output_padding, groups, dilation)
    if None in numbers or not isinstance(groups, (int, torch.SymInt)) or type(groups) is bool:
        return False
    tensors = (input, weight) if bias is None else (input, weight, bias)
    dtype, device = input.dtype, input.device
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor) or tensor.dtype is not dtype or tensor.device != device \
                or tensor.layout is not torch.strided:
            return False
    if dtype not in _ARITHMETIC or device.type not in ("cpu", "cuda"):
        return False
    if input.dim() not in (2, 3) or weight.dim() != 3:
        return False
    c_in, columns, kernel = weight.shape
    length = input.shape[-1]
    # No bool(): torch.compile of early releases does not follow it for symbolic numbers.
    return True if (1 <= stride < _LARGEST and 0 <= padding < _LARGEST and 0 <= output_padding < _LARGEST
                    and 1 <= groups < _LARGEST and 1 <= dilation < _LARGEST
                    and c_in >= 1 and columns >= 1 and kernel >= 1 and c_in % groups == 0 and input.shape[-2] == c_in
                    and (bias is None or bias.dim() == 1 and bias.shape[0] == columns * groups)
                    and (output_padding < stride or output_padding < dilation) and length >= 1
                    and _out_length(length, kernel, stride, padding, output_padding, dilation) >= 1) else False


def _out_length(length, kernel, stride, padding, output_padding, dilation):
    return (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1


def _by_torch(input, weight, bias, stride, padding, output_padding, groups, dilation):
    """What the engine does not serve: PyTorch's result or error, and our two refusals where it has none."""
    y = _own(input, weight, bias, stride, padding, output_padding, groups, dilation)
    if _one(dilation) == 0:
        raise Error(_native.UNSUPPORTED, "conv_transpose1d: dilation is 0 (rule: at least 1)")
    if y.shape[-1] < 1:
        raise Error(_native.UNSUPPORTED, f"conv_transpose1d: the output length is {y.shape[-1]} for an input of "
                                         f"{tuple(input.shape)} (rule: at least 1)")
    return y


if hasattr(torch._C, "_get_fp32_precision_getter"):  # torch 2.9: a switch for each operator
    def _tf32():
        return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"
else:
    def _tf32():
        return torch.backends.cudnn.allow_tf32


# --- the operator --------------------------------------------------------------------------------

# Library.define: a torch.library.custom_op takes two to three times as long to call. So does the dispatcher with
# torch.library.register_autograd, whose kernel, in Python too, dispatches each call a second time: _autograd does where
# it must. Where nobody could tell, a call goes past the dispatcher.
_library = torch.library.Library("tconv", "DEF")
_library.define("conv_transpose1d(Tensor input, Tensor weight, Tensor? bias=None, SymInt stride=1, SymInt padding=0, "
                "SymInt output_padding=0, SymInt groups=1, SymInt dilation=1) -> Tensor",
                # Any strides will do; early releases of PyTorch have no tag to say so.
                tags=[torch.Tag.pt2_compliant_tag, *filter(None, [getattr(torch.Tag, "flexible_layout", None)])])
_operator = torch.ops.tconv.conv_transpose1d.default


def _checked(call, input, weight, bias, stride, padding, output_padding, groups, dilation):
    """The call where the engine has the problem, else PyTorch's own. Can be traced."""
    numbers = (_one(stride), _one(padding), _one(output_padding), groups, _one(dilation))
    if isinstance(input, torch.Tensor) and isinstance(weight, torch.Tensor):
        device = input.device.type
        if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
            input, weight, bias = _lowered(device, input, weight, bias)
        if _served(input, weight, bias, *numbers):
            if input.dim() == 2:
                return call(input.unsqueeze(0), weight, bias, *numbers).squeeze(0)
            return call(input, weight, bias, *numbers)
    return _by_torch(input, weight, bias, stride, padding, output_padding, groups, dilation)


def _kernel(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, keep=None,
            served=False):
    if keep is None:  # other tensors may be buffers of compiled code, which writes one after another into the same
        keep = type(weight) is Parameter
    y = _engine(input, weight, bias, stride, padding, output_padding, groups, dilation, keep, served)
    if y is None:
        y = _by_torch(input, weight, bias, stride, padding, output_padding, groups, dilation).contiguous()
    return y


def _fake(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    if not _served(input, weight, bias, stride, padding, output_padding, groups, dilation):
        return _by_torch(input, weight, bias, stride, padding, output_padding, groups, dilation).contiguous()
    return input.new_empty((input.shape[0], weight.shape[1] * groups, _out_length(
        input.shape[2], weight.shape[2], stride, padding, output_padding, dilation)))


def _save(ctx, inputs, output):
    input, weight, bias, *ctx.numbers = inputs
    ctx.save_for_backward(input, weight)
    ctx.bias_shape = None if bias is None else list(bias.shape)


def _gradients(ctx, gradient):
    """By PyTorch's own operator, which has a derivative itself."""
    input, weight = ctx.saved_tensors
    stride, padding, output_padding, groups, dilation = ctx.numbers
    if gradient.is_cpu and dilation > 1 and padding > 0:
        # The weight's gradient is wrong from a padding of 15 on (torch 2.13, x86). The zeros say the same.
        gradient, padding = torch.nn.functional.pad(gradient, (padding, padding)), 0
    if gradient.is_cpu and input.shape[2] == 1:
        # The weight's gradient is wrong in bfloat16 where such an input has a stride of 1 between channels (torch 2.13,
        # x86); a copy has not.
        input = input.clone(memory_format=torch.contiguous_format)
    gradients = torch.ops.aten.convolution_backward(
        gradient, input, weight, ctx.bias_shape, [stride], [padding], [dilation], True, [output_padding], groups,
        [*ctx.needs_input_grad[:2], ctx.bias_shape is not None and ctx.needs_input_grad[2]])
    return (*gradients, None, None, None, None, None)


# The dispatcher's keys of a call on plain tensors. Whatever has a part in a call between autograd and the engine
# (modes, fake, functional, transformed and negated tensors, a second device) has another key.
_named = getattr(torch._C.DispatchKeySet, "raw_repr", repr)  # early releases of PyTorch have no number for a set
_PLAIN = {_named(torch._C.DispatchKeySet(kind) | torch._C.DispatchKeySet(autograd)) for kind, autograd in (
    (torch._C.DispatchKey.CPU, torch._C.DispatchKey.AutogradCPU),
    (torch._C.DispatchKey.CUDA, torch._C.DispatchKey.AutogradCUDA))}


def _autograd(keys, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """The first kernel of a call outside of torch.inference_mode, and the last one where it can be."""
    needed = _needs_gradient(input, weight, bias)
    if not needed and _named(keys) in _PLAIN and forward_ad._current_level < 0:
        return _kernel(input, weight, bias, stride, padding, output_padding, groups, dilation)
    arguments = input, weight, bias, stride, padding, output_padding, groups, dilation
    if derived():
        return _by_torch(*arguments).contiguous()
    return _Recorded.apply(*arguments, keys) if needed else _below(keys, *arguments)


def _below(keys, *arguments):
    """The dispatcher's next kernel."""
    with torch._C._AutoDispatchBelowAutograd():
        return _operator.redispatch(keys & torch._C._after_autograd_keyset, *arguments)


class _Recorded(torch.autograd.Function):
    """The operator's, which does not look at the weight: it may be one of compiled code's buffers."""

    @staticmethod
    def forward(ctx, *arguments):
        *inputs, keys = arguments
        y = _kernel(*inputs) if _named(keys) in _PLAIN else _below(keys, *inputs)
        _save(ctx, inputs, y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return (*_gradients(ctx, gradient), None)


class _Differentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input, weight, bias, numbers):
        y = _kernel(input, weight, bias, *numbers, keep=not weight.requires_grad, served=True)
        _save(ctx, (input, weight, bias, *numbers), y)
        return y

    @staticmethod
    def backward(ctx, gradient):
        return (*_gradients(ctx, gradient)[:3], None)


def _differentiable(input, weight, bias, *numbers, _apply=super(torch.autograd.Function, _Differentiable).apply):
    """Function.apply without its search for functorch's transforms, which transformed() has done."""
    return _apply(input, weight, bias, numbers)


_AUTOCAST = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCUDA)


def _lowered(device, *tensors):
    """The tensors as autocast has a convolution see them."""
    dtype = torch.get_autocast_dtype(device)
    lowered = []
    for tensor in tensors:
        if tensor is not None and tensor.is_floating_point() and tensor.dtype not in (dtype, torch.float64) and \
                tensor.device.type == device:
            kept = not is_compiling() and isinstance(tensor, Parameter) and not (
                is_grad_enabled() and tensor.requires_grad)
            stream = lasting_stream(tensor) if kept else None
            tensor = tensor.to(dtype) if stream is None else _packed.cast(tensor, dtype, stream)
        lowered.append(tensor)
    return lowered


def _autocast(device):
    def kernel(input, weight, bias=None, *numbers, **named):
        with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST):
            return _operator(*_lowered(device, input, weight, bias), *numbers, **named)
    return kernel


for _device in ("CPU", "CUDA"):
    _library.impl("conv_transpose1d", _kernel, _device)
    _library.impl("conv_transpose1d", _autocast(_device.lower()), f"Autocast{_device}")
torch.library.register_fake("tconv::conv_transpose1d", _fake, lib=_library)
_library.impl("conv_transpose1d", _autograd, "Autograd", with_keyset=True)


# --- the module ----------------------------------------------------------------------------------

class ConvTranspose1d(torch.nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d with its forward on tconv: same arguments, parameters, initialisation and state."""

    def forward(self, input, output_size=None):
        """input (N, C_in, L) or (C_in, L). output_size: the output's length, or its whole size, among the lengths
        that differ by output_padding alone."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose1d")
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, 1,
                                                  self.dilation)
        return conv_transpose1d(input, *parameters_of(self), self.stride, self.padding, output_padding, self.groups,
                                self.dilation)

    @classmethod
    def from_module(cls, module):
        """A layer with the parameters, hooks and mode of an nn.ConvTranspose1d: the same tensors, not copies. Raises
        TypeError with the reason where replace() would pass over the module."""
        return retyped(module, cls)


def replace(model, *, fold_weight_norm=False):
    """Makes every eligible nn.ConvTranspose1d of a model (the model itself, too) a ConvTranspose1d, in place: the
    objects stay, with their parameters, hooks, names and parametrizations. Returns a Report: print it.

    A layer with weight_norm (either kind) keeps it. Its weight is computed in every call that differentiates by it, that
    is compiled or under autocast; in others it is computed again where its parts changed, which is noticed as changes of
    packed weights are. With fold_weight_norm, layers in eval mode get their weight as one parameter, for good: in place
    of the model's own remove_weight_norm(), which would no longer find anything to remove.

    Either all of this happens or, where an exception leaves this function, none."""
    return replace_modules(model, ConvTranspose1d, fold_weight_norm)
