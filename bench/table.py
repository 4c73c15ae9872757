"""Writes bench/results/h200.md and h200.svg from what bench/h200.py left: python3 bench/table.py [FOLDER]."""

import html
import json
import math
import os
import sys


def ranks(values):
    order = sorted(range(len(values)), key=lambda i: values[i])
    result = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for i in order[start:end + 1]:
            result[i] = (start + end) / 2
        start = end + 1
    return result


def spearman(a, b):
    x, y = ranks(a), ranks(b)
    mx, my = sum(x) / len(x), sum(y) / len(y)
    top = sum((p - mx) * (q - my) for p, q in zip(x, y))
    return top / math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))


def best_torch(row, kind):
    return min(row["times"][k][kind] for k in ("torch_heuristic", "torch_benchmark"))


def milliseconds(value):
    return "%.3f" % value if value < 10 else "%.2f" % value


def chart(rows):
    """Bars of time over the limit, logarithmic: PyTorch, current kernel, answer."""
    left, width, step = 230, 620, 44
    top = max(max(best_torch(r, "graph_ms"), r["times"].get("current", {"graph_ms": 0})["graph_ms"]) / r["limit_ms"]
              for r in rows)
    scale = lambda v: width * math.log(max(v, 1.0)) / math.log(top)
    out = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">'
           % (left + width + 110, 60 + step * len(rows)),
           "<title>Time over the limit on an NVIDIA H200</title>",
           "<desc>For each layer, the time of PyTorch, of the current kernel where a request gave one, and of the "
           "answer, divided by the limit; logarithmic axis.</desc>",
           '<rect width="100%" height="100%" fill="#fff"/>']
    for tick in (1, 2, 5, 10, 20):
        if tick <= top:
            x = left + scale(tick)
            out.append('<line x1="%.1f" y1="34" x2="%.1f" y2="%d" stroke="#ddd"/>' % (x, x, 40 + step * len(rows)))
            out.append('<text x="%.1f" y="28" text-anchor="middle" fill="#333">%dx</text>' % (x, tick))
    out.append('<text x="8" y="28" fill="#333">time over the limit</text>')
    for i, row in enumerate(rows):
        y = 44 + step * i
        out.append('<text x="%d" y="%d" text-anchor="end" fill="#111">%s</text>' % (left - 8, y + 16, html.escape(row["layer"])))
        bars = [("PyTorch", best_torch(row, "graph_ms"), "#9aa5b1")]
        if "current" in row["times"]:
            bars.append(("current", row["times"]["current"]["graph_ms"], "#c98b2b"))
        bars.append(("answer", row["times"]["h200"]["graph_ms"], "#1f6feb"))
        for j, (name, ms, colour) in enumerate(bars):
            length = max(2.0, scale(ms / row["limit_ms"]))
            out.append('<rect x="%d" y="%d" width="%.1f" height="10" fill="%s"/>' % (left, y + 12 * j, length, colour))
            out.append('<text x="%.1f" y="%d" fill="#333" font-size="10">%s %s ms</text>'
                       % (left + length + 4, y + 9 + 12 * j, name, milliseconds(ms)))
    return "\n".join(out + ["</svg>\n"])


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
    with open(os.path.join(folder, "h200_layers.json")) as file:
        layers = json.load(file)
    with open(os.path.join(folder, "model_h200.json")) as file:
        model = json.load(file)
    m = layers["machine"]
    text = ["# Emitted Triton on an %s" % m["gpu"], "",
            "%s, driver %s, PyTorch %s, cuDNN %s, Triton %s, %s; `%s`." % (m["gpu"], m["driver"], m["torch"], m["cudnn"],
                                                                       m["triton"], m["date"], m["command"]),
            "Random data; TF32 allowed for PyTorch, the better of cuDNN's heuristic and benchmark modes. Times are medians "
            "of CUDA graph replays, in ms; \"eager\" calls from Python, launches included. Error: the largest |y - y64| "
            "over max |y64|. Every answer repeated bitwise.", "",
            "![time over the limit](h200.svg)", "",
            "| layer | limit | answer | over limit | PyTorch | faster | current | eager: answer | eager: PyTorch | error: "
            "answer | error: PyTorch |", "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]
    gains = []
    for row in layers["rows"]:
        answer, times = row["times"]["h200"], row["times"]
        torch_ms = best_torch(row, "graph_ms")
        if not row["layer"].startswith("kb"):
            gains.append(torch_ms / answer["graph_ms"])
        text.append("| %s | %s | %s | %.2f | %s | %.2fx | %s | %s | %s | %.1e | %.1e |" % (
            row["layer"], milliseconds(row["limit_ms"]), milliseconds(answer["graph_ms"]),
            answer["graph_ms"] / row["limit_ms"], milliseconds(torch_ms), torch_ms / answer["graph_ms"],
            milliseconds(times["current"]["graph_ms"]) if "current" in times else "", milliseconds(answer["eager_ms"]),
            milliseconds(best_torch(row, "eager_ms")), answer["error"],
            min(times[k]["error"] for k in ("torch_heuristic", "torch_benchmark"))))
    text += ["", "%d catalogue layers: geometric mean %.2f times PyTorch, least %.2f." % (
        len(gains), math.exp(sum(map(math.log, gains)) / len(gains)), min(gains)), "",
             "The answers made for the RTX 4090, timed here for the record: " + ", ".join(
                 "%s %s ms" % (r["layer"], milliseconds(r["times"]["rtx4090"]["graph_ms"]))
                 for r in layers["rows"] if "rtx4090" in r["times"]) + ".", "",
             "## The cost model against the measured order", "",
             "| layer | schedules | Spearman | first choice | best measured | ratio |", "|---|---:|---:|---:|---:|---:|"]
    for name in dict.fromkeys(r["name"] for r in model["rows"]):
        rows = [r for r in model["rows"] if r["name"] == name and "ms" in r]
        first = min(rows, key=lambda r: r["predicted_ms"])["ms"]
        best = min(r["ms"] for r in rows)
        text.append("| %s | %d | %.3f | %s | %s | %.3f |" % (
            name, len(rows), spearman([r["predicted_ms"] for r in rows], [r["ms"] for r in rows]),
            milliseconds(first), milliseconds(best), first / best))
    with open(os.path.join(folder, "h200.md"), "w") as file:
        file.write("\n".join(text) + "\n")
    with open(os.path.join(folder, "h200.svg"), "w") as file:
        file.write(chart(layers["rows"]))


if __name__ == "__main__":
    main()
