"""What PyTorch makes of a call: whether its dispatcher has a part in it, on which stream it runs, and who records it."""

import functools
import sys

import torch

KINDS = {torch.Tensor, torch.nn.Parameter}  # that are what they seem


def derived(_interpreter=torch._C._functorch.peek_interpreter_stack, _forward=torch.autograd.forward_ad):
    """Whether torch.func or forward-mode differentiation is at work."""
    return _interpreter() is not None or _forward._current_level >= 0


def transformed(_tracer=torch._C._get_tracing_state):
    """The same, or torch.jit.trace."""
    return derived() or _tracer() is not None


def direct(input, bias, _modes=torch._C._len_torch_dispatch_stack, _autocast=torch.is_autocast_enabled,
           _profiler=torch.autograd._profiler_enabled, _strided=torch.strided):
    """Whether a call on the CPU or a GPU needs nothing of PyTorch's dispatcher: no autocast (without an argument, the
    GPUs'), no mode, no profile, no lazy negation."""
    return (input.layout is _strided and not _modes() and not _profiler()
            and not (_autocast("cpu") if input.is_cpu else _autocast()) and not input.is_neg()
            and (bias is None or not bias.is_neg()))


current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # of a device's number; no CUDA, none
current_device = getattr(torch._C, "_cuda_getDevice", None)


def _empty(device, size, strides, dtype):
    return torch.empty_strided(size, strides, dtype=dtype, device=device)


# Of size, strides and dtype, on the CPU and on the current GPU, as code of torch.compile's gets its buffers: a third of
# the time of new_empty().
empty_cpu = getattr(torch._C._dynamo.guards, "_empty_strided_cpu", None) or functools.partial(_empty, "cpu")
empty_cuda = getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None) or functools.partial(_empty, "cuda")


def recorded(device, stream):
    """Whether a CUDA graph records this current stream of a device, or torch.compile warms up for one: memory is then
    the graph's, and each replay writes it anew."""
    if stream == 0:  # the default stream never is
        return False
    if device == current_device():  # else the guard, which takes longer than all the rest
        captured = torch.cuda.is_current_stream_capturing()
    else:
        with torch.cuda.device(device):
            captured = torch.cuda.is_current_stream_capturing()
    if captured:
        return True
    trees = sys.modules.get("torch._inductor.cudagraph_trees")
    if trees is None:
        return False
    try:
        manager = trees.get_manager(device, create_if_none_exists=False)
    except AssertionError:  # early releases of PyTorch have none in threads of the caller's
        return False
    return manager is not None and manager.stream.cuda_stream == stream


def lasting_stream(tensor):
    """The stream of calls now: what is made on it, of a tensor on a GPU or the CPU (0), may be kept for later ones of the
    same stream. None where recorded."""
    if tensor.is_cpu:
        return 0
    device = tensor.get_device()
    stream = current_stream(device)
    return None if recorded(device, stream) else stream
