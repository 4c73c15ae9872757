"""Asks PyTorch (CPU) which conv_transpose1d calls it accepts; writes pytorch_rules.json.

Run once per PyTorch release whose rules are to be followed: python3 make_pytorch_rules.py > pytorch_rules.json
"""

import json

import torch
from torch import nn
from torch.nn import functional

BASE = {"batch": 1, "c_in": 4, "c_out": 6, "length": 5, "kernel": 3, "stride": 1, "padding": 0, "output_padding": 0,
        "dilation": 1, "groups": 1}
HUGE = 2**62

CALLS = [
    {},
    # one rule at a time, on both sides of its edge
    {"padding": -1}, {"padding": 3}, {"padding": HUGE}, {"padding": -HUGE},
    {"output_padding": -1}, {"output_padding": 1, "stride": 2}, {"output_padding": 1},
    {"output_padding": 2, "stride": 2},
    {"output_padding": 2, "dilation": 3}, {"output_padding": 2, "stride": 2, "dilation": 2},
    {"output_padding": 4, "stride": 2, "dilation": 5}, {"output_padding": 7, "stride": 8, "dilation": 1},
    {"stride": 0}, {"stride": -1}, {"stride": 9}, {"stride": 9, "kernel": 1},
    {"dilation": 0}, {"dilation": -1}, {"dilation": 7}, {"dilation": 7, "stride": 3},
    {"groups": 0}, {"groups": -1}, {"groups": 2}, {"groups": 3}, {"groups": 4, "c_out": 4}, {"groups": 5},
    {"groups": 8},
    {"groups": 2, "c_out": 5},
    {"c_in": 0}, {"c_in": 0, "batch": 0}, {"c_in": 1}, {"c_in": 3, "groups": 2}, {"c_in": 6, "groups": 3},
    {"c_out": 0}, {"c_out": 1},
    {"kernel": 0}, {"kernel": 0, "length": 9, "stride": 2}, {"kernel": 1}, {"kernel": 1, "length": 1},
    {"length": 0}, {"length": 0, "batch": 0}, {"length": 0, "batch": 0, "padding": 1}, {"length": 1},
    {"batch": 0}, {"batch": 0, "padding": 4}, {"batch": 3}, {"batch": 0, "groups": 2},
    # L_out at 1 and below it
    {"padding": 4}, {"kernel": 1, "length": 1, "padding": 1}, {"kernel": 2, "length": 1, "padding": 1},
    {"kernel": 3, "length": 1, "padding": 1}, {"length": 3, "stride": 4, "kernel": 2, "padding": 5},
    {"length": 3, "stride": 4, "kernel": 2, "padding": 4},
    {"length": 2, "padding": 2, "output_padding": 1, "stride": 2},
    # two faults: which is reported
    {"padding": -1, "stride": 0}, {"padding": -1, "output_padding": -1}, {"output_padding": -1, "stride": 0},
    {"stride": 0, "dilation": -1}, {"groups": 0, "padding": -1}, {"dilation": -1, "groups": 0},
    {"dilation": -1, "groups": 3}, {"stride": 0, "c_in": 0}, {"groups": 3, "padding": HUGE},
    {"padding": HUGE, "kernel": 0}, {"padding": HUGE, "length": 0}, {"output_padding": 5, "kernel": 0},
    {"output_padding": 1, "padding": 4}, {"kernel": 0, "padding": 4}, {"c_out": 0, "output_padding": 1},
    {"c_out": 0, "kernel": 0}, {"c_out": 0, "padding": 4}, {"length": 0, "output_padding": 1},
    {"length": 0, "kernel": 0}, {"length": 0, "padding": 9},
]


def functional_call(c):
    x = torch.zeros(c["batch"], c["c_in"], c["length"])
    w = torch.zeros(c["c_in"], c["c_out"] // max(c["groups"], 1), c["kernel"])
    return functional.conv_transpose1d(x, w, None, c["stride"], c["padding"], c["output_padding"], c["groups"],
                                       c["dilation"])


def module_call(c):
    layer = nn.ConvTranspose1d(c["c_in"], c["c_out"], c["kernel"], c["stride"], c["padding"], c["output_padding"],
                               c["groups"], False, c["dilation"])
    return layer(torch.zeros(c["batch"], c["c_in"], c["length"]))


def main():
    calls = []
    for change in CALLS:
        c = BASE | change
        # The number of output channels of a group is all that the function sees.
        only_module = c["groups"] > 0 and c["c_out"] % c["groups"] != 0 and c["c_in"] % c["groups"] == 0
        row = {"arguments": c, "through": "module" if only_module else "function"}
        try:
            y = (module_call if only_module else functional_call)(c)
            row |= {"accepted": True, "length_out": y.shape[2]}
        except Exception as error:  # the class is what is recorded
            row |= {"accepted": False, "exception": type(error).__name__, "message": " ".join(str(error).split()[:9])}
        calls.append(row)
    head = json.dumps({"made_by": "make_pytorch_rules.py", "torch": torch.__version__})[:-1]
    print(head + ', "calls": [\n ' + ",\n ".join(json.dumps(row) for row in calls) + "\n]}")


main()
