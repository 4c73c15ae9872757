"""Which layers of a model can be exchanged, and exchanging all of them or none."""

import dataclasses

import torch
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.weight_norm import WeightNorm

from tconv._normed import adopt_hooks

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclasses.dataclass
class Report:
    """What replace() did. replaced: (name, layer, note); kept: (name, layer, reason). Names are those of
    model.named_modules(), "(model)" is the model itself."""

    replaced: list = dataclasses.field(default_factory=list)
    kept: list = dataclasses.field(default_factory=list)

    def __str__(self):
        lines = [f"{len(self.replaced)} of {len(self.replaced) + len(self.kept)} transposed 1-D convolutions replaced"]
        for title, rows in (("replaced", self.replaced), ("kept", self.kept)):
            for name, layer, note in rows:
                lines.append(f"  {title:8}  {name}: {layer}" + (f" ({note})" if note else ""))
        return "\n".join(lines)


def refusal(module, ours):
    """Why a transposed 1-D convolution cannot be exchanged; None where it can."""
    plain = _plain(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by TorchScript"
    if issubclass(plain, ours):
        return "tconv's already"
    if issubclass(plain, torch.nn.LazyConvTranspose1d):
        return "lazy: run the model once before"
    if plain is not torch.nn.ConvTranspose1d:
        return f"a subclass, {plain.__module__}.{plain.__qualname__}, whose forward may differ"
    if "forward" in vars(module):
        return "its forward was replaced on the object"
    if module.padding_mode != "zeros":
        return f"padding_mode is {module.padding_mode!r}, PyTorch itself has zeros only"
    for tensor in (*module.parameters(), *module.buffers()):
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
            return f"its weights are of a tensor subclass, {type(tensor).__name__}"
        if tensor.dtype not in _DTYPES:
            return f"of {tensor.dtype}, the engine has float32, float64, float16 and bfloat16"
        if tensor.device.type not in ("cpu", "cuda", "meta"):
            return f"on {tensor.device}, the engine has CPUs and CUDA GPUs"
    return None


def retyped(module, ours):
    """A new object of class `ours` that shares the module's parameters."""
    if not isinstance(module, torch.nn.ConvTranspose1d):
        raise TypeError(f"expected an nn.ConvTranspose1d, got {type(module).__name__}")
    reason = refusal(module, ours)
    if reason is not None and not issubclass(_plain(module), ours):
        raise TypeError(f"this {type(module).__name__} cannot be exchanged: {reason}")
    twin = ours.__new__(ours)
    vars(twin).update({name: _copied(value) for name, value in vars(module).items()})
    twin.__class__ = _class_for(module, ours)
    adopt_hooks(twin)
    return twin


def replace_modules(model, ours, fold_weight_norm):
    report, chosen = Report(), []
    for name, module in model.named_modules():
        if not _is_transposed(module):
            continue
        row = (name or "(model)", repr(module).partition("\n")[0].rstrip("("))
        reason = refusal(module, ours)
        if reason is None:
            chosen.append((module, row))
        else:
            report.kept.append((*row, reason))
    # With what a layer contains: its parametrizations, which lose what is folded.
    before = [(module, module.__class__, {name: (value, _copied(value)) for name, value in vars(module).items()})
              for layer, _ in chosen for module in layer.modules()]
    try:
        for module, row in chosen:
            module.__class__ = _class_for(module, ours)
            adopt_hooks(module)
            report.replaced.append((*row, _fold(module, fold_weight_norm)))
    except BaseException:
        for module, kind, members in before:
            module.__class__ = kind
            _restore(module, members)
        raise
    return report


def _is_transposed(module):
    if isinstance(module, torch.jit.ScriptModule):
        return getattr(module, "original_name", "") == "ConvTranspose1d"
    return isinstance(module, torch.nn.ConvTranspose1d)


def _plain(module):
    """The class without what parametrize puts before it."""
    return type(module).__mro__[1] if parametrize.is_parametrized(module) else type(module)


def _class_for(module, ours):
    """`ours`, with the properties that a parametrized module's own class has."""
    if not parametrize.is_parametrized(module):
        return ours
    kind = type(module)
    members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    return type(kind.__name__, (ours,), members)


def _copied(value):
    return value.copy() if isinstance(value, (dict, set)) else value


def _restore(module, members):
    """What vars(module) held, in the containers that held it: handles of hooks refer to those."""
    vars(module).clear()
    for name, (value, copy) in members.items():
        if isinstance(value, (dict, set)):
            value.clear()
            value.update(copy)
        vars(module)[name] = value


def _fold(module, wanted):
    """Makes a normalised weight a plain one where that is wanted and right; returns a note for the report."""
    parametrized = parametrize.is_parametrized(module, "weight")
    hooked = any(isinstance(hook, WeightNorm) and hook.name == "weight" for hook in module._forward_pre_hooks.values())
    normed = parametrized and all(isinstance(one, _WeightNorm) for one in module.parametrizations["weight"])
    if not (hooked or parametrized):
        return ""
    if not (hooked or normed):
        return "parametrized: its weight is computed in every call"
    if not wanted:
        return "weight_norm kept: its weight is computed where it changed or needs a gradient"
    if module.training:
        return "weight_norm kept: the layer is in training mode"
    with torch.enable_grad():  # without it, the weight would no longer be a parameter
        if normed:
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        else:
            torch.nn.utils.remove_weight_norm(module)
    return "weight_norm folded"
