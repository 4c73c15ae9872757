#!/usr/bin/env python3
"""The table and the plot of what bench/models.py measured.

models_table.py RESULTS.json...: writes RESULTS.md and RESULTS.svg beside the first file, with the rows of all, which
are of one machine and device."""

import html
import json
import math
import pathlib
import sys

from cpu_table import geometric_mean, ms
from layers import note


def setting(row, device):
    """What tells the rows of one model apart."""
    threads = f"{row['threads']} thread" + "s" * (row["threads"] > 1)
    return ", ".join([row["mode"], *[threads] * (device == "cpu"), row["lengths"]])


def plot(rows, device):
    """One bar a row, models together: times as fast end to end, on a logarithmic axis."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    step, gap, left, wide = 15, 24, 190, 400
    low = min(0.8, min(row["faster"] for row in rows))
    high = max(2, max(row["faster"] for row in rows)) * 1.05
    height = 30 + step * len(rows) + gap * len(models)

    def x(ratio):
        return left + math.log(ratio / low) / math.log(high / low) * wide

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + wide + 220} {height}" '
           'font-family="sans-serif" font-size="11">', "<title>Generators after tconv.torch.replace beside before</title>",
           "<desc>For each generator and setting, the time before over the time after, end to end; logarithmic "
           "axis.</desc>", '<rect width="100%" height="100%" fill="#fff"/>']
    for tick in (0.8, 1, 1.25, 1.5, 2, 3, 5, 10):
        if low <= tick <= high:
            out.append(f'<path d="M{x(tick):.1f} 20V{height - 8}" stroke="{"#555" if tick == 1 else "#ddd"}"/>')
            out.append(f'<text x="{x(tick):.1f}" y="15" text-anchor="middle" fill="#333">{tick:g}x</text>')
    y = 24
    for model in models:
        out.append(f'<text x="8" y="{y + 12}" font-weight="bold" fill="#111">{html.escape(model)}</text>')
        y += gap - 6
        for row in (row for row in rows if row["model"] == model):
            colour = "#1b6ca8" if row["mode"] == "eager" else "#8e44ad"
            start, end = sorted((x(1), x(row["faster"])))
            out.append(f'<text x="{left - 8}" y="{y + 10}" text-anchor="end" fill="#333">{setting(row, device)}</text>')
            out.append(f'<rect x="{start:.1f}" y="{y + 2}" width="{max(end - start, 1):.1f}" height="{step - 4}" '
                       f'fill="{colour}" fill-opacity="0.8"/>')
            out.append(f'<text x="{max(end, x(1)) + 5:.1f}" y="{y + 10}" fill="#333" font-size="10">'
                       f'{row["faster"]:.2f}x, {ms(row["before_ms"])} to {ms(row["after_ms"])} ms</text>')
            y += step
        y += 6
    return "\n".join([*out, "</svg>", ""])


def percent(row, key):
    return f"{row['share_' + key]:.0%}" if "share_" + key in row else ""


def report(machine, commands, every, name):
    rows = [row for row in every if "faster" in row]
    device = rows[0]["device"]
    own = f"{machine['cpu']}, {machine['cores']} cores" if device == "cpu" else f"{machine['gpu']}, CUDA {machine['cuda']}"
    text = [
        f"# Generators before and after replace on {machine['cpu' if device == 'cpu' else 'gpu']}\n",
        f"{own}, PyTorch {machine['torch']}, tconv {machine['tconv']}, {rows[0]['dtype']}, {machine['date'][:10]}; "
        f"`{'`, `'.join(commands)}`.",
        "Before, after: ms for a second of audio, batch 1, medians of turns. Times as fast: the geometric mean of "
        "the median ratios of turns in which the one and the other was first. Share: of the transposed convolutions in a call. Difference: the largest |after - before| over "
        "max |before|. `bench/models.py` says how, `bench/generators.py` which layers.\n",
        *note(machine),
        f"![times as fast after replace]({name}.svg)\n",
        "| generator | setting, lengths | before | after | times as fast | share before | share after | difference |",
        "|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        text.append(f"| {row['model']} | {setting(row, device)} | {ms(row['before_ms'])} | {ms(row['after_ms'])} | "
                    f"{row['faster']:.2f} | {percent(row, 'before')} | {percent(row, 'after')} | {row['difference']:.1e} |")
    text += ["", f"Geometric mean {geometric_mean([row['faster'] for row in rows]):.2f}, least "
                 f"{min(row['faster'] for row in rows):.2f}."]
    others = [row for row in every if "faster" not in row]
    if others:
        text += ["", "Left out:\n"] + [f"- {row['model']}, {row['mode']}, {row['threads']} threads: "
                                       f"{row.get('skipped') or row['failure']}" for row in others]
    return "\n".join(text) + "\n"


def main():
    files = [pathlib.Path(name) for name in sys.argv[1:]]
    if not files:
        sys.exit(__doc__)
    data = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    rows = [row for part in data for row in part["rows"]]
    timed = [row for row in rows if "faster" in row]
    if not timed:
        sys.exit(f"{files[0]}: no generator was timed")
    commands = [part["machine"]["command"].split(" --out")[0] + part["machine"]["command"].partition(".json")[2]
                for part in data]
    files[0].with_suffix(".md").write_text(report(data[0]["machine"], commands, rows, files[0].stem), encoding="utf-8")
    files[0].with_suffix(".svg").write_text(plot(timed, timed[0]["device"]), encoding="utf-8")


if __name__ == "__main__":
    main()
