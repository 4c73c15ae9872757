"""What PyTorch makes of a call: whether its dispatcher has a part in it, on which stream it runs, and who records it."""

import sys

import torch

KINDS = {torch.Tensor, torch.nn.Parameter}  # that are what they seem


def transformed(_interpreter=torch._C._functorch.peek_interpreter_stack, _tracer=torch._C._get_tracing_state,
                _forward=torch.autograd.forward_ad):
    return _interpreter() is not None or _forward._current_level >= 0 or _tracer() is not None


def direct(input, bias, _modes=torch._C._len_torch_dispatch_stack, _autocast=torch.is_autocast_enabled,
           _profiler=torch.autograd._profiler_enabled, _strided=torch.strided):
    """Whether a call needs nothing of PyTorch's dispatcher: no autocast, no mode, no profile, no lazy negation."""
    return (input.layout is _strided and not _modes() and not _profiler()
            and not _autocast("cpu" if input.is_cpu else "cuda") and not input.is_neg()
            and (bias is None or not bias.is_neg()))


current_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # of a device's number; no CUDA, none


def recorded(device, stream):
    """Whether a CUDA graph records this current stream of a device, or torch.compile warms up for one: memory is then
    the graph's, and each replay writes it anew."""
    if stream == 0:  # the default stream never is
        return False
    with torch.cuda.device(device):
        if torch.cuda.is_current_stream_capturing():
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
