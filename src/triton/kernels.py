import torch
import torch.nn as nn
import triton
import triton.language as tl


# A transposed convolution is STRIDE interleaved stride-1 convolutions, its phases. With u = t + PADDING,
# output t has phase u % STRIDE and position u // STRIDE, and tap k feeds it exactly when k * DILATION has
# the same remainder. With GAP = gcd(STRIDE, DILATION), only every GAP-th phase has taps (LIVE of them), the
# others are bias. Every program computes one matrix product,
#     (output channels x live phases) by (taps x input channels)  times  (taps x input channels) by positions,
# with no divisibility test and no structural zero inside the loop. STEP = DILATION / GAP; tap number j of
# every phase reads x[position - j * JUMP]. C_IN and C_OUT count the channels of one group.


@triton.jit
def tap_index(phase, tap, K: tl.constexpr, LIVE: tl.constexpr, STEP: tl.constexpr, JUMP: tl.constexpr):
    # The kernel index k of tap number `tap` of a live phase, and whether the phase has that tap.
    reach = phase + tap * (JUMP * LIVE)
    k = reach // STEP
    return k, (reach % STEP == 0) & (k < K) & (phase < LIVE)


@triton.jit
def clamp(value, BLOCK: tl.constexpr):
    return tl.minimum(tl.maximum(value, 0), BLOCK)


@triton.jit
def place(positions, PADDING: tl.constexpr, STRIDE: tl.constexpr, C_OUT: tl.constexpr, GROUPS: tl.constexpr,
          PHASE_BLOCKS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_POSITIONS: tl.constexpr):
    # Which tile this program computes. Programs that share positions are neighbours: x comes from DRAM once.
    OUT_BLOCKS: tl.constexpr = (C_OUT + BLOCK_OUT - 1) // BLOCK_OUT
    block = tl.program_id(0)
    phase_block = block % PHASE_BLOCKS
    block = block // PHASE_BLOCKS
    out_block = block % OUT_BLOCKS
    block = block // OUT_BLOCKS
    position_blocks = tl.cdiv(positions, BLOCK_POSITIONS)
    position0 = (block % position_blocks) * BLOCK_POSITIONS + PADDING // STRIDE
    block = block // position_blocks
    return phase_block, out_block * BLOCK_OUT, position0, block % GROUPS, (block // GROUPS).to(tl.int64)


@triton.jit
def store_tile(acc, bias_ptr, y_ptr, l_out, phase_block, out, position0, group, image,
               C_OUT: tl.constexpr, GROUPS: tl.constexpr, STRIDE: tl.constexpr, PADDING: tl.constexpr,
               GAP: tl.constexpr, GAP_PAD: tl.constexpr, LIVE: tl.constexpr, PHASES: tl.constexpr,
               HAS_BIAS: tl.constexpr, BLOCK_OUT: tl.constexpr, BLOCK_POSITIONS: tl.constexpr,
               MATRIX_UNIT: tl.constexpr):
    # (channel, phase) x position -> channel x time: phases side by side, dead phases between them.
    if PHASES > 1:
        acc = tl.reshape(acc, (BLOCK_OUT, PHASES, BLOCK_POSITIONS))
        acc = tl.reshape(tl.permute(acc, (0, 2, 1)), (BLOCK_OUT, BLOCK_POSITIONS * PHASES))
    if MATRIX_UNIT & (GAP_PAD == 2) & (PHASES == 1):
        # What the matrix unit made goes through shared memory: without its dead phases, and with half the registers.
        acc = tl.broadcast_to(acc[:, :, None], (BLOCK_OUT, BLOCK_POSITIONS, 2))
        acc = tl.reshape(acc, (BLOCK_OUT, BLOCK_POSITIONS * 2))
        live = tl.arange(0, BLOCK_POSITIONS * 2) % 2 == 0
        acc = tl.where(live[None, :], acc, tl.zeros_like(acc))
    elif GAP_PAD >= 2:
        acc = tl.interleave(acc, tl.zeros_like(acc))
        if GAP_PAD >= 4:
            acc = tl.interleave(acc, tl.zeros_like(acc))
    out_ok = out < C_OUT
    out = group * C_OUT + out
    if HAS_BIAS:
        acc += tl.load(bias_ptr + out, mask=out_ok, other=0.0).to(acc.dtype)[:, None]
    time0 = position0 * STRIDE - PADDING
    low = clamp(-time0, BLOCK_POSITIONS * STRIDE)
    high = clamp(l_out - time0, BLOCK_POSITIONS * STRIDE)
    y_row = y_ptr + image * (GROUPS * C_OUT) * l_out + time0 + (out.to(tl.int64) * l_out)[:, None]
    column = tl.arange(0, BLOCK_POSITIONS * PHASES * GAP_PAD)
    if PHASES * GAP_PAD == STRIDE:
        time_ok = (column >= low) & (column < high)
        # A tile with dead phases is mostly written, hardly read: let it stream past the caches.
        CACHE: tl.constexpr = ".cs" if GAP_PAD > 1 else ""
        tl.store(y_row + column[None, :], acc.to(y_ptr.dtype.element_ty), mask=out_ok[:, None] & time_ok[None, :],
                 cache_modifier=CACHE)
    else:
        phase = phase_block * PHASES + (column // GAP_PAD) % PHASES
        time = column // (PHASES * GAP_PAD) * STRIDE + phase * GAP + column % GAP_PAD
        real = (phase < LIVE) & (column % GAP_PAD < GAP)
        time_ok = (time >= low) & (time < high) & real
        tl.store(y_row + time[None, :], acc.to(y_ptr.dtype.element_ty), mask=out_ok[:, None] & time_ok[None, :])
        if GAP > GAP_PAD:
            # Too many dead phases to interleave in registers: fill them with the bias one by one.
            dead = tl.zeros_like(acc)
            if HAS_BIAS:
                dead += tl.load(bias_ptr + out, mask=out_ok, other=0.0).to(acc.dtype)[:, None]
            for e in range(1, GAP):
                time_ok = (time + e >= low) & (time + e < high) & real
                tl.store(y_row + e + time[None, :], dead.to(y_ptr.dtype.element_ty),
                         mask=out_ok[:, None] & time_ok[None, :])


@triton.jit
def pack_weight_kernel(w_ptr, packed_ptr, w_stride_in, w_stride_out, w_stride_k,
                       C_IN: tl.constexpr, C_OUT: tl.constexpr, K: tl.constexpr, LIVE: tl.constexpr,
                       STEP: tl.constexpr, TAPS: tl.constexpr, JUMP: tl.constexpr, ALL_PHASES: tl.constexpr,
                       ROUND: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    # packed[group, tap, (output channel, phase), input channel]; zero where a phase lacks the tap.
    ROW_BLOCKS: tl.constexpr = (C_OUT * ALL_PHASES + BLOCK_ROWS - 1) // BLOCK_ROWS
    plane = tl.program_id(0) // ROW_BLOCKS  # of one group and tap
    row = tl.program_id(0) % ROW_BLOCKS * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    group = plane // TAPS
    k, has_tap = tap_index(row % ALL_PHASES, plane % TAPS, K, LIVE, STEP, JUMP)
    inside = (row < C_OUT * ALL_PHASES)[:, None] & (channel < C_IN)[None, :]
    source = (row // ALL_PHASES).to(tl.int64) * w_stride_out + k * w_stride_k
    value = tl.load(w_ptr + (group * C_IN + channel).to(tl.int64)[None, :] * w_stride_in + source[:, None],
                    mask=inside & has_tap[:, None], other=0.0)
    if ROUND:
        # To the nearest TF32 value; the matrix unit alone would cut the low 13 bits off. Inf and NaN stay.
        bits = value.to(tl.int32, bitcast=True)
        finite = (bits & 0x7F800000) != 0x7F800000
        value = tl.where(finite, (bits + 0x1000) & -8192, bits).to(tl.float32, bitcast=True)
    target = plane.to(tl.int64) * (C_OUT * ALL_PHASES * C_IN) + row.to(tl.int64)[:, None] * C_IN
    tl.store(packed_ptr + target + channel[None, :], value, mask=inside)


# @autotune
@triton.jit(do_not_specialize=["l_in", "l_out", "positions", "x_stride_b", "x_stride_c"])
def conv_transpose1d_kernel(x_ptr, packed_ptr, bias_ptr, y_ptr, l_in, l_out, positions, x_stride_b, x_stride_c,
                            C_IN: tl.constexpr, C_OUT: tl.constexpr, GROUPS: tl.constexpr, STRIDE: tl.constexpr,
                            PADDING: tl.constexpr, GAP: tl.constexpr, GAP_PAD: tl.constexpr, LIVE: tl.constexpr,
                            TAPS: tl.constexpr, JUMP: tl.constexpr, PHASES: tl.constexpr,
                            PHASE_BLOCKS: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
                            BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    # Matrix-unit body.
    ROWS: tl.constexpr = C_OUT * PHASE_BLOCKS * PHASES
    STEPS: tl.constexpr = (C_IN + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS
    BLOCK_OUT: tl.constexpr = BLOCK_ROWS // PHASES
    phase_block, out0, position0, group, image = place(positions, PADDING, STRIDE, C_OUT, GROUPS, PHASE_BLOCKS,
                                                       BLOCK_OUT, BLOCK_POSITIONS)
    i = tl.arange(0, BLOCK_ROWS)
    row = ((out0 + i // PHASES) * PHASE_BLOCKS + phase_block) * PHASES + i % PHASES
    column = tl.arange(0, BLOCK_POSITIONS)
    x_image = x_ptr + image * x_stride_b + group.to(tl.int64) * C_IN * x_stride_c
    w_group = packed_ptr + group.to(tl.int64) * (TAPS * ROWS * C_IN)
    acc = tl.zeros((BLOCK_ROWS, BLOCK_POSITIONS), dtype=tl.float32)
    for step in range(TAPS * STEPS):
        tap = step // STEPS
        channel = (step % STEPS) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        start = position0 - tap * JUMP
        x_ok = (column >= clamp(-start, BLOCK_POSITIONS)) & (column < clamp(l_in - start, BLOCK_POSITIONS))
        w = tl.load(w_group + tap.to(tl.int64) * (ROWS * C_IN) + (row * C_IN)[:, None] + channel[None, :],
                    mask=(row < ROWS)[:, None] & (channel < C_IN)[None, :], other=0.0)
        x = tl.load(x_image + start + (channel.to(tl.int64) * x_stride_c)[:, None] + column[None, :],
                    mask=x_ok[None, :] & (channel < C_IN)[:, None], other=0.0)
        acc = tl.dot(w, x, acc, input_precision=PRECISION)
    if (GAP_PAD > 1) & (PHASES == 1) & (BLOCK_ROWS >= 16):
        # Half of the rows at a time: what is interleaved with dead phases takes twice the registers. Rows 8 to
        # 15 of every 16 lie in registers of their own on the matrix unit, so nothing moves.
        halves = tl.permute(tl.reshape(acc, (BLOCK_ROWS // 16, 2, 8, BLOCK_POSITIONS)), (0, 2, 3, 1))
        even, odd = tl.split(halves)
        out = tl.arange(0, BLOCK_ROWS // 2)
        out = out0 + out // 8 * 16 + out % 8
        even = tl.reshape(even, (BLOCK_ROWS // 2, BLOCK_POSITIONS))
        odd = tl.reshape(odd, (BLOCK_ROWS // 2, BLOCK_POSITIONS))
        store_tile(even, bias_ptr, y_ptr, l_out, phase_block, out, position0, group, image, C_OUT, GROUPS, STRIDE,
                   PADDING, GAP, GAP_PAD, LIVE, PHASES, HAS_BIAS, BLOCK_OUT // 2, BLOCK_POSITIONS, True)
        store_tile(odd, bias_ptr, y_ptr, l_out, phase_block, out + 8, position0, group, image, C_OUT, GROUPS, STRIDE,
                   PADDING, GAP, GAP_PAD, LIVE, PHASES, HAS_BIAS, BLOCK_OUT // 2, BLOCK_POSITIONS, True)
    else:
        store_tile(acc, bias_ptr, y_ptr, l_out, phase_block, out0 + tl.arange(0, BLOCK_OUT), position0, group, image,
                   C_OUT, GROUPS, STRIDE, PADDING, GAP, GAP_PAD, LIVE, PHASES, HAS_BIAS, BLOCK_OUT, BLOCK_POSITIONS,
                   True)


@triton.jit(do_not_specialize=["l_in", "l_out", "positions", "x_stride_b", "x_stride_c"])
def conv_transpose1d_fma_kernel(x_ptr, w_ptr, bias_ptr, y_ptr, l_in, l_out, positions, x_stride_b, x_stride_c,
                                w_stride_in, w_stride_out, w_stride_k,
                                C_IN: tl.constexpr, C_OUT: tl.constexpr, GROUPS: tl.constexpr, K: tl.constexpr,
                                STRIDE: tl.constexpr, PADDING: tl.constexpr, GAP: tl.constexpr,
                                GAP_PAD: tl.constexpr, LIVE: tl.constexpr, STEP: tl.constexpr,
                                TAPS: tl.constexpr, JUMP: tl.constexpr, PHASES: tl.constexpr,
                                PHASE_BLOCKS: tl.constexpr, HAS_BIAS: tl.constexpr, ACC: tl.constexpr,
                                BLOCK_ROWS: tl.constexpr, BLOCK_POSITIONS: tl.constexpr):
    # Body without the matrix unit: few input channels a group (depthwise), and exact int32 and float64 sums.
    BLOCK_OUT: tl.constexpr = BLOCK_ROWS // PHASES
    phase_block, out0, position0, group, image = place(positions, PADDING, STRIDE, C_OUT, GROUPS, PHASE_BLOCKS,
                                                       BLOCK_OUT, BLOCK_POSITIONS)
    i = tl.arange(0, BLOCK_ROWS)
    out = out0 + i // PHASES
    column = tl.arange(0, BLOCK_POSITIONS)
    x_image = x_ptr + image * x_stride_b + group.to(tl.int64) * C_IN * x_stride_c
    w_group = w_ptr + group.to(tl.int64) * C_IN * w_stride_in
    acc = tl.zeros((BLOCK_ROWS, BLOCK_POSITIONS), dtype=ACC)
    for tap in range(TAPS):
        start = position0 - tap * JUMP
        x_ok = (column >= clamp(-start, BLOCK_POSITIONS)) & (column < clamp(l_in - start, BLOCK_POSITIONS))
        k, has_tap = tap_index(phase_block * PHASES + i % PHASES, tap, K, LIVE, STEP, JUMP)
        source = out.to(tl.int64) * w_stride_out + k * w_stride_k
        for channel in range(C_IN):
            x = tl.load(x_image + start + channel * x_stride_c.to(tl.int64) + column, mask=x_ok, other=0.0)
            w = tl.load(w_group + channel * w_stride_in + source, mask=has_tap & (out < C_OUT), other=0.0)
            acc += w.to(ACC)[:, None] * x.to(ACC)[None, :]
    store_tile(acc, bias_ptr, y_ptr, l_out, phase_block, out0 + tl.arange(0, BLOCK_OUT), position0, group, image, C_OUT, GROUPS, STRIDE,
               PADDING, GAP, GAP_PAD, LIVE, PHASES, HAS_BIAS, BLOCK_OUT, BLOCK_POSITIONS, False)


def greatest_common_divisor(a, b):
    return a if b == 0 else greatest_common_divisor(b, a % b)


def conv_transpose1d(x, weight, bias, stride, padding, output_padding, dilation, groups):
    # x (B, C_in, L), weight (C_in, C_out / groups, K), bias (C_out) or None -> y (B, C_out, L_out).
    batch, channels, l_in = x.shape
    c_in, c_out, k = channels // groups, weight.shape[1], weight.shape[2]
    l_out = (l_in - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1
    y = torch.empty((batch, groups * c_out, l_out), device=x.device, dtype=x.dtype)
    if y.numel() == 0:
        return y
    if max(l_in, l_out) + 2 * padding + 65536 * stride >= 2**31:
        raise ValueError("rows of 2^31 samples are not supported: positions inside a row are 32-bit")
    if x.stride(2) != 1:
        x = x.contiguous()

    gap = greatest_common_divisor(stride, dilation)
    live, step = stride // gap, dilation // gap
    taps, jump = (k, step) if live == 1 else ((k - 1) * step // live + 1, 1)
    gap_pad = triton.next_power_of_2(gap) if gap <= 4 else 1
    positions = (l_out - 1 + padding) // stride - padding // stride + 1
    phase_limit = 64  # @phase_limit
    phases = min(triton.next_power_of_2(live), phase_limit)
    phase_blocks = triton.cdiv(live, phases)
    shape = dict(C_IN=c_in, C_OUT=c_out, GROUPS=groups, STRIDE=stride, PADDING=padding, GAP=gap, GAP_PAD=gap_pad,
                 LIVE=live, TAPS=taps, JUMP=jump, PHASES=phases, PHASE_BLOCKS=phase_blocks,
                 HAS_BIAS=bias is not None)
    bias_or_y = y if bias is None else bias
    x_args = (l_in, l_out, positions, x.stride(0), x.stride(1))

    def grid(meta):
        out_blocks = triton.cdiv(c_out, meta["BLOCK_ROWS"] // phases)
        position_blocks = triton.cdiv(positions, meta["BLOCK_POSITIONS"])
        return (phase_blocks * out_blocks * position_blocks * groups * batch,)

    if c_in < 8 or x.dtype in (torch.int32, torch.float64):
        acc = {torch.int32: tl.int32, torch.float64: tl.float64}.get(x.dtype, tl.float32)
        rows = max(phases, min(8, phases * triton.next_power_of_2(c_out)))
        conv_transpose1d_fma_kernel[grid](
            x, weight, bias_or_y, y, *x_args, *weight.stride(), K=k, STEP=step, ACC=acc, **shape,
            BLOCK_ROWS=rows, BLOCK_POSITIONS=max(32, 2048 // (rows * gap_pad)), num_warps=4, num_stages=1)
        return y

    exact = x.dtype == torch.float32 and not torch.backends.cudnn.allow_tf32
    all_phases = phases * phase_blocks
    if c_out * all_phases * c_in >= 2**31:
        raise ValueError("2^31 weights of one tap and group are not supported: offsets inside them are 32-bit")
    packed = torch.empty((groups * taps * c_out * all_phases * c_in,), device=x.device, dtype=weight.dtype)
    pack_grid = (groups * taps * triton.cdiv(c_out * all_phases, 64), triton.cdiv(c_in, 32))
    pack_weight_kernel[pack_grid](
        weight, packed, *weight.stride(), C_IN=c_in, C_OUT=c_out, K=k, LIVE=live, STEP=step, TAPS=taps, JUMP=jump,
        ALL_PHASES=all_phases, ROUND=x.dtype == torch.float32 and not exact, BLOCK_ROWS=64, BLOCK_CHANNELS=32)
    conv_transpose1d_kernel[grid](
        x, packed, bias_or_y, y, *x_args, PRECISION="ieee" if exact else "tf32", **shape,
    )  # @blocks
    return y
