"""What the benchmarks share: the catalogue's layers, and results files."""

import json
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
COLUMNS = ("batch", "c_in", "c_out", "length", "kernel", "stride", "padding", "output_padding", "dilation", "groups")
PROBLEM = ("c_in", "c_out", "kernel", "stride", "padding", "output_padding", "dilation", "groups", "bias")


def catalogue():
    """The rows of src/problem/catalogue_rows.inc, by name."""
    layers = {}
    row = re.compile(r'^\{"(\w+)",\s*"[^"]*",\s*(.*)\},')
    for line in (ROOT / "src" / "problem" / "catalogue_rows.inc").read_text(encoding="utf-8").splitlines():
        match = row.match(line)
        if match:
            values = [v.strip() for v in match[2].split(",")]
            layer = dict(zip(COLUMNS, map(int, values[:10])))
            layers[match[1]] = dict(layer, bias=values[10] == "true", arithmetic=values[11])
    return layers


def problem(layer):
    """The arguments of tconv.Plan that the layer gives."""
    return {name: layer[name] for name in PROBLEM}


def word(layer, batch, arithmetic):
    """The layer in the grammar of the command line."""
    return (f"b{batch}_i{layer['c_in']}_o{layer['c_out']}_l{layer['length']}_k{layer['kernel']}_s{layer['stride']}"
            f"_p{layer['padding']}_a{layer['output_padding']}_d{layer['dilation']}_g{layer['groups']}_{arithmetic}"
            + ("_bias" if layer["bias"] else ""))


def out_length(layer, length):
    return ((length - 1) * layer["stride"] - 2 * layer["padding"] + layer["dilation"] * (layer["kernel"] - 1)
            + layer["output_padding"] + 1)


def useful_flops(layer):
    """Two for each multiply-add whose tap lands inside y."""
    length, stride = layer["length"], layer["stride"]
    last = out_length(layer, length) - 1
    taps = 0
    for k in range(layer["kernel"]):
        shift = k * layer["dilation"] - layer["padding"]  # input i reaches output i*stride + shift
        first_input = max(0, -(shift // stride))
        taps += max(0, min(length - 1, (last - shift) // stride) - first_input + 1)
    return 2 * layer["batch"] * layer["c_out"] * (layer["c_in"] // layer["groups"]) * taps


def elements(layer):
    """Of x, w, bias and y."""
    return (layer["batch"] * layer["c_in"] * layer["length"],
            layer["c_in"] * (layer["c_out"] // layer["groups"]) * layer["kernel"],
            layer["c_out"] if layer["bias"] else 0,
            layer["batch"] * layer["c_out"] * out_length(layer, layer["length"]))


def note(machine):
    """The lines of a table that say what its figures need said, if anything."""
    return [f"{machine['note'][0].upper()}{machine['note'][1:]}.\n"] if "note" in machine else []


def save(path, results):
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
