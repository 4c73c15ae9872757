"""The transposed convolution of NumPy arrays, on the CPU."""

import os

from tconv import _native

_ARITHMETIC = {"float32": "f32", "float64": "f64", "float16": "f16", "int32": "i32"}


def conv_transpose1d(x, w, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, *, out=None,
                     threads=None):
    """y[b,co,t] = bias[co] + the sum of x[b,ci,i] * w[ci,co,k] over i*stride - padding + k*dilation == t.

    x (N, C_in, L) or (C_in, L), w (C_in, C_out/groups, K), bias (C_out): arrays of one dtype, float32, float64, float16
    (sums in float32) or int32 (sums wrap around), with any strides. Returns (N, C_out, L_out) or (C_out, L_out) with
    L_out = (L-1)*stride - 2*padding + dilation*(K-1) + output_padding + 1, in `out` where that is given: an array of
    this shape and dtype whose last dimension is dense and which shares no memory with the others. threads: 1 to 1024;
    None takes every core this process may use.

    Raises TypeError for a wrong type or dtype, ValueError for a wrong shape, tconv.Error for a layer that is none. The
    weights are packed in every call; a tconv.Plan packs them once."""
    import numpy as np

    arrays = {"x": x, "w": w, **({} if bias is None else {"bias": bias}), **({} if out is None else {"out": out})}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(array).__name__} (rule: a NumPy array)")
        if array.dtype != x.dtype or not array.dtype.isnative or array.dtype.name not in _ARITHMETIC:
            raise TypeError(f"{name} is of dtype {array.dtype.str} (rule: all of one dtype, {', '.join(_ARITHMETIC)})")
    if x.ndim not in (2, 3):
        raise ValueError(f"x has the shape {x.shape} (rule: (N, C_in, L) or (C_in, L))")
    if w.ndim != 3 or w.shape[0] != x.shape[-2]:
        raise ValueError(f"w has the shape {w.shape} (rule: ({x.shape[-2]}, C_out/groups, K) for x of {x.shape})")
    c_out = w.shape[1] * groups
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"bias has the shape {bias.shape} (rule: ({c_out},))")
    plan = _native.Plan(w.shape[0], c_out, w.shape[2], stride, padding, output_padding, dilation, groups,
                        _ARITHMETIC[x.dtype.name], bias is not None, _native.CPU)
    shape = (*x.shape[:-2], c_out, plan.out_length(x.shape[-1]))
    y = np.empty(shape, x.dtype) if out is None else out
    if y.shape != shape:
        raise ValueError(f"out has the shape {y.shape} (rule: {shape})")
    if not (y.flags.writeable and y.flags.aligned and (y.strides[-1] == y.itemsize or y.size == 0 or shape[-1] == 1)):
        raise ValueError("out cannot be written in rows (rule: writeable, aligned, the last dimension dense)")

    def elements(array):
        """The array itself where its strides count elements, else a copy; as (N, rows, columns); and its strides."""
        if not array.flags.aligned or any(stride % array.itemsize for stride in array.strides):
            array = array.copy()
        array = array.reshape((1,) * (3 - array.ndim) + array.shape) if array.ndim < 3 else array
        return array, [stride // array.itemsize for stride in array.strides]

    if threads is None:
        threads = min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 1024)
    (x, x_strides), (w, w_strides), (rows, y_strides) = elements(x), elements(w), elements(y)
    memory = np.empty(plan.packed_bytes + _native.ALIGN, np.uint8)
    packed = -(-memory.ctypes.data // _native.ALIGN) * _native.ALIGN
    plan.pack(w.ctypes.data, w_strides, packed, threads=threads)
    bias = None if bias is None else np.ascontiguousarray(bias)
    plan.run(x.ctypes.data, packed, None if bias is None else bias.ctypes.data, rows.ctypes.data, x.shape[0],
             x.shape[2], x_strides, y_strides[:2], threads=threads)
    return y
