"""tconv.torch on a GPU: the cases of torch_test.py that say something there, and those that only a GPU has: streams,
CUDA graphs, TF32. Skips with the reason where there is none.

    python3 tests/torch_cuda_test.py [CASE...]

Prints a line for every test, and at the end one for every failure. A first run compiles some 600 layers, most of
them eight at a time; TCONV_SEED repeats a run's random problems."""

import gc
import os
import shutil
import sys
import sysconfig
import time
import unittest

import torch_test  # restarts on a Python that has torch
import torch
import torch.nn.functional as F
from torch import nn
from torch_test import OPERATOR, drop_in, outcome, whole

try:
    torch.zeros(1, device="cuda")
except (RuntimeError, AssertionError) as no:
    print("skipped: no GPU:", str(no).partition("\n")[0])
    sys.exit(0)

HOLD = 100_000_000  # cycles that a stream is kept busy, tens of milliseconds


class OnGpu(torch_test.Case):
    device = "cuda"

    def setUp(self):
        torch.set_default_device(self.device)
        self.addCleanup(torch.set_default_device, None)
        super().setUp()
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self.addCleanup(torch.cuda.synchronize)

    def assert_same(self, ours, theirs):
        """cuDNN transforms some layers (FFT, Winograd), which leaves theirs inexact where whole numbers are due."""
        if all(isinstance(y, torch.Tensor) and y.is_floating_point() for y in (ours, theirs)) and (
                ours.shape == theirs.shape and theirs.numel() > 0 and (theirs - theirs.round()).abs().max() < 1e-2):
            theirs = theirs.round()
        super().assert_same(ours, theirs)


def on_gpu(case, *left_out):
    """The cases of a class of torch_test, on the GPU."""
    return type(case.__name__, (case, OnGpu), {"__module__": __name__} | dict.fromkeys(left_out))


SampleInputs = on_gpu(torch_test.SampleInputs, "test_gradient_where_pytorchs_own_is_wrong",
                      "test_gradient_of_one_sample_with_channels_side_by_side")
Refusals = on_gpu(torch_test.Refusals)
Tensors = on_gpu(torch_test.Tensors, "test_threads_setting_changes_nothing", "test_large_outputs_in_huge_pages",
                 "test_huge_pages_never_reach_beyond_the_memory")
Cache = on_gpu(torch_test.Cache, "test_data_in_reused_memory", "test_changes_that_pytorch_does_not_count",
               "test_memory_of_passing_weights_is_used_again")
Compile = on_gpu(torch_test.Compile)
Autocast = on_gpu(torch_test.Autocast)
Modules = on_gpu(torch_test.Modules)
Replace = on_gpu(torch_test.Replace)
Normed = on_gpu(torch_test.Normed)


class Random(torch_test.Random, OnGpu):
    repeats = False


class Devices(OnGpu):
    def test_cpu_and_gpu_mixed(self):
        tensors = whole(2, 4, 5), whole(4, 3, 3), whole(3)
        for there in range(1, 7):
            mixed = [t.cpu() if there >> i & 1 else t for i, t in enumerate(tensors)]
            for packed in (False, True):
                with self.subTest(devices=[t.device.type for t in mixed], packed=packed):
                    if packed:
                        drop_in.conv_transpose1d(tensors[0].to(mixed[1].device), mixed[1])
                    refused = outcome(F.conv_transpose1d, *mixed)
                    self.assertNotIsInstance(refused, torch.Tensor)
                    self.assertEqual(outcome(drop_in.conv_transpose1d, *mixed), refused)

    def test_moved_layer(self):
        layer = drop_in.ConvTranspose1d(4, 6, 5, 3, device="cpu")
        x = whole(2, 4, 9)
        with torch.no_grad():
            expected = layer(x.cpu())
            torch.testing.assert_close(layer.cuda()(x), expected.cuda())
            torch.testing.assert_close(layer.cpu()(x.cpu()), expected)

    @unittest.skipIf(torch.cuda.device_count() < 2, "one GPU")
    def test_other_than_the_current_device(self):
        x, layer = whole(2, 4, 9).to("cuda:1"), drop_in.ConvTranspose1d(4, 6, 5, 3, device="cuda:1")
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(layer(x), F.conv_transpose1d(x, layer.weight, layer.bias, 3))
            self.assertEqual(torch.cuda.current_device(), 0)
            with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream(1)):
                torch.testing.assert_close(layer(x), F.conv_transpose1d(x, layer.weight, layer.bias, 3))


class Streams(OnGpu):
    """A stream that is held back shows who does not wait for it, and who should."""

    def setUp(self):
        super().setUp()
        self.x, self.w = whole(2, 16, 50), nn.Parameter(whole(16, 16, 9), requires_grad=False)
        self.due = F.conv_transpose1d(self.x, self.w)
        drop_in.conv_transpose1d(self.x, self.w)  # compiles
        with torch.autocast("cuda", torch.float16):
            drop_in.conv_transpose1d(self.x, self.w)
        torch.cuda.synchronize()

    def test_runs_on_the_current_one(self):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            x = torch.zeros_like(self.x)
            torch.cuda._sleep(HOLD)
            x.copy_(self.x)
            y = drop_in.conv_transpose1d(x, self.w)
        self.assertFalse(stream.query(), "not held for long enough")
        stream.synchronize()
        self.assert_same(y, self.due)

    def test_packed_on_one_and_run_on_another(self):
        """That has no reason to wait for the first: the weight was there before both."""
        for lowered in (False, True):
            held, free = torch.cuda.Stream(), torch.cuda.Stream()
            with torch.autocast("cuda", torch.float16, enabled=lowered):
                for stream in (held, free):  # gets the memory that later calls take from the allocator
                    with torch.cuda.stream(stream):
                        drop_in.conv_transpose1d(self.x, self.w)
                torch.cuda.synchronize()
                self.w.neg_()  # what is left in that memory would give another result
                due = F.conv_transpose1d(self.x, self.w)
                torch.cuda.synchronize()
                with torch.cuda.stream(held):
                    torch.cuda._sleep(HOLD)
                    late = drop_in.conv_transpose1d(self.x, self.w)
                with torch.cuda.stream(free):
                    early = drop_in.conv_transpose1d(self.x, self.w)
            free.synchronize()
            self.assertFalse(held.query(), "not held for long enough")
            torch.cuda.synchronize()
            self.assert_same(early, due)
            self.assert_same(late, due)

    def test_weight_changed_on_one_and_read_on_another(self):
        writer, reader = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(reader):
            drop_in.conv_transpose1d(self.x, self.w)
        for _ in range(3):
            with torch.cuda.stream(writer):
                torch.cuda._sleep(HOLD // 10)
                self.w.add_(1)
            reader.wait_stream(writer)
            with torch.cuda.stream(reader):
                y = drop_in.conv_transpose1d(self.x, self.w)
            writer.wait_stream(reader)
            torch.cuda.synchronize()
            self.assert_same(y, F.conv_transpose1d(self.x, self.w))

    def test_dropped_weights(self):
        """Their packed memory is given out again while the kernel that reads it is still to come."""
        stream, results = torch.cuda.Stream(), []
        with torch.cuda.stream(stream):
            torch.cuda._sleep(HOLD)
            for number in range(20):
                w = torch.full_like(self.w, number)
                results.append(drop_in.conv_transpose1d(self.x, w))
                del w
        stream.synchronize()
        for number, y in enumerate(results):
            self.assert_same(y, F.conv_transpose1d(self.x, torch.full_like(self.w, number)))


class Graphs(OnGpu):
    def captured(self, call):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = call()
        return graph, y

    @torch.no_grad()
    def test_replays_follow_input_and_weight(self):
        for dtype, lowered in ((torch.float32, False), (torch.bfloat16, False), (torch.float32, True)):
            x, layer = whole(2, 16, 50, dtype=dtype), drop_in.ConvTranspose1d(16, 8, 9, 3, dtype=dtype)
            layer.weight.copy_(whole(*layer.weight.shape))
            layer.bias.copy_(whole(8))

            def call(f=layer):
                with torch.autocast("cuda", torch.float16, enabled=lowered):
                    return f(x)

            with self.subTest(dtype=dtype, lowered=lowered):
                call()
                graph, y = self.captured(call)
                drop_in.clear_cache()
                gc.collect()
                garbage = [torch.full((1 << n,), 7.0) for n in range(8, 22)]  # where freed memory would be used again
                for _ in range(3):
                    x.copy_(whole(*x.shape))
                    layer.weight.add_(1)
                    graph.replay()
                    self.assert_same(y, call(lambda x: F.conv_transpose1d(x, layer.weight, layer.bias, 3)))
                    self.assert_same(call(), y)  # and calls outside of the graph are not disturbed
                del garbage

    @torch.no_grad()
    def test_captured_without_a_call_before(self):
        """The plan is made during the capture."""
        x, w = whole(2, 17, 50), whole(17, 7, 9)
        torch.cuda.synchronize()
        graph, y = self.captured(lambda: drop_in.conv_transpose1d(x, w, None, 3))
        graph.replay()
        self.assert_same(y, F.conv_transpose1d(x, w, None, 3))

    @torch.no_grad()
    def test_the_operator_packs_in_the_graph(self):
        """As compiled code calls it: what was kept of the parameter before is not for the graph."""
        x, w = whole(2, 16, 50), nn.Parameter(whole(16, 8, 9))
        self.assert_same(OPERATOR(x, w), F.conv_transpose1d(x, w))
        graph, y = self.captured(lambda: OPERATOR(x, w))
        for _ in range(3):
            w.add_(1)
            graph.replay()
            self.assert_same(y, F.conv_transpose1d(x, w))
            self.assert_same(OPERATOR(x, w), y)

    def test_training(self):
        layers = [drop_in.ConvTranspose1d(16, 8, 9, 3) for _ in range(2)]
        layers[1].load_state_dict(layers[0].state_dict())
        graphed = torch.cuda.make_graphed_callables(layers[0], (torch.randn(2, 16, 50, requires_grad=True),))
        for _ in range(3):
            x = torch.randn(2, 16, 50)
            gradients = []
            for call, layer in ((graphed, layers[0]), (layers[1], layers[1])):
                leaf = x.clone().requires_grad_()
                y = call(leaf)
                gradients.append([y.detach().clone(), *(g.clone() for g in torch.autograd.grad(
                    y.square().sum(), (leaf, *layer.parameters())))])
                with torch.no_grad():
                    for parameter, gradient in zip(layer.parameters(), gradients[-1][2:]):
                        parameter.sub_(gradient, alpha=1e-4)
            for ours, theirs in zip(*gradients):
                torch.testing.assert_close(ours, theirs)

    def test_compiled_with_graphs(self):
        if not shutil.which("gcc"):
            self.skipTest("no C compiler")
        if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
            self.skipTest("no Python.h")
        torch._dynamo.reset()
        layer = drop_in.ConvTranspose1d(16, 8, 9, 3)
        compiled = torch.compile(lambda x: layer(x * 2).relu(), mode="reduce-overhead")
        with torch.no_grad():
            for length in (50, 70):
                for _ in range(4):
                    x = torch.randn(2, 16, length)
                    layer.weight.add_(0.01)
                    y = compiled(x).clone()
                    torch.testing.assert_close(y, layer(x * 2).relu())


class Tf32(OnGpu):
    def error(self):
        """0 where products are exact; the terms below TF32's ten bits are lost otherwise."""
        x, w = torch.full((1, 32, 400), 1 + 2.0**-13), torch.ones(32, 32, 4)
        y = drop_in.conv_transpose1d(x, w, None, 2)
        return (y.double() - F.conv_transpose1d(x.double(), w.double(), None, 2)).abs().max().item()

    def test_follows_the_old_switch(self):
        for allowed in (True, False, True):
            torch.backends.cudnn.allow_tf32 = allowed
            with self.subTest(allowed=allowed):
                self.assertEqual(self.error() > 0, allowed)
        with torch.backends.cudnn.flags(allow_tf32=False):
            self.assertEqual(self.error(), 0)
        self.assertGreater(self.error(), 0)

    def test_follows_the_new_switch(self):
        switch = getattr(torch.backends.cudnn, "conv", None)
        if not hasattr(switch, "fp32_precision"):
            self.skipTest("this PyTorch has the old switch alone")
        for precision in ("tf32", "ieee"):
            switch.fp32_precision = precision
            with self.subTest(precision=precision):
                self.assertEqual(self.error() > 0, precision == "tf32")

    def test_compiled_code_follows_it(self):
        compiled = torch.compile(self.error, backend="aot_eager")
        for allowed in (True, False):
            torch.backends.cudnn.allow_tf32 = allowed
            self.assertEqual(compiled() > 0, allowed)


class Lines(unittest.TextTestResult):
    """A line a test; at the end one a failure."""

    def startTest(self, test):
        super().startTest(test)
        self.began, self.before = time.perf_counter(), len(self.failures) + len(self.errors)

    def stopTest(self, test):
        wrong = len(self.failures) + len(self.errors) - self.before
        skipped = [reason for one, reason in self.skipped if one is test]
        word = f"FAIL ({wrong})" if wrong else "SKIP" if skipped else "PASS"
        print(f"{word} {test.id().partition('.')[2]} {time.perf_counter() - self.began:.1f} s", *skipped, flush=True)
        super().stopTest(test)

    def printErrors(self):
        super().printErrors()
        for test, text in self.failures + self.errors:
            print(f"FAIL {test}: {text.strip().splitlines()[-1][:300]}", flush=True)


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    unittest.main(testRunner=unittest.TextTestRunner(stream=sys.stdout, verbosity=0, resultclass=Lines))
