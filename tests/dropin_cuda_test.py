"""answer_cuda.py takes the place of the code it replaces, as far as that shows without a GPU: the compiler is replaced
by a stand-in that keeps what it is given.

Runs on a Python with torch and triton, as dropin_test.py does, and executes the current code of the requests."""

import ast
import inspect
import json
import pathlib
import re
import subprocess
import tempfile
import unittest
from unittest import mock

import dropin_test  # restarts on a Python that has torch
import torch

# Where neither the metrics nor --workload tell the layer, there is no CUDA answer.
WORKLOADS = {"h200_tapscan_dilated.txt": "@kb79"}
TARGETS = ("own", "h200", "a100")


class Extension:
    """What load_inline returns, with its arguments; its function keeps its own and returns a mark."""

    def __init__(self, **given):
        self.given, self.calls = given, []

    def conv_transpose1d_forward(self, *arguments):
        self.calls.append(arguments)
        return self


class Answer:
    def __init__(self, request, target, out, number):
        command = [dropin_test.BINARY, "optimize", request, "--out", out, "--emit", "cuda", "--compile", "never", "--json"]
        command += ["--target", target] if target != "own" else []
        command += ["--workload", WORKLOADS[request.name]] if request.name in WORKLOADS else []
        done = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True)
        workload = json.loads(done.stdout)["workload"]
        self.layer = workload["problem"]
        self.text = (out / "answer_cuda.py").read_text()
        self.source = (out / "answer.cu").read_text()
        text = request.read_text()
        code = re.search(r"^```python\n(.*?)^```", text[text.index("[CURRENT CODE]"):], re.DOTALL | re.MULTILINE)
        (out / "current.py").write_text(code[1])
        self.current = dropin_test.load(out / "current.py", f"current_cuda_{number}").ModelNew
        self.built = []
        with mock.patch("torch.utils.cpp_extension.load_inline", self.build):
            self.module = dropin_test.load(out / "answer_cuda.py", f"answer_cuda_{number}")

    def build(self, **given):
        self.built.append(Extension(**given))
        return self.built[-1]

    def arguments(self, **other):
        """The layer's, of those that the constructor has."""
        numbers = {"in_channels": self.layer["c_in"], "out_channels": self.layer["c_out"],
                   "kernel_size": self.layer["kernel"]}
        numbers |= {k: self.layer[k] for k in ("stride", "padding", "output_padding", "dilation", "groups", "bias")}
        names = inspect.signature(self.current.__init__).parameters
        return {k: v for k, v in (numbers | other).items() if k in names}


class CudaDropIn(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.answers = {}
        for path in dropin_test.requests():
            for target in TARGETS:
                out = pathlib.Path(folder.name) / f"{path.stem}_{target}"
                cls.answers[path.name, target] = Answer(path, target, out, len(cls.answers))

    def each(self, check):
        for (name, target), answer in self.answers.items():
            with self.subTest(request=name, target=target):
                check(answer)

    def test_there_are_requests(self):
        self.assertGreaterEqual(len(self.answers), 4 * len(TARGETS))

    def test_layout(self):
        """Imports, texts and constants, functions and the first build, one class."""
        def check(answer):
            kinds = "".join({"Import": "i", "ImportFrom": "i", "Assign": "a", "FunctionDef": "f", "Expr": "e",
                             "ClassDef": "c"}[type(node).__name__] for node in ast.parse(answer.text).body)
            self.assertRegex(kinds, r"^i+a+fef+c$")
            self.assertNotIn("# @", answer.text)

        self.each(check)

    def test_what_a_static_check_refuses(self):
        """In Python and CUDA alike, without comments."""
        refused = (r"\btry\s*:|\bexcept\b|\bpass\b|\bthreading\b|multiprocessing|concurrent\.futures|_make_subclass|"
                   r"\(torch\.Tensor\)|torch\.nn\.(?!Module)\w|\bF\.\w|nn\.functional|__float2half|\.half\s*\(|"
                   r"torch\.(conv\w*|matmul|mm|bmm|einsum|clamp)\b|cuda\.[Ss]tream\s*\(|"
                   r"torch\.cuda\.(Event|synchronize)")

        def check(answer):
            code = re.sub(r"(#|//).*", "", answer.text)
            self.assertIsNone(re.search(refused, code), re.search(refused, code))
            for needed in ("__global__", "load_inline", "threadIdx."):
                self.assertIn(needed, code)

        self.each(check)

    def test_parameters_under_one_seed(self):
        def check(answer):
            for bias in (False, True):
                arguments = answer.arguments(bias=bias)
                torch.manual_seed(42)
                old, old_rng = answer.current(**arguments), torch.get_rng_state()
                torch.manual_seed(42)
                new, new_rng = answer.module.ModelNew(**arguments), torch.get_rng_state()
                self.assertTrue(torch.equal(old_rng, new_rng))
                old, new = old.state_dict(), new.state_dict()
                self.assertEqual(list(old), list(new))
                for key in old:
                    self.assertEqual(old[key].dtype, new[key].dtype)
                    self.assertTrue(torch.equal(old[key], new[key]), key)

        self.each(check)

    def test_another_layer_is_refused(self):
        def check(answer):
            own = answer.arguments()
            for name, value in own.items():
                if name == "bias":
                    continue
                other = dict(own, **{name: value * 2 if name != "output_padding" else 1 - value})
                if name in ("padding", "groups") or other[name] == value:
                    other[name] = value + 1
                if other["in_channels"] % other.get("groups", 1) or other["out_channels"] % other.get("groups", 1):
                    continue  # PyTorch refuses it
                with self.assertRaisesRegex(ValueError, "this file is compiled for the layer"):
                    answer.module.ModelNew(**other)

        self.each(check)

    def test_one_build_on_import_and_the_others_on_use(self):
        def check(answer):
            self.assertEqual(len(answer.built), 1)
            # What is built first is answer.cu, but for headers that other arithmetics need.
            layer = answer.source[answer.source.index("// --- the layer"):]
            given = answer.built[0].given
            self.assertIn(layer, given["cuda_sources"])
            self.assertEqual(given["functions"], ["conv_transpose1d_forward"])
            self.assertTrue(any("-gencode=arch=" in flag for flag in given["extra_cuda_cflags"]))
            for flag in given["extra_cuda_cflags"][1:]:
                self.assertIn(flag, answer.source)

            bias = answer.layer["bias"]
            model = answer.module.ModelNew(**answer.arguments())
            x = torch.zeros(2, answer.layer["c_in"], 5)
            built = {}
            with mock.patch.object(answer.module, "load_inline", answer.build):
                for arithmetic, dtype, allowed in (("tf32", torch.float32, True), ("f32", torch.float32, False),
                                                   ("f16", torch.float16, True), ("bf16", torch.bfloat16, False),
                                                   ("f64", torch.float64, True)):
                    with torch.backends.cudnn.flags(allow_tf32=allowed):
                        own = model.to(dtype)
                        built[arithmetic] = own(x.to(dtype))
                    given_x, given_w, given_bias = built[arithmetic].calls[-1]
                    self.assertEqual((given_x.dtype, given_x.shape, given_w.dtype), (dtype, x.shape, dtype))
                    self.assertIs(given_w, next(p for p in own.parameters() if p.dim() == 3))
                    self.assertEqual(given_bias is not None, bias)
            for arithmetic, one in built.items():
                text = answer.module.KERNELS[answer.module.TEXT_OF[arithmetic, bias]]
                self.assertIn(text, one.given["cuda_sources"])
            names = [one.given["name"] for one in answer.built]
            self.assertEqual(len(set(names)), len(names))
            self.assertTrue(all(name.isidentifier() for name in names))

        self.each(check)

    def test_what_is_not_served_is_refused(self):
        def check(answer):
            model = answer.module.ModelNew(**answer.arguments())
            with self.assertRaises(TypeError):
                model(torch.zeros(1, answer.layer["c_in"], 5, dtype=torch.int64))

        self.each(check)


if __name__ == "__main__":
    unittest.main()
