"""Weights under weight_norm, computed again only where something changed or a gradient is wanted."""

import torch
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from tconv import _packed
from tconv._calls import KINDS, direct, lasting_stream, transformed


def _normed(g, v, dim):
    """torch._weight_norm(v, g, dim) as it was computed before, or now for later calls; None where PyTorch has to."""
    if torch.compiler.is_compiling() or transformed() or not KINDS.issuperset((type(g), type(v))):
        return None
    if torch.is_grad_enabled() and (g.requires_grad or v.requires_grad) or g.device != v.device or not direct(v, g):
        return None
    stream = lasting_stream(v) if v.is_cpu or v.is_cuda else None
    return None if stream is None else _packed.normed(g, v, dim, stream)


class WeightNormOnce(WeightNorm):
    """The hook of torch.nn.utils.weight_norm, as replace() leaves it."""

    def __call__(self, module, inputs):
        weight = _normed(getattr(module, self.name + "_g"), getattr(module, self.name + "_v"), self.dim)
        setattr(module, self.name, self.compute_weight(module) if weight is None else weight)


def adopt_hooks(module):
    """Exchanges the module's own hook for the other, in place."""
    hooks = module._forward_pre_hooks
    for key, hook in hooks.items():
        if type(hook) is WeightNorm and hook.name == "weight":
            hooks[key] = WeightNormOnce(hook.name, hook.dim)


def weight_of(module):
    """module.weight, also where parametrizations.weight_norm computes it."""
    lists = module._modules.get("parametrizations")
    if lists is None or torch.compiler.is_compiling() or "weight" not in lists or parametrize._cache_enabled:
        return module.weight
    steps = lists["weight"]
    if len(steps) != 1 or type(steps[0]) is not _WeightNorm or any(
            one._forward_hooks or one._forward_pre_hooks for one in (steps, steps[0])):
        return module.weight
    weight = _normed(steps.original0, steps.original1, steps[0].dim)
    return module.weight if weight is None else weight
