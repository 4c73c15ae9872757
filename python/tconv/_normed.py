"""Weights under weight_norm, computed again only where something changed or a gradient is wanted."""

import torch
from torch.compiler import is_compiling
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from tconv import _packed
from tconv._calls import KINDS, direct, lasting_stream, transformed


def _normed(g, v, dim):
    """torch._weight_norm(v, g, dim) as it was computed before, or now for later calls; None where PyTorch has to."""
    if transformed() or type(g) not in KINDS or type(v) not in KINDS:
        return None
    if torch.is_grad_enabled() and (g.requires_grad or v.requires_grad) or g.device != v.device or not direct(v, g):
        return None
    stream = lasting_stream(v) if v.is_cpu or v.is_cuda else None
    return None if stream is None else _packed.normed(g, v, dim, stream)


class WeightNormOnce(WeightNorm):
    """The hook of torch.nn.utils.weight_norm, as replace() leaves it."""

    def __call__(self, module, inputs):
        if is_compiling():
            module.weight = self.compute_weight(module)
            return
        parameters = module._parameters
        g, v = parameters.get("weight_g"), parameters.get("weight_v")
        weight = None if g is None or v is None else _normed(g, v, self.dim)
        if weight is None:
            weight = self.compute_weight(module)
        if module.__dict__.get("weight") is not weight:  # setattr looks into every kind of attribute
            module.weight = weight


def adopt_hooks(module):
    """Exchanges the module's own hook for the other, in place."""
    hooks = module._forward_pre_hooks
    for key, hook in hooks.items():
        if type(hook) is WeightNorm and hook.name == "weight":
            hooks[key] = WeightNormOnce(hook.name, hook.dim)


def parameters_of(module):
    """module.weight and module.bias, where they are parameters without the detours of torch.nn.Module's look-up."""
    if is_compiling():
        return module.weight, module.bias
    parameters = module._parameters
    weight = parameters.get("weight")
    if weight is None:
        weight = _weight_of(module)
    return weight, parameters["bias"] if "bias" in parameters else module.bias


def _weight_of(module):
    """module.weight, also where parametrizations.weight_norm computes it."""
    lists = module._modules.get("parametrizations")
    if lists is None or parametrize._cache_enabled:
        return module.weight
    steps = lists._modules.get("weight")
    if steps is None or len(steps._modules) != 1:
        return module.weight
    (step,) = steps._modules.values()
    if (type(step) is not _WeightNorm or steps._forward_hooks or steps._forward_pre_hooks or step._forward_hooks
            or step._forward_pre_hooks):
        return module.weight
    g, v = map(steps._parameters.get, ("original0", "original1"))
    weight = None if g is None or v is None else _normed(g, v, step.dim)
    return module.weight if weight is None else weight
