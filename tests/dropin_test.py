"""An answer takes the place of the code it replaces: same constructor, same parameters under the same seed, each
loads the other's state; and its forward is a transposed convolution. The current code of the requests is executed
here, which tconv itself never does.

Runs on a Python with torch and triton: TCONV_PYTHON, the environment that scripts/test makes, or this one."""

import contextlib
import importlib.util
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
BINARY = pathlib.Path(os.environ["TCONV_BINARY"]).resolve()
ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / "examples" / "requests", ROOT.parent / "shared" / "requests"]

try:
    import torch
    import triton
except ImportError as missing:
    pythons = [os.environ.get("TCONV_PYTHON"), BINARY.parent.parent / "venv" / "bin" / "python"]
    found = [str(p) for p in pythons if p and os.access(p, os.X_OK)]
    if found and "DROPIN_STARTED" not in os.environ:
        os.environ["DROPIN_STARTED"] = "1"
        os.execv(found[0], found[:1] + sys.argv)
    print(f"skipped: {missing}; scripts/test installs torch and triton")
    sys.exit(0)


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requests():
    return sorted(path for folder in FOLDERS if folder.is_dir() for path in folder.glob("*.txt"))


# Arguments by name; a constructor gets those that it has.
CONSTRUCTIONS = [
    dict(in_channels=4, out_channels=6, kernel_size=3),
    dict(in_channels=4, out_channels=6, kernel_size=1, stride=2, bias=True),
    dict(in_channels=6, out_channels=4, kernel_size=5, stride=3, padding=2, output_padding=1, groups=2, bias=False),
    dict(in_channels=8, out_channels=8, kernel_size=4, stride=2, padding=1, dilation=3, groups=8, bias=True),
    dict(in_channels=17, out_channels=1, kernel_size=16, stride=8, padding=4, output_padding=7, dilation=2),
]
FORWARDS = [
    dict(in_channels=16, out_channels=2, kernel_size=1, stride=1),
    dict(in_channels=3, out_channels=5, kernel_size=3, stride=2, padding=1, output_padding=1, bias=True),
    dict(in_channels=16, out_channels=5, kernel_size=4, stride=2, padding=1, dilation=2, bias=True),
    dict(in_channels=18, out_channels=4, kernel_size=7, stride=3, padding=2, output_padding=2, groups=2, bias=False),
]


@contextlib.contextmanager
def first_config_only(module):
    """Autotuning times its configurations on a device; there is none here."""
    tuned = [value for value in vars(module).values() if isinstance(value, triton.runtime.Autotuner)]
    before = [kernel.configs for kernel in tuned]
    for kernel in tuned:
        kernel.configs = kernel.configs[:1]
    yield
    for kernel, configs in zip(tuned, before):
        kernel.configs = configs


class DropIn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.pairs = {}
        for number, path in enumerate(requests()):
            out = pathlib.Path(folder.name) / str(number)
            subprocess.run([BINARY, "optimize", path, "--out", out, "--compile", "never"], check=True, timeout=120,
                           stdout=subprocess.DEVNULL)
            text = path.read_text()
            code = re.search(r"^```python\n(.*?)^```", text[text.index("[CURRENT CODE]"):], re.DOTALL | re.MULTILINE)
            (out / "current.py").write_text(code[1])
            cls.pairs[path.name] = tuple(load(out / f"{name}.py", f"{name}_{number}") for name in ("current", "answer"))

    def each(self, check, constructions=({},)):
        """Calls check(current ModelNew, answer's module, arguments) for every request and construction."""
        for name, (current, answer) in self.pairs.items():
            names = inspect.signature(current.ModelNew.__init__).parameters
            for wanted in constructions:
                arguments = {k: v for k, v in wanted.items() if k in names}
                with self.subTest(request=name, **arguments):
                    check(current.ModelNew, answer, arguments)

    def test_there_are_requests(self):
        self.assertGreaterEqual(len(self.pairs), 4)

    def test_signature(self):
        def check(current, answer, _):
            old, new = (inspect.signature(model.__init__).parameters for model in (current, answer.ModelNew))
            self.assertEqual([(p.name, p.default, p.kind) for p in old.values()],
                             [(p.name, p.default, p.kind) for p in new.values()])
            self.assertEqual(len(inspect.signature(answer.ModelNew.forward).parameters),
                             len(inspect.signature(current.forward).parameters))

        self.each(check)

    def test_parameters_under_one_seed(self):
        def check(current, answer, arguments):
            built = []
            for model in (current, answer.ModelNew):
                torch.manual_seed(42)
                built.append((model(**arguments), torch.get_rng_state()))
            (old, old_rng), (new, new_rng) = built
            self.assertTrue(torch.equal(old_rng, new_rng), "not as many random numbers were drawn")
            self.assertEqual([n for n, _ in old.named_parameters()], [n for n, _ in new.named_parameters()])
            self.assertEqual([n for n, _ in old.named_buffers()], [n for n, _ in new.named_buffers()])
            old, new = old.state_dict(), new.state_dict()
            self.assertEqual(list(old), list(new))
            for key in old:
                self.assertEqual((old[key].dtype, old[key].shape), (new[key].dtype, new[key].shape), key)
                self.assertTrue(torch.equal(old[key], new[key]), key)

        self.each(check, CONSTRUCTIONS)

    def test_each_loads_the_others_state(self):
        def check(current, answer, arguments):
            old, new = current(**arguments), answer.ModelNew(**arguments)
            for source, sink in ((old, new), (new, old)):
                with torch.no_grad():
                    for parameter in source.parameters():
                        parameter.normal_()
                sink.load_state_dict(source.state_dict(), strict=True)
                for key, value in source.state_dict().items():
                    self.assertTrue(torch.equal(sink.state_dict()[key], value), key)

        self.each(check, CONSTRUCTIONS)

    def test_forward(self):
        """Small whole numbers: every arithmetic is exact on them, TF32 too."""
        generator = torch.Generator().manual_seed(7)

        def whole(shape):
            return torch.randint(-4, 5, shape, generator=generator).float()

        def check(_, answer, arguments):
            model = answer.ModelNew(**arguments)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(whole(parameter.shape))
            tensors = {name.split(".")[-1]: p.detach().double() for name, p in model.named_parameters()}
            defaults = {k: p.default for k, p in inspect.signature(type(model).__init__).parameters.items()}
            numbers = {k: v for k, v in (defaults | arguments).items()
                       if k in ("stride", "padding", "output_padding", "dilation", "groups")}
            for batch, length in ((2, 37), (1, 1), (1, 257)):  # the last: one position more than any block has
                x = whole((batch, arguments["in_channels"], length))
                exact = torch.nn.functional.conv_transpose1d(x.double(), tensors["weight"], tensors.get("bias"),
                                                             **numbers)
                with torch.no_grad(), first_config_only(answer):
                    y = model(x)
                self.assertEqual((y.dtype, y.shape), (x.dtype, exact.shape))
                self.assertTrue(torch.equal(y.double(), exact))

        self.each(check, FORWARDS)


if __name__ == "__main__":
    unittest.main()
