"""Makes the answers that bench/h200.py times: python3 bench/make_answers.py --tconv BINARY --out DIR
[--request FILE ...] [--schedules N].

Each --request is answered for the H200 and, for the record, for the RTX 4090, and timed beside its current
kernel. The catalogue layers are answered by the same emitter through examples/requests. The manifest lists
for the workloads named in RANKED the schedules whose order the cost model is judged by: the first few, then
evenly through its ranking.
"""

import argparse
import json
import os
import re
import subprocess

LAYERS = ["kb64", "hifigan_v1_up1", "hifigan_v1_up3", "bigvgan_v2_24k_256x_up5", "bigvgan_aa_up_C24",
          "dac44k_up3", "encodec24_up3", "oobleck_47s_up0", "oobleck_47s_up4", "demucs_v3_time_dec5",
          "convtasnet_asteroid",
          # left of PyTorch's best mode so far, timed to keep the record honest
          "dac44k_up1", "encodec_musicgen32_up1", "istft_1024_256"]
RANKED = ["kb79", "kb74", "kb64"]
METRICS = "[NCU PROFILING METRICS]"


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit("%s: %s" % (" ".join(command), done.stderr.strip()))
    return done.stdout


def numbers(word):
    value = {k: 1 for k in "bsdg"} | {"p": 0, "a": 0}
    for token in word.split("_"):
        match = re.fullmatch(r"([bioklspadg])(\d+)", token)
        if match and not (match.group(1) == "i" and "i" in value):
            value[match.group(1)] = int(match.group(2))
    return {"batch": value["b"], "c_in": value["i"], "c_out": value["o"], "length": value["l"], "kernel": value["k"],
            "stride": value["s"], "padding": value["p"], "output_padding": value["a"], "dilation": value["d"],
            "groups": value["g"], "bias": word.endswith("_bias")}


def ranking(plan, count):
    ranked = plan["ranked"]
    worst = 3 * ranked[0]["predicted_seconds"]
    ranked = [c for c in ranked if c["predicted_seconds"] <= worst]
    picked = ranked[:count // 3]
    rest = ranked[count // 3:]
    wanted = count - len(picked)
    picked += [rest[i * len(rest) // wanted] for i in range(wanted)] if len(rest) > wanted else rest
    keys = ("block_rows", "phases", "block_positions", "block_channels", "warps", "stages")
    return [{"schedule": {k: c[k] for k in keys}, "predicted_ms": 1e3 * c["predicted_seconds"]} for c in picked]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tconv", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--request", action="append", default=[])
    parser.add_argument("--schedules", type=int, default=24)
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    examples = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "examples", "requests")

    def answer(request, name, *options):
        folder = os.path.join(arguments.out, name)
        report = json.loads(run(arguments.tconv, "optimize", request, "--out", folder, "--compile", "never", "--json", *options))
        return report, os.path.join(name, "answer.py")

    def plan(word):
        return json.loads(run(arguments.tconv, "plan", word, "--target", "h200", "--json"))

    def entry(name, word, answers):
        planned = plan(word)
        layer = {"name": name, "word": planned["workload"], **numbers(planned["workload"]), "answers": answers,
                 "limit_ms": 1e3 * planned["limit"]["seconds"]}
        if name in RANKED:
            layer["schedules"] = ranking(planned, arguments.schedules)
        return layer

    layers = []
    for request in arguments.request:
        with open(request, encoding="utf-8") as file:
            text = file.read()
        code = re.search(r"\[CURRENT CODE\]\s*```python\n(.*?)\n```", text, re.S).group(1)
        report, h200 = answer(request, os.path.basename(request)[:3] + "_h200", "--target", "h200")
        _, rtx4090 = answer(request, os.path.basename(request)[:3] + "_rtx4090", "--target", "rtx4090")
        word = report["workload"]["word"]
        name = next((k for k in RANKED if plan("@" + k)["workload"] == word), os.path.basename(request)[:3])
        current = os.path.join(os.path.basename(request)[:3] + "_h200", "current.py")
        with open(os.path.join(arguments.out, current), "w", encoding="utf-8") as file:
            file.write(code + "\n")
        layers.append({**entry(name, word, {"h200": h200, "rtx4090": rtx4090}), "current": current, "module": True})
    for name in LAYERS:
        planned = plan("@" + name)
        shape = numbers(planned["workload"])
        source = ("l4_depthwise.txt" if shape["groups"] > 1 else
                  "rtx4090_naive_vocoder.txt" if shape["bias"] else "h200_tapscan_dilated.txt")
        with open(os.path.join(examples, source), encoding="utf-8") as file:
            text = file.read()
        # The layer is named on the command line, so the example's own metrics do not apply.
        head, tail = text.split(METRICS)
        request = os.path.join(arguments.out, "request.txt")
        with open(request, "w", encoding="utf-8") as file:
            file.write(head + METRICS + "\nNo NCU metrics available\n\n" + tail[tail.index("**Task**"):])
        _, file_name = answer(request, name, "--target", "h200", "--workload", "@" + name)
        layers.append(entry(name, "@" + name, {"h200": file_name}))
    with open(os.path.join(arguments.out, "manifest.json"), "w", encoding="utf-8") as file:
        json.dump({"layers": layers}, file, indent=1)
    print("%d layers in %s" % (len(layers), arguments.out))


if __name__ == "__main__":
    main()
