"""Memory that a layer's first run on the CPU takes beyond its tensors and packed weights, in a process of its own.

    python3 bench/cpu_memory.py '{"c_in": 64, ..., "batch": 1, "length": 100, "arithmetic": "f32", "threads": 2}'

The keys are tconv.Plan's arguments. Prints JSON: memory_bytes, the peak of resident memory over what was resident
before the first run (workspaces, stacks, code); workspace_bytes, what the plan says of all threads; and the first and
second run's milliseconds in a fresh process. Needs neither torch nor numpy. Linux.
"""

import ctypes
import json
import mmap
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))
import tconv  # noqa: E402

SIZES = {"f32": 4, "tf32": 4, "f16": 2, "bf16": 2, "f64": 8, "i32": 4}


def status(key):
    """In bytes."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(key + r":\s+(\d+) kB", text)[1]) * 1024


class Memory:
    """Zeros that are resident, at a page's start."""

    def __init__(self, size):
        self.map = mmap.mmap(-1, max(1, size))
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        ctypes.memset(self.address, 0, size)


def main():
    layer = json.loads(sys.argv[1])
    batch, length, threads = (layer.pop(key) for key in ("batch", "length", "threads"))
    plan = tconv.Plan(**layer, device=tconv.CPU)
    size, out = SIZES[layer["arithmetic"]], plan.out_length(length)
    c_in, c_out = layer["c_in"], layer["c_out"]
    x, y = Memory(batch * c_in * length * size), Memory(batch * c_out * out * size)
    w, bias = Memory(c_in * (c_out // layer["groups"]) * layer["kernel"] * size), Memory(c_out * size)
    packed = Memory(plan.packed_bytes)
    plan.pack(w.address, (c_out // layer["groups"] * layer["kernel"], layer["kernel"], 1), packed.address)

    def run():
        start = time.perf_counter()
        plan.run(x.address, packed.address, bias.address if layer["bias"] else None, y.address, batch, length,
                 (c_in * length, length, 1), (c_out * out, out), threads=threads)
        return (time.perf_counter() - start) * 1e3

    explained = re.search(r"(\d+) KiB a thread", plan.explain(batch, length))
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts at what is resident
    before = status("VmRSS")
    first = run()
    peak = status("VmHWM")
    print(json.dumps({"memory_bytes": max(0, peak - before), "workspace_bytes": int(explained[1]) * 1024 * threads,
                      "process_first_ms": first, "process_second_ms": run()}))


if __name__ == "__main__":
    main()
