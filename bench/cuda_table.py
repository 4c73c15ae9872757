#!/usr/bin/env python3
"""Tables and the plot of what bench/cuda.py measured.

cuda_table.py RESULTS.json...: the first row of a (layer, batch, arithmetic) counts; writes RESULTS.md and RESULTS.svg beside
the first file. The limit is that of the sheet of the GPU (TCONV_BINARY, or build/release/tconv plan)."""

import json
import math
import os
import pathlib
import subprocess
import sys

from layers import ROOT, note

BINARY = os.environ.get("TCONV_BINARY", ROOT / "build" / "release" / "tconv")


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values))


def limit_ms(word, target):
    out = subprocess.run([BINARY, "plan", word, "--target", target, "--json"], capture_output=True, text=True, check=False)
    return json.loads(out.stdout)["limit"]["seconds"] * 1e3 if out.returncode == 0 else None


def plot(rows):
    """One dot a row: times PyTorch over the time of our kernel, by the latter."""
    width, height, left, bottom = 720, 320, 50, 40
    x_low, x_high, y_low, y_high = math.log10(0.002), math.log10(30), math.log10(0.25), math.log10(40)

    def x(ms):
        return left + (math.log10(ms) - x_low) / (x_high - x_low) * (width - left - 10)

    def y(ratio):
        return height - bottom - (math.log10(ratio) - y_low) / (y_high - y_low) * (height - bottom - 10)

    colours = {"tf32": "#1b6ca8", "f16": "#c0392b", "bf16": "#8e44ad", "f32": "#27ae60"}
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">']
    for ms in (0.01, 0.1, 1, 10):
        out.append(f'<path d="M{x(ms):.1f} 10V{height - bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x(ms):.1f}" y="{height - bottom + 15}" text-anchor="middle">{ms:g} ms</text>')
    for ratio in (0.5, 1, 2, 5, 10, 20):
        stroke = "#555" if ratio == 1 else "#ddd"
        out.append(f'<path d="M{left} {y(ratio):.1f}H{width - 10}" stroke="{stroke}"/>')
        out.append(f'<text x="{left - 6}" y="{y(ratio) + 4:.1f}" text-anchor="end">{ratio:g}x</text>')
    for row in rows:
        dot = f'cx="{x(row["ms"]):.1f}" cy="{y(min(max(row["faster"], 0.26), 39)):.1f}"'
        out.append(f'<circle {dot} r="2.5" fill="{colours[row["arithmetic"]]}" fill-opacity="0.6"/>')
    for i, (name, colour) in enumerate(colours.items()):
        out.append(f'<text x="{left + 10 + 50 * i}" y="24" fill="{colour}">{name}</text>')
    out.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">time of our kernel; height: times faster than PyTorch</text>')
    return "\n".join([*out, "</svg>", ""])


def main():
    files = [pathlib.Path(name) for name in sys.argv[1:]]
    if not files:
        sys.exit(__doc__)
    data = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    machine = data[0]["machine"]
    target = "h200" if "H200" in machine["gpu"] else "h100"
    rows = {}
    for row in (row for part in data for row in part["rows"] if "ms" in row and "faster" in row):
        rows.setdefault((row["layer"], row["batch"], row["arithmetic"]), row)
    rows = list(rows.values())
    text = [
        f"# The CUDA engine on an {machine['gpu']}\n",
        f"{machine['gpu']}, PyTorch {machine['torch']}, cuDNN {machine['cudnn']}, tconv {machine['tconv']}, {machine['date'][:10]}; "
        f"`{machine['command'].split(' --out')[0]}`.",
        "Random data, cold L2, medians of CUDA graph replays in ms; PyTorch: the better of cuDNN's heuristic and benchmark modes, TF32",
        "allowed where the arithmetic is tf32. Error: the largest |y - y64| over max |y64|. Limit: of the GPU's sheet.\n",
        *note(machine),
        f"![times faster than PyTorch]({files[0].stem}.svg)\n",
        "| arithmetic | runs | geometric mean, times PyTorch | least | slower than PyTorch |",
        "|---|---:|---:|---:|---:|",
    ]
    for arithmetic in ("tf32", "f16", "bf16", "f32"):
        ratios = [row["faster"] for row in rows if row["arithmetic"] == arithmetic]
        if ratios:
            slower = sum(ratio < 1 for ratio in ratios)
            text.append(f"| {arithmetic} | {len(ratios)} | {geometric_mean(ratios):.2f} | {min(ratios):.2f} | {slower} |")
    text += ["", "| layer | batch | arithmetic | solver | ours | limit | PyTorch | faster | error | PyTorch's error |",
             "|---|---:|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        limit = limit_ms(row["word"], target) if "word" in row else None
        text.append(
            f"| {row['layer']} | {row['batch']} | {row['arithmetic']} | {row['solver']} | {row['ms']:.4f} | "
            f"{'' if limit is None else f'{limit:.4f}'} | {row['torch_ms']:.4f} | {row['faster']:.2f}x | {row['error']:.1e} | "
            f"{format(row['torch_error'], '.1e') if 'torch_error' in row else ''} |")
    files[0].with_suffix(".md").write_text("\n".join(text) + "\n", encoding="utf-8")
    files[0].with_suffix(".svg").write_text(plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
