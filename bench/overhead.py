"""Times one call of the smallest layer, in microseconds of the CPU: the C ABI, tconv.torch over it, PyTorch's own.

    python3 bench/overhead.py --out FILE [--calls N] [--device cuda]

Needs torch and libtconv.so (TCONV_LIBRARY, or build/release/libtconv.so), and an otherwise idle machine. One channel to
one, kernel 2, length 4, float32, with a bias, one thread: what is timed is the way to the kernel, not the kernel. Each
figure is the median over rounds of calls; the ways take turns within a round, so that a change of clock meets all.
"compiled" is the module under torch.compile, guards included, where there is a C++ compiler.
On a GPU a call has ended when its kernels are on their way; between rounds the GPU is waited for. Exits with 1 where
tconv.torch.conv_transpose1d takes 15 us more than the C ABI.
"""

import argparse
import functools
import pathlib
import platform
import statistics
import sys
import time

import torch

import cpu
import cuda
from layers import ROOT, save

sys.path.insert(0, str(ROOT / "python"))
import tconv.torch  # noqa: E402
from tconv import _native, _packed  # noqa: E402

BAR = 15.0
ROUNDS = 101


def ways(x, weight, bias):
    """The calls to time, by name."""
    own, ours = torch.nn.functional.conv_transpose1d, tconv.torch.conv_transpose1d
    arithmetic = "tf32" if x.is_cuda and tconv.torch._tf32() else "f32"
    layer = _packed.make(weight, (1, 0, 0, 1, 1, True, arithmetic, 0), keep=False)
    y, how = x.new_empty(1, 1, 5), _native.how(0, 1)
    launch = layer.launch
    flat = (x.data_ptr(), layer.packed, bias.data_ptr(), y.data_ptr(), 1, 4, 4, 4, 1, 5, 5, 0, 0)
    modules = [kind(1, 1, 2, device=x.device) for kind in (tconv.torch.ConvTranspose1d, torch.nn.ConvTranspose1d)]
    operator = torch.ops.tconv.conv_transpose1d.default
    calls = {
        "C ABI": lambda memory=(layer, y): launch(how, *flat),  # the pointers in `flat` are theirs
        "tconv.torch.conv_transpose1d": lambda: ours(x, weight, bias),
        "torch's conv_transpose1d": lambda: own(x, weight, bias),
        "tconv.torch.ConvTranspose1d": lambda: modules[0](x),
        "torch's ConvTranspose1d": lambda: modules[1](x),
        "torch.ops.tconv.conv_transpose1d": lambda: operator(x, weight, bias),
    }
    if cpu.no_compiler() is None:
        calls |= {name + ", compiled": functools.partial(torch.compile(module), x)
                  for name, module in zip(("tconv.torch.ConvTranspose1d", "torch's ConvTranspose1d"), modules)}
    return calls


def medians(calls, count):
    times = {name: [] for name in calls}
    for call in calls.values():  # compiles
        call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(count):
                call()
            times[name].append((time.perf_counter() - start) / count * 1e6)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="such as bench/results/NAME.json")
    parser.add_argument("--calls", type=int, default=1000, help="in each round")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x, *parameters = (torch.randn(*shape, device=arguments.device) for shape in ((1, 1, 4), (1, 1, 2), (1,)))
    weight, bias = map(torch.nn.Parameter, parameters)
    calls = ways(x, weight, bias)
    with torch.no_grad():
        plain = medians(calls, arguments.calls)
    del calls["C ABI"]
    graded = medians(calls, max(arguments.calls // 10, 1))
    over = round(plain["tconv.torch.conv_transpose1d"] - plain["C ABI"], 3)
    print(f"{'us a call':40}{'no_grad':>10}{'with gradients':>16}")
    for name, value in plain.items():
        print(f"{name:40}{value:10.2f}" + (f"{graded[name]:16.2f}" if name in graded else ""))
    print(f"tconv.torch over the C ABI: {over} us (bar: {BAR:.0f})")
    machine = (cuda if arguments.device == "cuda" else cpu).machine()
    save(arguments.out, {"machine": machine | {"python": platform.python_version()},
                         "layer": "b1_i1_o1_l4_k2_f32_bias",
                         "microseconds": {"no_grad": plain, "with gradients": graded},
                         "over_the_c_abi": over, "bar": BAR})
    return int(over >= BAR)


if __name__ == "__main__":
    sys.exit(main())
