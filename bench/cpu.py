"""Times the CPU engine beside PyTorch and, where it is installed, ONNX Runtime: one machine, one run.

    python3 bench/cpu.py --out FILE [--layers GLOB,...] [--arithmetics f32,bf16] [--threads 1,16] [--seconds N]

Needs torch and libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so); ONNX Runtime's column needs onnxruntime and
onnx. Every layer of the catalogue at its own batch, each thread count. The contestants take turns: a turn is 5 ms of
rest, in which the others' threads fall asleep, a call that is not timed where calls are short, and timed calls; times
are medians over all turns. Each call makes its output, as PyTorch's do, ours in huge pages where tconv.torch takes
them; "ms_into" is ours into memory that is there, to which ONNX Runtime is compared, as it keeps its memory. First
calls see the shape for the first time, after a longer rest; ours has packed its weights before ("pack_ms"), which
happens once in a layer's life. What the rest costs, as cores wake and find their caches with others' data, is in the
median of five later calls after such rests ("rested_ms", of calls below 50 ms). Layers that PyTorch takes more than
5 s for, by trials at shorter lengths, are left out with the reason. Difference: the largest |ours - PyTorch| over
max |PyTorch|. Memory: bench/cpu_memory.py, in a process of its own. The limit of a layer is that of `tconv plan --target
cpu` (TCONV_BINARY, or build/release/tconv), with rates measured in this run. FILE is written after every layer, so that
a run that is cut short keeps what it has.
"""

import argparse
import datetime
import fnmatch
import json
import math
import os
import pathlib
import platform
import random
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

import torch

from layers import ROOT, catalogue, elements, out_length, problem, save, useful_flops, word

sys.path.insert(0, str(ROOT / "python"))
import tconv  # noqa: E402
from tconv import _native  # noqa: E402

try:
    import onnx
    import onnxruntime
except ImportError:
    onnxruntime = None

BINARY = os.environ.get("TCONV_BINARY", ROOT / "build" / "release" / "tconv")
STORED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16, "f64": torch.float64}
TORCH_SECONDS = 5.0
TENSOR_BYTES = 12 << 30
REST = 0.005
FIRST_REST = 0.05  # before a first call: a framework's threads may spin for 5 ms after theirs
RESTED, RESTED_SECONDS = 5, 0.05  # calls after the same rest, of what takes less than this
TURN = 0.05  # of timed calls in a turn
MIN_TURNS, MAX_TURNS = 3, 15  # of a row, and between them as many as --row-seconds allows
LENGTHS = 200


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def rested(call):
    """Median in ms of calls that each come after a rest."""
    taken = []
    for _ in range(RESTED):
        time.sleep(FIRST_REST)
        taken.append(seconds(call))
    return statistics.median(taken) * 1e3


def take_turns(calls, first, row_seconds):
    """Medians in ms of calls by name, which take turns; `first`: what a call of each took before, in ms."""
    times = {name: [] for name in calls}
    last = {name: taken / 1e3 for name, taken in first.items()}
    until = time.perf_counter() + row_seconds
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() > until:
            break
        for name, call in calls.items():
            time.sleep(REST)
            if last[name] < TURN:
                call()
            end = time.perf_counter() + TURN
            while len(times[name]) <= turn or time.perf_counter() < end:
                last[name] = seconds(call)
                times[name].append(last[name])
    return {name: statistics.median(taken) * 1e3 for name, taken in times.items()}


class Tensors:
    def __init__(self, layer, dtype, length=None):
        length = length or layer["length"]
        torch.manual_seed(1)
        self.x = torch.randn(layer["batch"], layer["c_in"], length, dtype=dtype)
        self.w = torch.randn(layer["c_in"], layer["c_out"] // layer["groups"], layer["kernel"], dtype=dtype)
        self.w *= (layer["c_in"] // layer["groups"] * layer["kernel"]) ** -0.5
        self.bias = torch.randn(layer["c_out"], dtype=dtype) if layer["bias"] else None


def reference(layer, x, w, bias):
    return torch.nn.functional.conv_transpose1d(x, w, bias, layer["stride"], layer["padding"],
                                                layer["output_padding"], layer["groups"], layer["dilation"])


class Ours:
    def __init__(self, layer, arithmetic, w, bias, threads):
        self.plan = tconv.Plan(**problem(layer), arithmetic=arithmetic, device=tconv.CPU)
        self.bias = bias.data_ptr() if bias is not None else None
        self.c_out, self.threads = layer["c_out"], threads
        memory = torch.empty(self.plan.packed_bytes + 64, dtype=torch.uint8)
        memory.fill_(0)  # there before packing is timed
        self.packed = memory[-memory.data_ptr() % 64:]
        self.pack_seconds = seconds(lambda: self.plan.pack(w.data_ptr(), w.stride(), self.packed.data_ptr(),
                                                           threads=threads))

    def __call__(self, x, y=None):
        if y is None:
            y = torch.empty(x.shape[0], self.c_out, self.plan.out_length(x.shape[2]), dtype=x.dtype)
            if y.nbytes in _native.HUGE_PAGES:
                _native.prefer_huge_pages(y.data_ptr(), y.nbytes)
        self.plan.run(x.data_ptr(), self.packed.data_ptr(), self.bias, y.data_ptr(), x.shape[0], x.shape[2],
                      x.stride(), y.stride()[:2], threads=self.threads)
        return y


def onnx_call(layer, tensors, threads):
    """A call of ONNX Runtime's ConvTranspose, on float32."""
    def value(name, shape):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    weights = [onnx.numpy_helper.from_array(tensors.w.numpy(), "w")]
    if tensors.bias is not None:
        weights.append(onnx.numpy_helper.from_array(tensors.bias.numpy(), "bias"))
    node = onnx.helper.make_node(
        "ConvTranspose", ["x"] + [one.name for one in weights], ["y"], kernel_shape=[layer["kernel"]],
        strides=[layer["stride"]], pads=[layer["padding"]] * 2, output_padding=[layer["output_padding"]],
        dilations=[layer["dilation"]], group=layer["groups"])
    graph = onnx.helper.make_graph([node], "layer", [value("x", ["b", layer["c_in"], "l"])],
                                   [value("y", ["b", layer["c_out"], "t"])], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = tensors.x.numpy()
    return lambda: session.run(None, {"x": x})[0]


def probe(layer, dtype):
    """About the seconds of PyTorch's call, from trials at ever longer lengths, none of them the layer's own."""
    whole = layer["length"]
    length, before, slope = max(1, int(whole * 2e7 / useful_flops(layer))), None, 0
    while True:
        trial = dict(layer, length=min(length, whole) + 1)
        if out_length(trial, trial["length"]) >= 1:
            t = Tensors(trial, dtype)
            taken = min(seconds(lambda: reference(trial, t.x, t.w, t.bias)) for _ in range(3))
            if before:
                slope = max(0, taken - before[1]) / (trial["length"] - before[0])
            expected = taken + slope * max(0, whole - trial["length"])
            if trial["length"] > whole or expected > TORCH_SECONDS or (before and taken > 0.2):
                return expected
            before = trial["length"], taken
        length *= 4


def available_bytes():
    text = pathlib.Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024


def memory(layer, arithmetic, threads):
    """What bench/cpu_memory.py says of a first run."""
    child = subprocess.run([sys.executable, str(ROOT / "bench" / "cpu_memory.py"), json.dumps(
        dict(problem(layer), batch=layer["batch"], length=layer["length"], arithmetic=arithmetic, threads=threads))],
        capture_output=True, text=True, check=False)
    return json.loads(child.stdout) if child.returncode == 0 else {"memory_failure": child.stderr.strip()[-200:]}


def plan(text, threads):
    """What `tconv plan` says of a word, or None where it cannot say it of this CPU."""
    done = subprocess.run([BINARY, "plan", text, "--target", "cpu", "--threads", str(threads), "--json"],
                          capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def measure(text, layer, arithmetic, threads, row_seconds):
    dtype = STORED[arithmetic]
    x, w, bias, y = elements(layer)
    result = {"flops": useful_flops(layer), "bytes": (x + w + bias + y) * dtype.itemsize}
    torch.set_num_threads(threads)
    held = (x + 3 * w + 2 * y) * dtype.itemsize
    if held > min(TENSOR_BYTES, available_bytes() // 2):
        return dict(result, skipped="%.1f GB of tensors" % (held / 1e9))
    expected = probe(layer, dtype)
    if expected > TORCH_SECONDS:
        return dict(result, skipped="PyTorch would take %.1f s" % expected)

    t = Tensors(layer, dtype)
    ours = Ours(layer, arithmetic, t.w, t.bias, threads)
    explained = ours.plan.explain(layer["batch"], layer["length"])
    result.update(solver=explained.split(" ", 1)[0], explain=explained, pack_ms=ours.pack_seconds * 1e3,
                  packed_bytes=ours.plan.packed_bytes)
    calls = {"ms": lambda: ours(t.x), "torch_ms": lambda: reference(layer, t.x, t.w, t.bias)}
    if onnxruntime and arithmetic == "f32":
        try:
            calls["onnx_ms"] = onnx_call(layer, t, threads)
        except Exception as failure:  # the runtime has exceptions of its own for what it does not serve
            result["onnx_failure"] = str(failure).splitlines()[0][:200]
    first = {}
    for name, call in calls.items():
        time.sleep(FIRST_REST)
        first[name] = seconds(call) * 1e3
    result.update({"first_" + name: value for name, value in first.items()})
    result.update({"rested_" + name: rested(call) for name, call in calls.items() if first[name] < RESTED_SECONDS * 1e3})
    due = calls["torch_ms"]()
    largest = due.abs().max().double().clamp_min(1e-300)
    y = ours(t.x)
    result["difference"] = ((y - due).abs().max() / largest).item()
    result["finite"] = bool(torch.isfinite(y).all())
    if "onnx_ms" in calls:
        result["onnx_difference"] = ((torch.from_numpy(calls["onnx_ms"]()) - due).abs().max() / largest).item()
    del due
    calls["ms_into"] = lambda: ours(t.x, y)
    result.update(take_turns(calls, dict(first, ms_into=first["ms"]), row_seconds))
    result["faster"] = result["torch_ms"] / result["ms"]
    if "onnx_ms" in result:
        result["faster_than_onnx"] = result["onnx_ms"] / result["ms_into"]  # as it keeps its memory between calls
    del calls, t, y
    result.update(memory(layer, arithmetic, threads))
    if planned := plan(text, threads):
        result["limit"] = planned["limit"]
    return result


def rates(threads):
    """What this machine does at best: by `tconv plan`; by PyTorch's matrix product and its copy, read and written."""
    torch.set_num_threads(threads)
    planned = plan("i1_o1_l1_k1", threads)
    a, b, c = (torch.randn(2048, 2048) for _ in range(3))
    source, target = torch.ones(1 << 27, dtype=torch.uint8), torch.ones(1 << 27, dtype=torch.uint8)
    product, copy = lambda: torch.mm(a, b, out=c), lambda: target.copy_(source)
    product()
    return {"threads": threads, "tconv": planned and planned["rates"],
            "torch_sgemm_2048_gflops": 2 * 2048**3 / min(seconds(product) for _ in range(7)) / 1e9,
            "torch_copy_gbytes": 2 * source.numel() / min(seconds(copy) for _ in range(7)) / 1e9}


def random_lengths(name, layer, arithmetic, threads):
    """Time per output over lengths that are all new, beside that at one length; both contestants in turns."""
    torch.set_num_threads(threads)
    t = Tensors(layer, STORED[arithmetic])
    ours = Ours(layer, arithmetic, t.w, t.bias, threads)
    draw = random.Random(1)
    fixed = layer["length"]
    lengths = draw.sample(range(fixed // 2, fixed + fixed // 2), min(LENGTHS, fixed))
    xs = torch.randn(layer["batch"], layer["c_in"], 2 * fixed, dtype=t.x.dtype)
    contestants = {"ours": ours, "torch": lambda x: reference(layer, x, t.w, t.bias)}
    taken = {key: {"fixed": [], "random": []} for key in contestants}
    for call in contestants.values():
        call(t.x)
    for length in lengths:
        x = xs[:, :, :length].contiguous()
        for key, call in contestants.items():
            time.sleep(REST)
            call(t.x)
            for kind, of in (("fixed", t.x), ("random", x)):
                outputs = layer["batch"] * layer["c_out"] * out_length(layer, of.shape[2])
                taken[key][kind].append(seconds(lambda: call(of)) / outputs * 1e9)
    result = {"layer": name, "arithmetic": arithmetic, "threads": threads, "lengths": len(lengths),
              "least": min(lengths), "most": max(lengths), "fixed": fixed}
    for key, kinds in taken.items():
        for kind, values in kinds.items():
            result["%s_%s_ns_per_output" % (key, kind)] = statistics.median(values)
        result[key + "_slower"] = statistics.median(kinds["random"]) / statistics.median(kinds["fixed"])
    return result


def caches():
    found = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size, shared = ((index / name).read_text(encoding="ascii").strip()
                                     for name in ("level", "type", "size", "shared_cpu_list"))
        found["L%s %s" % (level, kind)] = "%s, shared by CPUs %s" % (size, shared)
    return found


def no_compiler():
    """Why torch.compile cannot work here; None where it can."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        return "no C++ compiler"
    if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
        return "no Python.h"
    return None


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.*)", info)
    onednn = re.search(r"MKL-DNN v([\d.]+)", torch.__config__.show())
    capability = re.search(r"CPU capability usage: (\w+)", torch.__config__.show())
    return {"cpu": model[1] if model else platform.machine(), "cores": len(os.sched_getaffinity(0)), "caches": caches(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "kernel": platform.release(),
            "torch": torch.__version__, "onednn": onednn[1] if onednn else None,
            "torch_capability": capability[1] if capability else None,
            "onnxruntime": onnxruntime.__version__ if onnxruntime else None, "tconv": tconv.version(),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": " ".join(["python3", "bench/" + pathlib.Path(sys.argv[0]).name] + sys.argv[1:])}


def summary(rows):
    for key in dict.fromkeys((r["arithmetic"], r["threads"]) for r in rows):
        timed = sorted((r for r in rows if (r["arithmetic"], r["threads"]) == key and "faster" in r),
                       key=lambda r: r["faster"])
        if timed:
            print("%s, %d threads, %d layers: geometric mean %.3f times PyTorch, least %.3f (%s)" % (
                *key, len(timed), math.exp(statistics.fmean(math.log(r["faster"]) for r in timed)), timed[0]["faster"],
                timed[0]["layer"]))


def line(row):
    if "ms" not in row:
        return row.get("skipped") or row["failure"]
    text = "%.4f ms, PyTorch %.4f ms, %.2f times as fast" % (row["ms"], row["torch_ms"], row["faster"])
    return text + (", ONNX Runtime %.4f ms" % row["onnx_ms"] if "onnx_ms" in row else "")


def main():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path, help="such as bench/results/NAME.json")
    parser.add_argument("--layers", default="*", help="patterns of names of the catalogue, joined by commas")
    parser.add_argument("--arithmetics", default="f32", help="of %s, joined by commas" % ", ".join(STORED))
    parser.add_argument("--threads", default=",".join(map(str, dict.fromkeys((1, cores)))), help="default: %(default)s")
    parser.add_argument("--lengths-layer", default="hifigan_v2_up1", help="for random lengths; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=math.inf, help="starts no layer after this long")
    parser.add_argument("--row-seconds", type=float, default=2, help="of timed turns for a row; default: %(default)s")
    given = parser.parse_args()

    layers = catalogue()
    if given.lengths_layer not in layers:
        parser.error("the catalogue has no layer " + given.lengths_layer)
    names = [name for name in layers if any(fnmatch.fnmatch(name, glob) for glob in given.layers.split(","))]
    if not names:
        parser.error("the catalogue has none of these layers")
    threads = [int(n) for n in given.threads.split(",")]
    arithmetics = given.arithmetics.split(",")
    runs = [(name, arithmetic, n) for name in names for arithmetic in arithmetics for n in threads]
    start = time.monotonic()
    # Rates that were measured before, perhaps on a busy machine, are not found in an empty cache.
    cache = tempfile.TemporaryDirectory()
    os.environ["TCONV_CACHE"] = cache.name
    results = {"machine": machine(), "rates": [rates(n) for n in threads], "rows": [], "lengths": []}
    for done, (name, arithmetic, n) in enumerate(runs):
        if time.monotonic() - start > given.seconds:
            results["left_out"] = len(runs) - done
            break
        row = {"layer": name, "batch": layers[name]["batch"], "arithmetic": arithmetic, "threads": n,
               "word": word(layers[name], layers[name]["batch"], arithmetic)}
        try:
            row.update(measure(row["word"], layers[name], arithmetic, n, given.row_seconds))
        except (tconv.Error, RuntimeError) as failure:
            row["failure"] = str(failure).splitlines()[0]
        results["rows"].append(row)
        save(given.out, results)
        spent = time.monotonic() - start
        print("[%d/%d, %.0f s left] %-30s %-4s %2d threads: %s" % (
            done + 1, len(runs), max(0, min(given.seconds - spent, spent / (done + 1) * (len(runs) - done - 1))), name,
            arithmetic, n, line(row)), file=sys.stderr, flush=True)
    for n in threads:
        row = random_lengths(given.lengths_layer, layers[given.lengths_layer], arithmetics[0], n)
        results["lengths"].append(row)
        print("random lengths of %s, %d threads: ours %.3f, PyTorch %.3f times a fixed length's time" % (
            row["layer"], n, row["ours_slower"], row["torch_slower"]), file=sys.stderr, flush=True)
    results["rates"] += [rates(n) for n in threads]  # again, as a machine's clock and its other guests change
    save(given.out, results)
    summary(results["rows"])


if __name__ == "__main__":
    main()
