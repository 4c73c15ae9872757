"""Times the CUDA engine beside PyTorch on one GPU, in one run, and checks each result against float64.

    python3 bench/cuda.py --out FILE [--layers NAME,...] [--arithmetics tf32,f16] [--batches own,16] [--seconds N]

Needs torch and libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so). Without --layers, the KernelBench trio at its
own sizes and every layer of the catalogue at the batches. Times are medians of CUDA graph replays; a graph runs the
layer over enough sets of tensors that none is found in L2. PyTorch gets the better of cuDNN's heuristic and benchmark
modes, with TF32 allowed for tf32 alone. Error: the largest |y - y64| over max |y64| on a crop of the first samples.
FILE is written after every layer, so that a run that is cut short keeps what it has. With TCONV_TARGET=rtx4090 the
engine takes the path of that GPU.
"""

import argparse
import datetime
import math
import os
import pathlib
import statistics
import sys
import time

import torch

from layers import ROOT, catalogue, out_length, problem, save, word

sys.path.insert(0, str(ROOT / "python"))
import tconv  # noqa: E402

STORED = {"tf32": torch.float32, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
TENSOR_BYTES = 8 << 30  # of one set of tensors; larger layers are left out
COLD_BYTES = 256 << 20  # sets rotate until they take this much, several times any L2
REPLAYS = 15
SLOW_SECONDS = 0.25  # cuDNN needs a second for some layers: those are run three times, and each alone


def own_batch_only(name):
    """The KernelBench problems, whose sizes are part of the problem."""
    return name.startswith("kb_")


def reference(layer, x, w, bias):
    return torch.nn.functional.conv_transpose1d(x, w, bias, layer["stride"], layer["padding"],
                                                layer["output_padding"], layer["groups"], layer["dilation"])


def graph_ms(runs):
    """The median time of one of `runs`, replayed one after another as one graph."""
    def timed(run):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        runs[0]()
        alone = timed(runs[0])
        if alone > SLOW_SECONDS * 1e3:
            return statistics.median([alone, timed(runs[0]), timed(runs[0])])
        runs[-1]()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [run() for run in runs]  # PyTorch's outputs, each in memory of its own as ours are
    graph.replay()
    torch.cuda.synchronize()
    times, until = [], time.perf_counter() + SLOW_SECONDS
    while len(times) < 3 or (len(times) < REPLAYS and time.perf_counter() < until):
        times.append(timed(graph.replay))
    del kept
    return statistics.median(times) / len(runs)


def error(layer, y, x, w, bias):
    """y against float64, on the first image and the outputs that its first samples settle."""
    length = min(layer["length"], 2048)
    due = reference(layer, x[:1, :, :length].double(), w.double(), bias.double() if bias is not None else None)
    # The last outputs of a crop miss taps that the whole has; those before first_missing see all theirs.
    settled = due.shape[2] if length == layer["length"] else min(due.shape[2],
                                                                 length * layer["stride"] - layer["padding"])
    if settled < 1:
        return None
    due = due[:, :, :settled]
    return ((y[:1, :, :settled].double() - due).abs().max() / due.abs().max().clamp_min(1e-300)).item()


class Ours:
    def __init__(self, layer, arithmetic, solver, w, bias):
        start = time.perf_counter()
        self.plan = tconv.Plan(**problem(layer), arithmetic=arithmetic, device=torch.cuda.current_device(),
                               solver=solver)
        self.compile_seconds = time.perf_counter() - start
        self.bias = bias.data_ptr() if bias is not None else None
        self.packed = torch.empty(max(1, self.plan.packed_bytes), dtype=torch.uint8, device="cuda")
        self.plan.pack(w.data_ptr(), w.stride(), self.packed.data_ptr(), torch.cuda.current_stream().cuda_stream)
        torch.cuda.synchronize()  # timings run on other streams

    def __call__(self, x, y):
        self.plan.run(x.data_ptr(), self.packed.data_ptr(), self.bias, y.data_ptr(), x.shape[0], x.shape[2],
                      x.stride(), y.stride()[:2], torch.cuda.current_stream().cuda_stream)


def measure(layer, arithmetic, solver):
    dtype = STORED[arithmetic]
    size = torch.empty((), dtype=dtype).element_size()
    out = out_length(layer, layer["length"])
    x_shape = (layer["batch"], layer["c_in"], layer["length"])
    y_shape = (layer["batch"], layer["c_out"], out)
    bytes_of_set = size * (math.prod(x_shape) + math.prod(y_shape))
    if bytes_of_set > TENSOR_BYTES:
        return {"skipped": "%.1f GB of tensors" % (bytes_of_set / 1e9)}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    torch.manual_seed(1)
    sets = max(2, min(32, math.ceil(COLD_BYTES / bytes_of_set)))
    xs = [torch.randn(x_shape, device="cuda", dtype=dtype) for _ in range(sets)]
    ys = [torch.empty(y_shape, device="cuda", dtype=dtype) for _ in range(sets)]
    w = torch.randn(layer["c_in"], layer["c_out"] // layer["groups"], layer["kernel"], device="cuda", dtype=dtype)
    w *= (layer["c_in"] // layer["groups"] * layer["kernel"]) ** -0.5
    bias = torch.randn(layer["c_out"], device="cuda", dtype=dtype) if layer["bias"] else None

    result = {"sets": sets, "bytes": bytes_of_set}
    ours = Ours(layer, arithmetic, solver, w, bias)
    result["explain"] = ours.plan.explain(layer["batch"], layer["length"])
    result["solver"] = result["explain"].split(" ", 1)[0]
    result["compile_seconds"] = ours.compile_seconds
    ys[0].fill_(float("nan"))
    ours(xs[0], ys[0])
    torch.cuda.synchronize()
    result["error"] = error(layer, ys[0], xs[0], w, bias)
    result["finite"] = bool(torch.isfinite(ys[0]).all())
    result["ms"] = graph_ms([lambda x=x, y=y: ours(x, y) for x, y in zip(xs, ys)])
    del ys

    for mode in (False, True):
        torch.backends.cudnn.benchmark = mode
        name = "torch_benchmark" if mode else "torch_heuristic"
        try:
            if not mode:
                result["torch_error"] = error(layer, reference(layer, xs[0], w, bias), xs[0], w, bias)
            result[name + "_ms"] = graph_ms([lambda x=x: reference(layer, x, w, bias) for x in xs])
        except RuntimeError as failure:  # such as no memory for a workspace: the other mode may do
            result[name + "_failure"] = str(failure).splitlines()[0]
    best = [result[k] for k in ("torch_heuristic_ms", "torch_benchmark_ms") if k in result]
    if best:
        result["torch_ms"] = min(best)
        result["faster"] = result["torch_ms"] / result["ms"]
    return result


def machine():
    return {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(), "tconv": tconv.version(),
            "planned_as": os.environ.get("TCONV_TARGET"),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python3"] + sys.argv)}


def table(rows):
    timed = sorted((r for r in rows if "faster" in r), key=lambda r: r["faster"])
    for arithmetic in dict.fromkeys(r["arithmetic"] for r in timed):
        gains = [r["faster"] for r in timed if r["arithmetic"] == arithmetic]
        print("%-5s %d runs: geometric mean %.3f times PyTorch, least %.3f, below 1: %d" % (
            arithmetic, len(gains), math.exp(sum(map(math.log, gains)) / len(gains)), gains[0],
            sum(g < 1 for g in gains)))
    for r in timed[:10]:
        print("  %-32s b%-4d %-5s %-12s ours %9.4f ms, PyTorch %9.4f ms, %.3f, error %s" % (
            r["layer"], r["batch"], r["arithmetic"], r["solver"], r["ms"], r["torch_ms"], r["faster"], r["error"]))
    for r in rows:
        if "failure" in r or "skipped" in r or r.get("finite") is False:
            print("  %-32s b%-4d %-5s %s" % (r["layer"], r["batch"], r["arithmetic"],
                                            r.get("failure") or r.get("skipped") or "an output that is not finite"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--layers", help="beginnings of names of the catalogue, joined by commas")
    parser.add_argument("--arithmetics", help="default: tf32,f16, and bf16,f32 as well for the KernelBench trio")
    parser.add_argument("--batches", default="own,16", help="of catalogue layers; own: the catalogue's. Default: %(default)s")
    parser.add_argument("--solver")
    parser.add_argument("--seconds", type=float, default=math.inf, help="starts no layer after this long")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds

    layers = catalogue()
    if given.layers:
        wanted = tuple(given.layers.split(","))
        layers = {name: layer for name, layer in layers.items() if name.startswith(wanted)}
        if not layers:
            parser.error("the catalogue has none of these layers")
    names = sorted(layers, key=lambda name: not own_batch_only(name))  # the trio first
    rows, left = [], 0
    for name in names:
        trio = own_batch_only(name)
        arithmetics = given.arithmetics or ("tf32,f16,bf16,f32" if trio else "tf32,f16")
        own = layers[name]["batch"]
        batches = ["own"] if trio else given.batches.split(",")
        for batch in dict.fromkeys(own if b == "own" else int(b) for b in batches):
            for arithmetic in arithmetics.split(","):
                if time.monotonic() > until:
                    left += 1
                    continue
                layer = dict(layers[name], batch=batch)
                row = {"layer": name, "batch": batch, "arithmetic": arithmetic, "word": word(layer, batch, arithmetic)}
                try:
                    row.update(measure(layer, arithmetic, given.solver))
                except (tconv.Error, RuntimeError) as failure:
                    row["failure"] = str(failure).splitlines()[0]
                torch.cuda.empty_cache()
                rows.append(row)
                save(given.out, {"machine": machine(), "rows": rows})
                print("%-32s b%-4d %-5s %s" % (name, batch, arithmetic, row.get("failure") or row.get("skipped") or (
                    "%.4f ms, PyTorch %s ms, error %s" % (row["ms"], row.get("torch_ms"), row["error"]))), flush=True)
    print()
    table(rows)
    if left:
        print("%d runs left out after %.0f s" % (left, given.seconds))


if __name__ == "__main__":
    main()
