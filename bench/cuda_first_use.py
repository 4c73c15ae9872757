"""Times the first use of a layer in a new process on a GPU: with an empty cache of kernels, and with its kernels there.

    python3 bench/cuda_first_use.py --out FILE [--layers NAME,...] [--arithmetics tf32,f16] [--warm N] [--seconds N]

Needs libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so), the driver and NVRTC. Every figure is of a process of its
own, which makes the device's context first, as any program that has tensors there has done, and whose time is told
apart. Then, in milliseconds: the plan (what is compiled, or read from the cache, and loaded), packing, and the first run
up to the end of its synchronisation. One process starts with an empty cache, N with what that one left; of these the
median. The last rows are of a process that has PyTorch loaded. FILE is written after every layer.
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from layers import ROOT, catalogue, elements, out_length, problem, save, word

LAYERS = "kb_l1_64,kb_l1_74,kb_l1_79,hifigan_v1_up0,istft_1024_256,mimi_10s_dwup"
IN_TORCH = "kb_l1_79"
BARS_MS = {"cold": 1500, "warm": 50}
BYTES = {"tf32": 4, "f32": 4, "f16": 2, "bf16": 2}


def child(name, arithmetic, in_torch):
    """Prints one JSON object. The driver is called by ctypes, so that nothing but tconv is waited for."""
    sys.path.insert(0, str(ROOT / "python"))
    marks = [("start", time.perf_counter())]

    def mark(what):
        marks.append((what, time.perf_counter()))

    if in_torch:
        import torch
        mark("import torch")
        torch.zeros(1, device="cuda")
    import tconv
    mark("import tconv")
    driver = ctypes.CDLL("libcuda.so.1")

    def call(function, *arguments):
        status = getattr(driver, function)(*arguments)
        if status:
            raise RuntimeError("%s: error %d" % (function, status))

    context, device = ctypes.c_void_p(), ctypes.c_int()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)

    def memory(count):
        pointer = ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(count, 1)))
        call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(0), ctypes.c_size_t(max(count, 1)))
        return pointer.value

    layer = catalogue()[name]
    x, w, bias, y = (memory(count * BYTES[arithmetic]) for count in elements(layer))
    call("cuCtxSynchronize")
    mark("context")

    plan = tconv.Plan(**problem(layer), arithmetic=arithmetic, device=0)
    mark("plan")
    packed = memory(plan.packed_bytes)
    rows = layer["c_out"] // layer["groups"]
    plan.pack(w, (rows * layer["kernel"], layer["kernel"], 1), packed)
    mark("pack")
    length, out = layer["length"], out_length(layer, layer["length"])
    plan.run(x, packed, bias if layer["bias"] else None, y, layer["batch"], length,
             (layer["c_in"] * length, length, 1), (layer["c_out"] * out, out))
    call("cuCtxSynchronize")
    mark("run")
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        nvrtc = sorted({os.path.basename(line.split()[-1]) for line in maps if "libnvrtc.so" in line})
    ms = {what: (at - marks[i][1]) * 1e3 for i, (what, at) in enumerate(marks[1:])}
    explain = plan.explain(layer["batch"], length)
    print(json.dumps({"ms": ms, "first_use_ms": ms["plan"] + ms["pack"] + ms["run"], "nvrtc": nvrtc,
                      "plan": explain.split("\n", 1)[0], "schedules": explain.count(" predicted, ")}))


def measure(name, arithmetic, in_torch, warm):
    command = [sys.executable, __file__, "--child", name, arithmetic, str(int(in_torch))]
    with tempfile.TemporaryDirectory() as cache:
        runs = []
        for _ in range(1 + warm):
            done = subprocess.run(command, env=os.environ | {"TCONV_CACHE": cache}, capture_output=True, text=True,
                                  timeout=120)
            if done.returncode:
                raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
            runs.append(json.loads(done.stdout))
        files = sum(path.is_file() for path in pathlib.Path(cache).rglob("*"))
    cold, others = runs[0], sorted(runs[1:], key=lambda run: run["first_use_ms"])
    return {"plan": cold["plan"], "schedules": cold["schedules"], "nvrtc": cold["nvrtc"], "cached_files": files,
            "cold_ms": cold["first_use_ms"], "cold": cold["ms"],
            "warm_ms": statistics.median(run["first_use_ms"] for run in others), "warm": others[len(others) // 2]["ms"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--layers", default=LAYERS, help="of the catalogue; default: %(default)s")
    parser.add_argument("--arithmetics", default="tf32,f16")
    parser.add_argument("--warm", type=int, default=3, help="processes that find their kernels")
    parser.add_argument("--seconds", type=float, default=180, help="starts no layer after this long")
    given = parser.parse_args()
    until = time.monotonic() + given.seconds
    layers, rows = catalogue(), []
    cases = [(name, arithmetic, in_torch) for in_torch in (False, True) for name in given.layers.split(",")
             for arithmetic in given.arithmetics.split(",") if not in_torch or name == IN_TORCH]
    print("ms: cold = plan + pack + run; warm likewise; the context before them")
    for name, arithmetic, in_torch in cases:
        row = {"layer": name, "word": word(layers[name], layers[name]["batch"], arithmetic), "arithmetic": arithmetic,
               "torch": in_torch}
        try:
            if time.monotonic() > until:
                raise RuntimeError("left out after %.0f s" % given.seconds)
            row |= measure(name, arithmetic, in_torch, given.warm)
            told = ["%6.0f = %6.0f + %4.1f + %4.1f" % (row[kind + "_ms"], *(row[kind][part] for part in ("plan", "pack", "run")))
                    for kind in BARS_MS]
            print("%-16s %-4s%s cold %s; warm %s; context %.0f; %d schedules, %s" % (
                name, arithmetic, " in PyTorch" if in_torch else "", *told, row["warm"]["context"], row["schedules"],
                row["nvrtc"]), flush=True)
        except Exception as failure:  # the others go on
            row["failure"] = str(failure)
            print("%-16s %-4s %s" % (name, arithmetic, failure), flush=True)
        rows.append(row)
        save(given.out, {"command": " ".join(["python3"] + sys.argv), "cores": os.cpu_count(), "bars_ms": BARS_MS,
                         "rows": rows})
    for kind, bar in BARS_MS.items():
        times = [row[kind + "_ms"] for row in rows if kind + "_ms" in row]
        if times:
            print("%s: %.0f to %.0f ms, bar %d" % (kind, min(times), max(times), bar))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4] == "1")
    else:
        main()
