"""Plans and packed weights of torch tensors: made once, found again by the tensor's identity, and never used for
another tensor or an older value of the same one."""

import ctypes
import os
import weakref

import torch

from tconv import _native

SAMPLE = 4096  # bytes, compared where the CPU can read them

_plans = {}  # problem -> Plan; kept, as a plan must outlive what it launched and a process has few problems
_weights = {}  # id(tensor) -> _Weight
_spare = {}  # Plan -> memory on the CPU that held a passing weight, for the next one: new pages cost more than packing


def plan(*problem):
    """The Plan of c_in, c_out, kernel, stride, padding, output_padding, dilation, groups, arithmetic, bias, device."""
    found = _plans.get(problem)
    if found is None:  # without a lock: several compile side by side, and of two for one problem the first stays
        found = _plans.setdefault(problem, _native.Plan(*problem))
    return found


class Layer:
    """One layer's plan with its packed weights. passing: they serve a call or a few, as those of a weight do that
    weight_norm computes in every call."""

    __slots__ = ("launch", "packed", "memory", "device", "c_in", "c_out", "bias_shape", "extra", "plan",
                 "passing")

    def __init__(self, passing, weight, stride, padding, output_padding, groups, dilation, bias, arithmetic, stream):
        self.passing = False
        c_in, columns, kernel = weight.shape
        self.device = weight.get_device()  # -1 is the CPU, as TCONV_CPU is
        self.c_in, self.c_out = c_in, columns * groups
        self.bias_shape = torch.Size((self.c_out,))
        self.extra = dilation * (kernel - 1) + output_padding + 1 - 2 * padding  # of the output's length
        own = plan(c_in, self.c_out, kernel, stride, padding, output_padding, dilation, groups, arithmetic, bias,
                   self.device)
        self.memory = _spare.pop(own, None)
        if self.memory is None:
            self.memory = torch.empty(own.packed_bytes + _native.ALIGN, dtype=torch.uint8, device=weight.device)
        self.packed = -(-self.memory.data_ptr() // _native.ALIGN) * _native.ALIGN
        own.pack(weight.data_ptr(), weight.stride(), self.packed, stream, threads(), PARALLEL)
        self.launch, self.plan, self.passing = own.launch, own, passing and weight.is_cpu

    def __del__(self, _spare=_spare):
        if self.passing:
            _spare[self.plan] = self.memory


class _Weight:
    """What was derived from a weight, and how the tensor looked then."""

    __slots__ = ("ref", "version", "pointer", "storage", "shape", "strides", "dtype", "sample", "seen", "layers",
                 "casts", "normed", "__weakref__")

    def __init__(self, weight):
        identity = id(weight)

        def forget(ref):
            if (held := _weights.get(identity)) is not None and held.ref is ref:
                del _weights[identity]

        self.ref = weakref.ref(weight, forget)
        self.version, self.pointer = weight._version, weight.data_ptr()
        storage = weight.untyped_storage()
        # A weak reference keeps the address of the storage, not its memory: no other storage can take the address.
        self.storage = torch.multiprocessing.reductions.StorageWeakRef(storage)
        self.shape, self.strides, self.dtype = weight.shape, weight.stride(), weight.dtype
        size = min(SAMPLE, storage.nbytes() - weight.storage_offset() * weight.element_size()) if weight.is_cpu else 0
        self.sample = (ctypes.c_char * size).from_address(self.pointer)
        self.seen = self.sample.raw
        self.layers, self.casts, self.normed = {}, {}, {}

    def current(self, weight):
        return (self.ref() is weight and self.version == weight._version and self.pointer == weight.data_ptr() and
                self.storage.cdata == weight.untyped_storage()._cdata and self.strides == weight.stride() and
                self.shape == weight.shape and self.dtype is weight.dtype and self.sample.raw == self.seen)


def threads():
    return min(torch.get_num_threads(), 1024)


def _openmp():
    """The address of GOMP_parallel in the OpenMP runtime that is loaded, PyTorch's before others; 0 without one."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {line.split(maxsplit=5)[-1].strip() for line in maps if "omp" in line}
    except OSError:  # another system
        return 0
    for path in sorted(paths, key=lambda path: "torch" not in path):
        if os.path.basename(path).startswith(("libgomp", "libiomp5", "libomp")):
            parallel = getattr(ctypes.CDLL(path), "GOMP_parallel", None)
            if parallel is not None:
                return ctypes.cast(parallel, ctypes.c_void_p).value
    return 0


# PyTorch's threads stay awake for milliseconds after its calls, on the cores that threads of our own would need.
PARALLEL = _openmp()


def _known(weight):
    """The weight's _Weight, made where there is none that is current; None where changes would not be noticed."""
    if weight.is_inference():  # such tensors have no version
        return None
    known = _weights.get(id(weight))
    if known is None or not known.current(weight):
        known = _weights[id(weight)] = _Weight(weight)
    return known


def find(weight, key):
    """The Layer made for this weight and key = (stride, padding, output_padding, groups, dilation, bias, arithmetic,
    stream), or None."""
    known = _weights.get(id(weight))
    if known is None:
        return None
    layer = known.layers.get(key)
    return layer if layer is not None and known.current(weight) else None


def make(weight, key, keep=True):
    """The same, made now. Throws tconv.Error."""
    known = _known(weight) if keep else None
    layer = Layer(not keep or type(weight) is torch.Tensor, weight, *key)
    if known is not None:
        known.layers[key] = layer
    return layer


def cast(weight, dtype, stream):
    """weight.to(dtype) without a gradient, made once for a stream: another would not wait for it."""
    known = _known(weight)
    if known is None:
        return weight.to(dtype)
    found = known.casts.get((dtype, stream))
    if found is None:
        with torch.inference_mode(False), torch.no_grad():  # an inference tensor would have no version
            found = known.casts[dtype, stream] = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    return found


def normed(g, v, dim, stream):
    """torch._weight_norm(v, g, dim) without a gradient, made once for a stream; None where changes to g or v would not be
    noticed. A plain tensor, as weight_norm's: what was done to it is undone by the next call."""
    of_v, of_g = _known(v), _known(g)
    if of_v is None or of_g is None:
        return None
    found = of_v.normed.get((dim, stream))
    if found is None or found[0] is not of_g or not found[1].current(found[2]):
        with torch.inference_mode(False), torch.no_grad():
            weight = torch._weight_norm(v, g, dim)
        found = of_v.normed[dim, stream] = of_g, _Weight(weight), weight
    return found[2]


def clear():
    """Forgets every packed weight."""
    _weights.clear()
    _spare.clear()
