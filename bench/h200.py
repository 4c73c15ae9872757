"""Times current kernels, answers and PyTorch side by side on one GPU, in one run, and checks each one.

    python3 bench/h200.py --answers DIR --out DIR [--quick]

DIR/manifest.json (bench/make_answers writes it) lists layers: their numbers, the answer to time, the current
kernel where a request gave one, and the ranked schedules to time for the cost model. Every layer runs on
fresh random data; the times are medians of CUDA graph replays, so that launches from Python are not counted,
with the eager times beside them. Errors are the largest |y - y64| over max |y64| on the first two images,
y64 in float64. The clocks and settings of the card are left as found.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time

import torch
import triton


def load(path):
    spec = importlib.util.spec_from_file_location("answer_" + os.path.basename(path).replace(".", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def event_times(run, count):
    run()
    torch.cuda.synchronize()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def eager_ms(run, count=15):
    return statistics.median(event_times(run, count))


def graph_ms(run, count=15, inside=4):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inside):
            run()
    return statistics.median(event_times(graph.replay, count)) / inside


def tensors(layer, batch=None, length=None):
    x = torch.randn(batch or layer["batch"], layer["c_in"], length or layer["length"], device="cuda")
    w = torch.randn(layer["c_in"], layer["c_out"] // layer["groups"], layer["kernel"], device="cuda")
    w *= (layer["c_in"] // layer["groups"] * layer["kernel"]) ** -0.5
    bias = torch.randn(layer["c_out"], device="cuda") if layer["bias"] else None
    return x, w, bias


def numbers(layer):
    return layer["stride"], layer["padding"], layer["output_padding"], layer["dilation"], layer["groups"]


def torch_call(layer, x, w, bias):
    stride, padding, output_padding, dilation, groups = numbers(layer)
    return torch.nn.functional.conv_transpose1d(x, w, bias, stride, padding, output_padding, groups, dilation)


def module_of(path, layer, w, bias):
    """ModelNew of a file with this layer's numbers, holding w and bias."""
    model = load(path).ModelNew(layer["c_in"], layer["c_out"], layer["kernel"], stride=layer["stride"],
                                padding=layer["padding"], dilation=layer["dilation"], bias=layer["bias"]).cuda()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(w if parameter.dim() == 3 else bias)
    return model


def scheduled(source, schedule):
    """The answer's text with one fixed schedule in place of its own."""
    lines = []
    skip = False
    for line in source.splitlines():
        if line.startswith("@triton.autotune("):
            skip = True
        if not skip:
            lines.append(line)
        if line == ")":
            skip = False
    text = "\n".join(lines) + "\n"
    at = text.index('PRECISION="ieee" if exact else "tf32", **shape,')
    end = text.index("    return y", at)
    call = ('PRECISION="ieee" if exact else "tf32", **shape,\n        BLOCK_ROWS={block_rows}, '
            'BLOCK_POSITIONS={block_positions}, BLOCK_CHANNELS={block_channels}, num_warps={warps}, '
            'num_stages={stages})\n')
    text = text[:at] + call.format(**schedule) + text[end:]
    mark = text.index("    phase_limit = ")
    return text[:mark] + "    phase_limit = {}\n".format(schedule["phases"]) + text[text.index("\n", mark) + 1:]


def warm(job):
    """Compiles in a process of its own; the results lie in Triton's cache afterwards."""
    path, layer = job
    try:
        x, w, bias = tensors(layer, 1, min(layer["length"], 256))
        load(path).conv_transpose1d(x, w, bias, *numbers(layer))
        torch.cuda.synchronize()
        return path, ""
    except Exception as error:
        return path, "%s: %s" % (type(error).__name__, str(error)[:200])


def error_of(y, reference, images):
    return ((y[:images].double() - reference).abs().max() / reference.abs().max()).item()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", required=True)
    parser.add_argument("--out", required=True)
    arguments = parser.parse_args()
    with open(os.path.join(arguments.answers, "manifest.json")) as file:
        manifest = json.load(file)
    os.makedirs(arguments.out, exist_ok=True)
    os.environ.setdefault("TRITON_CACHE_DIR", os.path.join("/tmp", "tconv-bench-triton"))
    seed = int(time.time())
    torch.manual_seed(seed)

    jobs, variants = [], {}
    for layer in manifest["layers"]:
        for name, file in layer["answers"].items():
            jobs.append((os.path.join(arguments.answers, file), layer))
        if layer.get("schedules"):
            with open(os.path.join(arguments.answers, layer["answers"]["h200"])) as file:
                source = file.read()
            for index, schedule in enumerate(layer["schedules"]):
                path = os.path.join(arguments.out, "%s_%02d.py" % (layer["name"], index))
                with open(path, "w") as out:
                    out.write(scheduled(source, schedule["schedule"]))
                variants[layer["name"], index] = path
                jobs.append((path, layer))
    start = time.time()
    with multiprocessing.get_context("spawn").Pool(max(1, (os.cpu_count() or 2) - 2)) as pool:
        failures = {path: why for path, why in pool.map(warm, jobs, chunksize=1) if why}
    print("seed %d, compiled %d in %.0f s, %d failed" % (seed, len(jobs), time.time() - start, len(failures)), flush=True)
    for path, why in failures.items():
        print("  FAILED", os.path.basename(path), why)

    rows, schedule_rows = [], []
    for layer in manifest["layers"]:
        x, w, bias = tensors(layer)
        images = min(2, layer["batch"])
        reference = torch_call(layer, x[:images].double(), w.double(), None if bias is None else bias.double())
        row = {"layer": layer["name"], "word": layer["word"], "limit_ms": layer["limit_ms"], "times": {}}
        best = None
        for benchmark in (False, True):
            torch.backends.cudnn.benchmark = benchmark
            call = lambda: torch_call(layer, x, w, bias)
            key = "torch_benchmark" if benchmark else "torch_heuristic"
            row["times"][key] = {"graph_ms": graph_ms(call), "eager_ms": eager_ms(call),
                                 "error": error_of(call(), reference, images)}
        runs = {name: os.path.join(arguments.answers, file) for name, file in layer["answers"].items()}
        if layer.get("current"):
            runs["current"] = os.path.join(arguments.answers, layer["current"])
        for name, path in runs.items():
            if path in failures:
                continue
            if layer.get("module"):
                model = module_of(path, layer, w, bias)
                call = lambda: model(x)
            else:
                function = load(path).conv_transpose1d
                call = lambda: function(x, w, bias, *numbers(layer))
            with torch.no_grad():
                y = call()
                entry = {"error": error_of(y, reference, images)}
                again = call()
                entry["repeats_bitwise"] = bool(torch.equal(y, again))
                del y, again
                entry["graph_ms"] = graph_ms(call, 7 if name == "current" else 15, 1 if name == "current" else 4)
                entry["eager_ms"] = eager_ms(call, 7 if name == "current" else 15)
            row["times"][name] = entry
        rows.append(row)
        cells = "  ".join("%s %.4f (%.1e)" % (k, v["graph_ms"], v["error"]) for k, v in row["times"].items())
        print("%-26s limit %.4f  %s" % (layer["name"], layer["limit_ms"], cells), flush=True)
        for index, schedule in enumerate(layer.get("schedules", [])):
            path = variants[layer["name"], index]
            if path in failures:
                schedule_rows.append({"layer": layer["word"], "name": layer["name"], "schedule": schedule["schedule"],
                                      "predicted_ms": schedule["predicted_ms"], "failed": failures[path]})
                continue
            function = load(path).conv_transpose1d
            call = lambda: function(x, w, bias, *numbers(layer))
            error = error_of(call(), reference, images)
            schedule_rows.append({"layer": layer["word"], "name": layer["name"], "schedule": schedule["schedule"],
                                  "predicted_ms": schedule["predicted_ms"], "ms": graph_ms(call, 9), "error": error})
        del x, w, bias, reference
        torch.cuda.empty_cache()

    driver = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                            capture_output=True, text=True).stdout.split()[0]
    machine = {"gpu": torch.cuda.get_device_name(), "driver": driver, "torch": torch.__version__,
               "triton": triton.__version__, "cudnn": torch.backends.cudnn.version(), "date": time.strftime("%Y-%m-%d"),
               "command": "python3 bench/h200.py --answers DIR --out DIR", "seed": seed}
    with open(os.path.join(arguments.out, "layers.json"), "w") as file:
        json.dump({"machine": machine, "rows": rows}, file, indent=1)
    with open(os.path.join(arguments.out, "model.json"), "w") as file:
        json.dump({"machine": machine, "rows": schedule_rows}, file, indent=1)
    for name in dict.fromkeys(r["name"] for r in schedule_rows):
        done = [r for r in schedule_rows if r["name"] == name and "ms" in r]
        fastest = min(done, key=lambda r: r["ms"])
        first = min(done, key=lambda r: r["predicted_ms"])
        print("%-26s %d schedules, first choice %.4f, best %.4f %s" % (name, len(done), first["ms"], fastest["ms"],
                                                                     json.dumps(fastest["schedule"])))


if __name__ == "__main__":
    sys.exit(main())
