#!/usr/bin/env python3
"""The table and the plot of what bench/cpu.py measured.

cpu_table.py RESULTS.json: writes RESULTS.md and RESULTS.svg beside it. A layer's share is the time that the machine's
own rates allow over the time measured into memory that is there. Those are the limit of `tconv plan`; where the results
have none, the larger of flops over the rate of PyTorch's matrix product and bytes over that of its copy."""

import html
import json
import math
import pathlib
import re
import statistics
import sys


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def add_shares(rows, rates):
    for row in (row for row in rows if "ms" in row):
        if "limit" in row:
            arithmetic, traffic = (row["limit"][kind + "_seconds"] * 1e3 for kind in ("arithmetic", "memory"))
        else:
            own = [rate for rate in rates if rate["threads"] == row["threads"]]
            arithmetic = row["flops"] / max(rate["torch_sgemm_2048_gflops"] for rate in own) / 1e6
            traffic = row["bytes"] / max(rate["torch_copy_gbytes"] for rate in own) / 1e6
        row["arithmetic_share"] = arithmetic / row["ms_into"]
        row["share"] = max(arithmetic, traffic) / row["ms_into"]
        row["binds"] = "arithmetic" if arithmetic >= traffic else "memory"


def sizes(row):
    """c_in, c_out and groups."""
    return tuple(int(re.search(rf"_{key}(\d+)_", row["word"])[1]) for key in "iog")


def is_deep(row):
    c_in, _, groups = sizes(row)
    return groups == 1 and c_in >= 128


def is_thin(row):
    c_in, c_out, groups = sizes(row)
    return groups == c_in or (groups == 1 and 8 <= c_out <= 32)


def spread(values, form="{:.2f}"):
    """Median and extremes, of a sorted list."""
    values = sorted(values)
    return " / ".join(form.format(v) for v in (values[0], statistics.median(values), values[-1])) if values else ""


def ms(value):
    return "" if value is None else "%.4g" % value


def plot(rows):
    """One line a layer: times PyTorch on a logarithmic axis, and the share of the machine's rate."""
    threads = sorted({row["threads"] for row in rows})
    colours = dict(zip(threads, ("#1b6ca8", "#c0392b", "#27ae60", "#8e44ad")))
    by_layer = {}
    for row in rows:
        by_layer.setdefault(row["layer"], []).append(row)
    layers = sorted(by_layer, key=lambda name: by_layer[name][0]["faster"])
    step, top, left, wide, gap, narrow = 13, 46, 200, 420, 40, 200
    height = top + step * len(layers) + 10
    low = min(0.5, min(row["faster"] for row in rows))
    high = max(10, max(row["faster"] for row in rows))
    right = left + wide + gap

    def x(ratio):
        return left + math.log(ratio / low) / math.log(high / low) * wide

    def share_x(share):
        return right + min(share, 1.2) / 1.2 * narrow

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + narrow + 20} {height}" '
           'font-family="sans-serif" font-size="10">', "<title>The CPU engine beside PyTorch</title>",
           "<desc>For each layer, how many times as fast as PyTorch on a logarithmic axis, with the geometric mean as a "
           "dashed line, and the share of the machine's own rate that it reaches.</desc>",
           '<rect width="100%" height="100%" fill="#fff"/>']
    for ratio in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if low <= ratio <= high:
            stroke = "#555" if ratio == 1 else "#ddd"
            out.append(f'<path d="M{x(ratio):.1f} {top - 8}V{height - 6}" stroke="{stroke}"/>')
            out.append(f'<text x="{x(ratio):.1f}" y="{top - 12}" text-anchor="middle">{ratio:g}x</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        stroke = "#555" if share == 1 else "#ddd"
        out.append(f'<path d="M{share_x(share):.1f} {top - 8}V{height - 6}" stroke="{stroke}"/>')
        out.append(f'<text x="{share_x(share):.1f}" y="{top - 12}" text-anchor="middle">{share:.0%}</text>')
    out.append(f'<text x="{left}" y="14" font-size="12">times as fast as PyTorch</text>')
    out.append(f'<text x="{right}" y="14" font-size="12">share of the machine\'s rate</text>')
    for i, n in enumerate(threads):
        mean = geometric_mean([row["faster"] for row in rows if row["threads"] == n])
        out.append(f'<path d="M{x(mean):.1f} {top - 8}V{height - 6}" stroke="{colours[n]}" stroke-dasharray="4 3"/>')
        out.append(f'<text x="8" y="{14 + 12 * i}" fill="{colours[n]}">{n} thread{"s" if n > 1 else ""}: geometric mean '
                   f'{mean:.2f}x</text>')
    for i, name in enumerate(layers):
        y = top + step * i + 4
        out.append(f'<text x="{left - 8}" y="{y + 3}" text-anchor="end">{html.escape(name)}</text>')
        for row in by_layer[name]:
            for at in (x(row["faster"]), share_x(row["share"])):
                out.append(f'<circle cx="{at:.1f}" cy="{y}" r="3" fill="{colours[row["threads"]]}" fill-opacity="0.7"/>')
    return "\n".join([*out, "</svg>", ""])


def report(data, name):
    machine, rates = data["machine"], data["rates"]
    timed = [row for row in data["rows"] if "ms" in row]
    runs = list(dict.fromkeys((row["arithmetic"], row["threads"]) for row in timed))
    caches = "; ".join(f"{key} {value}" for key, value in machine["caches"].items())
    onnx = f", ONNX Runtime {machine['onnxruntime']}" if machine["onnxruntime"] else ""
    text = [
        f"# The CPU engine on {machine['cpu']}\n",
        f"{machine['cpu']}, {machine['cores']} cores ({caches}), PyTorch {machine['torch']} with oneDNN "
        f"{machine['onednn']} ({machine['torch_capability']}){onnx}, tconv {machine['tconv']}, {machine['date'][:10]}; `{machine['command']}`.",
        "Times in ms, medians of turns taken with the others, each call making its output. Share: the time that the "
        "machine's rates below allow over ours into memory that is there. First: the first call of a shape over the median one; "
        "rested: over later calls that come after the same rest, where they were timed. "
        "Difference: the largest |ours - PyTorch| over max |PyTorch|.\n",
        f"![times as fast as PyTorch]({name}.svg)\n",
        "| threads | multiply-adds in registers, f32, GFLOP/s | copy in memory, GB/s read and written | PyTorch's product of "
        "2048 x 2048, GFLOP/s | its copy, GB/s |", "|---:|---:|---:|---:|---:|"]
    for n in dict.fromkeys(rate["threads"] for rate in rates):
        own = [rate for rate in rates if rate["threads"] == n]
        ours = own[0]["tconv"]
        text.append(f"| {n} | {'%.1f' % (ours['f32'] / 1e9) if ours else ''} | "
                    f"{'%.1f' % (ours['levels'][-1]['copy'] / 1e9) if ours else ''} | "
                    f"{max(r['torch_sgemm_2048_gflops'] for r in own):.1f} | "
                    f"{max(r['torch_copy_gbytes'] for r in own):.1f} |")
    text += ["", "Three numbers: least / median / most.\n",
             "| arithmetic | threads | layers | times PyTorch, geometric mean | least | below 0.95 | times ONNX Runtime | "
             "C_in of 128 and more: share of the arithmetic rate | depthwise, C_out of 8 to 32: share | first: ours | "
             "first: PyTorch | rested: ours | rested: PyTorch | MB a thread |",
             "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    for arithmetic, n in runs:
        rows = [row for row in timed if (row["arithmetic"], row["threads"]) == (arithmetic, n)]
        faster = [row["faster"] for row in rows]
        than_onnx = [row["faster_than_onnx"] for row in rows if "faster_than_onnx" in row]
        text.append(" ".join((
            f"| {arithmetic} | {n} | {len(rows)} | {geometric_mean(faster):.2f} | {min(faster):.2f} |",
            f"{sum(f < 0.95 for f in faster)} | {'%.2f' % geometric_mean(than_onnx) if than_onnx else ''} |",
            f"{spread([r['arithmetic_share'] for r in rows if is_deep(r)], '{:.0%}')} |",
            f"{spread([r['share'] for r in rows if is_thin(r)], '{:.0%}')} |",
            f"{spread([r['first_ms'] / r['ms'] for r in rows])} |",
            f"{spread([r['first_torch_ms'] / r['torch_ms'] for r in rows])} |",
            f"{spread([r['first_ms'] / r['rested_ms'] for r in rows if 'rested_ms' in r])} |",
            f"{spread([r['first_torch_ms'] / r['rested_torch_ms'] for r in rows if 'rested_torch_ms' in r])} |",
            f"{spread([r['memory_bytes'] / 1e6 / n for r in rows if 'memory_bytes' in r])} |")))
    text += ["", "| random lengths of | threads | lengths | ours: time per output over a fixed length's | PyTorch |",
             "|---|---:|---:|---:|---:|"]
    for row in data["lengths"]:
        text.append(f"| {row['layer']} | {row['threads']} | {row['lengths']} from {row['least']} to {row['most']} | "
                    f"{row['ours_slower']:.3f} | {row['torch_slower']:.3f} |")
    text += ["", "| layer | arithmetic | threads | solver | ours | PyTorch | ONNX Runtime | times PyTorch | GFLOP/s | share | "
             "binds | first | packing | difference |", "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|"]
    for row in timed:
        text.append(
            f"| {row['layer']} | {row['arithmetic']} | {row['threads']} | {row['solver']} | {ms(row['ms'])} | "
            f"{ms(row['torch_ms'])} | {ms(row.get('onnx_ms'))} | {row['faster']:.2f}x | "
            f"{row['flops'] / row['ms_into'] / 1e6:.1f} | {row['share']:.0%} | {row['binds']} | {ms(row['first_ms'])} | "
            f"{ms(row['pack_ms'])} | {row['difference']:.1e} |")
    others = [row for row in data["rows"] if "ms" not in row]
    if others:
        text += ["", "Left out:\n"] + [f"- {row['layer']}, {row['arithmetic']}, {row['threads']} threads: "
                                       f"{row.get('skipped') or row['failure']}" for row in others]
    if "left_out" in data:
        text += ["", f"The run's time ended before {data['left_out']} more runs."]
    return "\n".join(text) + "\n"


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    file = pathlib.Path(sys.argv[1])
    data = json.loads(file.read_text(encoding="utf-8"))
    add_shares(data["rows"], data["rates"])
    timed = [row for row in data["rows"] if "ms" in row]
    if not timed:
        sys.exit(f"{file}: no layer was timed")
    file.with_suffix(".md").write_text(report(data, file.stem), encoding="utf-8")
    first = timed[0]["arithmetic"]
    file.with_suffix(".svg").write_text(plot([row for row in timed if row["arithmetic"] == first]), encoding="utf-8")


if __name__ == "__main__":
    main()
