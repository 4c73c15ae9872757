"""Builds, checks and times the CUDA answers of requests on one GPU, in one run.

    python3 bench/answers_cuda.py --tconv BINARY --out DIR [--target NAME] [--seconds N] [--arithmetics A,...]
        REQUEST[=WORD]...
    python3 bench/answers_cuda.py --out DIR

The first form answers the requests into DIR/NAME/ first (WORD is the layer, where the request does not tell it); the
second takes what lies in DIR. Needs torch, nvcc and ninja, and libtconv.so (TCONV_LIBRARY, or
build/release/libtconv.so) for the engine's times. --target is the GPU at hand: a request for another one is answered for this one.

Checked against float64, for every arithmetic, with and without a bias where the constructor lets choose: whole numbers,
whose sums are exact in all of them, and random data, within the bound of src/verify/bound.cpp; over several batches and
lengths, contiguous and not. Timed at the request's own sizes, as medians of CUDA graph replays over cold tensors: the
answer, which packs its weights in every call, the engine with weights packed before, and the better of PyTorch's modes.
The choice of a bias that the request has comes first, and its time before its checks. DIR/answers_cuda.json is written after
every arithmetic and choice of a bias.
"""

import argparse
import ast
import importlib.util
import inspect
import json
import math
import pathlib
import re
import subprocess
import sys
import time

import torch

from cuda import COLD_BYTES, STORED, Ours, graph_ms, machine, reference
from layers import elements, out_length, save

SIZES = ((1, 1), (2, 37), (3, 1000), (1, 4099))


def make(given):
    for request in given.requests:
        path, _, word = request.partition("=")
        folder = given.out / pathlib.Path(path).stem
        command = [given.tconv, "optimize", path, "--emit", "cuda", "--out", folder, "--compile", "never", "--json"]
        command += ["--target", given.target] if given.target else []
        command += ["--workload", word] if word else []
        report = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
        (folder / "report.json").write_text(report, encoding="utf-8")


def build(folders, arithmetics):
    """Every extension at once, each by a process of its own: the compiler takes a minute for one. Importing an answer
    builds its first, which one process does and the others wait for. What fails here fails again, and tells, where it is
    used."""
    script = "import runpy, sys; made = runpy.run_path(sys.argv[1]); made['extension'](sys.argv[2])"
    builders = []
    for folder in folders:
        texts = {text for (arithmetic, _), text in texts_of(folder).items() if arithmetic in arithmetics}
        builders += [subprocess.Popen([sys.executable, "-c", script, str(folder / "answer_cuda.py"), text],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for text in sorted(texts)]
    for builder in builders:
        builder.wait()


def texts_of(folder):
    """TEXT_OF of the answer, which importing it would build something for."""
    tree = ast.parse((folder / "answer_cuda.py").read_text(encoding="utf-8"))
    return next(ast.literal_eval(node.value) for node in tree.body
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "TEXT_OF")


def load(path):
    spec = importlib.util.spec_from_file_location("answer_" + path.parent.name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_of(module, layer, dtype, whole):
    """ModelNew with the arguments that its constructor has, holding small whole numbers or random ones."""
    names = inspect.signature(module.ModelNew.__init__).parameters
    numbers = {"in_channels": layer["c_in"], "out_channels": layer["c_out"], "kernel_size": layer["kernel"]}
    numbers |= {k: layer[k] for k in ("stride", "padding", "output_padding", "dilation", "groups", "bias")}
    model = module.ModelNew(**{k: v for k, v in numbers.items() if k in names}).cuda()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randint(-2, 3, p.shape, device="cuda") if whole else torch.randn(p.shape, device="cuda"))
            if not whole and p.dim() == 3:
                p.mul_((layer["c_in"] // layer["groups"] * layer["kernel"]) ** -0.5)
    model = model.to(dtype).requires_grad_(False)
    weight = next(p for p in model.parameters() if p.dim() == 3)
    return model, weight, next((p for p in model.parameters() if p.dim() == 1), None)


def bound(layer, arithmetic, x, weight, bias, due):
    """What rounding may do, by src/verify/bound.cpp for matrix units."""
    taps = math.ceil(layer["kernel"] * math.gcd(layer["stride"], layer["dilation"]) / layer["stride"])
    products = layer["c_in"] // layer["groups"] * taps
    unit = 2.0 ** (-53 if arithmetic == "f64" else -23)
    relative = 2 * (products + 1) * unit / (1 - 2 * (products + 1) * unit)
    if arithmetic == "tf32":
        relative += (2 ** -9 + 2 ** -20) * (1 + relative)
    off = relative * reference(layer, x.double().abs(), weight.double().abs(),
                               bias.double().abs() if bias is not None else None)
    stored = torch.finfo(x.dtype)
    return off + stored.eps / 2 * (due.abs() + off) + stored.smallest_normal * stored.eps


def check(module, layer, arithmetic):
    """The number of calls checked, and what was wrong with any."""
    dtype, wrong, calls = STORED.get(arithmetic, torch.float64), [], 0
    # Beyond each threshold of the table of launches, so that every schedule runs.
    text = module.KERNELS[module.TEXT_OF[arithmetic, layer["bias"]]]
    sizes = [*SIZES, (0, 37)] + [(2, int(least) // 2 + 77) for least in re.findall(r"\{(\d+), schedule_", text)]
    sizes = [size for size in sizes if math.prod(size) * max(layer["c_in"], layer["c_out"] * layer["stride"]) < 1 << 29]
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    for whole in (True, False):
        model, weight, bias = model_of(module, layer, dtype, whole)
        for batch, length in sizes:
            if out_length(layer, length) < 1:
                continue
            for adjacent in (True, False):
                shape = (batch, layer["c_in"], length) if adjacent else (batch, length, layer["c_in"])
                x = torch.randint(-2, 3, shape, device="cuda") if whole else torch.randn(shape, device="cuda")
                x = x.to(dtype) if adjacent else x.to(dtype).transpose(1, 2)
                y = model(x)
                due = reference(layer, x.double(), weight.double(), bias.double() if bias is not None else None)
                calls += 1
                case = "%s b%d l%d%s" % ("whole" if whole else "random", batch, length, "" if adjacent else " strided")
                if (y.shape, y.dtype) != (due.shape, dtype):
                    wrong.append("%s: %s %s, not %s" % (case, y.dtype, tuple(y.shape), tuple(due.shape)))
                    continue
                # Sums of whole numbers are exact; 16 bits may not hold them.
                allowed = ((due.to(dtype).double() - due).abs() if whole else
                           bound(layer, arithmetic, x, weight, bias, due))
                off = (y.double() - due).abs()
                if not bool((off <= allowed).all()):
                    wrong.append("%s: off by up to %.3g where %.3g is allowed" % (
                        case, off.max().item(), allowed.flatten()[(off - allowed).argmax()].item()))
    return calls, wrong


def timed(module, layer, arithmetic):
    dtype = STORED[arithmetic]
    torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    model, weight, bias = model_of(module, layer, dtype, False)
    x_count, _, _, y_count = elements(layer)
    sets = max(1, math.ceil(COLD_BYTES / ((x_count + y_count) * weight.element_size())))
    xs = [torch.randn(layer["batch"], layer["c_in"], layer["length"], device="cuda").to(dtype) for _ in range(sets)]
    ys = [torch.empty(layer["batch"], layer["c_out"], out_length(layer, layer["length"]), device="cuda", dtype=dtype)
          for _ in range(sets)]
    ours = Ours(layer, arithmetic, None, weight, bias)
    row = {"engine": ours.plan.explain(layer["batch"], layer["length"]).split(" ", 1)[0],
           "answer_ms": graph_ms([lambda x=x: model(x) for x in xs]),
           "engine_ms": graph_ms([lambda x=x, y=y: ours(x, y) for x, y in zip(xs, ys)])}
    # Once more, so that what changed on the machine meanwhile shows.
    row["answer_again_ms"] = graph_ms([lambda x=x: model(x) for x in xs])
    for benchmark in (False, True):
        torch.backends.cudnn.benchmark = benchmark
        ms = graph_ms([lambda x=x: reference(layer, x, weight, bias) for x in xs])
        row["torch_ms"] = min(ms, row.get("torch_ms", math.inf))
    row["over_engine"] = min(row["answer_ms"], row["answer_again_ms"]) / row["engine_ms"]
    return row


def measure(folder, arithmetics, until, keep):
    """Calls keep(result) whenever there is more of it."""
    with open(folder / "report.json", encoding="utf-8") as file:
        workload = json.load(file)["workload"]
    layer = dict(workload["problem"], batch=workload["batch"], length=workload["length"])
    module = load(folder / "answer_cuda.py")
    result = {"answer": folder.name, "word": workload["word"], "rows": []}
    print("%s: %s" % (folder.name, workload["word"]), flush=True)
    for bias in (layer["bias"], not layer["bias"]):
        for arithmetic in arithmetics:
            if (arithmetic, bias) not in module.TEXT_OF:
                continue
            own = dict(layer, bias=bias)
            row = {"arithmetic": arithmetic, "bias": bias, "wrong": []}
            result["rows"].append(row)
            if time.monotonic() > until:
                row["left_out"] = True
            else:
                if arithmetic != "f64" and bias == layer["bias"]:
                    row |= timed(module, own, arithmetic)
                row["checked"], row["wrong"] = check(module, own, arithmetic)
            keep(result)
            print("  %-5s%s %s%s" % (
                arithmetic, " bias" if bias else "     ",
                "%d checked, %d wrong" % (row["checked"], len(row["wrong"])) if "checked" in row else "left out",
                "; answer %.4f ms, %s %.4f ms (%.3f), PyTorch %.4f ms" % (
                    row["answer_ms"], row["engine"], row["engine_ms"], row["over_engine"], row["torch_ms"])
                if "answer_ms" in row else ""), flush=True)
            for line in row["wrong"][:3]:
                print("    " + line)
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requests", nargs="*", metavar="REQUEST[=WORD]")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--tconv")
    parser.add_argument("--target")
    parser.add_argument("--seconds", type=float, default=math.inf, help="starts no arithmetic after this long")
    parser.add_argument("--arithmetics", default="tf32,f32,f16,bf16,f64", help="default: %(default)s; each builds once a bias")
    given = parser.parse_args()
    if given.requests and not given.tconv:
        parser.error("--tconv BINARY answers the requests")
    until = time.monotonic() + given.seconds
    make(given)
    folders, results = sorted(path.parent for path in given.out.glob("*/answer_cuda.py")), {}
    arithmetics = given.arithmetics.split(",")
    start = time.perf_counter()
    build(folders, arithmetics)
    built = time.perf_counter() - start
    print("built in %.0f s" % built, flush=True)

    def keep(result):
        results[result["answer"]] = result
        save(given.out / "answers_cuda.json",
             {"machine": machine(), "build_seconds": built, "answers": list(results.values())})

    for folder in folders:
        measure(folder, arithmetics, until, keep)
    return 1 if any(row["wrong"] for result in results.values() for row in result["rows"]) else 0


if __name__ == "__main__":
    sys.exit(main())
