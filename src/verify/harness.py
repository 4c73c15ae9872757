"""Runs an answer's ModelNew on given tensors and watches what it does to memory.

Started as `python -c <this file> ANSWER DEVICE`, with DEVICE `interpreter` or `cuda`. Prints one line when
ready, {"folder": ...} or {"missing": ...}, then answers each case, one line of JSON on standard input, by one
line on standard output. Tensors travel as dense little-endian files in the folder: x, w and b in, y out.

The reference and the comparison are not here: they stay in the parent process, out of the answer's reach.
"""
import sys

sys.path[:] = [p for p in sys.path if p]  # -c puts the current folder first; a torch.py there is not torch
sys.dont_write_bytecode = True

import json
import os
import resource
import shutil
import tempfile
import traceback
import warnings

answer_path, device_name = sys.argv[1:3]
INTERPRETED = device_name == "interpreter"

# The answer may print; its lines must not mix with ours.
replies = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))


def reply(message):
    replies.write(json.dumps(message) + "\n")
    replies.flush()


def give_up(why):
    reply({"missing": why})
    sys.exit(0)


try:
    import numpy as np
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    give_up(f"Python has no {error.name or error}")
if not INTERPRETED and not torch.cuda.is_available():
    give_up("torch finds no CUDA device")

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
warnings.simplefilter("ignore")  # NaN in poisoned lanes, overflow to infinity: expected here
if INTERPRETED:
    torch.set_num_threads(1)

# Taken before the answer is loaded: the checks use these, whatever the answer or the guards replace.
_empty, _equal, _frombuffer, _Tensor = torch.empty, torch.equal, torch.frombuffer, torch.Tensor
_copy, _fill, _view, _as_strided = _Tensor.copy_, _Tensor.fill_, _Tensor.view, _Tensor.as_strided

GUARD_BYTES = 1 << (14 if INTERPRETED else 16)  # a multiple of any alignment a kernel may assume
# Two bytes that are NaN however they are read: f16, bf16, f32 and f64 alike.
GUARD, POISON, GAP = 0x7FFB, 0x7FFD, 0x7FFE  # around a tensor; where nothing was written; between rows of x
OTHER_POISON = 0x3C01  # finite in every type: a result that depends on it differs from one on NaN


class Guarded:
    """A poisoned tensor with guard zones directly before and behind it."""

    def __init__(self, shape, stride, dtype, poison):
        span = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride))
        self.bytes = span * dtype.itemsize
        self.raw = _empty(2 * GUARD_BYTES + (self.bytes + 1) // 2 * 2, dtype=torch.uint8, device=DEVICE)
        _fill(_view(self.raw, torch.int16), GUARD)
        _fill(_view(self.raw[GUARD_BYTES : GUARD_BYTES + self.bytes // 2 * 2], torch.int16), poison)
        body = _view(self.raw[GUARD_BYTES : GUARD_BYTES + self.bytes], dtype)
        self.tensor = _as_strided(body, shape, stride, GUARD_BYTES // dtype.itemsize)

    def damage(self):
        """Where something was written outside the tensor, in words, or None."""
        for where, zone in (("before", self.raw[:GUARD_BYTES]), ("behind", self.raw[-GUARD_BYTES:])):
            hit = (_view(zone, torch.int16) != GUARD).nonzero()
            if len(hit):
                distance = (GUARD_BYTES // 2 - int(hit[-1])) * 2 if where == "before" else int(hit[0]) * 2
                return f"{len(hit) * 2} bytes written {where} a tensor of {self.bytes} bytes, from {distance} bytes off"
        return None


class Allocations:
    """While active, every tensor the answer allocates is guarded, and poisoned where it would be undefined."""

    NAMES = [(torch, "empty", False), (torch, "empty_like", False), (torch, "empty_strided", False),
             (torch, "zeros", True), (torch, "zeros_like", True), (torch, "full", True), (torch, "full_like", True),
             (torch.Tensor, "new_empty", False), (torch.Tensor, "new_zeros", True), (torch.Tensor, "new_full", True)]
    ORIGINALS = [getattr(owner, name) for owner, name, _ in NAMES]

    def __init__(self, poison):
        self.poison = poison
        self.guarded = []

    def _wrap(self, original, defined):
        def allocate(*args, **kwargs):
            plain = original(*args, **kwargs)
            if "out" in kwargs or plain.device.type != DEVICE.type or tuple(plain.shape) == (0,):
                return plain
            guarded = Guarded(plain.shape, plain.stride(), plain.dtype, self.poison)
            if defined:
                _copy(guarded.tensor, plain)
            self.guarded.append(guarded)
            return guarded.tensor

        return allocate

    def __enter__(self):
        for (owner, name, defined), original in zip(self.NAMES, self.ORIGINALS):
            setattr(owner, name, self._wrap(original, defined))
        return self

    def __exit__(self, *_):
        for (owner, name, _), original in zip(self.NAMES, self.ORIGINALS):
            setattr(owner, name, original)


class Wrong(Exception):
    """The answer did something it must not: kind and detail."""


def mend_interpreter():
    """Makes Triton 3.6's interpreter compute what the compiler's code does, in the two places where it differs.

    It keeps bfloat16 as raw 16-bit integers: tl.dot and arithmetic work on the bits, and the conversion from f32
    truncates where hardware rounds to nearest, ties to even. And a loop bound that is an argument is an array of
    one element, which NumPy 2.4 no longer turns into an int.
    """
    import triton.runtime.interpreter as interpreter

    plain_convert = interpreter._convert_float
    builder = interpreter.InterpreterBuilder
    plain_binary, plain_dot, handle = builder.binary_op, builder.create_dot, interpreter.TensorHandle
    plain_patch = interpreter._patch_lang_tensor

    def widen(data):
        return (np.ascontiguousarray(data, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)

    def narrow(data):
        bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(data), np.uint32(0x7FC0), rounded).astype(np.uint16)

    def convert(data, source, target, rounding):
        if (source, target) == (tl.bfloat16, tl.float32):
            return widen(data)
        if (source, target) == (tl.float32, tl.bfloat16) and rounding in (None, interpreter._ir.ROUNDING_MODE.RTNE):
            return narrow(data)
        return plain_convert(data, source, target, rounding)

    def binary(self, lhs, rhs, op):
        if lhs.dtype.scalar != tl.bfloat16:
            return plain_binary(self, lhs, rhs, op)
        result = op(widen(lhs.data), widen(rhs.data))
        return handle(narrow(result) if result.dtype == np.float32 else result, tl.bfloat16)

    def dot(self, a, b, acc, precision, imprecise):
        if a.dtype.scalar == tl.bfloat16:
            a, b = handle(widen(a.data), tl.float32), handle(widen(b.data), tl.float32)
        return plain_dot(self, a, b, acc, precision, imprecise)

    def patch_tensor(tensor, scope):
        plain_patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor
    interpreter._convert_float = convert
    builder.binary_op = binary
    builder.create_dot = dot


def load_answer():
    import importlib.machinery
    import importlib.util

    loader = importlib.machinery.SourceFileLoader("answer", answer_path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("answer", loader))
    sys.modules["answer"] = module  # Triton reads the kernels' source through their module
    loader.exec_module(module)
    return module


def autotuners(module):
    """The autotuned kernels of the answer, each with its whole list of configurations."""
    found = {}
    for value in vars(module).values():
        while hasattr(value, "fn"):
            if isinstance(value, triton.runtime.autotuner.Autotuner):
                found[id(value)] = (value, list(value.configs))
            value = value.fn
    return list(found.values())


def read_tensor(name, shape, dtype):
    with open(os.path.join(folder, name), "rb") as file:
        data = bytearray(file.read())
    return _frombuffer(data, dtype=dtype).reshape(shape) if data else _empty(shape, dtype=dtype)


def dense_strides(shape):
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(n, 1))
    return strides


def place(values, layout):
    """The values in guarded memory, laid out as asked; returns the guard and the tensor."""
    b, c, n = values.shape
    parent = {"sliced": (b, c, n + 7), "strided": (b, c, 2 * n), "expanded": (min(b, 1), c, n)}.get(layout, (b, c, n))
    strides = [c * n, 1, c] if layout == "transposed" else dense_strides(parent)
    guarded = Guarded(parent, strides, values.dtype, GAP)
    tensor = guarded.tensor
    if layout == "sliced":
        tensor = tensor[:, :, 3 : 3 + n]
    elif layout == "strided":
        tensor = tensor[:, :, ::2]
    if layout == "expanded":
        _copy(tensor, values[: min(b, 1)])
        tensor = tensor.expand(b, c, n)
    else:
        _copy(tensor, values)
    return guarded, tensor


def set_parameter(module, shape, value, word):
    """Replaces the one parameter of this shape (of several, the one whose name has `word` in it)."""
    names = [name for name, p in module.named_parameters() if tuple(p.shape) == tuple(shape)]
    if len(names) > 1:
        names = [name for name in names if word in name.rsplit(".", 1)[-1]] or names
    if len(names) != 1:
        shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
        raise Wrong("interface", f"no single {word} parameter of shape {tuple(shape)} among {shapes}")
    owner, _, leaf = names[0].rpartition(".")
    module.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value, requires_grad=False)


def synchronize():
    if not INTERPRETED:
        torch.cuda.synchronize()


def forward(model, x, poison):
    with Allocations(poison) as allocations, torch.no_grad():
        y = model(x)
        synchronize()
    return y, allocations.guarded


def check_output(y, case, dtype):
    if not isinstance(y, _Tensor):
        raise Wrong("type", f"forward returned {type(y).__name__}, not a tensor")
    if list(y.shape) != case["out_shape"]:
        raise Wrong("shape", f"{list(y.shape)} where {case['out_shape']} is due")
    if y.dtype != dtype:
        raise Wrong("dtype", f"{y.dtype} where {dtype} is due")
    if y.device.type != DEVICE.type:
        raise Wrong("device", f"the output is on {y.device}, the input on {DEVICE}")
    if not y.is_contiguous():
        raise Wrong("not contiguous", f"the output has strides {y.stride()}")


def raw_bytes(tensor):
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def run_case(module, tuners, case):
    dtype = getattr(torch, case["dtype"])
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = case["tf32"]
    torch.manual_seed(case["seed"])
    for tuner, configs in tuners:
        tuner.configs = [configs[case["config"] % len(configs)]]

    model = module.ModelNew(**case["arguments"])
    x_guard, x = place(read_tensor("x", case["x_shape"], dtype), case["layout"])
    inputs = [("x", x_guard)]
    for name, word, shape in (("w", "weight", case["w_shape"]), ("b", "bias", case["b_shape"])):
        if shape:
            guarded = Guarded(shape, dense_strides(shape), dtype, GAP)
            _copy(guarded.tensor, read_tensor(name, shape, dtype))
            set_parameter(model, shape, guarded.tensor, word)
            inputs.append((word, guarded))
    model = model.to(DEVICE).eval()
    before = [guarded.raw.clone() for _, guarded in inputs]

    results = []
    for poison in (POISON, OTHER_POISON) if case["repeat"] else (POISON,):
        y, allocated = forward(model, x, poison)
        for guarded in allocated + [g for _, g in inputs]:
            if damage := guarded.damage():
                raise Wrong("writes outside its output", damage)
        for (name, guarded), copy in zip(inputs, before):
            if not _equal(guarded.raw, copy):
                raise Wrong("modifies its input", f"{name} is not what it was")
        check_output(y, case, dtype)
        results.append(raw_bytes(y))
    units = results[0].view(torch.int16).reshape(-1, dtype.itemsize // 2)
    unwritten = (units == POISON).all(dim=1)
    if unwritten.any():
        first = int(unwritten.nonzero()[0])
        raise Wrong("leaves elements unwritten", f"{int(unwritten.sum())} of {y.numel()}, the first at flat index {first}")
    if len(results) == 2 and not _equal(*results):
        raise Wrong("not repeatable", "a second run on the same input gave other bits")
    with open(os.path.join(folder, "y"), "wb") as file:
        file.write(results[0].numpy().tobytes())


def last_line_of_answer(error):
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == answer_path]
    return f" (line {lines[-1]})" if lines else ""


def one_line(text):
    return " ".join(str(text).split())[:400]


def serve():
    reply({"folder": folder, "torch": torch.__version__, "triton": triton.__version__,
           "device": "interpreter" if INTERPRETED else torch.cuda.get_device_name()})
    module = tuners = None
    for line in sys.stdin:
        case = json.loads(line)
        try:
            if module is None:
                module = load_answer()
                tuners = autotuners(module)
            run_case(module, tuners, case)
            reply({})
        except Wrong as wrong:
            reply({"kind": wrong.args[0], "detail": one_line(wrong.args[1])})
        except Exception as error:
            reply({"kind": "raises", "detail": one_line(f"{type(error).__name__}: {error}") + last_line_of_answer(error)})
            if not INTERPRETED:
                return  # a device error poisons the process; the parent starts another


if INTERPRETED:
    mend_interpreter()
folder = tempfile.mkdtemp(prefix="tconv-verify-")  # mode 0700
try:
    serve()
except KeyboardInterrupt:
    sys.exit(130)
finally:
    shutil.rmtree(folder, ignore_errors=True)
