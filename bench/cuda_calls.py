"""Shows on one GPU what calls of any size cost and give: new lengths and batches, and tensors of billions of elements.

    python3 bench/cuda_calls.py --out FILE [--parts lengths,large] [--seconds N]

Needs torch and libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so). FILE is written after every layer.

lengths: after the first call of a layer, 200 random lengths and 20 random batches, y being there. Counted: files that
appear in the cache of kernels, device memory that is gone and what PyTorch allocated. Timed on the host: each call by
itself, from an idle GPU, through tconv.Plan.launch and through tconv.torch.conv_transpose1d, which allocates y. Timed on
the GPU: every one of the lengths beside the nearest multiple of 1024, as the time of one of ten calls in a graph, median
of replays, per output. The first use in a new process is bench/cuda_first_use.py's.
large: f16 with x, y or both above 2^31 and 2^32 elements; samples at both ends and around those elements, of several
channels, against float64 within the bound of src/verify/bound.cpp.
"""

import argparse
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

CACHE = tempfile.TemporaryDirectory()
os.environ["TCONV_CACHE"] = CACHE.name  # before the library looks

import torch  # noqa: E402

from answers_cuda import bound  # noqa: E402
from cuda import STORED, Ours, machine, reference  # noqa: E402
from layers import catalogue, out_length, save, word  # noqa: E402
from tconv import _native  # noqa: E402
import tconv.torch  # noqa: E402

LENGTHS = (("hifigan_v1_up0", "tf32"), ("hifigan_v1_up0", "f16"), ("kb_l1_79", "tf32"), ("kb_l1_79", "f16"))
BAR_US = 15
CALLS, REPLAYS = 10, 5  # of a graph
LARGE = (  # batch, c_in, c_out, kernel, stride, padding, length, solver
    (2, 128, 128, 3, 1, 1, 12_600_000, None),   # x and y of 3.2e9 elements
    (2, 128, 128, 4, 2, 1, 6_300_000, None),    # y alone
    (2, 128, 64, 3, 1, 1, 12_600_000, None),    # x alone
    (3, 128, 128, 3, 1, 1, 12_600_000, None),   # 4.8e9 elements, above 2^32
    (2, 128, 128, 3, 1, 1, 12_600_000, "gemm_sm80"),
    (2, 128, 128, 3, 1, 1, 12_600_000, "direct"),
)


def cached():
    return {str(path) for path in pathlib.Path(CACHE.name).rglob("*") if path.is_file()}


def summary(values):
    ordered = sorted(values)
    return {"median": statistics.median(ordered), "p99": ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)],
            "most": ordered[-1]}


def dense(buffer, *shape):
    count = 1
    for size in shape:
        count *= size
    return buffer[:count].view(shape)


def graph_ms(run):
    """One of CALLS calls, as the median of the graph's replays."""
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        graph.capture_begin()
        for _ in range(CALLS):
            run()
        graph.capture_end()
        times = []
        for _ in range(REPLAYS + 1):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    return statistics.median(times[1:]) / CALLS


def lengths(name, arithmetic, until):
    layer, dtype, draw = catalogue()[name], STORED[arithmetic], random.Random(3)
    batch, longest = layer["batch"], layer["length"]
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    w = torch.randn(layer["c_in"], layer["c_out"] // layer["groups"], layer["kernel"], device="cuda", dtype=dtype)
    bias = torch.randn(layer["c_out"], device="cuda", dtype=dtype) if layer["bias"] else None
    sizes = [(batch, draw.randint(1, longest)) for _ in range(200)]
    sizes += [(draw.randint(1, 32), max(1, longest // 16)) for _ in range(20)]
    longest += 1024  # neighbours of the lengths
    x_buffer = torch.randn(max(batch, 2) * layer["c_in"] * longest, device="cuda", dtype=dtype)
    y_buffer = torch.empty(max(batch, 2) * layer["c_out"] * out_length(layer, longest), device="cuda", dtype=dtype)
    ours = Ours(layer, arithmetic, None, w, bias)

    def tensors(size):
        b, length = size
        return (dense(x_buffer, b, layer["c_in"], length),
                dense(y_buffer, b, layer["c_out"], out_length(layer, length)))

    pairs = [tensors(size) for size in sizes]
    result = {"plan": ours.plan.explain(batch, layer["length"]).split("\n", 1)[0]}
    for x, y in (tensors((batch, layer["length"])), pairs[0]):
        ours(x, y)
    torch.cuda.synchronize()

    # What changes on the way.
    files, free = cached(), torch.cuda.mem_get_info()[0]
    counted = torch.cuda.memory_stats().get("allocation.all.allocated", 0)
    for x, y in pairs:
        ours(x, y)
    torch.cuda.synchronize()
    result["compiled"] = len(cached() - files)
    result["device_bytes_gone"] = free - torch.cuda.mem_get_info()[0]
    result["torch_allocations"] = torch.cuda.memory_stats().get("allocation.all.allocated", 0) - counted

    # The host.
    how = _native.how(torch.cuda.current_stream().cuda_stream, 1)
    launch, packed, held = ours.plan.launch, ours.packed.data_ptr(), ours.bias or 0
    calls = [(x.data_ptr(), packed, held, y.data_ptr(), x.shape[0], x.shape[2], *x.stride(), *y.stride()[:2], 0, 0)
             for x, y in pairs]
    own, weight = tconv.torch.conv_transpose1d, torch.nn.Parameter(w, requires_grad=False)
    settings = (bias, layer["stride"], layer["padding"], layer["output_padding"], layer["groups"], layer["dilation"])
    with torch.no_grad():
        for way, run in (("launch", lambda i: launch(how, *calls[i])),
                         ("torch", lambda i: own(pairs[i][0], weight, *settings))):
            run(0)
            times = []
            for i in range(len(pairs)):
                torch.cuda.synchronize()
                start = time.perf_counter_ns()
                run(i)
                times.append((time.perf_counter_ns() - start) / 1e3)
            result[way + "_us"] = summary(times)

    # The GPU.
    compared = []
    for (b, length), (x, y) in list(zip(sizes, pairs))[:200]:
        even = max(1024, round(length / 1024) * 1024) if longest > 4096 else max(32, round(length / 32) * 32)
        if time.monotonic() > until or length * 8 < layer["length"]:
            continue  # where a launch is most of the time, there is no time an output to compare
        x_even, y_even = tensors((b, even))
        ms, even_ms = graph_ms(lambda: ours(x, y)), graph_ms(lambda: ours(x_even, y_even))
        compared.append({"length": length, "ms": ms, "even": even, "even_ms": even_ms,
                         "over_even": ms / y.numel() / (even_ms / y_even.numel())})
    result["gpu"] = compared
    if compared:
        ratios = [row["over_even"] for row in compared]
        result["over_even"] = summary(ratios) | {"least": min(ratios), "lengths": len(ratios)}
    return result


def show_lengths(row):
    over = {name: round(value, 3) for name, value in row.get("over_even", {}).items()}
    host = ["%s %.1f (p99 %.1f)" % (way, row[way + "_us"]["median"], row[way + "_us"]["p99"]) for way in ("launch", "torch")]
    return "%d compiled, %d bytes gone, %d allocations; host us: %s; per output over an even length: %s" % (
        row["compiled"], row["device_bytes_gone"], row["torch_allocations"], ", ".join(host), over)


def large(batch, c_in, c_out, kernel, stride, padding, length, solver):
    layer = {"batch": batch, "c_in": c_in, "c_out": c_out, "length": length, "kernel": kernel, "stride": stride,
             "padding": padding, "output_padding": 0, "dilation": 1, "groups": 1, "bias": False}
    out = out_length(layer, length)
    x = torch.empty(batch, c_in, length, device="cuda", dtype=torch.float16)
    for image in x:
        for row in image:
            row.normal_()
    w = torch.randn(c_in, c_out, kernel, device="cuda").mul_((c_in * kernel) ** -0.5).half()
    y = torch.full((batch, c_out, out), float("nan"), device="cuda", dtype=torch.float16)
    ours = Ours(layer, "f16", solver, w, None)
    torch.cuda.synchronize()
    ours(x, y)  # its kernel is on the device from now on
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    ours(x, y)
    end.record()
    torch.cuda.synchronize()
    result = {"word": word(layer, batch, "f16"), "solver": ours.plan.explain(batch, length).split(" ", 1)[0],
              "x_elements": x.numel(), "y_elements": y.numel(), "ms": start.elapsed_time(end), "wrong": []}

    samples = 2048
    windows = {(image, channel, first) for image in {0, batch - 1} for channel in {0, c_out // 2 + 13, c_out - 1}
               for first in (0, out // 2, out - samples)}
    for border in (1 << 31, 1 << 32):
        if border < y.numel():
            row, at = divmod(border, out)
            windows.add((row // c_out, row % c_out, min(max(at - samples // 2, 0), out - samples)))
        if border < x.numel():  # a sum takes every channel: all of y is behind x's border
            row, at = divmod(border, length)
            windows.add((row // c_in, 5, min(max(at * stride - samples // 2, 0), out - samples)))
    worst = 0.0
    for image, channel, first in sorted(windows):
        low = max(0, (first + padding - kernel + 1) // stride)
        high = min(length - 1, (first + samples - 1 + padding) // stride)
        crop, column = x[image:image + 1, :, low:high + 1], w[:, channel:channel + 1]
        part = dict(layer, c_out=1, padding=0)
        begin = first + padding - low * stride
        due = reference(part, crop.double(), column.double(), None)
        allowed = bound(part, "f16", crop, column, None, due)[:, :, begin:begin + samples].flatten()
        due = due[:, :, begin:begin + samples].flatten()
        off = (y[image, channel, first:first + due.numel()].double() - due).abs()
        if due.numel() != samples or not bool((off <= allowed).all()):
            result["wrong"].append([image, channel, first])
        worst = max(worst, (off / allowed).nan_to_num(nan=float("inf")).max().item())
    result |= {"windows": len(windows), "worst_error_over_bound": worst}
    return result


def show_large(row):
    return "%s, x %.2fe9, y %.2fe9 elements, %.2f ms: %d windows, %d wrong, worst error %.3f of its bound" % (
        row["solver"], row["x_elements"] / 1e9, row["y_elements"] / 1e9, row["ms"], row["windows"], len(row["wrong"]),
        row["worst_error_over_bound"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--parts", default="large,lengths")
    parser.add_argument("--seconds", type=float, default=240, help="starts nothing new after this long")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    rows, wrong = [], 0
    parts = {"large": [(case, lambda c=case: large(*c), show_large) for case in LARGE],
             "lengths": [(case, lambda c=case: lengths(*c, until), show_lengths) for case in LENGTHS]}
    for part in given.parts.split(","):
        for case, run, show in parts[part]:
            row = {"part": part, "case": case}
            try:
                if time.monotonic() > until:
                    raise RuntimeError("left out after %.0f s" % given.seconds)
                row |= run()
                wrong += bool(row.get("wrong")) + bool(row.get("compiled"))
                print(part, case, show(row), flush=True)
            except Exception as failure:  # such as too little memory, or time; the others go on
                wrong += 1
                row["failure"] = repr(failure).splitlines()[0]
                print(part, case, row["failure"], flush=True)
            torch.cuda.empty_cache()
            rows.append(row)
            save(given.out, {"machine": machine(), "bar_us": BAR_US, "rows": rows})
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
