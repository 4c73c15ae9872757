"""tconv.torch on a GPU does what PyTorch does there: results, gradients, layouts, streams, CUDA graphs, modules.

Runs on a Python with torch: TCONV_PYTHON, the environment that scripts/test makes, or this one. Small whole numbers,
whose sums are exact in every arithmetic and order, so that results are compared with == to float64's."""

import os
import pathlib
import sys
import unittest

BINARY = pathlib.Path(os.environ["TCONV_BINARY"]).resolve()
ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault("TCONV_LIBRARY", str(BINARY.parent / "libtconv.so"))
sys.path.insert(0, str(ROOT / "python"))

try:
    import torch
except ImportError as missing:
    pythons = [os.environ.get("TCONV_PYTHON"), BINARY.parent.parent / "venv" / "bin" / "python"]
    found = [str(p) for p in pythons if p and os.access(p, os.X_OK)]
    if found and "TORCH_TEST_STARTED" not in os.environ:
        os.environ["TORCH_TEST_STARTED"] = "1"
        os.execv(found[0], found[:1] + sys.argv)
    print(f"skipped: {missing}; scripts/test installs torch")
    sys.exit(0)
if not torch.cuda.is_available():
    print("skipped: PyTorch sees no GPU")
    sys.exit(0)

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

import tconv.torch as drop_in  # noqa: E402

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYERS = (  # c_in, c_out, kernel, and what follows the bias
    (24, 20, 5, dict(stride=3, padding=1, output_padding=2)),
    (16, 12, 3, dict(stride=2, padding=1, dilation=2)),
    (12, 12, 6, dict(stride=2, groups=12)),
    (6, 9, 4, dict(stride=4, groups=3)),
    (3, 5, 7, dict(padding=2)),
)


def whole(*shape, dtype=torch.float32):
    return torch.randint(-3, 4, shape, device="cuda").to(dtype)


def exact(x, w, bias, **settings):
    bias = None if bias is None else bias.double()
    return F.conv_transpose1d(x.double(), w.double(), bias, **settings).to(x.dtype)


class Gpu(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(1)
        self.addCleanup(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)

    def equal(self, ours, due, what=""):
        self.assertEqual((ours.shape, ours.dtype, ours.device), (due.shape, due.dtype, due.device), what)
        self.assertTrue(torch.equal(ours, due), what)

    def problems(self, dtype=torch.float32):
        for c_in, c_out, kernel, settings in LAYERS:
            w = whole(c_in, c_out // settings.get("groups", 1), kernel, dtype=dtype)
            for bias in (None, whole(c_out, dtype=dtype)):
                yield c_in, w, bias, settings

    def test_results(self):
        for allow_tf32 in (False, True):
            torch.backends.cudnn.allow_tf32 = allow_tf32
            for dtype in DTYPES:
                for c_in, w, bias, settings in self.problems(dtype):
                    for shape in ((2, c_in, 1), (1, c_in, 37), (3, c_in, 1000), (c_in, 21)):
                        x = whole(*shape, dtype=dtype)
                        self.equal(drop_in.conv_transpose1d(x, w, bias, **settings), exact(x, w, bias, **settings),
                                   (allow_tf32, dtype, shape, settings))

    def test_layouts(self):
        for c_in, w, bias, settings in self.problems():
            for x in (whole(2, 50, c_in).transpose(1, 2), whole(2, c_in, 101)[:, :, 1::2],
                      whole(1, c_in, 1).expand(2, -1, 9), whole(3, c_in, 40)[1:, :, 3:]):
                self.equal(drop_in.conv_transpose1d(x, w, bias, **settings), exact(x, w, bias, **settings), x.stride())

    def test_gradients(self):
        for c_in, w, bias, settings in self.problems(torch.float64):
            x = whole(2, c_in, 30, dtype=torch.float64)
            results = []
            for function in (drop_in.conv_transpose1d, F.conv_transpose1d):
                leaves = [t.clone().requires_grad_() for t in (x, w, bias) if t is not None]
                y = function(*leaves, *([None] if bias is None else []), **settings)
                y.backward(torch.arange(y.numel(), device="cuda", dtype=y.dtype).reshape(y.shape) % 5 - 2)
                results.append([y.detach(), *(leaf.grad for leaf in leaves)])
            for ours, due in zip(*results):
                self.equal(ours, due, settings)

    def test_changed_weights_are_seen(self):
        for c_in, w, bias, settings in self.problems():
            x = whole(1, c_in, 20)
            for _ in range(3):
                self.equal(drop_in.conv_transpose1d(x, w, bias, **settings), exact(x, w, bias, **settings), settings)
                w.add_(1)

    def test_streams(self):
        c_in, w, bias, settings = next(self.problems())
        torch.cuda.synchronize()
        streams = [torch.cuda.Stream() for _ in range(3)]
        results = []
        for stream in streams * 2:
            with torch.cuda.stream(stream):
                x = whole(2, c_in, 3000)
                results.append((x, drop_in.conv_transpose1d(x, w, bias, **settings)))
        torch.cuda.synchronize()
        for x, y in results:
            self.equal(y, exact(x, w, bias, **settings))

    def test_any_image_of_a_batch(self):
        for dtype in DTYPES:
            for c_in, w, bias, settings in self.problems(dtype):
                x = torch.randn(8, c_in, 300, device="cuda", dtype=dtype)
                x[7] = x[0]
                first, second = (drop_in.conv_transpose1d(x, w, bias, **settings) for _ in range(2))
                self.equal(first, second, settings)
                self.equal(first[0], first[7], settings)

    def test_cuda_graph(self):
        for c_in, w, bias, settings in self.problems():
            x = whole(2, c_in, 100)
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                drop_in.conv_transpose1d(x, w, bias, **settings)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = drop_in.conv_transpose1d(x, w, bias, **settings)
            for _ in range(2):
                x.copy_(whole(2, c_in, 100))
                graph.replay()
                torch.cuda.synchronize()
                self.equal(y, exact(x, w, bias, **settings), settings)

    def test_replaced_model(self):
        model = nn.Sequential(nn.ConvTranspose1d(8, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose1d(6, 2, 3)).cuda()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(whole(*parameter.shape))
            x = whole(3, 8, 40)
            due = model.double()(x.double()).float()
            model = model.float()
            drop_in.replace(model)
            self.assertIsInstance(model[0], drop_in.ConvTranspose1d)
            self.equal(model(x), due)


if __name__ == "__main__":
    unittest.main()
