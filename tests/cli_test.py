"""The command line end to end: good requests, every kind of bad input, and what is left behind."""

import json
import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

BINARY = os.environ["TCONV_BINARY"]

CACHE = tempfile.TemporaryDirectory()  # the machine's rates, measured once for all tests

CODE = '''import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def deconv_kernel(x_ptr, w_ptr, y_ptr, C_IN, C_OUT, L_IN, L_OUT, stride, padding, dilation, K: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    co = tl.program_id(1)
    t = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for ci in range(C_IN):
        for k in range(K):
            u = t + padding - k * dilation
            i = u // stride
            hit = (u >= 0) & (u % stride == 0) & (i < L_IN)
            x = tl.load(x_ptr + (b * C_IN + ci) * L_IN + i, mask=hit, other=0.0)
            w = tl.load(w_ptr + (ci * C_OUT + co) * K + k)
            acc += x * w
    tl.store(y_ptr + (b * C_OUT + co) * L_OUT + t, acc, mask=t < L_OUT)


def deconv(x, w, stride, padding, dilation):
    x = x.contiguous()
    B, C_IN, L_IN = x.shape
    _, C_OUT, K = w.shape
    L_OUT = (L_IN - 1) * stride - 2 * padding + dilation * (K - 1) + 1
    y = torch.empty((B, C_OUT, L_OUT), device=x.device, dtype=x.dtype)
    BLOCK = 128
    grid = (B, C_OUT, triton.cdiv(L_OUT, BLOCK))
    deconv_kernel[grid](x, w, y, C_IN, C_OUT, L_IN, L_OUT, stride, padding, dilation, K=K, BLOCK=BLOCK, num_warps=4)
    return y


class ModelNew(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1):
        super().__init__()
        self.deconv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride, padding=padding, dilation=dilation, bias=False)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation

    def forward(self, x):
        return deconv(x, self.deconv.weight, self.stride, self.padding, self.dilation)
'''

NOT_A_DECONV = '''import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def add_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n) + 1.0, mask=i < n)


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()

    def forward(self, x):
        y = torch.empty_like(x)
        add_kernel[(triton.cdiv(x.numel(), 128),)](x, y, x.numel(), BLOCK=128)
        return y
'''

GPU = '''GPU Name: 4090
Architecture: Ada Lovelace
• Compute Capability: 8.9
• Number of SMs: 128
• Memory Bandwidth: 1008 GB/s
'''

# KernelBench 79's grid: 16 x 64 x ceil(262145 / 128).
METRICS = {
    "deconv_kernel": {
        "sm__throughput.avg.pct_of_peak_sustained_elapsed": 90.0,
        "launch__grid_size": 2098176,
        "sm__warps_active.avg.pct_of_peak_sustained_active": 90.0,
        "dram__throughput.avg.pct_of_peak_sustained_elapsed": 12.0,
        "lts__t_sector_hit_rate.pct": 97.0,
    }
}


def request(code=CODE, gpu=GPU, metrics=METRICS, blocks=1):
    block = f"```python\n{code}```\n\n"
    shown = metrics if isinstance(metrics, str) else json.dumps(metrics, indent=2)
    return (
        f"# Target GPU\n{gpu}\n[OPTIMIZATION STAGE]\n\n## Current Optimization Stage\n\n"
        "Focus: Memory efficiency & latency hiding.\n\nRules:\n- Increase num_stages only if memory stalls are high\n\n"
        f"[CURRENT CODE]\n{block * blocks}[NCU PROFILING METRICS]\n{shown}\n\n"
        "OUTPUT RULES (STRICT):\n1. Follow this exact order\n"
    )


def with_metric(name, value):
    return request(metrics={"deconv_kernel": {**METRICS["deconv_kernel"], name: value}})


def npy(shape, values, kind="f", order="False", descr=None):
    """The bytes of an .npy file; `values` as they lie in it."""
    descr = descr or {"f": "<f4", "d": "<f8", "i": "<i4", "e": "<f2"}[kind]
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {tuple(shape)}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack(f"<{len(values)}{kind}", *values)


class CommandLine(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def tconv(self, *arguments):
        environment = {k: v for k, v in os.environ.items() if k != "TCONV_PYTHON"} | {"TCONV_CACHE": CACHE.name}
        return subprocess.run([BINARY, *map(str, arguments)], capture_output=True, timeout=60, env=environment)

    def write(self, text, name="request.txt"):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def tree(self):
        return {str(p.relative_to(self.folder)): p.is_file() and p.read_bytes() for p in self.folder.rglob("*")}

    def refused(self, exit_code, *arguments, says=""):
        """One line on standard error, nothing on standard output, nothing new on the disk."""
        before = self.tree()
        result = self.tconv(*arguments)
        error = result.stderr.decode()
        self.assertEqual(result.returncode, exit_code, error)
        self.assertEqual(result.stdout, b"")
        self.assertTrue(error.startswith("tconv: ") and error.endswith("\n"), error)
        self.assertEqual(error.count("\n"), 1, error)
        self.assertIn(says, error)
        self.assertEqual(self.tree(), before)

    def bad_request(self, exit_code, text, says=""):
        self.refused(exit_code, "optimize", self.write(text), "--out", self.folder / "out", "--compile", "never", says=says)

    def optimize(self, out, *arguments, text=None):
        path = self.write(text or request())
        return self.tconv("optimize", path, "--out", self.folder / out, "--compile", "never", *arguments)


class Good(CommandLine):
    def test_answers_with_three_files_and_a_report(self):
        result = self.optimize("new/out")
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        out = self.folder / "new/out"
        self.assertEqual(sorted(p.name for p in out.iterdir()), ["answer.py", "report.html", "report.md"])
        self.assertIn(b"class ModelNew(nn.Module):", (out / "answer.py").read_bytes())
        compile((out / "answer.py").read_text(), "answer.py", "exec")
        self.assertNotIn(b"\x1b", result.stdout)
        self.assertGreater(len(result.stdout.splitlines()), 5)

    def test_emit_cuda_adds_two_files_and_changes_none(self):
        self.assertEqual(self.optimize("plain").returncode, 0)
        result = self.tconv("optimize", "--out", self.folder / "cuda", "--compile", "never", "--emit", "triton,cuda",
                            self.write(request()))
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        self.assertIn(b"answer.cu and answer_cuda.py: this layer as CUDA C++", result.stdout)
        out = self.folder / "cuda"
        self.assertEqual(sorted(p.name for p in out.iterdir()),
                         ["answer.cu", "answer.py", "answer_cuda.py", "report.html", "report.md"])
        self.assertEqual((out / "answer.py").read_bytes(), (self.folder / "plain/answer.py").read_bytes())
        compile((out / "answer_cuda.py").read_text(), "answer_cuda.py", "exec")
        for report in ("report.md", "report.html"):
            self.assertTrue("answer_cuda.py: this layer as CUDA C++" in (out / report).read_text(), report)
            self.assertFalse("CUDA C++" in (self.folder / "plain" / report).read_text(), report)
        again = self.optimize("again", "--emit", "cuda")
        self.assertEqual(again.stdout, result.stdout)
        for path in out.iterdir():
            self.assertEqual(path.read_bytes(), (self.folder / "again" / path.name).read_bytes(), path.name)
        self.assertIn("CUDA C++", json.loads(self.optimize("json", "--emit", "cuda", "--json").stdout)["also"])

    def test_two_runs_give_the_same_bytes(self):
        first, second = self.optimize("a"), self.optimize("b")
        self.assertEqual(first.stdout, second.stdout)
        for name in ("answer.py", "report.md", "report.html"):
            self.assertEqual((self.folder / "a" / name).read_bytes(), (self.folder / "b" / name).read_bytes(), name)

    def test_an_answer_replaces_the_one_before_and_keeps_other_files(self):
        (self.folder / "out").mkdir()
        self.write("mine", "out/notes.txt")
        self.write("old", "out/answer.py")
        self.assertEqual(self.optimize("out").returncode, 0)
        self.assertEqual((self.folder / "out/notes.txt").read_text(), "mine")
        self.assertIn("ModelNew", (self.folder / "out/answer.py").read_text())
        self.assertEqual(len(list((self.folder / "out").iterdir())), 4)

    def test_every_verb_prints_json(self):
        report = json.loads(self.optimize("out", "--json").stdout)
        self.assertIn("2098176", json.dumps(report))
        plan = json.loads(self.tconv("plan", "@kb79", "--target", "h200", "--json").stdout)
        self.assertEqual((plan["target"], plan["phases"]), ("h200", {"count": 2, "live": 1, "dead": 1, "max_taps": 3}))
        self.assertGreaterEqual(plan["chosen"][0]["predicted_seconds"], plan["limit"]["seconds"])
        times = [candidate["predicted_seconds"] for candidate in plan["ranked"]]
        self.assertEqual(times, sorted(times))

    def test_plan_in_words(self):
        result = self.tconv("plan", "@kb79", "--target", "rtx4090")
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        for word in (b"limit", b"1 live of at most 3 taps, 1 dead", b"schedule", b"predicted"):
            self.assertIn(word, result.stdout)

    def test_plan_passes_over_with_reasons(self):
        depthwise = self.tconv("plan", "@bigvgan_aa_up_C24", "--target", "l4").stdout.decode()
        self.assertIn("on the FMA units", depthwise)
        self.assertIn("matrix-unit body: 1 input channels a group", depthwise)
        report = json.loads(self.tconv("plan", "@hifigan_v1_up0", "--target", "l4", "--json").stdout)
        self.assertGreater(len(report["rejected"]), 100)
        self.assertTrue(all(one["what"] and one["why"] for one in report["rejected"]))
        text = self.tconv("plan", "@hifigan_v1_up0", "--target", "l4").stdout.decode()
        self.assertIn("on the matrix unit", text)
        self.assertLess(text.count("\n"), 30)

    def test_another_target_changes_the_limit(self):
        own, other = (json.loads(self.tconv("plan", "@kb74", "--target", t, "--json").stdout) for t in ("rtx4090", "h200"))
        self.assertGreater(own["limit"]["seconds"], 2 * other["limit"]["seconds"])

    def test_a_request_without_metrics_says_what_it_plans_for(self):
        result = self.optimize("out", text=request(metrics="No NCU metrics available"))
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(b"12 layers of the catalogue", result.stdout)
        self.assertIn(b"at worst", result.stdout)
        given = self.optimize("given", "--workload", "@kb79", text=request(metrics="No NCU metrics available"))
        self.assertEqual(given.returncode, 0, given.stderr)
        self.assertNotIn(b"layers of the catalogue", given.stdout)

    def test_help_and_version(self):
        help_text = self.tconv("--help").stdout.decode()
        self.assertLess(help_text.index("Examples:"), help_text.index("--version"))
        for verb in ("optimize", "plan", "verify", "compile", "check", "bench", "run"):
            self.assertIn(verb, help_text)
            self.assertIn(b"--json", self.tconv(verb, "--help").stdout)
        self.assertRegex(self.tconv("--version").stdout.decode(), r"^tconv \d+\.\d+\.\d+\n$")


class Compile(CommandLine):
    def test_what_is_cached_needs_no_compiler(self):
        environment = os.environ | {"TCONV_CACHE": str(self.folder), "LD_DEBUG": "files"}
        opened = []  # what the loader says of NVRTC: none, where it is not opened
        for _ in range(2):
            result = subprocess.run([BINARY, "compile", "i8_o8_k3_f32", "--target", "a100"], capture_output=True,
                                    timeout=300, env=environment)
            if result.returncode == 4:
                self.skipTest("no NVRTC")
            self.assertEqual(result.returncode, 0, result.stderr)
            opened.append(b"libnvrtc" in result.stderr)
        self.assertEqual(opened, [True, False])


class Cpu(CommandLine):
    def good(self, *arguments):
        result = self.tconv(*arguments)
        self.assertEqual((result.returncode, result.stderr), (0, b""), result.stdout)
        return result.stdout.decode()

    def test_plan(self):
        text = self.good("plan", "@hifigan_v1_up0", "--target", "cpu", "--threads", "1")
        for words in ("limit", "bound by arithmetic", "8 live of at most 2 taps", "gemm on the CPU", "not depthwise: ", "not few_rows: ", "memory of"):
            self.assertIn(words, text)
        plan = json.loads(self.good("plan", "@bigvgan_aa_up_C24", "--target", "cpu", "--threads", "1", "--json"))
        self.assertEqual((plan["target"], plan["solver"], plan["rates"]["threads"]), ("cpu", "depthwise", 1))
        self.assertAlmostEqual(plan["limit"]["seconds"], max(plan["limit"]["memory_seconds"], plan["limit"]["arithmetic_seconds"]))
        self.assertGreater(plan["limit"]["seconds"], 0)

    def test_plan_without_a_target_is_for_the_cpu_and_says_so(self):
        result = self.tconv("plan", "@kb79", "--threads", "1")
        self.assertEqual(result.returncode, 0)
        self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assertIn(b"CPU", result.stderr)

    def test_bench(self):
        words = ["i8_o9_k4_s2_p1_l1000", "@bigvgan_aa_up_C24"]
        rows = json.loads(self.good("bench", *words, "--device", "cpu", "--threads", "1", "--repeats", "7", "--json"))
        self.assertEqual([row["solver"] for row in rows], ["gemm", "depthwise"])
        for row in rows:
            self.assertEqual((row["repeats"], row["threads"]), (7, 1))
            self.assertAlmostEqual(row["share_of_limit"], row["limit_seconds"] / row["seconds"])
            for name in ("first_seconds", "pack_seconds", "plan_seconds", "useful_flops_per_second", "bytes_per_second"):
                self.assertGreater(row[name], 0, name)
        text = self.good("bench", words[0], "--device", "cpu", "--threads", "2", "--repeats", "5")
        self.assertRegex(text, r"by gemm, 2 threads: .* \(median of 5\), \S+ \w?FLOP/s, \S+ \w?B/s, \d+ % of the limit .* \(\w.*\); plan .*, packing .*, first call")

    def test_bench_repeats_as_long_as_a_second_unless_told(self):
        row = json.loads(self.good("bench", "i2_o2_k2_l8", "--device", "cpu", "--threads", "1", "--json"))[0]
        self.assertGreater(row["repeats"], 100)

    def test_check(self):
        text = self.good("check", "--device", "cpu", "--cases", "8", "--seed", "3")
        self.assertRegex(text, r"^seed 3: 8 layers, \d+ runs checked, 0 failed, 0 layers refused by the solver, worst error 0\.\d+ of its bound\n$")
        report = json.loads(self.good("check", "g6_i6_o6_k5_s3_l40_f16", "i4_o30_k4_s2_l9_i32", "--device", "cpu", "--seed", "1", "--cases", "3", "--json"))
        self.assertEqual((report["device"], report["failed"], report["failures"]), ("cpu", 0, []))
        # The depthwise layer by two solvers, the other by one, three seeds each, on every instruction set.
        self.assertEqual(report["checked"] % 9, 0)
        forced = json.loads(self.good("check", "--device", "cpu", "--solver", "depthwise", "--cases", "30", "--seed", "5", "--dtype", "f32", "--json"))
        self.assertGreater(forced["refused"], 0)

    def test_a_device_is_chosen_where_none_is_given_and_named(self):
        result = self.tconv("check", "--cases", "1", "--seed", "1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(result.stderr.count(b"\n"), 1)
        self.assertRegex(result.stderr, rb"tconv: on (the CPU|GPU 0)")

    def run_layer(self, word, *arguments, x, w, **files):
        self.write(x, "x.npy"), self.write(w, "w.npy")
        for name, data in files.items():
            self.write(data, name + ".npy")
        f = self.folder
        return self.tconv("run", word, "--x", f / "x.npy", "--w", f / "w.npy", "--out", f / "y.npy", *arguments)

    def output(self, *arguments, **files):
        """Shape and values of y.npy."""
        result = self.run_layer(*arguments, **files)
        self.assertEqual((result.returncode, result.stderr), (0, b""))
        data = (self.folder / "y.npy").read_bytes()
        end = 10 + struct.unpack("<H", data[8:10])[0]
        header = eval(data[10:end])  # our own file
        self.assertEqual((end % 64, header["fortran_order"]), (0, False))
        kind = {"<f4": "f", "<f8": "d", "<i4": "i", "<f2": "e"}[header["descr"]]
        return header["shape"], list(struct.unpack(f"<{(len(data) - end) // struct.calcsize(kind)}{kind}", data[end:]))

    def test_run(self):
        w = npy((1, 1, 2), [3, 5])
        self.assertEqual(self.output("i1_o1_k2_s2", x=npy((1, 1, 2), [1, 2]), w=w), ((1, 1, 4), [3, 5, 6, 10]))
        self.assertEqual(self.output("i1_o1_k2_s2", x=npy((1, 2), [1, 2]), w=w), ((1, 4), [3, 5, 6, 10]))
        # The word's own batch and length give way to those of x.
        self.assertEqual(self.output("b5_i1_o1_k2_s2_l9", x=npy((2, 1, 1), [1, -2]), w=w), ((2, 1, 2), [3, 5, -6, -10]))
        self.assertEqual(self.output("i1_o1_k2_s2_bias", "--bias", self.folder / "b.npy", x=npy((1, 1), [1]), w=w, b=npy((1,), [7])), ((1, 2), [10, 12]))

    def test_run_in_every_type(self):
        for kind, arithmetic in (("e", "f16"), ("f", "tf32"), ("d", "f64"), ("i", "i32")):
            with self.subTest(arithmetic):
                files = {"x": npy((1, 1, 2), [1, 2], kind), "w": npy((1, 1, 2), [3, 5], kind)}
                self.assertEqual(self.output("i1_o1_k2_s2_" + arithmetic, "--threads", "1", **files), ((1, 1, 4), [3, 5, 6, 10]))

    def test_run_with_activations(self):
        files = {"x": npy((1, 2), [-1, 2]), "w": npy((1, 1, 1), [-1])}
        self.assertEqual(self.output("i1_o1_k1", "--before", "relu", **files)[1], [0, -2])
        self.assertEqual(self.output("i1_o1_k1", "--after", "leaky_relu:0.5", **files)[1], [1, -1])
        self.assertAlmostEqual(self.output("i1_o1_k1", "--after", "elu", **files)[1][1], -0.8646647, 6)
        snake = self.output("i1_o1_k1", "--after", f"snake:{self.folder / 'alpha.npy'}", alpha=npy((1,), [2]), **files)[1]
        self.assertAlmostEqual(snake[0], 1 + 0.9092974268 ** 2 / 2, 6)

    def test_run_of_fortran_order(self):
        # x[0] is (1, 2), x[1] is (3, 4): columns first in the file. Likewise w, of (2, 1, 2) with rows (1, 10), (100, 1000).
        x, w = npy((2, 2), [1, 3, 2, 4], order="True"), npy((2, 1, 2), [1, 100, 10, 1000], order="True")
        self.assertEqual(self.output("i2_o1_k2_s2", x=x, w=w), ((1, 4), [301, 3010, 402, 4020]))

    def test_run_replaces_the_file_before(self):
        self.write("old", "y.npy")
        report = json.loads(self.run_layer("i1_o1_k1", "--json", x=npy((1, 2), [1, 2]), w=npy((1, 1, 1), [1])).stdout)
        self.assertEqual((report["shape"], report["type"], report["workload"]), ([1, 2], "float32", "b1_i1_o1_l2_k1_s1_f32"))
        self.assertEqual(sorted(self.tree()), ["w.npy", "x.npy", "y.npy"])
        self.assertTrue((self.folder / "y.npy").read_bytes().startswith(b"\x93NUMPY"))


class BadCpuInput(CommandLine):
    X, W = npy((1, 2, 3), range(6)), npy((2, 1, 2), range(4))

    def bad_run(self, exit_code, says, *arguments, word="i2_o1_k2_s2", x=X, w=W):
        files = {"x": self.folder / "x.npy", "w": self.folder / "w.npy"}
        files["x"].write_bytes(x)
        files["w"].write_bytes(w)
        self.refused(exit_code, "run", word, "--x", files["x"], "--w", files["w"], "--out", self.folder / "y.npy", *arguments, says=says)

    def test_what_is_good_is_taken(self):
        with self.assertRaises(AssertionError):
            self.bad_run(2, "")

    def test_threads(self):
        for threads in ("0", "10000", "-1", "two"):
            with self.subTest(threads):
                self.bad_run(2, "threads", "--threads", threads)
                self.refused(2, "bench", "@kb79", "--device", "cpu", "--threads", threads, says="threads")
                self.refused(2, "plan", "@kb79", "--target", "cpu", "--threads", threads, says="threads")

    def test_files_that_are_absent_or_cannot_be_written(self):
        self.refused(2, "run", "i2_o1_k2", "--x", self.folder / "absent", "--w", self.folder / "w", "--out", self.folder / "y", says="absent")
        self.bad_run(2, "absent", "--bias", self.folder / "absent", word="i2_o1_k2_s2_bias")
        (self.folder / "folder").mkdir()
        for out in ("folder", "absent/y.npy", "x.npy/y.npy"):
            with self.subTest(out):
                self.write(self.X, "x.npy"), self.write(self.W, "w.npy")
                self.refused(2, "run", "i2_o1_k2_s2", "--x", self.folder / "x.npy", "--w", self.folder / "w.npy", "--out", self.folder / out, says="cannot be written")
        self.write(self.X, "x.npy"), self.write(self.W, "w.npy")
        self.refused(2, "run", "i2_o1_k2_s2", "--x", self.folder / "x.npy", "--w", self.folder / "w.npy", "--out", "/dev/null", says="/dev/null")

    @unittest.skipIf(os.geteuid() == 0, "root writes everywhere")
    def test_an_output_without_permission_is_kept(self):
        self.write("mine", "y.npy")
        (self.folder / "y.npy").chmod(0o400)
        self.bad_run(2, "y.npy")

    def test_shapes_and_types_that_do_not_fit_the_word(self):
        self.bad_run(2, "(1, 3, 2)", x=npy((1, 3, 2), range(6)))
        self.bad_run(2, "(6,)", x=npy((6,), range(6)))
        self.bad_run(2, "(B, 2, L)", x=npy((1, 1, 2, 3), range(6)))
        self.bad_run(2, "(2, 1, 2)", w=npy((1, 2, 2), range(4)))
        self.bad_run(2, "float64", x=npy((1, 2, 3), range(6), "d"))
        self.bad_run(2, "int32", word="i2_o1_k2_s2_i32", w=npy((2, 1, 2), range(4), "i"))
        self.bad_run(3, "bfloat16", word="i2_o1_k2_s2_bf16")
        self.bad_run(3, "L_in", x=npy((1, 2, 0), []))

    def test_files_that_lie_or_are_cut(self):
        for cut in (0, 5, 9, 11, 40, len(self.X) - 1):
            with self.subTest(cut):
                self.bad_run(2, "x.npy", x=self.X[:cut])
        self.bad_run(2, "has 24 bytes of data", x=npy((1, 2, 10**9), range(6)))
        self.bad_run(2, "2^63", x=npy((2**40, 2, 2**40), range(6)))
        self.bad_run(2, "x.npy", x=npy((1, 2, 2), range(6)))  # longer than its shape
        self.bad_run(2, "Python objects", x=npy((1, 2, 3), range(6), descr="|O"))
        self.bad_run(2, "big-endian", x=npy((1, 2, 3), range(6), descr=">f4"))
        self.bad_run(2, "no .npy file", x=b"PK" * 50)
        header = b"\x93NUMPY\x02\x00\xff\xff\xff\xff{"
        self.bad_run(2, "its header has 4294967295 bytes", x=header + b" " * 64)

    def test_options_of_run(self):
        self.bad_run(2, "the word has none", "--bias", self.folder / "w.npy")
        self.bad_run(2, "--bias", word="i2_o1_k2_s2_bias")
        self.bad_run(2, "swish", "--before", "swish")
        self.bad_run(2, "relu:1", "--before", "relu:1")
        self.bad_run(2, "elu:x", "--after", "elu:x")
        self.bad_run(2, "leaky_relu:inf", "--after", "leaky_relu:inf")
        self.bad_run(2, "alphas", "--after", "snake")
        self.bad_run(2, "(1,)", "--after", f"snake:{self.folder / 'w.npy'}")
        self.bad_run(2, "one of: depthwise, few_rows, gemm", "--solver", "fast")
        self.bad_run(3, "sums over 2", "--solver", "depthwise")

    def test_outputs_that_no_memory_holds(self):
        self.bad_run(3, "this machine has", word="i2_o1_k2_s1000000000000")
        self.bad_run(3, "this machine has", word="i2_o1_k2_d1000000000000")
        self.refused(3, "bench", "b100000_i1000_o1000_l1000000_k2", "--device", "cpu", "--threads", "1", says="this machine has")

    def test_devices(self):
        for device in ("gpu", "-1", "0x0", "1e3", ""):
            if device:
                self.refused(2, "bench", "i2_o2_k2_l8", "--device", device, says="cpu, or a GPU's number")
        self.refused(2, "bench", "b0_i2_o2_k2_l8", "--device", "cpu", says="empty batch")
        self.refused(2, "bench", "i2_o2_k2_l8", "--device", "cpu", "--solver", "fast", says="one of: depthwise, few_rows, gemm")
        self.refused(2, "check", "--device", "cpu", "--solver", "fast", says="one of: depthwise, few_rows, gemm")


class BadRequest(CommandLine):
    def test_truncated(self):
        whole = request()
        cuts = {"in the code": whole.index("acc +="), "before the code": whole.index("[CURRENT CODE]"),
                "in the metrics": whole.index("launch__grid_size"), "empty": 0}
        for where, cut in cuts.items():
            with self.subTest(where):
                self.bad_request(2, whole[:cut])

    def test_no_code_block(self):
        self.bad_request(2, request(blocks=0))

    def test_two_code_blocks(self):
        self.bad_request(2, request(blocks=2))

    def test_code_that_does_not_parse(self):
        self.bad_request(2, request(code=CODE.replace("def deconv(", "def deconv((")))

    def test_code_that_is_no_transposed_convolution(self):
        self.bad_request(3, request(code=NOT_A_DECONV, metrics={}))

    def test_unknown_gpu(self):
        self.bad_request(3, request(gpu="GPU Name: Unheard-of 9000\n"), says="Unheard-of 9000")

    def test_metrics_that_are_no_json(self):
        self.bad_request(2, request(metrics='{"deconv_kernel": {"sm__throughput": '))

    def test_a_percentage_over_100(self):
        self.bad_request(2, with_metric("dram__throughput.avg.pct_of_peak_sustained_elapsed", 112.5), says="112.5")

    def test_a_grid_that_the_code_cannot_produce(self):
        for grid in (-1, 0.5, 0):
            with self.subTest(grid):
                self.bad_request(2, with_metric("launch__grid_size", grid), says="launch__grid_size")

    def test_50_megabytes(self):
        self.bad_request(2, request() + "#" * (50 << 20), says="bytes")

    def test_nul_byte(self):
        self.bad_request(2, request().replace("tl.zeros", "tl.\0zeros"))

    def test_invalid_utf8(self):
        self.bad_request(2, request().encode().replace(b"Ada", b"\xff\xfe"))

    def test_deep_json(self):
        self.bad_request(2, request(metrics="[" * 100000))

    def test_deep_code(self):
        self.bad_request(2, request(code="x = " + "(" * 5000 + ")" * 5000 + "\n"))

    def test_code_is_not_run(self):
        marker = self.folder / "ran"
        self.tconv("optimize", self.write(request(code=f"open({str(marker)!r}, 'w')\n" + CODE)), "--compile", "never")
        self.assertFalse(marker.exists())


class BadCommand(CommandLine):
    def test_a_path_that_does_not_exist(self):
        self.refused(2, "optimize", self.folder / "absent.txt", "--out", self.folder / "out", says="absent.txt")

    def test_a_folder_as_the_request(self):
        self.refused(2, "optimize", self.folder)

    def test_a_file_in_place_of_the_output_folder(self):
        path = self.write(request())
        self.write("mine", "file")
        for out in ("file", "file/below"):
            self.refused(2, "optimize", path, "--out", self.folder / out, "--compile", "never", says="file")

    @unittest.skipIf(os.geteuid() == 0, "root writes everywhere")
    def test_an_output_folder_without_permission(self):
        path = self.write(request())
        (self.folder / "out").mkdir(mode=0o500)
        self.refused(2, "optimize", path, "--out", self.folder / "out", "--compile", "never", says="out")

    def test_a_line_feed_in_a_path_stays_on_the_line(self):
        self.refused(2, "optimize", self.folder / "a\nb\x1b[31m", says="a\\x0ab")

    def test_unknown_words(self):
        path = self.write(request())
        self.refused(2)
        self.refused(2, "optimise", path)
        self.refused(2, "optimize", path, "--fast")
        self.refused(2, "optimize", path, "--compile", "maybe")
        self.refused(2, "optimize", path, "--emit", "opencl", says="opencl")
        self.refused(2, "optimize", path, "--emit", "cuda,ptx", says="ptx")
        self.refused(2, "optimize", path, "--emit")
        self.refused(2, "optimize", path, "--target", "gtx9999", says="rtx4090")
        self.refused(2, "plan", "@kb79", "--target", "gtx9999", says="gtx9999")
        self.refused(2, "plan", "b1_i3_o4_k3", "--target", "h200")  # no length
        self.refused(2, "plan", "b1_i3_q4_k3_l9", "--target", "h200")
        self.refused(2, "plan", "@nobody", "--target", "h200", says="nobody")
        self.refused(2, "plan", "", "--target", "h200", says="empty")
        self.refused(2, "plan", "@kb79_", "--target", "h200", says="token ''")
        self.refused(2, "plan", "i4_o4_k3_l8_k5", "--target", "h200", says="repeats 'k'")
        self.refused(2, "plan", "i4_o4_k3_l8_f16_bf16", "--target", "h200", says="repeats 'arithmetic'")
        self.refused(2, "plan", "i99999999999999999999_o1_k1_l1", "--target", "h200", says="too large")
        self.refused(2, "plan", "i4_o4_k3_l8_p-1", "--target", "h200", says="p-1")
        self.refused(2, "plan", "i1_" * 100, "--target", "h200", says="300 characters")
        self.refused(2, "optimize", path, "--workload", "i3_o4")

    def test_a_cuda_answer_without_a_layer(self):
        path = self.write(request(metrics="No NCU metrics available"))
        self.refused(2, "optimize", path, "--emit", "cuda", "--out", self.folder / "out", "--compile", "never", says="--workload WORD")

    def test_problems_that_are_refused(self):
        self.refused(3, "plan", "i4_o4_k3_l8_s2_a2", "--target", "h200")  # output_padding too large
        self.refused(3, "plan", "i4_o4_k3_l8_d0", "--target", "h200")
        self.refused(3, "plan", "i4_o4_k3_l8_s0", "--target", "h200", says="stride")
        self.refused(3, "plan", "i4_o4_k0_l8", "--target", "h200", says="taps")
        self.refused(3, "plan", "i4_o6_k3_l8_g4", "--target", "h200", says="groups")
        self.refused(3, "plan", "i4_o4_k1_l1_p1", "--target", "h200")  # no output
        self.refused(3, "plan", "b9999999999_i9999999999_o9999999999_k3_l9", "--target", "h200")  # overflow

    def test_verify_of_a_file_that_is_absent(self):
        self.refused(2, "verify", self.folder / "absent.py")

    def test_a_full_standard_output_is_an_error(self):
        with open("/dev/full", "wb") as full:
            result = subprocess.run([BINARY, "plan", "@kb79", "--target", "h200"], stdout=full, stderr=subprocess.PIPE)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"standard output", result.stderr)


if __name__ == "__main__":
    unittest.main()
