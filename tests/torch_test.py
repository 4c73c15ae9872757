"""tconv.torch does what PyTorch does: results, gradients, errors, modules, compilation; and its packed weights follow
every change of a weight. tconv.conv_transpose1d does it for NumPy arrays.

Runs on a Python with torch and numpy: TCONV_PYTHON, the environment that scripts/test makes, or this one. PyTorch's own
sample inputs need expecttest as well. TCONV_SEED repeats a run's random problems. torch_cuda_test.py runs these cases
on a GPU."""

import concurrent.futures
import copy
import gc
import io
import itertools
import math
import mmap
import os
import pathlib
import pickle
import random
import shutil
import subprocess
import sys
import sysconfig
import threading
import unittest
import unittest.mock
import warnings

BINARY = pathlib.Path(os.environ["TCONV_BINARY"]).resolve()
LIBRARY = BINARY.parent / "libtconv.so"
ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ["TCONV_LIBRARY"] = str(LIBRARY)
sys.path.insert(0, str(ROOT / "python"))

try:
    import numpy as np
    import torch
except ImportError as missing:
    pythons = [os.environ.get("TCONV_PYTHON"), BINARY.parent.parent / "venv" / "bin" / "python"]
    found = [str(p) for p in pythons if p and os.access(p, os.X_OK)]
    if found and "TORCH_TEST_STARTED" not in os.environ:
        os.environ["TORCH_TEST_STARTED"] = "1"
        os.execv(found[0], found[:1] + sys.argv)
    print(f"skipped: {missing}; scripts/test installs torch and numpy")
    sys.exit(0)
if b"libasan.so" in LIBRARY.read_bytes():
    print("skipped: a library with AddressSanitizer cannot be opened by an interpreter without it")
    sys.exit(0)

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn.utils import parametrizations, parametrize  # noqa: E402

import tconv  # noqa: E402
import tconv.torch as drop_in  # noqa: E402
from tconv import _native, _packed  # noqa: E402

torch.set_num_threads(1)  # PyTorch's own threads wait by spinning, which a busy machine makes slow
OPERATOR = torch.ops.tconv.conv_transpose1d.default
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SEED = int(os.environ.get("TCONV_SEED", random.SystemRandom().randrange(2**32)))
print(f"TCONV_SEED={SEED}")


def whole(*shape, dtype=torch.float32):
    """Small whole numbers: exact in every arithmetic, in any order of summation."""
    return torch.randint(-3, 4, shape).to(dtype)


def outcome(function, *arguments, **named):
    """What a call comes to: its result, or its exception's class and text."""
    try:
        return function(*arguments, **named)
    except Exception as error:
        return type(error), str(error)


class Case(unittest.TestCase):
    device = "cpu"

    def setUp(self):
        torch.manual_seed(SEED)

    def assert_same(self, ours, theirs):
        """Bit for bit."""
        self.assertIsInstance(ours, torch.Tensor, ours)
        self.assertIsInstance(theirs, torch.Tensor, theirs)
        self.assertEqual((ours.dtype, ours.shape, ours.device), (theirs.dtype, theirs.shape, theirs.device))
        if not torch.equal(ours, theirs):
            self.fail(f"{ours} is not {theirs}")


class SampleInputs(Case):
    """PyTorch's own samples of the operator, and its own checkers."""

    def samples(self, dtype, **options):
        try:
            with unittest.mock.patch("torch.backends.disable_global_flags"):  # other tests change them
                from torch.testing._internal.common_methods_invocations import op_db
        except ImportError as missing:
            self.skipTest(f"PyTorch's sample inputs: {missing}")
        (info,) = (op for op in op_db if op.name == "nn.functional.conv_transpose1d")
        samples = list(info.sample_inputs(self.device, dtype, **options))
        self.assertGreaterEqual(len(samples), 10)
        return samples

    def test_results(self):
        """Halves against float64: PyTorch's own sums of them are less exact."""
        for dtype in (*DTYPES, torch.complex64, torch.complex128, torch.int64):
            for sample in self.samples(dtype):
                tensors = [sample.input, *sample.args]
                wide = [t if t is None or dtype.itemsize > 2 else t.double() for t in tensors]
                with self.subTest(dtype=dtype, sample=sample):
                    ours = outcome(drop_in.conv_transpose1d, *tensors, **sample.kwargs)
                    theirs = outcome(F.conv_transpose1d, *wide, **sample.kwargs)
                    if isinstance(theirs, torch.Tensor):
                        torch.testing.assert_close(ours, theirs.to(dtype))
                    else:  # of integers on a GPU
                        self.assertEqual(ours, theirs)

    def test_gradients(self):
        for sample in self.samples(torch.float64, requires_grad=True):
            tensors = tuple(t for t in (sample.input, *sample.args) if t is not None)

            def run(*tensors):
                return drop_in.conv_transpose1d(*tensors, **sample.kwargs)

            with self.subTest(sample=sample):
                self.assertTrue(torch.autograd.gradcheck(run, tensors))
                self.assertTrue(torch.autograd.gradgradcheck(run, tensors))

    def test_gradient_where_pytorchs_own_is_wrong(self):
        """Dilation, and a padding of 15 or more: its float32 is tens away from its float64 on some processors."""
        numbers = (3, 17, 2, 1, 3)
        x, w = whole(3, 5, 40), whole(5, 17, 9)
        gradients = []
        for f, dtype in ((drop_in.conv_transpose1d, torch.float32), (F.conv_transpose1d, torch.float64)):
            leaves = [t.to(dtype).requires_grad_() for t in (x, w)]
            gradients.append(torch.autograd.grad(f(*leaves, None, *numbers).square().sum(), leaves))
        for ours, exact in zip(*gradients):
            self.assert_same(ours.double(), exact)

    def test_gradient_of_one_sample_with_channels_side_by_side(self):
        """PyTorch's own is wrong in bfloat16, most of the time, on some processors."""
        numbers = (2, 3, 0, 3, 1)
        for _ in range(20):
            x, w = whole(2, 1, 9, dtype=torch.bfloat16).transpose(1, 2), whole(9, 1, 7, dtype=torch.bfloat16)
            gradients = []
            for f, dtype in ((drop_in.conv_transpose1d, torch.bfloat16), (F.conv_transpose1d, torch.float64)):
                leaves = [x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_()]
                gradients.append(torch.autograd.grad(f(*leaves, None, *numbers).sum(), leaves))
            for ours, exact in zip(*gradients):
                self.assert_same(ours.double(), exact)

    def test_gradients_of_rare_arguments(self):
        cases = (((2, 4, 3), (4, 3, 2), 6, dict(stride=2, padding=1, output_padding=3, groups=2, dilation=4)),
                 ((1, 3, 4), (3, 1, 3), 3, dict(stride=4, groups=3)),  # longer steps than the kernel
                 ((0, 2, 3), (2, 2, 3), 2, dict(stride=2)))
        for x, w, b, arguments in cases:
            tensors = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in (x, w, (b,)))

            def run(*tensors):
                return drop_in.conv_transpose1d(*tensors, **arguments)

            with self.subTest(**arguments):
                self.assertTrue(torch.autograd.gradcheck(run, tensors))
                self.assertTrue(torch.autograd.gradgradcheck(run, tensors))

    def test_gradients_of_the_operator(self):
        """It never forgets one that is needed, whichever tensors it is needed of."""
        for dilation, which in itertools.product((1, 2), range(1, 8)):
            tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=bool(which >> i & 1))
                       for i, shape in enumerate(((2, 4, 5), (4, 3, 3), (6,)))]
            numbers = (3, 1, 1, 2, dilation)
            with self.subTest(which=which, dilation=dilation):
                self.assertTrue(torch.autograd.gradcheck(OPERATOR, (*tensors, *numbers)))
                self.assertTrue(torch.autograd.gradgradcheck(OPERATOR, (*tensors, *numbers)))
                self.assertFalse(torch.no_grad()(OPERATOR)(*tensors, *numbers).requires_grad)

    def test_opcheck(self):
        for dtype, requires_grad in ((torch.float32, True), (torch.bfloat16, False)):
            for sample in self.samples(dtype, requires_grad=requires_grad):
                if sample.input.dim() == 2:
                    continue  # the operator is the batched one
                numbers = {name: value if isinstance(value, int) else value[0] for name, value in sample.kwargs.items()}
                with self.subTest(dtype=dtype, sample=sample):
                    torch.library.opcheck(OPERATOR, (sample.input, *sample.args), numbers)


class Random(Case):
    repeats = True  # PyTorch's gradients are the same, bit for bit, in every call

    def test_500_problems_forward_and_backward(self):
        """Against PyTorch in float64. With n products in a sum, whatever its order, the error is at most
        n*u/(1-n*u) * sum|x||w|, u the unit roundoff of the sums; then one rounding to the result's type."""
        chance = random.Random(SEED)
        problems, worst = [], {}
        for number in range(500):
            dtype = DTYPES[number % 4]
            groups = chance.choice((1, 1, 1, 2, 3))
            c_in, c_out = groups * chance.randint(1, 20), groups * chance.randint(1, 20)
            kernel, stride, dilation = chance.randint(1, 9), chance.randint(1, 6), chance.randint(1, 3)
            batch, length = chance.choice((1, 1, 2, 3)), chance.randint(1, 70)
            output_padding = chance.randint(0, max(stride, dilation) - 1)
            room = (length - 1) * stride + dilation * (kernel - 1) + output_padding
            padding = chance.randint(0, min(room // 2, dilation * kernel))
            numbers = (stride, padding, output_padding, groups, dilation)
            x = torch.randn(batch, length, c_in).transpose(1, 2) if chance.random() < 0.3 else torch.randn(
                batch, c_in, length)
            w = torch.randn(c_in, c_out // groups, kernel) / math.sqrt(c_in)
            tensors = [x.to(dtype), w.to(dtype)] + ([torch.randn(c_out).to(dtype)] if chance.random() < 0.6 else [])
            problems.append((tensors, numbers))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:  # where plans are compiled, for a GPU
            plans = list(pool.map(self.plan, *zip(*problems)))
        for number, (plan, (tensors, numbers)) in enumerate(zip(plans, problems)):
            x, w = tensors[:2]
            with self.subTest(number=number, dtype=x.dtype, x=tuple(x.shape), w=tuple(w.shape), numbers=numbers):
                self.check(plan, tensors, numbers, worst)
        print("largest error over its bound:", {str(k): round(v, 3) for k, v in worst.items()})

    def plan(self, tensors, numbers):
        x, w = tensors[:2]
        stride, padding, output_padding, groups, dilation = numbers
        return _packed.plan(w.shape[0], w.shape[1] * groups, w.shape[2], stride, padding, output_padding, dilation,
                            groups, drop_in._ARITHMETIC[x.dtype], len(tensors) == 3, x.get_device())

    def check(self, plan, tensors, numbers, worst):
        dtype, bias = tensors[0].dtype, len(tensors) == 3
        stride, _, _, groups, dilation = numbers

        def through(function, tensors, upstream=None):
            leaves = [t.detach().clone().requires_grad_() for t in tensors]
            y = function(*leaves, *((None,) if not bias else ()), *numbers)
            upstream = torch.randn(y.shape, dtype=torch.float64).to(dtype) if upstream is None else upstream
            y.backward(upstream.to(y.dtype))
            return [y.detach(), *(leaf.grad for leaf in leaves)], upstream

        ours, upstream = through(drop_in.conv_transpose1d, tensors)
        exact, _ = through(F.conv_transpose1d, [t.double() for t in tensors], upstream)
        sizes, _ = through(F.conv_transpose1d, [t.double().abs() for t in tensors], upstream.double().abs())
        with torch.no_grad():  # the same without the autograd kernel, from packed weights
            again = drop_in.conv_transpose1d(*tensors, *((None,) if not bias else ()), *numbers)
        self.assert_same(again, ours[0])

        def cropped(x, w, b, stride, padding, *numbers):
            """PyTorch's own, without the padding that makes its gradient wrong where it dilates."""
            y = F.conv_transpose1d(x, w, b, stride, 0, *numbers)
            return y[:, :, padding:y.shape[2] - padding]

        own = list(tensors)
        if own[0].shape[2] == 1:  # else its gradient may be wrong in bfloat16
            own[0] = own[0].clone(memory_format=torch.contiguous_format)
        theirs, _ = through(cropped if dilation > 1 else F.conv_transpose1d, own, upstream)
        x, w = tensors[:2]
        taps = -(-w.shape[2] * math.gcd(stride, dilation) // stride)
        products = [w.shape[0] // groups * taps + bias, w.shape[1] * w.shape[2], x.shape[0] * x.shape[2],
                    upstream.shape[0] * upstream.shape[2]]
        units = plan.explain(x.shape[0], x.shape[2]).startswith("gemm_")
        for name, y, own, value, size, n in zip(("y", "x", "w", "bias"), ours, theirs, exact, sizes, products):
            sums = 2.0**-53 if dtype == torch.float64 else 2.0**-24
            if name != "y":  # PyTorch's own operator computes them
                if not self.repeats and dtype in (torch.float32, torch.float64) and not torch.equal(y, own):
                    own = y  # within the bound, then
                self.assert_same(y, own)
                if dtype not in (torch.float32, torch.float64):
                    continue  # its sums of halves are its own
            elif units and dtype != torch.float64:  # they truncate: src/verify/bound.cpp
                n, sums = 2 * (n + 1), 2 * sums
            bound = n * sums / (1 - n * sums) * size
            if dtype == torch.float64:
                bound = 2 * bound  # the reference's own error
            information = torch.finfo(dtype)
            bound = bound + information.eps / 2 * (value.abs() + bound) + information.smallest_normal * information.eps
            # No error is within any bound, one of 0 as well, which a subnormal one is after libraries that flush them.
            error = (y.double() - value).abs()
            ratio = torch.where(error == 0, error, error / bound).max().item()
            key = f"{dtype} {name}".replace("torch.", "")
            worst[key] = max(worst.get(key, 0), ratio)
            self.assertLessEqual(ratio, 1, key)


class Refusals(Case):
    """The rules of acceptance, row by row: same class, same text, or the same result."""

    X, W, B = (2, 4, 5), (4, 3, 3), (3,)
    CALLS = [
        ((3,), W, B, {}), ((1, 2, 4, 5), W, B, {}), ((), W, B, {}),
        (X, W, B, dict(padding=-1)), (X, W, B, dict(output_padding=-1)),
        (X, W, B, dict(stride=0)), (X, W, B, dict(stride=-2)),
        (X, W, B, dict(dilation=-1)), (X, W, B, dict(dilation=0)),
        (X, W, B, dict(groups=0)), (X, W, B, dict(groups=-1)),
        (X, (4, 3), B, {}), (X, (4, 3, 3, 1), B, {}), ((4, 5), (4, 3), B, {}),
        (X, W, B, dict(groups=5)), (X, W, B, dict(groups=3)), (X, (0, 3, 3), B, {}),
        (X, W, B, dict(padding=2**62)), (X, W, B, dict(padding=2**63 - 1)), (X, W, B, dict(stride=2**62)),
        ((2, 3, 5), W, B, {}), ((3, 5), W, B, {}),
        (X, W, (4,), {}), (X, W, (3, 1), {}), (X, W, (), {}), (X, W, B, dict(groups=2)), (X, W, (6,), dict(groups=2)),
        ((2, 4, 0), W, B, {}), ((0, 4, 5), W, B, {}), ((0, 4, 0), W, B, {}), ((2, 0, 5), W, B, {}),
        (X, W, B, dict(output_padding=1)), (X, W, B, dict(output_padding=2, stride=2)),
        (X, W, B, dict(output_padding=2, stride=2, dilation=3)), (X, W, B, dict(output_padding=3, dilation=3)),
        (X, (4, 3, 0), B, {}), (X, (4, 0, 3), (0,), {}),
        ((2, 4, 1), W, B, dict(padding=2)), (X, W, B, dict(padding=3)), (X, W, B, dict(padding=4)),
        (X, W, B, dict(stride=(2, 2))), (X, W, B, dict(stride=())), (X, W, B, dict(stride=(2,), padding=[1])),
        (X, W, B, dict(stride=1.0)), (X, W, B, dict(stride=True)), (X, W, B, dict(stride="1")),
        (X, W, B, dict(stride=None)), (X, W, B, dict(groups=True)), (X, W, B, dict(groups=1.0)),
        (X, W, B, dict(groups=(1,))), (X, W, B, dict(stride=(True,))), (X, W, B, dict(stride=np.int64(2))),
        (X, W, B, dict(dilation=[2])), (X, W, B, dict(stride=torch.tensor(2))), (X, W, None, {}),
    ]

    def compare(self, x, w, b, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        """By position, as nn.ConvTranspose1d calls it: PyTorch's texts tell the positions."""
        arguments = (x, w, b, stride, padding, output_padding, groups, dilation)
        ours, theirs = (outcome(f, *arguments) for f in (drop_in.conv_transpose1d, F.conv_transpose1d))
        if isinstance(theirs, torch.Tensor) and theirs.is_meta:
            self.assertEqual((ours.shape, ours.device), (theirs.shape, theirs.device))
        elif isinstance(theirs, torch.Tensor):
            self.assert_same(ours, theirs)
        else:
            self.assertEqual(ours, theirs)
        return theirs

    def test_arguments(self):
        refused = 0
        for x, w, b, named in self.CALLS:
            for grad in (False, True):
                with self.subTest(x=x, w=w, b=b, grad=grad, **named):
                    tensors = [None if shape is None else whole(*shape).requires_grad_(grad) for shape in (x, w, b)]
                    theirs = self.compare(*tensors, **named)
                    refused += not isinstance(theirs, torch.Tensor)
                with self.subTest(x=x, w=w, b=b, cached=True, **named), torch.no_grad():
                    good = outcome(F.conv_transpose1d, whole(*self.X), tensors[1], tensors[2])
                    if isinstance(good, torch.Tensor):  # the same weight, packed before
                        drop_in.conv_transpose1d(whole(*self.X), tensors[1], tensors[2])
                    self.compare(*tensors, **named)
        self.assertGreater(refused, 60)

    def test_dtypes_devices_and_types(self):
        x, w, b = whole(*self.X), whole(*self.W), whole(*self.B)
        every = (*DTYPES, torch.int64, torch.int32, torch.int8, torch.bool, torch.complex64)
        for dtype in every:
            with self.subTest(dtype=dtype):
                self.compare(x.to(dtype), w.to(dtype), b.to(dtype))
            for tensors in ((x.to(dtype), w, b), (x, w.to(dtype), b), (x, w, b.to(dtype))):
                with self.subTest(dtype=dtype, types=[t.dtype for t in tensors]):
                    self.compare(*tensors)
        for tensors in ((x.to("meta"), w, b), (x.cpu().numpy(), w, b), (x, None, b), (x, w, [1.0]),
                        (None, w, b), (x, w.tolist(), b), (x.to_sparse(), w, b)):
            with self.subTest(types=[type(t) for t in tensors]):
                self.compare(*tensors)
        meta = [t.to("meta") for t in (x, w, b)]
        self.assertEqual(drop_in.conv_transpose1d(*meta).shape, F.conv_transpose1d(*meta).shape)

    def test_our_two_refusals_where_pytorch_has_none(self):
        empty = torch.empty(0, 4, 1)
        theirs = outcome(F.conv_transpose1d, empty, whole(*self.W), None, 1, 3)
        ours = outcome(drop_in.conv_transpose1d, empty, whole(*self.W), None, 1, 3)
        if isinstance(theirs, torch.Tensor):
            self.assertIs(ours[0], drop_in.Error)
            self.assertIn("output length", ours[1])
        else:
            self.assertEqual(ours, theirs)
        meta = [t.to("meta") for t in (whole(2, 4, 1), whole(*self.W))]
        theirs, ours = (outcome(f, *meta, None, 1, 0, 0, 1, 0) for f in (F.conv_transpose1d, drop_in.conv_transpose1d))
        if isinstance(theirs, torch.Tensor):
            self.assertIs(ours[0], drop_in.Error)
            self.assertIn("dilation is 0", ours[1])
        else:
            self.assertEqual(ours, theirs)

    def test_modules(self):
        constructions = [dict(padding_mode="reflect"), dict(padding_mode="circular"), dict(groups=0), dict(groups=-1),
                         dict(groups=3), dict(stride=0), dict(padding=-1), dict(kernel_size=0), dict(dilation=0),
                         dict(output_padding=1), dict(kernel_size=(3, 3)), dict(bias=False), dict(stride=2, padding=1),
                         dict(dtype=torch.int64), dict(device="meta"), dict(stride=(2,), output_padding=1)]
        for named in constructions:
            arguments = dict(in_channels=4, out_channels=6, kernel_size=3) | named
            with self.subTest(**named):
                torch.manual_seed(3)
                ours = outcome(drop_in.ConvTranspose1d, **arguments)
                torch.manual_seed(3)
                theirs = outcome(nn.ConvTranspose1d, **arguments)
                if not isinstance(theirs, nn.Module):
                    self.assertEqual(ours, theirs)
                    continue
                self.assertEqual(repr(ours), repr(theirs))
                results = [outcome(m, torch.ones(2, 4, 5)) for m in (ours, theirs)]
                if not isinstance(results[1], torch.Tensor):
                    self.assertEqual(*results)
                elif not theirs.weight.is_meta:  # else PyTorch's result is no result
                    torch.testing.assert_close(*results)

    def test_inputs_of_modules(self):
        """Rank, channels, dtype, device and type of what a replaced layer is called with."""
        theirs = nn.ConvTranspose1d(4, 6, 3, stride=2)
        ours = drop_in.ConvTranspose1d.from_module(theirs)
        x = whole(2, 4, 5)
        inputs = [x[0, 0], x[None], whole(), x[:, :3], x[0, :3], x[:, :, :0], x.double(), x.half(), x.long(), x.bool(),
                  x.to(torch.complex64), x.to_sparse(), x.cpu().numpy(), x.tolist(), None]
        for grad in (False, True):
            for wrong in inputs:
                with self.subTest(type=type(wrong), shape=getattr(wrong, "shape", None), grad=grad), \
                        torch.set_grad_enabled(grad):
                    refused = outcome(theirs, wrong)
                    self.assertNotIsInstance(refused, torch.Tensor)
                    self.assertEqual(outcome(ours, wrong), refused)
                    torch.testing.assert_close(ours(x), theirs(x))

    def test_device_that_the_library_cannot_open(self):
        """Stood in for by a number that no machine has a GPU for; PyTorch, which could serve the call, does not."""
        x, layer = whole(2, 4, 5), drop_in.ConvTranspose1d(4, 6, 3)
        plan = _packed.plan
        _packed.plan = lambda *problem: plan(*problem[:-1], 63)
        try:
            for call in (layer, torch.compile(layer, backend="aot_eager"),
                         lambda x: drop_in.conv_transpose1d(x, layer.weight), lambda x: OPERATOR(x, layer.weight)):
                for grad in (False, True):
                    with torch.set_grad_enabled(grad), self.assertRaisesRegex(drop_in.Error, "63|GPU|CUDA") as caught:
                        call(x)
                    self.assertIsInstance(caught.exception, RuntimeError)
                    # Compiled code of early releases adds where it was.
                    text = str(caught.exception).partition("\n\nWhile executing")[0]
                    self.assertEqual(len(text.splitlines()), 1)
        finally:
            _packed.plan = plan
        torch.testing.assert_close(layer(x), F.conv_transpose1d(x, layer.weight, layer.bias))

    def test_output_size(self):
        torch.manual_seed(3)
        theirs = nn.ConvTranspose1d(4, 6, 5, stride=3, padding=1, dilation=2)
        ours = drop_in.ConvTranspose1d.from_module(theirs)
        for x in (torch.ones(2, 4, 5), torch.ones(4, 5)):
            for size in ([19], [20], [21], [18], [22], [2, 6, 20], [6, 20], [2, 2, 6, 20], [], (20,), torch.Size([20])):
                with self.subTest(x=tuple(x.shape), size=size):
                    a, b = outcome(ours, x, size), outcome(theirs, x, output_size=size)
                    if isinstance(b, torch.Tensor):
                        torch.testing.assert_close(a, b)
                    else:
                        self.assertEqual(a, b)
        ours.padding_mode = theirs.padding_mode = "reflect"
        self.assertEqual(outcome(ours, x), outcome(theirs, x))


class Tensors(Case):
    """Ways in which a tensor lies in memory."""

    def test_layouts(self):
        x, w, b = whole(2, 6, 9), whole(6, 4, 5), whole(8)
        expected = F.conv_transpose1d(x, w, b, 3, 1, 1, 2, 2)
        xs = [x, x.transpose(1, 2).contiguous().transpose(1, 2), x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
              torch.stack((x, x), -1)[..., 1], torch.cat((x, x), 2)[:, :, 9:], whole(20 + x.numel())[3:3 + x.numel()]
              .view(x.shape).copy_(x)]
        ws = [w, w.transpose(0, 2).contiguous().transpose(0, 2), torch.stack((w, w), -1)[..., 0],
              torch.cat((w, w), 1)[:, 4:]]
        bs = [b, torch.stack((b, b), 1)[:, 0]]
        for i, tensors in enumerate((a, c, d) for a in xs for c in ws for d in bs):
            with self.subTest(i=i), torch.no_grad():
                self.assert_same(drop_in.conv_transpose1d(*tensors, 3, 1, 1, 2, 2), expected)

    def test_expanded(self):
        x, w, b = whole(1, 4, 7).expand(3, 4, 7), whole(1, 3, 1).expand(4, 3, 5), whole(1).expand(3)
        self.assertEqual(w.stride(), (0, 1, 0))
        for _ in range(2):
            self.assert_same(drop_in.conv_transpose1d(x, w, b, 2), F.conv_transpose1d(x, w, b, 2))
        flat = whole(1, 4, 1).expand(2, 4, 9)
        self.assert_same(drop_in.conv_transpose1d(flat, w), F.conv_transpose1d(flat, w))

    def test_unbatched_and_zero_batch(self):
        w, b = whole(4, 3, 5).requires_grad_(), whole(3).requires_grad_()
        for shape in ((4, 7), (0, 4, 7), (1, 4, 1)):
            for grad in (False, True):
                x = whole(*shape).requires_grad_(grad)
                with self.subTest(shape=shape, grad=grad), torch.set_grad_enabled(grad):
                    ours, theirs = (f(x, w, b, 2, 1, 1) for f in (drop_in.conv_transpose1d, F.conv_transpose1d))
                    self.assert_same(ours, theirs)
                    if grad:
                        for a, c in zip(*(torch.autograd.grad(y.sum(), (x, w, b)) for y in (ours, theirs))):
                            self.assert_same(a, c)

    def test_negated_views(self):
        z = torch.complex(whole(2, 4, 7), whole(2, 4, 7)).conj().imag
        v = torch.complex(whole(4, 3, 5), whole(4, 3, 5)).conj().imag
        u = torch.complex(whole(3), whole(3)).conj().imag
        self.assertTrue(z.is_neg() and v.is_neg() and u.is_neg())
        for _ in range(2):
            for x, w, b in ((z, v, u), (z, v.clone(), None), (z.clone(), v, u.clone()), (z.clone(), v.clone(), u)):
                self.assert_same(drop_in.conv_transpose1d(x, w, b), F.conv_transpose1d(x, w, b))

    def test_threads_setting_changes_nothing(self):
        x, w = torch.randn(1, 32, 400), torch.randn(32, 16, 16)
        before, results = torch.get_num_threads(), []
        try:
            for number in (1, 2, 3):
                torch.set_num_threads(number)
                results.append(drop_in.conv_transpose1d(x, w, None, 8, 4))
        finally:
            torch.set_num_threads(before)
        self.assert_same(results[0], results[1])
        self.assert_same(results[0], results[2])

    def test_large_outputs_in_huge_pages(self):
        x, w = whole(1, 2, 1500001), whole(2, 3, 4)
        asked, ask = [], _native.prefer_huge_pages
        try:
            _native.prefer_huge_pages = lambda address, size: (asked.append((address, size)), ask(address, size))
            y = drop_in.conv_transpose1d(x, w, None, 2, 1)
            drop_in.conv_transpose1d(x[..., :1000], w, None, 2, 1)
        finally:
            _native.prefer_huge_pages = ask
        self.assertEqual(asked, [(y.data_ptr(), y.nbytes)])
        self.assert_same(y, F.conv_transpose1d(x, w, None, 2, 1))

    @unittest.skipUnless(hasattr(mmap, "MADV_HUGEPAGE"), "this system has no huge pages to ask for")
    def test_huge_pages_never_reach_beyond_the_memory(self):
        kept, ask = [], _native._madvise
        try:
            _native._madvise = lambda *range_: kept.append(range_)
            for address, size in ((1, 10), (4095, 4097), (8192, 4096), (8193, 3 * 4096)):
                _native.prefer_huge_pages(address, size)
                first, length, _ = kept.pop()
                self.assertTrue(length == 0 or address <= first <= first + length <= address + size)
                self.assertEqual((first % mmap.PAGESIZE, length % mmap.PAGESIZE), (0, 0))
        finally:
            _native._madvise = ask

    def test_transforms_and_modes_are_pytorchs(self):
        x, w = torch.randn(3, 2, 4, 7), torch.randn(4, 3, 5)
        torch.testing.assert_close(torch.func.vmap(drop_in.conv_transpose1d, (0, None))(x, w),
                                   torch.func.vmap(F.conv_transpose1d, (0, None))(x, w))
        for f in (torch.func.jvp, torch.autograd.functional.jvp):
            ours, theirs = (f(lambda x: g(x, w), (x[0],), (x[1],))
                            for g in (drop_in.conv_transpose1d, F.conv_transpose1d))
            torch.testing.assert_close(ours, theirs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(lambda x: drop_in.conv_transpose1d(x, w), x[0])
        self.assertNotIn("tconv::", str(traced.graph))
        with torch.profiler.profile() as profile:
            drop_in.conv_transpose1d(x[0], w)
        self.assertIn("tconv::conv_transpose1d", [event.key for event in profile.key_averages()])

    def test_transforms_of_the_operator(self):
        x, w = torch.randn(3, 2, 4, 7), torch.randn(4, 3, 5)
        ways = {"grad": lambda f: torch.func.grad(lambda x: f(x, w).square().sum())(x[0]),
                "hessian": lambda f: torch.func.hessian(lambda x: f(x, w).square().sum())(x[0, :1]),
                "jvp": lambda f: torch.func.jvp(lambda x: f(x, w), (x[0],), (x[1],))[1],
                "jacrev": lambda f: torch.func.jacrev(lambda w: f(x[0], w))(w),
                "vmap": lambda f: torch.func.vmap(lambda x: f(x, w))(x),
                "functionalize": lambda f: torch.func.functionalize(lambda x: f(x, w))(x[0])}
        for (name, way), grad in itertools.product(ways.items(), (True, False)):
            with self.subTest(name=name, grad=grad), torch.set_grad_enabled(grad):
                torch.testing.assert_close(way(OPERATOR), way(F.conv_transpose1d))

    def test_plain_tensors_are_dispatched_once(self):
        x, w, b = whole(2, 4, 7), nn.Parameter(whole(4, 3, 5)), nn.Parameter(whole(3))
        due = F.conv_transpose1d(x, w, b, 2).detach()
        with unittest.mock.patch.object(drop_in, "_below", wraps=drop_in._below) as below:
            with torch.no_grad():
                self.assert_same(OPERATOR(x, w, b, 2), due)
                self.assert_same(OPERATOR(x, w.detach(), None, 2), due - b.view(1, 3, 1))
            self.assert_same(OPERATOR(x, w.detach(), b.detach(), 2), due)
            self.assert_same(OPERATOR(x, w, b, 2).detach(), due)
            self.assertEqual(below.call_count, 0)
            negated = torch.complex(-x, -x).conj().imag
            self.assertTrue(negated.is_neg())
            with torch.no_grad():
                self.assert_same(OPERATOR(negated, w, b, 2), due)
            self.assertEqual(below.call_count, 1)
            with torch._subclasses.FakeTensorMode() as mode:
                fakes = [mode.from_tensor(t) for t in (x, w, b)]
                y = OPERATOR(*fakes, 2)
            self.assertEqual((type(y), y.shape, y.requires_grad),
                             (torch._subclasses.FakeTensor, due.shape, True))
            self.assertEqual(below.call_count, 2)

    def test_results_lie_as_new_tensors_do(self):
        w = whole(4, 3, 5)
        for shape in ((2, 4, 7), (0, 4, 7), (1, 4, 1), (4, 7)):
            for dtype in DTYPES:
                x = whole(*shape, dtype=dtype)
                for mode in (torch.no_grad, torch.inference_mode):
                    with self.subTest(shape=shape, dtype=dtype, mode=mode), mode():
                        y, due = (f(x, w.to(dtype)) for f in (drop_in.conv_transpose1d, F.conv_transpose1d))
                        self.assert_same(y, due)
                        self.assertEqual(y.stride(), x.new_empty(y.shape).stride())
                        self.assertEqual((y.is_inference(), y.requires_grad, y.storage_offset()),
                                         (mode is torch.inference_mode, False, 0))

    def test_subclasses_see_pytorchs_function(self):
        class Spy(torch.Tensor):
            seen = []

            @classmethod
            def __torch_function__(cls, function, types, args=(), kwargs=None):
                cls.seen.append(function)
                return super().__torch_function__(function, types, args, kwargs or {})

        drop_in.conv_transpose1d(whole(2, 4, 7).as_subclass(Spy), whole(4, 3, 5))
        self.assertIn(F.conv_transpose1d, Spy.seen)


class Cache(Case):
    """Packed weights are those of the weight as it is. The changes are behind the bytes that are compared."""

    def setUp(self):
        super().setUp()
        self.x, self.w = whole(1, 16, 5), nn.Parameter(whole(16, 16, 9))
        self.check()

    @torch.no_grad()
    def check(self, w=None):
        w = self.w if w is None else w
        for _ in range(2):
            self.assert_same(drop_in.conv_transpose1d(self.x, w), F.conv_transpose1d(self.x, w))

    def changed(self):
        w = self.w.detach().clone()
        w[-1] += 1
        return w

    def test_is_used(self):
        key = (1, 0, 0, 1, 1, False, "f32", 0)
        found = _packed.find(self.w, key)
        self.assertIsNotNone(found)
        self.check()
        self.assertIs(_packed.find(self.w, key), found)
        drop_in.clear_cache()
        self.assertIsNone(_packed.find(self.w, key))

    def test_optimizer_step(self):
        for optimizer in (torch.optim.SGD([self.w], 1.0), torch.optim.Adam([self.w], 1.0, foreach=True),
                          torch.optim.AdamW([self.w], 1.0, fused=True)):
            self.w.grad = torch.zeros_like(self.w)
            self.w.grad[-1] = 1
            optimizer.step()
            with torch.no_grad():
                self.w.round_()
            self.check()

    def test_in_place(self):
        with torch.no_grad():
            self.w[-1] += 1
            self.check()
            self.w[-1].mul_(2)
            self.check()
            self.w.view(-1)[-1] = 3
            self.check()
            self.w.detach()[-1, -1] = 2
            self.check()
            torch._foreach_add_([self.w[-1]], 1)
            self.check()
            torch.neg(self.w, out=self.w)
            self.check()

    def test_data(self):
        self.w.data = self.changed()
        self.check()
        self.w.data = self.w.data.flip(2)
        self.check()
        square = nn.Parameter(whole(16, 16, 9))
        self.check(square)
        square.data = square.data.transpose(0, 1)  # same memory, other strides
        self.check(square)

    def test_data_in_reused_memory(self):
        """A buffer stands for memory that was freed and given out again: same address, other storage."""
        buffer = bytearray(self.w.numel() * 4)
        seen = set()
        for _ in range(3):
            self.w.data = torch.frombuffer(buffer, dtype=torch.float32).view(self.w.shape)
            seen.add((self.w.data_ptr(), self.w._version))
            self.check()
            self.w.data = torch.zeros(16, 16, 9)
            torch.frombuffer(buffer, dtype=torch.float32)[-100:] += 1
        self.assertEqual(len(seen), 1)

    def test_changes_that_pytorch_does_not_count(self):
        self.w.data[0, 0] += 1
        self.check()
        self.w.detach().numpy()[0, 1] += 1
        self.check()
        small = nn.Parameter(whole(16, 2, 3))
        self.check(small)
        small.data.view(-1)[-1] += 1
        self.check(small)
        self.w.data[-1] += 1
        drop_in.clear_cache()
        self.check()

    @torch.no_grad()
    def test_operator_trusts_parameters_alone(self):
        """What compiled code hands it may be a buffer that was written again, with the same identity and version."""
        w = whole(16, 16, 9)
        for _ in range(3):
            self.assert_same(OPERATOR(self.x, w), F.conv_transpose1d(self.x, w))
            w.data[-1] += 1
        OPERATOR(self.x, self.w)
        self.assertIsNotNone(_packed.find(self.w, (1, 0, 0, 1, 1, False, "f32", 0)))

    def test_training_never_uses_it(self):
        self.w.data[-1] += 1
        self.assert_same(drop_in.conv_transpose1d(self.x, self.w), F.conv_transpose1d(self.x, self.w))

    def test_load_state_dict(self):
        layer = drop_in.ConvTranspose1d(16, 16, 9, bias=False)
        for assign in (False, True):
            layer.load_state_dict({"weight": self.changed()}, assign=assign)
            self.w = layer.weight
            self.check()

    def test_freed_and_reused(self):
        identities, memory = set(), set()
        for _ in range(200):
            w = whole(16, 16, 9)
            identities.add(id(w))
            memory.add(w.data_ptr())
            self.check(w)
            del w
        self.assertLess(min(len(identities), len(memory)), 200, "nothing was reused")

    def test_forgets_the_dead(self):
        drop_in.clear_cache()
        tensors = [whole(16, 16, 9) for _ in range(5)]
        for w in tensors:
            self.check(w)
        self.assertEqual(len(_packed._weights), 5)
        del tensors, w
        gc.collect()
        self.assertEqual(len(_packed._weights), 0)

    def test_memory_of_passing_weights_is_used_again(self):
        """As weight_norm makes them: a new tensor for every call."""
        drop_in.clear_cache()
        key, packed = (1, 0, 0, 1, 1, False, "f32", 0), set()
        for _ in range(4):
            w = whole(16, 16, 9)
            self.check(w)
            packed.add(_packed.find(w, key).packed)
            del w
        self.assertEqual((len(packed), len(_packed._spare)), (1, 1))
        kept = [whole(16, 16, 9) for _ in range(3)]
        for w in kept:
            self.check(w)
        self.assertEqual(len({_packed.find(w, key).packed for w in kept}), 3)
        self.check()
        del kept, w
        drop_in.clear_cache()
        self.assertEqual(len(_packed._spare), 0)
        self.check()

    def test_inference_tensors(self):
        with torch.inference_mode():
            w = whole(16, 16, 9)
            self.check(w)
            w[-1] += 1
            self.check(w)
        with torch.inference_mode():
            self.check()

    def test_one_weight_in_several_layers(self):
        for numbers in ((2, 1, 1, 1, 1), (2, 1, 1, 4, 1), (1, 0, 0, 1, 2), (3, 2, 0, 2, 3)):
            for bias in (None, whole(16 * numbers[3])):
                self.assert_same(drop_in.conv_transpose1d(self.x, self.w, bias, *numbers),
                                 F.conv_transpose1d(self.x, self.w, bias, *numbers))

    def test_threads(self):
        shared = [nn.Parameter(whole(16, 16, 9)) for _ in range(4)]
        expected = [F.conv_transpose1d(self.x, w, None, 2).detach() for w in shared]
        failures, start = [], threading.Barrier(8)

        def work(number):
            chance = random.Random(number)
            torch.set_default_device(self.device)  # of this thread
            start.wait()
            for _ in range(150):
                i = chance.randrange(4)
                with torch.no_grad():
                    own = whole(16, 16, 9) if chance.random() < 0.3 else shared[i]
                    due = expected[i] if own is shared[i] else F.conv_transpose1d(self.x, own, None, 2)
                    if not torch.equal(drop_in.conv_transpose1d(self.x, own, None, 2), due):
                        failures.append(number)

        drop_in.clear_cache()
        workers = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(failures, [])


class Compile(Case):
    def lengths(self, backend, grad):
        layer = drop_in.ConvTranspose1d(4, 6, 5, stride=3, padding=1, output_padding=1, groups=2, dilation=2)
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
        compiled = torch.compile(lambda x: layer(x * 1).relu(), backend=counter, fullgraph=True, dynamic=True)
        with torch.set_grad_enabled(grad):
            for shape in ((2, 4, 9), (2, 4, 33), (3, 4, 64)):
                x = torch.randn(shape, requires_grad=grad)
                drop_in.clear_cache()
                y = compiled(x)
                if not grad:
                    self.assertIsNotNone(_packed.find(layer.weight, (3, 1, 1, 2, 2, True, "f32", 0)))
                expected = layer(x).relu()
                torch.testing.assert_close(y, expected)
                if grad:
                    for a, b in zip(*(torch.autograd.grad(z.square().sum(), (x, *layer.parameters()))
                                      for z in (y, expected))):
                        torch.testing.assert_close(a, b)
        self.assertEqual(counter.frame_count, 1)
        (graph,) = counter.graphs
        self.assertIn(OPERATOR, [node.target for node in graph.graph.nodes])

    def test_traced(self):
        import torch._dynamo.testing  # noqa: F401
        self.lengths("aot_eager", False)
        self.lengths("aot_eager", True)

    def test_inductor(self):
        import torch._dynamo.testing  # noqa: F401
        if not shutil.which("g++"):
            self.skipTest("no C++ compiler")
        if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
            self.skipTest("no Python.h")
        self.lengths("inductor", False)

    def test_weights_that_change(self):
        """Parameters as each call finds them, and buffers of compiled code, written anew in each call."""
        layer = drop_in.ConvTranspose1d(16, 16, 9)
        x = whole(2, 16, 5)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(whole(*parameter.shape))

        def function(x):
            return layer(x) + drop_in.conv_transpose1d(x, layer.weight * 2)

        for mode in (torch.no_grad, torch.inference_mode):
            torch._dynamo.reset()
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
            for change in (lambda w: None, lambda w: w[-1].add_(1), lambda w: setattr(w, "data", w.data.flip(2)),
                           lambda w: setattr(w, "data", w.data.transpose(0, 1)), lambda w: w.copy_(w.flip(0))):
                with torch.no_grad():
                    change(layer.weight)
                with mode():
                    y = compiled(x)
                w = layer.weight.detach().clone()
                self.assertTrue(torch.equal(y, (F.conv_transpose1d(x, w, layer.bias) + F.conv_transpose1d(
                    x, w * 2)).detach()))

    def test_gradients_wanted_or_not(self):
        """One function, called as each of these; what is compiled for the one must not serve another."""
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, w: drop_in.conv_transpose1d(x * 1, w), backend="aot_eager", fullgraph=True)
        for grad, of_x, of_w in 2 * list(itertools.product((False, True), repeat=3)):
            x, w = torch.randn(2, 4, 9, requires_grad=of_x), torch.randn(4, 3, 5, requires_grad=of_w)
            leaves = [t for t in (x, w) if t.requires_grad]
            with self.subTest(grad=grad, of_x=of_x, of_w=of_w), torch.set_grad_enabled(grad):
                ours, theirs = compiled(x, w), F.conv_transpose1d(x, w)
                torch.testing.assert_close(ours, theirs)
                self.assertEqual(ours.requires_grad, theirs.requires_grad)
                if theirs.requires_grad:
                    for a, b in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (ours, theirs))):
                        torch.testing.assert_close(a, b)

    def test_derivatives_within(self):
        """Of torch.func: PyTorch's own operator has them."""
        x, w = torch.randn(2, 4, 9), torch.randn(4, 3, 5)
        ways = {"grad": lambda f: torch.func.grad(lambda x: f(x, w).square().sum())(x),
                "jvp": lambda f: torch.func.jvp(lambda x: f(x, w), (x,), (x,))[1]}
        for (name, way), grad in itertools.product(ways.items(), (True, False)):
            torch._dynamo.reset()
            with self.subTest(name=name, grad=grad), torch.set_grad_enabled(grad):
                compiled = torch.compile(lambda: way(drop_in.conv_transpose1d), backend="aot_eager", fullgraph=True)
                torch.testing.assert_close(compiled(), way(F.conv_transpose1d))

    def test_functional_unbatched_and_refused(self):
        def function(x, w, stride, padding):
            return drop_in.conv_transpose1d(x, w, None, (stride,), padding)

        torch._dynamo.reset()
        compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
        w = torch.randn(4, 3, 5)
        for x in (torch.randn(4, 9), torch.randn(2, 4, 11)):
            torch.testing.assert_close(compiled(x, w, 2, 1), F.conv_transpose1d(x, w, None, 2, 1))
        for arguments in ((x[:, :3], w, 2, 1), (x, w, 1, 30)):
            with self.assertRaises(Exception):
                compiled(*arguments)

    def test_autocast_and_complex(self):
        layer = drop_in.ConvTranspose1d(4, 6, 5)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        x = torch.randn(2, 4, 9)
        with torch.autocast(self.device, torch.bfloat16), torch.no_grad():
            self.assert_same(compiled(x), layer(x))
        z, w = torch.randn(2, 4, 9, dtype=torch.complex64), torch.randn(4, 3, 5, dtype=torch.complex64)
        torch.testing.assert_close(torch.compile(drop_in.conv_transpose1d, backend="aot_eager", fullgraph=True)(z, w),
                                   F.conv_transpose1d(z, w))

    def test_export(self):
        layer = drop_in.ConvTranspose1d(4, 6, 5, stride=2)
        x = torch.randn(2, 4, 9)
        length = torch.export.Dim("length", min=2, max=10000)
        program = torch.export.export(layer, (x,), dynamic_shapes={"input": {2: length}})
        longer = torch.randn(2, 4, 40)
        torch.testing.assert_close(program.module()(longer), layer(longer))
        with torch.no_grad():  # then called where gradients are wanted
            program = torch.export.export(layer, (x,), dynamic_shapes={"input": {2: length}})
        longer.requires_grad_()
        (ours,), (theirs,) = (torch.autograd.grad(f(longer).square().sum(), longer) for f in (program.module(), layer))
        torch.testing.assert_close(ours, theirs)


class Autocast(Case):
    def test_dtypes(self):
        x, w, b = whole(2, 4, 9), nn.Parameter(whole(4, 3, 5)), nn.Parameter(whole(3))
        for dtype in (torch.bfloat16, torch.float16):
            for tensors in ((x, w, b), (x.to(dtype), w, b), (x, w.detach().to(dtype), None),
                            (x.double(), w.detach().double(), b.detach().double()), (x, w.detach().double(), None)):
                for grad in (False, True):
                    with self.subTest(dtype=dtype, types=[t is not None and t.dtype for t in tensors], grad=grad), \
                            torch.autocast(self.device, dtype), torch.set_grad_enabled(grad):
                        ours, theirs = (outcome(f, *tensors, 2) for f in (drop_in.conv_transpose1d, F.conv_transpose1d))
                        if isinstance(theirs, torch.Tensor):
                            self.assert_same(ours, theirs)
                        else:
                            self.assertEqual(ours, theirs)

    def test_operator(self):
        x, w = whole(2, 4, 9), whole(4, 3, 5)
        with torch.autocast(self.device, torch.bfloat16):
            self.assertEqual(OPERATOR(x, w).dtype, torch.bfloat16)

    def test_gradients(self):
        x, w = whole(2, 4, 9).requires_grad_(), nn.Parameter(whole(4, 3, 5))
        gradients = []
        for f in (drop_in.conv_transpose1d, F.conv_transpose1d):
            with torch.autocast(self.device, torch.bfloat16):
                y = f(x, w)
            gradients.append(torch.autograd.grad(y.sum(), (x, w)))
        for ours, theirs in zip(*gradients):
            self.assert_same(ours, theirs)

    def test_cached_cast_follows_the_weight(self):
        x, w = whole(2, 16, 9), nn.Parameter(whole(16, 16, 9))
        for mode in (torch.no_grad, torch.inference_mode):
            for _ in range(3):
                with torch.no_grad():
                    w[-1] += 1
                with torch.autocast(self.device, torch.bfloat16), mode():
                    self.assert_same(drop_in.conv_transpose1d(x, w), F.conv_transpose1d(x, w.detach().clone()))


class Modules(Case):
    ARGUMENTS = dict(in_channels=6, out_channels=4, kernel_size=5, stride=3, padding=2, output_padding=1, groups=2)

    def test_same_parameters_under_one_seed(self):
        torch.manual_seed(5)
        theirs = nn.ConvTranspose1d(**self.ARGUMENTS)
        torch.manual_seed(5)
        ours = drop_in.ConvTranspose1d(**self.ARGUMENTS)
        self.assertEqual(list(ours.state_dict()), list(theirs.state_dict()))
        for key, value in theirs.state_dict().items():
            self.assert_same(ours.state_dict()[key], value)
        self.assertEqual(str(ours), str(theirs))
        self.assertIsInstance(ours, nn.ConvTranspose1d)

    def test_copies(self):
        layer = drop_in.ConvTranspose1d(**self.ARGUMENTS)
        x = torch.randn(2, 6, 9)
        with torch.no_grad():
            expected = layer(x)
        buffer = io.BytesIO()
        torch.save(layer, buffer)
        buffer.seek(0)
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(buffer, weights_only=False)):
            self.assertIs(type(twin), drop_in.ConvTranspose1d)
            with torch.no_grad():
                self.assert_same(twin(x), expected)
                twin.weight.zero_()
                self.assertEqual(twin(x).sub(twin.bias[:, None]).abs().max(), 0)
                self.assert_same(layer(x), expected)

    @torch.no_grad()
    def test_where_parameters_lie(self):
        """In the module's parameters or, as sharding and pruning leave them, as attributes of it."""
        for bias in (True, False):
            layer, own = (kind(4, 6, 5, bias=bias) for kind in (drop_in.ConvTranspose1d, nn.ConvTranspose1d))
            own.load_state_dict(layer.state_dict())
            x = torch.randn(2, 4, 9)

            def check(layer=layer, own=own, x=x):
                torch.testing.assert_close(layer(x), own(x))

            check()
            others = {name: torch.randn_like(value) for name, value in own.named_parameters()}
            torch.testing.assert_close(torch.func.functional_call(layer, others, (x,)),
                                       torch.func.functional_call(own, others, (x,)))
            for name in others:
                value = torch.randn_like(getattr(own, name))
                for module in (layer, own):
                    delattr(module, name)
                    setattr(module, name, value)
                check()
                for module in (layer, own):
                    delattr(module, name)
                    setattr(module, name, nn.Parameter(value + 1))
                check()
            for module in (layer, own):
                module.bias = None
            check()
            for module in (layer, own):
                del module.weight
            with self.assertRaisesRegex(AttributeError, "weight"):
                layer(x)

    def test_from_module(self):
        theirs = nn.ConvTranspose1d(**self.ARGUMENTS).eval()
        calls = []
        theirs.register_forward_hook(lambda *_: calls.append(1))
        ours = drop_in.ConvTranspose1d.from_module(theirs)
        self.assertIs(type(theirs), nn.ConvTranspose1d)
        self.assertIs(ours.weight, theirs.weight)
        self.assertFalse(ours.training)
        x = torch.randn(2, 6, 9)
        torch.testing.assert_close(ours(x), theirs(x))
        self.assertEqual(len(calls), 2)
        ours.register_parameter("bias", None)
        self.assertIsNotNone(theirs.bias)
        for wrong in (nn.Conv1d(2, 2, 1), nn.LazyConvTranspose1d(2, 3), nn.ConvTranspose2d(2, 2, 1), None):
            with self.assertRaises(TypeError):
                drop_in.ConvTranspose1d.from_module(wrong)



class Normed(Case):
    """Layers with weight_norm, whose weight is computed again only where it has to be."""

    KINDS = (torch.nn.utils.weight_norm, parametrizations.weight_norm)

    def setUp(self):
        super().setUp()
        drop_in.clear_cache()
        self.x = torch.randn(2, 8, 11)

    def pair(self, kind, **how):
        torch.manual_seed(3)
        with torch.no_grad():  # else the old kind could not be copied
            theirs = kind(nn.ConvTranspose1d(8, 6, 4, 2, 1), **how).eval()
        ours = copy.deepcopy(theirs)
        drop_in.replace(ours)
        return theirs, ours

    @staticmethod
    def parts(layer):
        """Its g and v."""
        if parametrize.is_parametrized(layer):
            return layer.parametrizations.weight.original0, layer.parametrizations.weight.original1
        return layer.weight_g, layer.weight_v

    def check(self, theirs, ours):
        torch.testing.assert_close(ours(self.x), theirs(self.x))

    @torch.no_grad()
    def test_made_once(self):
        for kind in self.KINDS:
            for how in ({}, {"dim": 1}, {"dim": None}):
                drop_in.clear_cache()
                theirs, ours = self.pair(kind, **how)
                with unittest.mock.patch.object(torch, "_weight_norm", wraps=torch._weight_norm) as made:
                    for _ in range(3):
                        ours(self.x)
                self.assertEqual(made.call_count, 1, kind)
                self.check(theirs, ours)

    @torch.no_grad()
    def test_follows_every_change(self):
        def scaled(layer, part):
            self.parts(layer)[part].mul_(1.5)

        def assigned(layer, part):
            self.parts(layer)[part].data = self.parts(layer)[part].data * 0.5

        def unnoticed(layer, part):  # by its version, but on the CPU by its bytes
            self.parts(layer)[part].data.add_(0.25)

        def loaded(layer, part):
            state = {name: value + 1 + part for name, value in layer.state_dict().items()}
            layer.load_state_dict(state)

        def stepped(layer, part):
            one = self.parts(layer)[part]
            one.grad = torch.ones_like(one)
            torch.optim.SGD([one], 0.1).step()
            one.grad = None

        for kind in self.KINDS:
            for change in (scaled, assigned, loaded, stepped) + ((unnoticed,) if self.x.is_cpu else ()):
                for part in (0, 1):
                    theirs, ours = self.pair(kind)
                    self.check(theirs, ours)
                    for layer in (theirs, ours):
                        change(layer, part)
                    self.check(theirs, ours)
                    self.check(theirs, ours)

    @torch.no_grad()
    def test_what_is_done_to_the_weight_is_undone(self):
        theirs, ours = self.pair(torch.nn.utils.weight_norm)
        self.check(theirs, ours)
        for layer in (theirs, ours):
            layer.weight.zero_()
        self.check(theirs, ours)
        for layer in (theirs, ours):
            layer.weight = torch.zeros_like(layer.weight)
        self.check(theirs, ours)

    def test_gradients(self):
        for kind in self.KINDS:
            theirs, ours = self.pair(kind)
            with torch.no_grad():
                self.check(theirs, ours)
            for layer in (theirs, ours):
                layer(self.x).square().sum().backward()
            for mine, due in zip(self.parts(ours), self.parts(theirs)):
                torch.testing.assert_close(mine.grad, due.grad)
            for layer in (theirs, ours):
                layer.requires_grad_(False)
            self.check(theirs, ours)

    @torch.no_grad()
    def test_other_ways_to_call(self):
        for kind in self.KINDS:
            theirs, ours = self.pair(kind)
            self.check(theirs, ours)
            names = [name for name, _ in ours.named_parameters() if name != "bias"]
            for _ in range(2):  # new tensors for one call
                others = {name: torch.rand_like(ours.get_parameter(name)) + 0.5 for name in names}
                torch.testing.assert_close(torch.func.functional_call(ours, others, (self.x,)),
                                           torch.func.functional_call(theirs, others, (self.x,)))
            self.check(theirs, ours)
            with torch.inference_mode():
                self.check(theirs, ours)
            device = self.x.device.type
            with torch.autocast(device, torch.bfloat16):
                self.assertIs(ours(self.x).dtype, torch.bfloat16)
            self.check(theirs, ours)
            twin = copy.deepcopy(ours)
            self.parts(twin)[0].mul_(2)
            self.check(theirs, ours)
            self.parts(theirs)[0].mul_(2)
            self.check(theirs, twin)

    @torch.no_grad()
    def test_parts_that_are_no_parameters(self):
        """But attributes, as sharding leaves them."""
        for kind in self.KINDS:
            theirs, ours = self.pair(kind)
            self.check(theirs, ours)
            for layer in (theirs, ours):
                owner, names = layer, ("weight_g", "weight_v")
                if parametrize.is_parametrized(layer):
                    owner, names = layer.parametrizations.weight, ("original0", "original1")
                for name in names:
                    value = getattr(owner, name).detach() + 1
                    delattr(owner, name)
                    setattr(owner, name, value)
            for _ in range(2):
                self.check(theirs, ours)
                for layer in (theirs, ours):
                    self.parts(layer)[1].mul_(self.parts(layer)[0])

    @torch.no_grad()
    def test_compiled(self):
        for kind in self.KINDS:
            theirs, ours = self.pair(kind)
            torch._dynamo.reset()
            compiled = torch.compile(ours, backend="aot_eager")
            for _ in range(3):
                self.check(theirs, compiled)
                self.check(theirs, ours)
                for layer in (theirs, ours):
                    self.parts(layer)[0].mul_(1.5)

    @torch.no_grad()
    def test_shared_and_removed(self):
        theirs, ours = self.pair(torch.nn.utils.weight_norm)
        other = copy.deepcopy(ours)
        other.weight_g, other.weight_v = ours.weight_g, ours.weight_v
        self.check(theirs, ours)
        self.check(theirs, other)
        torch.nn.utils.remove_weight_norm(ours)
        self.check(theirs, ours)
        ours.weight.zero_()
        self.check(theirs, other)


class Replace(Case):
    def generator(self):
        class Own(nn.ConvTranspose1d):
            def forward(self, x):
                return super().forward(x) + 1

        shared = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        model = nn.Sequential()
        model.plain = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        model.old_norm = torch.nn.utils.weight_norm(nn.ConvTranspose1d(8, 8, 4, 2, 1))
        model.new_norm = parametrizations.weight_norm(nn.ConvTranspose1d(8, 8, 4, 2, 1))
        model.spectral = parametrizations.spectral_norm(nn.ConvTranspose1d(8, 8, 4, 2, 1))
        model.inner = nn.Sequential(shared, nn.LeakyReLU(0.1), nn.Conv1d(8, 8, 3, padding=1))
        model.again = shared
        model.own = Own(8, 8, 4, 2, 1)
        model.patched = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        model.patched.forward = nn.Identity().forward
        return model.eval()

    REPLACED = {"plain", "old_norm", "new_norm", "spectral", "inner.0"}

    @torch.no_grad()
    def test_report_and_results(self):
        model = self.generator()
        x = torch.randn(1, 8, 10)
        before, objects, keys = model(x).detach(), list(model.modules()), list(model.state_dict())
        report = drop_in.replace(model)
        self.assertEqual({row[0] for row in report.replaced}, self.REPLACED)
        self.assertEqual({row[0] for row in report.kept}, {"own", "patched"})
        self.assertEqual(list(map(id, model.modules())), list(map(id, objects)))
        self.assertEqual(list(model.state_dict()), keys)
        torch.testing.assert_close(model(x).detach(), before)
        text = str(report)
        for word in ("5 of 7", "weight_norm kept", "a subclass", "forward was replaced", "plain: ConvTranspose1d(8, 8"):
            self.assertIn(word, text)
        self.assertEqual(drop_in.replace(model).replaced, [])
        for name in self.REPLACED:
            self.assertIsInstance(model.get_submodule(name), drop_in.ConvTranspose1d)
        twin = copy.deepcopy(model)
        torch.testing.assert_close(twin(x), model(x))

    @torch.no_grad()
    def test_fold(self):
        model = self.generator()
        x = torch.randn(1, 8, 10)
        before = model(x).detach()
        twin = copy.deepcopy(model)
        report = drop_in.replace(model, fold_weight_norm=True)
        self.assertEqual(sum("folded" in row[2] for row in report.replaced), 2)
        for name in ("old_norm", "new_norm"):
            layer = model.get_submodule(name)
            self.assertIs(type(layer), drop_in.ConvTranspose1d)
            self.assertEqual(set(dict(layer.named_parameters())), {"weight", "bias"})
            self.assertFalse(layer._forward_pre_hooks)
        torch.testing.assert_close(model(x).detach(), before)
        torch.testing.assert_close(twin(x).detach(), before)  # copies share a class that was not touched
        training = self.generator().train()
        report = drop_in.replace(training, fold_weight_norm=True)
        self.assertEqual(sum("training mode" in row[2] for row in report.replaced), 2)

    @torch.no_grad()
    def test_own_removal_still_works(self):
        model = self.generator()
        x = torch.randn(1, 8, 10)
        before = model(x).detach()
        drop_in.replace(model)
        torch.nn.utils.remove_weight_norm(model.old_norm)
        parametrize.remove_parametrizations(model.new_norm, "weight")
        self.assertIs(type(model.new_norm), drop_in.ConvTranspose1d)
        torch.testing.assert_close(model(x).detach(), before)

    def test_the_model_itself(self):
        layer = nn.ConvTranspose1d(8, 8, 4, 2, 1)
        report = drop_in.replace(layer)
        self.assertIs(type(layer), drop_in.ConvTranspose1d)
        self.assertEqual(report.replaced[0][0], "(model)")

    def test_what_is_kept(self):
        odd = nn.ConvTranspose1d(4, 4, 3)
        odd.padding_mode = "circular"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.script(nn.Sequential(nn.ConvTranspose1d(4, 4, 3)))
        for module, word in ((nn.LazyConvTranspose1d(4, 3), "lazy"), (odd, "padding_mode"),
                             (nn.ConvTranspose1d(4, 4, 3, dtype=torch.complex64), "complex64"),
                             (scripted, "TorchScript"), (drop_in.ConvTranspose1d(4, 4, 3), "already")):
            kind = type(module)
            report = drop_in.replace(nn.Sequential(module))
            with self.subTest(word=word):
                self.assertEqual(report.replaced, [])
                self.assertIn(word, report.kept[0][2])
                self.assertIs(type(module), kind)

    @torch.no_grad()
    def test_all_or_nothing(self):
        model = self.generator()
        x = torch.randn(1, 8, 10)
        before = model(x).detach()
        classes, state = [type(m) for m in model.modules()], list(model.state_dict())
        handle = model.old_norm.register_forward_hook(lambda *_: None)
        original = parametrize.remove_parametrizations

        def fails(*_, **__):
            raise MemoryError("as an out-of-memory error would")

        parametrize.remove_parametrizations = fails
        try:
            with self.assertRaises(MemoryError):
                drop_in.replace(model, fold_weight_norm=True)
        finally:
            parametrize.remove_parametrizations = original
        self.assertEqual([type(m) for m in model.modules()], classes)
        self.assertEqual(list(model.state_dict()), state)
        self.assertEqual(len(model.old_norm._forward_pre_hooks), 1)
        handle.remove()
        self.assertFalse(model.old_norm._forward_hooks)
        torch.testing.assert_close(model(x).detach(), before)

    def test_interrupted_anywhere(self):
        """After each number of replaced layers, by what is no Exception."""
        from tconv import _replace
        own = _replace._class_for
        for survived in range(len(self.REPLACED)):
            model = self.generator()
            before = [(type(m), dict(vars(m))) for m in model.modules()]
            left = iter(range(survived))

            def stops(*arguments):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return own(*arguments)

            _replace._class_for = stops
            try:
                with self.assertRaises(KeyboardInterrupt):
                    drop_in.replace(model, fold_weight_norm=True)
            finally:
                _replace._class_for = own
            self.assertEqual(next(left, None), None)
            for module, (kind, members) in zip(model.modules(), before, strict=True):
                self.assertIs(type(module), kind)
                self.assertEqual(list(vars(module)), list(members))
                for name, value in members.items():
                    self.assertIs(vars(module)[name], value)

    def test_training_goes_on(self):
        torch.manual_seed(9)
        models = [nn.Sequential(parametrizations.weight_norm(nn.ConvTranspose1d(4, 4, 4, 2)),
                                nn.ConvTranspose1d(4, 1, 3)) for _ in range(2)]
        models[1].load_state_dict(models[0].state_dict())
        optimizers = [torch.optim.Adam(m.parameters(), 0.01) for m in models]
        drop_in.replace(models[0])
        x = torch.randn(2, 4, 10)
        for _ in range(3):
            losses = []
            for model, optimizer in zip(models, optimizers):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
            torch.testing.assert_close(*losses)


class Arrays(unittest.TestCase):
    def setUp(self):
        self.random = np.random.default_rng(SEED)

    def whole(self, *shape, dtype="float32"):
        return self.random.integers(-3, 4, shape).astype(dtype)

    def test_results(self):
        for dtype in ("float32", "float64", "float16", "int32"):
            for shape in ((2, 6, 9), (6, 9), (0, 6, 9)):
                x, w, b = self.whole(*shape, dtype=dtype), self.whole(6, 4, 5, dtype=dtype), self.whole(8, dtype=dtype)
                expected = F.conv_transpose1d(*(torch.from_numpy(a).double() for a in (x, w, b)), 3, 1, 1, 2, 2).numpy()
                for given in (x, np.asfortranarray(x), x[..., ::-1][..., ::-1].copy()[..., ::-1][..., ::-1]):
                    y = tconv.conv_transpose1d(given, w, b, 3, 1, 1, 2, 2)
                    self.assertEqual(y.dtype, np.dtype(dtype))
                    np.testing.assert_array_equal(y, expected)

    def test_layouts(self):
        x, w = self.whole(2, 6, 9), self.whole(6, 4, 5)
        backwards, packed = x[:, ::-1, ::-1], np.zeros(9, "u1, f4")
        expected = tconv.conv_transpose1d(np.ascontiguousarray(backwards), w)
        np.testing.assert_array_equal(tconv.conv_transpose1d(backwards, w), expected)
        packed["f1"] = x[0, 0]
        self.assertFalse(packed["f1"].flags.aligned)
        np.testing.assert_array_equal(tconv.conv_transpose1d(packed["f1"][None], w[:1]),
                                      tconv.conv_transpose1d(x[:1, :1], w[:1])[0])
        flipped = w[:, :, ::-1]
        np.testing.assert_array_equal(tconv.conv_transpose1d(x, flipped), tconv.conv_transpose1d(x, flipped.copy()))

    def test_out(self):
        x, w = self.whole(2, 6, 9), self.whole(6, 4, 5)
        expected = tconv.conv_transpose1d(x, w)
        memory = np.full((2, 4, 20), 7, "float32")
        out = memory[:, :, 3:16]
        self.assertIs(tconv.conv_transpose1d(x, w, out=out, threads=1), out)
        np.testing.assert_array_equal(out, expected)
        self.assertTrue((memory[:, :, :3] == 7).all() and (memory[:, :, 16:] == 7).all())
        for wrong, error in ((memory, ValueError), (memory[:, :, :13].astype("float64"), TypeError),
                             (np.empty((2, 4, 26), "float32")[:, :, ::2], ValueError), (expected.tolist(), TypeError)):
            with self.assertRaises(error):
                tconv.conv_transpose1d(x, w, out=wrong)
        out.flags.writeable = False
        with self.assertRaisesRegex(ValueError, "writeable"):
            tconv.conv_transpose1d(x, w, out=out)
        square = np.zeros((1, 1, 9), "float32")
        with self.assertRaisesRegex(tconv.Error, "overlaps"):
            tconv.conv_transpose1d(square, np.ones((1, 1, 1), "float32"), out=square)

    def test_refusals(self):
        x, w, b = self.whole(2, 6, 9), self.whole(6, 4, 5), self.whole(4)
        for arguments, error, text in (
                ((x.tolist(), w), TypeError, "x is a list"), ((x, w.astype("float64")), TypeError, "one dtype"),
                ((x.astype("int64"), w.astype("int64")), TypeError, "int64|<i8"),
                ((x.astype(">f4"), w.astype(">f4")), TypeError, ">f4"),
                ((x[0, 0], w), ValueError, "x has the shape"), ((x, w[:5]), ValueError, "w has the shape"),
                ((x, w, self.whole(5)), ValueError, "bias has the shape"), ((x, w, b, 0), tconv.Error, "stride"),
                ((x, w, b, 1, 0, 0, 1, 0), tconv.Error, "dilation"), ((x, w, b, 1, 20), tconv.Error, "L_out"),
                ((x, w, None, 1, 0, 0, 4), tconv.Error, "groups"), ((x, w, b, 2**64 + 1), tconv.Error, "int64"),
                ((x[:, :, :0], w), tconv.Error, "L_in")):
            with self.subTest(text=text), self.assertRaisesRegex(error, text):
                tconv.conv_transpose1d(*arguments)
        with self.assertRaisesRegex(tconv.Error, "threads"):
            tconv.conv_transpose1d(x, w, threads=0)

    def test_import_needs_neither_numpy_nor_torch(self):
        program = "import sys; sys.modules.update(numpy=None, torch=None); import tconv; print(tconv.version())"
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                                env=os.environ | {"PYTHONPATH": str(ROOT / "python")}, timeout=60)
        self.assertEqual(result.stdout.strip(), tconv.version())


if __name__ == "__main__":
    unittest.main()
