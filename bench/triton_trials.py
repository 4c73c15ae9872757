"""Times other ways to write the matrix-unit kernel in Triton, for KernelBench 79, 74 and 64 on one Hopper GPU.

    python3 bench/triton_trials.py [--only fragments] [--out FILE] [LAYER ...]

Prints one line a variant, fastest first: milliseconds, kernel and constants, and the relative error; FILE gets the same
as JSON. --only fragments leaves out all variants but those of frag and fragres and a few to compare with. Times are
medians of 9 replays of a CUDA graph of 5 launches on random data. Weights are packed beforehand and not timed. The
error is the largest |y - y64| over max |y64| on one image of 8192 samples, y64 in float64. Kernels:

    base   the loop of the kernel that ships, for one layer: one product a tap. PREC is the precision of Triton's
           product: tf32, or bf16x3, which splits operands itself. MODE 1 splits by hand: weights are packed as
           two bf16 halves, x is split in registers, three products a tap. MODE 2 also has every thread load
           neighbouring channels.
    xrows  positions are the rows of the product, x its first operand.
    toep   P neighbouring positions share a column; their taps form a block Toeplitz matrix of weights, zeros
           included. KORD is the order of the reduction: 0 has positions fastest, 1 channels.
    quad   four accumulators, one a residue of the position mod 4: every sample is loaded once, on 16 bytes, for
           all taps.
    frag   base, but weights go from global memory straight into the fragments of the matrix unit's first operand,
           without shared memory. LATE 1 loads them after x.
    fragres  fragments of weights as in frag, and every sample loaded once as in quad: P neighbours at a time, stored
           by residue of the position mod P. JOIN 0 has P accumulators and P products a tap, JOIN 1 lays the P residues
           of a tap side by side in registers: one product a tap, more stores. AHEAD is how many taps early x is
           loaded, EARLY the same for weights. DIRECT 1 stores y without shared memory, where its rows lie on 16 bytes.

ONCE of base, frag and fragres is when dead phases are put between live ones: 0 before the tile goes through shared
memory, half of its rows at a time; after it, 1 for the whole tile, 2 for halves.

R output channels by N positions make a tile, C input channels a step. BF 1 splits by hand as MODE 1 does. cm is the
cache modifier of stores, w warps, s stages, r the registers a thread may have. x rows hold a multiple of 4 samples.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor

# cuda.py beside this file is not the package that torch looks for.
sys.path = [p for p in sys.path if os.path.abspath(p) != os.path.dirname(os.path.abspath(__file__))]

import torch
import triton
import triton.language as tl


@triton.jit
def out_tile(acc, y_ptr, l_out, time0, out0, image, C_OUT: tl.constexpr, S: tl.constexpr, CM: tl.constexpr):
    R: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    if S == 2:
        acc = tl.interleave(acc, tl.zeros_like(acc))
    out = out0 + tl.arange(0, R)
    col = tl.arange(0, N * S)
    ok = (col >= tl.minimum(tl.maximum(-time0, 0), N * S)) & (col < tl.minimum(tl.maximum(l_out - time0, 0), N * S))
    tl.store(y_ptr + image * C_OUT * l_out + time0 + (out.to(tl.int64) * l_out)[:, None] + col[None, :], acc,
             mask=ok[None, :], cache_modifier=CM)


@triton.jit
def out_halves(acc, y_ptr, l_out, time0, out0, image, C_OUT: tl.constexpr, S: tl.constexpr, CM: tl.constexpr):
    R: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    if S == 2:
        h = tl.permute(tl.reshape(acc, (R // 16, 2, 8, N)), (0, 2, 3, 1))
        even, odd = tl.split(h)
        for half in tl.static_range(2):
            if half == 0:
                a = tl.reshape(even, (R // 2, N))
            else:
                a = tl.reshape(odd, (R // 2, N))
            a = tl.interleave(a, tl.zeros_like(a))
            o = tl.arange(0, R // 2)
            out = out0 + o // 8 * 16 + o % 8 + 8 * half
            col = tl.arange(0, N * S)
            ok = (col >= tl.minimum(tl.maximum(-time0, 0), N * S)) & (col < tl.minimum(tl.maximum(l_out - time0, 0),
                    N * S))
            tl.store(y_ptr + image * C_OUT * l_out + time0 + (out.to(tl.int64) * l_out)[:, None] + col[None, :], a,
                     mask=ok[None, :], cache_modifier=CM)
    else:
        out_tile(acc, y_ptr, l_out, time0, out0, image, C_OUT, S, CM)


@triton.jit
def out_rows(acc, y_ptr, l_out, time0, out, image, C_OUT: tl.constexpr, S: tl.constexpr, CM: tl.constexpr):
    # As out_tile, but dead phases are set after the tile went through shared memory.
    R: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    col = tl.arange(0, N * S)
    if S == 2:
        acc = tl.reshape(tl.broadcast_to(acc[:, :, None], (R, N, 2)), (R, N * 2))
        acc = tl.where(col[None, :] % 2 == 0, acc, 0.0)
    ok = (col >= tl.minimum(tl.maximum(-time0, 0), N * S)) & (col < tl.minimum(tl.maximum(l_out - time0, 0), N * S))
    tl.store(y_ptr + image * C_OUT * l_out + time0 + (out.to(tl.int64) * l_out)[:, None] + col[None, :], acc,
             mask=ok[None, :], cache_modifier=CM)


@triton.jit
def out_once(acc, y_ptr, l_out, time0, out0, image, C_OUT: tl.constexpr, S: tl.constexpr, CM: tl.constexpr,
             ONCE: tl.constexpr):
    R: tl.constexpr = acc.shape[0]
    N: tl.constexpr = acc.shape[1]
    if ONCE == 0:
        out_halves(acc, y_ptr, l_out, time0, out0, image, C_OUT, S, CM)
    elif ONCE == 1:
        out_rows(acc, y_ptr, l_out, time0, out0 + tl.arange(0, R), image, C_OUT, S, CM)
    else:
        low, high = tl.split(tl.permute(tl.reshape(acc, (R // 16, 2, 8, N)), (0, 2, 3, 1)))
        o = tl.arange(0, R // 2)
        o = out0 + o // 8 * 16 + o % 8
        out_rows(tl.reshape(low, (R // 2, N)), y_ptr, l_out, time0, o, image, C_OUT, S, CM)
        out_rows(tl.reshape(high, (R // 2, N)), y_ptr, l_out, time0, o + 8, image, C_OUT, S, CM)


# Weights [tap, c_out, c_in].
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def base(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
         PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
         PREC: tl.constexpr, MODE: tl.constexpr, UNROLL: tl.constexpr, CM: tl.constexpr, XT: tl.constexpr,
         ONCE: tl.constexpr):
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    out0 = block % OB * R
    block = block // OB
    nb = tl.cdiv(positions, N)
    position0 = block % nb * N + PAD // S
    image = (block // nb).to(tl.int64)
    row = out0 + tl.arange(0, R)
    col = tl.arange(0, N)
    xi = x_ptr + image * C_IN * l_in
    STEPS: tl.constexpr = C_IN // C
    PLANE: tl.constexpr = TAPS * C_OUT * C_IN
    acc = tl.zeros((R, N), dtype=tl.float32)
    for s in tl.range(0, STEPS * TAPS, loop_unroll_factor=UNROLL):
        tap = s % TAPS
        ch = s // TAPS * C + tl.arange(0, C)
        start = position0 - tap * JUMP
        ok = (col >= tl.minimum(tl.maximum(-start, 0), N)) & (col < tl.minimum(tl.maximum(l_in - start, 0), N))
        wp = w_ptr + tap * (C_OUT * C_IN) + (row * C_IN)[:, None] + ch[None, :]
        if MODE == 2:
            cx = s // TAPS * C + tl.arange(0, XT)[:, None] * (C // XT) + tl.arange(0, C // XT)[None, :]
            x = tl.load(xi + start + (cx.to(tl.int64) * l_in)[None, :, :] + col[:, None, None], mask=ok[:, None, None],
                        other=0.0)
            x = tl.reshape(tl.permute(x, (1, 2, 0)), (C, N))
        else:
            x = tl.load(xi + start + (ch.to(tl.int64) * l_in)[:, None] + col[None, :], mask=ok[None, :], other=0.0)
        if MODE >= 1:
            wh = tl.load(wp)
            wl = tl.load(wp + PLANE)
            xh = x.to(tl.bfloat16)
            xl = (x - xh.to(tl.float32)).to(tl.bfloat16)
            acc = tl.dot(wl, xh, acc)
            acc = tl.dot(wh, xl, acc)
            acc = tl.dot(wh, xh, acc)
        else:
            acc = tl.dot(tl.load(wp), x, acc, input_precision=PREC)
    out_once(acc, y_ptr, l_out, position0 * S - PAD, out0, image, C_OUT, S, CM, ONCE)


# Weights [block, c_out * P + position of the output, c_in * P + position of the input], or the last two swapped.
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def toep(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
         PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
         NB: tl.constexpr, P: tl.constexpr, KORD: tl.constexpr, UNROLL: tl.constexpr, CM: tl.constexpr,
         BF: tl.constexpr, W: tl.constexpr):
    # R output channels, N positions (N/P columns), C channels.
    M: tl.constexpr = N // P
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    out0 = block % OB * R
    block = block // OB
    nb = tl.cdiv(positions + PAD // S, N)
    position0 = block % nb * N
    image = (block // nb).to(tl.int64)
    row = out0 * P + tl.arange(0, R * P)
    col = tl.arange(0, M)
    j = tl.arange(0, P)
    STEPS: tl.constexpr = C_IN // C
    acc = tl.zeros((R * P, M), dtype=tl.float32)
    PLANE: tl.constexpr = NB * C_OUT * P * C_IN * P
    for s in tl.range(0, STEPS * NB, loop_unroll_factor=UNROLL):
        b = s % NB
        ch = s // NB * C + tl.arange(0, W)[:, None] * (C // W) + tl.arange(0, C // W)[None, :]
        start = position0 - b * P
        q = start + col * P
        ok = (q >= 0) & (q < l_in)
        xrow = x_ptr + (image * C_IN + ch) * (l_in // 4 * 4)
        xp = xrow[None, :, :, None] + (q[:, None] + j[None, :])[:, None, None, :]
        x = tl.load(xp, mask=ok[:, None, None, None], other=0.0)
        x = tl.reshape(tl.permute(x, (1, 2, 0, 3)), (C, M, P))
        if KORD == 0:    # k = c*P + j
            x = tl.reshape(tl.permute(x, (0, 2, 1)), (C * P, M))
        else:            # k = j*C + c
            x = tl.reshape(tl.permute(x, (2, 0, 1)), (P * C, M))
        kk = s // NB * C * P + tl.arange(0, C * P)
        wp = w_ptr + b * (C_OUT * P * C_IN * P) + (row * (C_IN * P))[:, None] + kk[None, :]
        if BF:
            wh = tl.load(wp)
            wl = tl.load(wp + PLANE)
            xh = x.to(tl.bfloat16)
            xl = (x - xh.to(tl.float32)).to(tl.bfloat16)
            acc = tl.dot(wl, xh, acc)
            acc = tl.dot(wh, xl, acc)
            acc = tl.dot(wh, xh, acc)
        else:
            acc = tl.dot(tl.load(wp), x, acc, input_precision="tf32")
    a = tl.reshape(tl.permute(tl.reshape(acc, (R, P, M)), (0, 2, 1)), (R, N))
    out_tile(a, y_ptr, l_out, position0 * S - PAD, out0, image, C_OUT, S, CM)


@triton.jit
def madd(w, wl, xh, xl, acc, BF: tl.constexpr):
    if BF:
        acc = tl.dot(wl, xh, acc)
        acc = tl.dot(w, xl, acc)
        return tl.dot(w, xh, acc)
    else:
        return tl.dot(w, xh, acc, input_precision="tf32")


@triton.jit
def four(x):
    C: tl.constexpr = x.shape[0]
    M: tl.constexpr = x.shape[1]
    a, b = tl.split(tl.reshape(x, (C, M, 2, 2)))   # j = 2*hi + lo: a has lo 0, b lo 1
    x0, x2 = tl.split(a)
    x1, x3 = tl.split(b)
    return x0, x1, x2, x3


# Weights [tap, c_out, c_in].
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def quad(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
         PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
         CM: tl.constexpr, BF: tl.constexpr, W: tl.constexpr):
    M: tl.constexpr = N // 4
    NB: tl.constexpr = ((TAPS - 1) * JUMP + 3) // 4 + 1
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    out0 = block % OB * R
    block = block // OB
    nb = tl.cdiv(positions + PAD // S, N)
    position0 = block % nb * N
    image = (block // nb).to(tl.int64)
    row = out0 + tl.arange(0, R)
    col = tl.arange(0, M)
    j4 = tl.arange(0, 4)
    STEPS: tl.constexpr = C_IN // C
    PLANE: tl.constexpr = TAPS * C_OUT * C_IN
    acc0 = tl.zeros((R, M), dtype=tl.float32)
    acc1 = tl.zeros((R, M), dtype=tl.float32)
    acc2 = tl.zeros((R, M), dtype=tl.float32)
    acc3 = tl.zeros((R, M), dtype=tl.float32)
    for s in tl.range(0, STEPS, num_stages=1):
        ch = s * C + tl.arange(0, C)
        cx = s * C + tl.arange(0, W)[:, None] * (C // W) + tl.arange(0, C // W)[None, :]
        xrow = x_ptr + (image * C_IN + cx) * (l_in // 4 * 4)
        for b in tl.static_range(NB):
            q = position0 - b * 4 + col * 4
            ok = (q >= 0) & (q < l_in)
            # lanes along the positions, channels of a thread contiguous: K-major vector stores
            x = tl.load(xrow[None, :, :, None] + (q[:, None] + j4[None, :])[:, None, None, :],
                        mask=ok[:, None, None, None], other=0.0)
            x = tl.reshape(tl.permute(x, (1, 2, 0, 3)), (C, M, 4))
            x0, x1, x2, x3 = four(x)
            for j in tl.static_range(4):
                if j == 0:
                    xf = x0
                elif j == 1:
                    xf = x1
                elif j == 2:
                    xf = x2
                else:
                    xf = x3
                if BF:
                    xh = xf.to(tl.bfloat16)
                    xl = (xf - xh.to(tl.float32)).to(tl.bfloat16)
                else:
                    xh = xf
                    xl = xf
                for k in tl.static_range(TAPS):
                    # i = o + k*JUMP with o = j - 4b
                    if (j - 4 * b + k * JUMP >= 0) and (j - 4 * b + k * JUMP < 4):
                        wp = w_ptr + k * (C_OUT * C_IN) + (row * C_IN)[:, None] + ch[None, :]
                        w = tl.load(wp)
                        if BF:
                            wl = tl.load(wp + PLANE)
                        else:
                            wl = w
                        if j - 4 * b + k * JUMP == 0:
                            acc0 = madd(w, wl, xh, xl, acc0, BF)
                        elif j - 4 * b + k * JUMP == 1:
                            acc1 = madd(w, wl, xh, xl, acc1, BF)
                        elif j - 4 * b + k * JUMP == 2:
                            acc2 = madd(w, wl, xh, xl, acc2, BF)
                        else:
                            acc3 = madd(w, wl, xh, xl, acc3, BF)
    lo = tl.join(acc0, acc1)            # i = 2*hi + lo
    hi = tl.join(acc2, acc3)
    a = tl.reshape(tl.permute(tl.join(lo, hi), (0, 1, 3, 2)), (R, N))
    out_halves(a, y_ptr, l_out, position0 * S - PAD, out0, image, C_OUT, S, CM)


# Weights [tap, c_out, c_in].
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def xrows(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
          PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
          CM: tl.constexpr, BF: tl.constexpr, UNROLL: tl.constexpr):
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    out0 = block % OB * R
    block = block // OB
    nb = tl.cdiv(positions, N)
    position0 = block % nb * N + PAD // S
    image = (block // nb).to(tl.int64)
    row = out0 + tl.arange(0, R)
    col = tl.arange(0, N)
    xi = x_ptr + image * C_IN * l_in
    STEPS: tl.constexpr = C_IN // C
    PLANE: tl.constexpr = TAPS * C_OUT * C_IN
    acc = tl.zeros((N, R), dtype=tl.float32)
    for s in tl.range(0, STEPS * TAPS, loop_unroll_factor=UNROLL):
        tap = s % TAPS
        ch = s // TAPS * C + tl.arange(0, C)
        start = position0 - tap * JUMP
        ok = (col >= tl.minimum(tl.maximum(-start, 0), N)) & (col < tl.minimum(tl.maximum(l_in - start, 0), N))
        wp = w_ptr + tap * (C_OUT * C_IN) + (row * C_IN)[None, :] + ch[:, None]
        x = tl.load(xi + start + (ch.to(tl.int64) * l_in)[None, :] + col[:, None], mask=ok[:, None], other=0.0)
        if BF:
            wh = tl.load(wp)
            wl = tl.load(wp + PLANE)
            xh = x.to(tl.bfloat16)
            xl = (x - xh.to(tl.float32)).to(tl.bfloat16)
            acc = tl.dot(xh, wl, acc)
            acc = tl.dot(xl, wh, acc)
            acc = tl.dot(xh, wh, acc)
        else:
            acc = tl.dot(x, tl.load(wp), acc, input_precision="tf32")
    out_tile(tl.trans(acc), y_ptr, l_out, position0 * S - PAD, out0, image, C_OUT, S, CM)


@triton.constexpr_function
def blocks_of(tap, taps, jump, P):
    """How many blocks of P samples the taps up to this one read."""
    return (min(tap, taps - 1) * jump + P - 1) // P + 1 if tap >= 0 else 0


@triton.constexpr_function
def sample(i, shift, P):
    """Where `separate` puts the sample that position i, i + P, ... reads after a shift: block, then residue."""
    return (shift + P - 1 - i) // P * P + (i - shift) % P


@triton.jit
def separate(x, P: tl.constexpr):
    # (C, M, P) -> P times (C, M)
    C: tl.constexpr = x.shape[0]
    M: tl.constexpr = x.shape[1]
    if P == 2:
        a, b = tl.split(x)
        return (a, b)
    else:
        even, odd = tl.split(tl.reshape(x, (C, M, 2, 2)))
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        return (x0, x1, x2, x3)


@triton.jit
def together(parts, P: tl.constexpr):
    # P times (C, M) -> (C, M, P)
    if P == 2:
        return tl.join(parts[0], parts[1])
    else:
        C: tl.constexpr = parts[0].shape[0]
        M: tl.constexpr = parts[0].shape[1]
        x = tl.join(tl.join(parts[0], parts[1]), tl.join(parts[2], parts[3]))
        return tl.reshape(tl.permute(x, (0, 1, 3, 2)), (C, M, 4))


@triton.jit
def fragments(w_ptr, tile, R: tl.constexpr, C: tl.constexpr, WARPS: tl.constexpr):
    # R x C weights as the first operand of wgmma. A warp loads 512 contiguous bytes at a time, and what a lane gets
    # is what the matrix unit wants of it: no shared memory. `pack` writes this order.
    w = tl.load(w_ptr + tile * (R * C) + tl.arange(0, R * C))
    w = tl.reshape(w, (R // (16 * WARPS), C // 8, WARPS, 8, 4, 2, 2))
    return tl.reshape(tl.permute(w, (0, 2, 6, 3, 1, 5, 4)), (R, C))


@triton.jit
def out_direct(acc, y_ptr, l_out, time0, out0, image, C_OUT: tl.constexpr, WARPS: tl.constexpr, CM: tl.constexpr):
    # acc (R, M, 4) with the columns of `crossed`, rows of y and time0 on 16 bytes: a lane holds four neighbours and
    # its next lane the next four, so they go straight from registers to memory.
    R: tl.constexpr = acc.shape[0]
    M: tl.constexpr = acc.shape[1]
    RB: tl.constexpr = R // (16 * WARPS)
    acc = tl.reshape(acc, (RB, WARPS, 2, 8, M // 8, 4, 2, 4))
    acc = tl.reshape(tl.permute(acc, (1, 3, 0, 2, 4, 6, 5, 7)), (WARPS * 8, RB * 2, M // 4, 16))
    row = tl.arange(0, WARPS * 8)[:, None]
    half = tl.arange(0, RB * 2)[None, :]
    out = out0 + half // 2 * (16 * WARPS) + row // 8 * 16 + half % 2 * 8 + row % 8
    col = tl.arange(0, M // 4)[:, None] * 16 + tl.arange(0, 16)[None, :]
    yp = y_ptr + image * C_OUT * l_out + time0 // 4 * 4 + (out.to(tl.int64) * (l_out // 4 * 4))[:, :, None, None]
    tl.store(yp + col, acc, mask=(time0 + col < l_out // 4 * 4)[None, None, :, :], cache_modifier=CM)


@triton.jit
def crossed(column, CROSS: tl.constexpr):
    # A lane of the accumulators has columns 2t and 2t + 1 of every 8: they become t and t + 4.
    if CROSS:
        return column // 8 * 8 + column % 2 * 4 + column % 8 // 2
    else:
        return column


# Weights in the order of `fragments`, [step, tap, block of rows].
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def frag(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
         PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr, C: tl.constexpr,
         CM: tl.constexpr, WARPS: tl.constexpr, LATE: tl.constexpr, ONCE: tl.constexpr):
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    ob = block % OB
    block = block // OB
    nb = tl.cdiv(positions, N)
    position0 = block % nb * N + PAD // S
    image = (block // nb).to(tl.int64)
    col = tl.arange(0, N)
    xi = x_ptr + image * C_IN * l_in
    acc = tl.zeros((R, N), dtype=tl.float32)
    for s in tl.range(0, C_IN // C * TAPS):
        tap = s % TAPS
        ch = s // TAPS * C + tl.arange(0, C)
        start = position0 - tap * JUMP
        ok = (col >= tl.minimum(tl.maximum(-start, 0), N)) & (col < tl.minimum(tl.maximum(l_in - start, 0), N))
        if not LATE:
            w = fragments(w_ptr, s * OB + ob, R, C, WARPS)
        x = tl.load(xi + start + (ch.to(tl.int64) * l_in)[:, None] + col[None, :], mask=ok[None, :], other=0.0)
        if LATE:
            w = fragments(w_ptr, s * OB + ob, R, C, WARPS)
        acc = tl.dot(w, x, acc, input_precision="tf32")
    out_once(acc, y_ptr, l_out, position0 * S - PAD, ob * R, image, C_OUT, S, CM, ONCE)


# Weights as for frag.
@triton.jit(do_not_specialize=["l_in", "l_out", "positions"])
def fragres(x_ptr, w_ptr, y_ptr, l_in, l_out, positions, C_IN: tl.constexpr, C_OUT: tl.constexpr, S: tl.constexpr,
            PAD: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, R: tl.constexpr, N: tl.constexpr,
            C: tl.constexpr, CM: tl.constexpr, WARPS: tl.constexpr, P: tl.constexpr, XT: tl.constexpr,
            JOIN: tl.constexpr, AHEAD: tl.constexpr, EARLY: tl.constexpr, ONCE: tl.constexpr,
            DIRECT: tl.constexpr):
    M: tl.constexpr = N // P
    OB: tl.constexpr = C_OUT // R
    block = tl.program_id(0)
    ob = block % OB
    block = block // OB
    nb = tl.cdiv(positions + PAD // S, N)
    position0 = block % nb * N
    image = (block // nb).to(tl.int64)
    m = crossed(tl.arange(0, M), DIRECT)
    j = tl.arange(0, P)
    if JOIN:
        accs = (tl.zeros((R, N), dtype=tl.float32),)
    else:
        accs = ()
        for i in tl.static_range(P):
            accs = accs + (tl.zeros((R, M), dtype=tl.float32),)
    for s in tl.range(0, C_IN // C, num_stages=1):
        # lanes along the positions, channels of a thread contiguous: K-major vector stores
        ch = s * C + tl.arange(0, XT)[:, None] * (C // XT) + tl.arange(0, C // XT)[None, :]
        xrow = x_ptr + (image * C_IN + ch) * (l_in // P * P)
        xs = ()
        ws = ()
        for k in tl.static_range(TAPS):
            for b in tl.static_range(blocks_of(k - 1 + AHEAD if k else -1, TAPS, JUMP, P),
                                     blocks_of(k + AHEAD, TAPS, JUMP, P)):
                q = position0 - b * P + m * P
                ok = (q >= 0) & (q < l_in)
                x = tl.load(xrow[None, :, :, None] + (q[:, None] + j[None, :])[:, None, None, :],
                            mask=ok[:, None, None, None], other=0.0)
                xs = xs + separate(tl.reshape(tl.permute(x, (1, 2, 0, 3)), (C, M, P)), P)
            for t in tl.static_range(k + EARLY if k else 0, min(k + EARLY, TAPS - 1) + 1):
                ws = ws + (fragments(w_ptr, (s * TAPS + t) * OB + ob, R, C, WARPS),)
            w = ws[k]
            # position m*P + i reads sample m*P + i - k*JUMP
            if JOIN:
                window = ()
                for i in tl.static_range(P):
                    window = window + (xs[sample(i, k * JUMP, P)],)
                x = tl.reshape(tl.permute(together(window, P), (0, 2, 1)), (C, N))
                accs = (tl.dot(w, x, accs[0], input_precision="tf32"),)
            else:
                sums = ()
                for i in tl.static_range(P):
                    sums = sums + (tl.dot(w, xs[sample(i, k * JUMP, P)], accs[i], input_precision="tf32"),)
                accs = sums
    if JOIN:
        acc = tl.permute(tl.reshape(accs[0], (R, P, M)), (0, 2, 1))
    else:
        acc = together(accs, P)
    if DIRECT:
        out_direct(acc, y_ptr, l_out, position0 * S - PAD, ob * R, image, C_OUT, WARPS, CM)
    else:
        out_once(tl.reshape(acc, (R, N)), y_ptr, l_out, position0 * S - PAD, ob * R, image, C_OUT, S, CM, ONCE)


LAYERS = {  # batch, c_in, c_out, kernel, stride, padding, dilation, length, live taps, samples from tap to tap
    79: (16, 32, 64, 3, 2, 1, 2, 131072, 3, 1),
    74: (32, 32, 64, 5, 1, 0, 3, 131072, 5, 3),
    64: (64, 128, 128, 3, 1, 0, 1, 65536, 3, 1),
}


def geometry(layer):
    _, c_in, c_out, _, stride, padding, _, _, taps, jump = LAYERS[layer]
    return dict(C_IN=c_in, C_OUT=c_out, S=stride, PAD=padding, TAPS=taps, JUMP=jump)


def label(kernel, constants, warps, stages, registers):
    shown = [f"{k}{v}" for k, v in constants.items()
             if k not in ("CM", "XT", "W", "WARPS") and (v or k not in ("ONCE", "DIRECT"))]
    if constants["CM"]:
        shown.append("cm" + constants["CM"])
    shown += [f"w{warps}", f"s{stages}"] + ([f"r{registers}"] if registers else [])
    return " ".join([kernel.fn.__name__] + shown)


def variants(layer):
    """(kernel, constants, warps, stages, most registers a thread)"""
    found = []

    def add(kernel, R, N, C, warps=4, stages=1, registers=None, **more):
        constants = dict(R=R, N=N, C=C, **more)
        constants.setdefault("CM", ".cs" if layer == 79 else "")
        if kernel is base:  # XT: lanes of MODE 2 along the channels
            constants["ONCE"] = 0
            constants["XT"] = max(1, warps * 32 // N) if more["MODE"] == 2 else 0
        elif kernel is quad:  # W: lanes along the channels
            constants["W"] = warps * 128 // N
        elif kernel is toep:
            constants["W"] = max(1, warps * 32 // (N // more["P"]))
        found.append((kernel, constants, warps, stages, registers))

    tf32 = dict(PREC="tf32", MODE=0, UNROLL=1)
    triple = dict(PREC="bf16x3", MODE=0, UNROLL=1)
    halves = dict(PREC="tf32", MODE=1, UNROLL=1)
    spread = dict(PREC="tf32", MODE=2, UNROLL=1)
    if layer == 64:
        for warps, stages in ((8, 1), (8, 3), (4, 1)):
            add(base, 128, 128, 32, warps, stages, **tf32)
        add(base, 128, 128, 32, 8, **triple)
        for N, C, warps, stages in ((128, 32, 8, 1), (128, 64, 8, 1), (128, 32, 4, 1), (256, 32, 8, 1),
                                    (128, 64, 8, 2)):
            add(base, 128, N, C, warps, stages, **halves)
        add(base, 128, 128, 32, 8, **dict(halves, UNROLL=3))
        for C, warps in ((32, 8), (64, 8), (32, 4)):
            add(base, 128, 128, C, warps, **spread)
        add(quad, 128, 128, 64, 8, BF=1)
        for bf in (0, 1):
            for R, N, warps in ((64, 128, 4), (128, 128, 8), (128, 256, 8), (128, 128, 4), (64, 256, 4)):
                add(quad, R, N, 32, warps, BF=bf)
            for R, N, C, order, unroll in ((128, 128, 32, 0, 1), (64, 256, 32, 0, 1), (64, 256, 32, 1, 1),
                                           (64, 256, 16, 0, 2)):
                add(toep, R, N, C, 8, P=2, KORD=order, NB=2, UNROLL=unroll, BF=bf)
            for warps, unroll in ((4, 1), (8, 1), (4, 3)):
                add(xrows, 128, 128, 32, warps, BF=bf, UNROLL=unroll)
        return found
    for N in (64, 128, 256):
        add(base, 64, N, 32, **tf32)
    add(base, 64, 128, 32, **dict(tf32, CM=".cs" if layer == 74 else ""))
    add(base, 64, 128, 32, **triple)
    for N, warps in ((128, 4), (256, 4), (256, 8)):
        add(base, 64, N, 32, warps, **halves)
    add(base, 64, 128, 32, **dict(halves, UNROLL=LAYERS[layer][8]))
    add(base, 64, 128, 32, registers=128, **halves)
    for N in (64, 128):
        add(base, 64, N, 32, **spread)
    for bf in (0, 1):
        for N, C, warps, registers in ((128, 32, 4, None), (256, 32, 4, None), (256, 32, 8, None), (256, 16, 4, None),
                                       (128, 32, 4, 128)):
            add(quad, 64, N, C, warps, registers=registers, BF=bf)
        if layer == 79:
            for P, order, warps in ((2, 0, 4), (2, 0, 8), (2, 1, 4), (4, 0, 8)):
                add(toep, 64, 128, 32, warps, P=P, KORD=order, NB=2, UNROLL=1, BF=bf)
        add(xrows, 64, 128, 32, BF=bf, UNROLL=1)
    return found


def fragment_variants(layer):
    """As variants, for weights that pass no shared memory; base is there to compare with."""
    found = []

    def add(kernel, R, N, C=32, warps=4, stages=1, registers=None, **more):
        constants = dict(R=R, N=N, C=C, CM=".cs" if layer == 79 else "", ONCE=0)
        if kernel is base:
            constants.update(PREC="tf32", MODE=0, UNROLL=1, XT=0)
        else:
            constants["WARPS"] = warps
        if kernel is frag:
            constants["LATE"] = 1
        if kernel is fragres:  # XT: lanes of x along the channels
            constants.update(JOIN=0, AHEAD=LAYERS[layer][8], EARLY=0, DIRECT=0, XT=max(1, warps * 32 * more["P"] // N))
        constants.update(more)
        found.append((kernel, constants, warps, stages, registers))

    if layer == 79:
        for N, once in ((128, 0), (128, 2), (256, 0), (256, 2)):
            add(base, 64, N, ONCE=once)
        for N, once in ((128, 2), (256, 1)):
            add(frag, 64, N, ONCE=once)
        for P, early, once in ((4, 0, 1), (4, 1, 1), (4, 1, 2), (2, 1, 1)):
            add(fragres, 64, 128, P=P, EARLY=early, ONCE=once)
        add(fragres, 64, 256, P=4, EARLY=1, ONCE=1)
        add(fragres, 64, 128, P=4, JOIN=1, ONCE=1)
    elif layer == 74:
        for N in (128, 256):
            add(base, 64, N)
            add(frag, 64, N)
        for early, direct in ((0, 0), (0, 1), (1, 1)):
            add(fragres, 64, 128, P=4, EARLY=early, DIRECT=direct)
        add(fragres, 64, 128, P=4, AHEAD=1, DIRECT=1)
        add(fragres, 64, 256, P=4, DIRECT=1)
        for ahead, direct in ((0, 0), (0, 1), (1, 1)):
            add(fragres, 64, 128, P=4, JOIN=1, AHEAD=ahead, DIRECT=direct)
    else:
        add(base, 128, 128, stages=3)
        add(frag, 128, 128, warps=8, registers=128)
        add(frag, 128, 256, warps=8)
        add(frag, 64, 256)
        add(fragres, 128, 128, 16, 8, P=2, EARLY=1)
        add(fragres, 128, 128, 16, 8, registers=128, P=4)
        add(fragres, 128, 256, 16, 8, P=2, EARLY=1)
        add(fragres, 128, 256, 32, 8, P=2)
        add(fragres, 128, 256, 16, 8, P=2, JOIN=1, AHEAD=0)
        for C, P, early in ((32, 2, 0), (16, 2, 1), (32, 4, 0)):
            add(fragres, 64, 128, C, P=P, EARLY=early)
    return found


def pack(w, layer, kernel, constants):
    """w (c_in, c_out, taps) as `kernel` reads it: rounded to TF32, or two bf16 halves, one after the other."""
    c_in, c_out, taps = w.shape
    if kernel is toep:
        P = constants["P"]
        full = torch.zeros(constants["NB"], c_out, P, c_in, P, device=w.device)
        for i in range(P):
            for k in range(taps):
                offset = i - k * LAYERS[layer][9]
                block = -(offset // P)
                full[block, :, i, :, offset + block * P] = w[:, :, k].t()
        if constants["KORD"] == 1:
            full = full.reshape(constants["NB"], c_out * P, c_in // constants["C"], constants["C"], P).transpose(3, 4)
        full = full.reshape(-1).contiguous()
    elif kernel in (frag, fragres):
        warps, blocks = constants["WARPS"], constants["R"] // (16 * constants["WARPS"])
        full = w.permute(2, 1, 0).reshape(taps, c_out // constants["R"], blocks, warps, 2, 8, c_in // constants["C"],
                                          constants["C"] // 8, 2, 4)
        full = full.permute(6, 0, 1, 2, 7, 3, 5, 9, 8, 4).reshape(-1).contiguous()
    else:
        full = w.permute(2, 1, 0).contiguous().reshape(-1)
    if constants.get("BF") or constants.get("MODE"):
        high = full.to(torch.bfloat16)
        return torch.cat([high, (full - high.float()).to(torch.bfloat16)])
    return ((full.view(torch.int32) + 0x1000) & -8192).view(torch.float32)


def launch(layer, variant, x, packed, y):
    kernel, constants, warps, stages, registers = variant
    shape = geometry(layer)
    stride, padding = shape["S"], shape["PAD"]
    l_in, l_out = x.shape[2], y.shape[2]
    positions = (l_out - 1 + padding) // stride - padding // stride + 1
    # quad, toep and fragres start at position 0.
    tiled = positions if kernel in (base, xrows, frag) else positions + padding // stride
    grid = (x.shape[0] * (shape["C_OUT"] // constants["R"]) * triton.cdiv(tiled, constants["N"]),)
    options = dict(num_warps=warps, num_stages=stages, **({"maxnreg": registers} if registers else {}))
    return kernel[grid](x, packed, y, l_in, l_out, positions, **shape, **constants, **options)


def graph_ms(run, inside=5, count=9):
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(inside):
            run()
    graph.replay()
    times = []
    for _ in range(count):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / inside)
    return statistics.median(times)


def trial(layer, chosen):
    batch, c_in, c_out, taps, stride, padding, dilation, length = LAYERS[layer][:8]
    w = (torch.rand(c_in, c_out, taps, device="cuda") * 2 - 1) / math.sqrt(c_out * taps)
    small = torch.randn(1, c_in, 8192, device="cuda")
    expected = torch.nn.functional.conv_transpose1d(small.double(), w.double(), None, stride, padding, 0, 1, dilation)

    def check(variant):
        packed = pack(w, layer, *variant[:2])
        y = torch.full(expected.shape, float("nan"), device="cuda")
        built = launch(layer, variant, small, packed, y)
        torch.cuda.synchronize()
        error = float((y.double() - expected).abs().max() / expected.abs().max())
        assert error < 2e-3, label(*variant)
        kernel, constants, warps, stages, registers = variant
        row = dict(layer=layer, family=kernel.fn.__name__, constants=constants, warps=warps, stages=stages,
                   most_registers=registers, label=label(*variant), error=error, registers=built.n_regs,
                   spills=built.n_spills, shared=built.metadata.shared)
        return variant, packed, row

    with ThreadPoolExecutor(12) as pool:
        checked = list(pool.map(check, chosen(layer)))
    l_out = (length - 1) * stride - 2 * padding + dilation * (taps - 1) + 1
    x = torch.randn(batch, c_in, length, device="cuda")
    y = torch.empty(batch, c_out, l_out, device="cuda")
    print("== kb%d" % layer)
    for variant, packed, row in checked:
        row["ms"] = graph_ms(lambda: launch(layer, variant, x, packed, y))
    rows = sorted((row for _, _, row in checked), key=lambda row: row["ms"])
    for row in rows:
        print("%8.4f  %-62s err %.1e reg %d spill %d smem %dK" % (row["ms"], row["label"], row["error"],
                                                                 row["registers"], row["spills"],
                                                                 row["shared"] // 1024), flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("layers", type=int, nargs="*", metavar="LAYER")
    parser.add_argument("--only", choices=["fragments"])
    parser.add_argument("--out")
    arguments = parser.parse_args()
    machine = dict(gpu=torch.cuda.get_device_name(), torch=torch.__version__, triton=triton.__version__,
                   date=time.strftime("%Y-%m-%d"), command=" ".join(["python3", *sys.argv]))
    print(machine["gpu"], machine["torch"], machine["triton"])
    torch.manual_seed(0)
    rows = []
    chosen = fragment_variants if arguments.only else lambda layer: variants(layer) + fragment_variants(layer)
    for layer in arguments.layers or LAYERS:
        rows += trial(layer, chosen)
    if arguments.out:
        with open(arguments.out, "w") as file:
            json.dump({"machine": machine, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
