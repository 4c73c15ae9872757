"""Times generators before and after tconv.torch.replace, end to end: one machine, one run.

    python3 bench/models.py --out FILE [--device cuda] [--models GLOB,...] [--dtype f32] [--threads 1,16] [--seconds N]

Needs torch and libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so). The generators are those of
bench/generators.py: batch 1, no gradients. Both models have the same weights and take turns: a turn is 5 ms of rest, in
which the other's threads fall asleep, and one call on the same input. Times are medians over all turns, in ms for a
second of audio. How many times as fast: the geometric mean of two medians of the turns' own ratios, where the one and
where the other was first, as the first call of a new length sets PyTorch's layers up for both. "fixed" is one length;
"random" takes lengths between a half and one and a half of it, from a stream steps of one to four frames. "eager" is
the model as it is, "compiled" the same under torch.compile with the length dynamic, which takes minutes a model. A
stream's state is copied between calls, so that its strides stay what was compiled. On a GPU each call starts with a
cold L2 and an idle GPU, and CUDA events around it tell the time, launches included; float32 is TF32 in convolutions,
PyTorch's default.
Share: the part of a call's time between hooks before and after each transposed convolution, its weight_norm included,
in calls that are not timed otherwise. Difference: the largest |after - before| over max |before|. FILE is written after
every model, so that a run that is cut short keeps what it has.
"""

import argparse
import copy
import fnmatch
import functools
import itertools
import math
import os
import pathlib
import random
import statistics
import sys
import time
import warnings

import torch
import torch._dynamo

import cpu
import cuda
from generators import GENERATORS
from layers import ROOT, save

sys.path.insert(0, str(ROOT / "python"))
import tconv.torch  # noqa: E402

MIN_TURNS, MAX_TURNS = 3, 51
WATCHED = 3  # calls with hooks
STREAM_FRAMES = 4  # at most, in a step of a stream


@functools.cache
def other_memory():
    return torch.empty(cuda.COLD_BYTES, dtype=torch.uint8, device="cuda")


def flush():
    """Fills the L2 of a GPU with other memory and waits for it."""
    other_memory().zero_()
    torch.cuda.synchronize()


class Mark:
    """A point in time of the host or of the current stream."""

    def __init__(self, device):
        self.event = torch.cuda.Event(enable_timing=True) if device == "cuda" else None
        if self.event:
            self.event.record()
        else:
            self.time = time.perf_counter()

    def since(self, other):
        """In ms; on a GPU for a stream that was waited for."""
        return other.event.elapsed_time(self.event) if self.event else (self.time - other.time) * 1e3


class Contestant:
    """A model as one call; a stream's state goes from call to call."""

    def __init__(self, model, device, compiled):
        self.model, self.device = model, device
        self.streams = hasattr(model, "start")
        # Of a stream's tensors all but x have sizes that stay; as symbols, their hundreds would take longer to compile.
        self.run = torch.compile(model, dynamic=None if self.streams else True) if compiled else model
        self.state = None

    def __call__(self, x):
        if not self.streams:
            return self.run(x)
        if self.state is None:
            self.state = self.model.start(x.shape[0], x)
        y, self.state = self.run(x, self.state)
        return y

    def settle(self):
        """Between calls: the state in memory of its own."""
        if self.state is not None:
            self.state = [part.clone(memory_format=torch.contiguous_format) for part in self.state]

    def ms(self, x):
        time.sleep(cpu.REST)
        if self.device == "cuda":
            flush()
        start = Mark(self.device)
        self(x)
        end = Mark(self.device)
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.settle()
        return end.since(start)

    def share(self, x):
        """Of the transposed convolutions in the time of a call."""
        marks, hooks = [], []
        for layer in self.model.modules():
            if isinstance(layer, torch.nn.ConvTranspose1d):
                hooks.append(layer.register_forward_pre_hook(lambda *_: marks.append(Mark(self.device)), prepend=True))
                hooks.append(layer.register_forward_hook(lambda *_: marks.append(Mark(self.device))))
        shares = []
        for _ in range(WATCHED):
            marks.clear()
            whole = self.ms(x)
            shares.append(sum(end.since(start) for start, end in zip(marks[0::2], marks[1::2])) / whole)
        for hook in hooks:
            hook.remove()
        return statistics.median(shares)


def lengths(model, frames):
    """Those of "random" inputs."""
    if hasattr(model, "start"):
        return range(1, STREAM_FRAMES + 1)
    return range(max(frames // 2, 1), frames + frames // 2 + 1)


def sample(generator, length, source, device, dtype):
    x = torch.randn(1, generator.channels, length, generator=source).to(device, dtype)
    torch._dynamo.maybe_mark_dynamic(x, 2)
    return x


def inputs(generator, model, frames, device, dtype):
    """Endless pairs of "fixed" and "random" inputs, which do not depend on what asked for them before."""
    draw, source, varied = random.Random(1), torch.Generator().manual_seed(1), lengths(model, frames)
    while True:
        yield {kind: sample(generator, length, source, device, dtype)
               for kind, length in (("fixed", frames), ("random", draw.randint(varied[0], varied[-1])))}


def pair(generator, device, dtype):
    """The generator as it is, the same after replace(), and what that said."""
    torch.manual_seed(1)
    before = generator.build().eval().requires_grad_(False).to(device, dtype)
    after = copy.deepcopy(before)
    for module in after.modules():  # cuDNN wants their weights in one piece, which a copy does not make of them
        if isinstance(module, torch.nn.RNNBase):
            module.flatten_parameters()
    return before, after, tconv.torch.replace(after)


def measure(name, given, compiled, row_seconds):
    """The rows of a model: fixed and random lengths."""
    generator, device = GENERATORS[name], given.device
    dtype = cpu.STORED[given.dtype]
    before, after, report = pair(generator, device, dtype)
    frames = 1 if hasattr(before, "start") else max(round(generator.frames * given.audio), 2)
    contestants = {key: Contestant(model, device, compiled) for key, model in (("before", before), ("after", after))}
    stream = inputs(generator, before, frames, device, dtype)
    result = {"replaced": len(report.replaced), "kept": len(report.kept), "frames": frames}
    varied, source = lengths(before, frames), torch.Generator().manual_seed(2)
    # What is timed later compiles nothing: of a stream, PyTorch compiles some lengths by themselves.
    for length in (frames, *(varied if hasattr(before, "start") else (varied[0], varied[-1]))):
        x = sample(generator, length, source, device, dtype)
        outputs = [contestant(x) for contestant in contestants.values()]
        for contestant in contestants.values():
            contestant.settle()
    result["difference"] = ((outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max()).item()
    if not compiled:
        for key, contestant in contestants.items():
            result["share_" + key] = contestant.share(sample(generator, frames, source, device, dtype))
    rows = []
    for kind in ("fixed", "random"):
        times, until = {key: [] for key in contestants}, time.perf_counter() + row_seconds
        for turn in range(MAX_TURNS):
            if turn >= MIN_TURNS and time.perf_counter() > until:
                break
            x = next(stream)[kind]
            audio = x.shape[2] / generator.frames
            for key in sorted(contestants, reverse=turn % 2):
                times[key].append(contestants[key].ms(x) / audio)
        row = dict(result, lengths=kind, turns=len(times["before"]))
        row.update({key + "_ms": statistics.median(taken) for key, taken in times.items()})
        ratios = [b / a for b, a in zip(times["before"], times["after"])]
        rows.append(dict(row, faster=math.sqrt(statistics.median(ratios[::2]) * statistics.median(ratios[1::2]))))
    return rows


def line(row):
    if "faster" not in row:
        return row.get("skipped") or row["failure"]
    shares = " share %.1f %% to %.1f %%," % (row["share_before"] * 100, row["share_after"] * 100) \
        if "share_before" in row else ""
    return "%-6s %9.2f to %9.2f ms a second of audio, %.3f times as fast,%s difference %.1e, %d turns" % (
        row["lengths"], row["before_ms"], row["after_ms"], row["faster"], shares, row["difference"], row["turns"])


def main():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="such as bench/results/NAME.json")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", default="*", help="patterns of names, joined by commas: " + ", ".join(GENERATORS))
    parser.add_argument("--modes", default="eager,compiled")
    parser.add_argument("--dtype", choices=cpu.STORED, default="f32")
    parser.add_argument("--threads", default=",".join(map(str, dict.fromkeys((1, cores)))),
                        help="on the CPU; default: %(default)s")
    parser.add_argument("--audio", type=float, help="seconds of the fixed length; default: 0.5, on a GPU 10")
    parser.add_argument("--seconds", type=float, default=math.inf, help="starts no model after this long")
    parser.add_argument("--row-seconds", type=float, default=10, help="of timed turns for a row; default: %(default)s")
    given = parser.parse_args()
    given.audio = given.audio or (10 if given.device == "cuda" else 0.5)
    names = [name for name in GENERATORS if any(fnmatch.fnmatch(name, glob) for glob in given.models.split(","))]
    if not names:
        parser.error("there is none of these models")
    threads = [int(n) for n in given.threads.split(",")] if given.device == "cpu" else [torch.get_num_threads()]
    warnings.filterwarnings("ignore", "Online softmax is disabled|.*TensorFloat32")
    torch.set_grad_enabled(False)
    if hasattr(torch._dynamo.config, "recompile_limit"):  # since torch 2.6
        torch._dynamo.config.recompile_limit = 64  # EnCodec's layers are compiled one by one, as its LSTM is not

    start, results = time.monotonic(), {"machine": (cuda if given.device == "cuda" else cpu).machine(), "rows": []}
    for name, mode, n in itertools.product(names, given.modes.split(","), threads):
        about = {"model": name, "device": given.device, "dtype": given.dtype, "mode": mode, "threads": n}
        torch.set_num_threads(n)
        reason = cpu.no_compiler() if mode == "compiled" else None
        if time.monotonic() - start > given.seconds:
            reason = "the run's time had ended"
        try:
            rows = [{"skipped": reason}] if reason else measure(name, given, mode == "compiled", given.row_seconds)
        except (tconv.Error, RuntimeError) as failure:
            rows = [{"failure": str(failure).splitlines()[0]}]
        torch.compiler.reset()
        for row in rows:
            results["rows"].append(about | row)
            print("%-16s %-8s %2d threads: %s" % (name, mode, n, line(row)), file=sys.stderr, flush=True)
        save(given.out, results)


if __name__ == "__main__":
    main()
