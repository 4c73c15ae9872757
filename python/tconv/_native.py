"""libtconv.so by ctypes: pointers in, launches out. Nothing here needs torch."""

import ctypes
import mmap
import os
import pathlib
import struct

ARITHMETICS = {"f32": 0, "tf32": 1, "f16": 2, "bf16": 3, "f64": 4, "i32": 5}
ACTIVATIONS = {"none": 0, "relu": 1, "leaky_relu": 2, "elu": 3, "gelu": 4, "tanh": 5, "snake": 6}
CPU = -1
INVALID, UNSUPPORTED = 2, 3  # of tconv_status
ALIGN = 256  # bytes, of packed weights
# Bytes of an output in huge pages. Smaller ones hold few whole ones; for larger ones the system has to move others' pages
# together first, which took longer than it saved (docs/pytorch.md).
HUGE_PAGES = range(4 << 20, 128 << 20)

_madvise = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_HUGEPAGE") else None
if _madvise is not None:
    _madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def prefer_huge_pages(address, size):
    """Of memory on the CPU that is about to be written for the first time: getting it from the system page by page takes
    longer than a layer's arithmetic. A hint, which a system may not know."""
    if _madvise is not None:
        first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        _madvise(first, max(address + size - first, 0) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)


class _Problem(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_int64) for name in ("c_in", "c_out", "kernel", "stride", "padding", "output_padding",
                                            "dilation", "groups")] + [
        ("arithmetic", ctypes.c_int32), ("bias", ctypes.c_int32), ("before", ctypes.c_int32),
        ("after", ctypes.c_int32), ("before_parameter", ctypes.c_double), ("after_parameter", ctypes.c_double)]


class _How(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t), ("stream", ctypes.c_void_p), ("threads", ctypes.c_int32),
                ("parallel", ctypes.c_void_p)]


class _Run(ctypes.Structure):
    _fields_ = [("struct_size", ctypes.c_size_t)] + [(name, ctypes.c_void_p) for name in ("x", "packed", "bias", "y")] + [
        (name, ctypes.c_int64) for name in ("batch", "length", "x_stride_batch", "x_stride_channel", "x_stride_sample",
                                            "y_stride_batch", "y_stride_channel")] + [
        ("x_alpha", ctypes.c_void_p), ("y_alpha", ctypes.c_void_p)]


class Error(RuntimeError):
    """A refusal: `status` is a tconv_status, the text one line."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


def _path():
    """TCONV_LIBRARY, else the installed package's own library, else the one that this checkout builds."""
    here = pathlib.Path(__file__).resolve().parent
    own = here / "libtconv.so"
    return os.environ.get("TCONV_LIBRARY") or str(
        own if own.is_file() else here.parents[1] / "build" / "release" / "libtconv.so")


def _load():
    lib = ctypes.CDLL(_path())
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
            ("tconv_version", ctypes.c_char_p, []),
            ("tconv_last_error", ctypes.c_char_p, []),
            ("tconv_plan_create", ctypes.c_int, [ctypes.POINTER(_Problem), ctypes.c_int, ctypes.c_char_p,
                                                 ctypes.POINTER(pointer)]),
            ("tconv_plan_destroy", None, [pointer]),
            ("tconv_plan_packed_bytes", i64, [pointer]),
            ("tconv_plan_out_length", ctypes.c_int, [pointer, i64, ctypes.POINTER(i64)]),
            ("tconv_plan_pack", ctypes.c_int, [pointer, pointer, i64, i64, i64, pointer,
                                               ctypes.POINTER(_How)]),
            ("tconv_plan_run", ctypes.c_int, [pointer, ctypes.POINTER(_Run), ctypes.POINTER(_How)]),
            ("tconv_plan_explain", ctypes.c_int, [pointer, i64, i64, ctypes.c_char_p, ctypes.c_size_t,
                                                  ctypes.POINTER(ctypes.c_size_t)])):
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


_lib = _load()

# The way of a caller for whom a microsecond counts: the structs as bytes, packed in one step.
_run_fields, _how_fields = struct.Struct("@N4P7q2P"), struct.Struct("@NPiP")
assert ctypes.sizeof(_Run) == _run_fields.size
_launch = _lib["tconv_plan_run"]
_launch.restype, _launch.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]


def how(stream, threads, parallel=0):
    """A struct tconv_how for Plan.launch. parallel: the address of a tconv_parallel, 0 for tconv's own threads."""
    return _how_fields.pack(ctypes.sizeof(_How), stream, threads, parallel)


def _check(status):
    if status != 0:
        raise Error(status, _lib.tconv_last_error().decode())


def version():
    return _lib.tconv_version().decode()


class Plan:
    """One layer on one device. Pointers are integers (torch's data_ptr()), strides count elements."""

    def __init__(self, c_in, c_out, kernel, stride=1, padding=0, output_padding=0, dilation=1, groups=1,
                 arithmetic="f32", bias=False, device=0, solver=None, before="none", after="none",
                 before_parameter=0.0, after_parameter=0.0):
        numbers = (c_in, c_out, kernel, stride, padding, output_padding, dilation, groups)
        if not all(-2**63 <= number < 2**63 for number in numbers):  # ctypes would wrap them
            raise Error(INVALID, f"problem: {numbers} leave int64")
        problem = _Problem(ctypes.sizeof(_Problem), *numbers, ARITHMETICS[arithmetic], int(bool(bias)),
                           ACTIVATIONS[before], ACTIVATIONS[after], before_parameter, after_parameter)
        self._plan = ctypes.c_void_p()
        _check(_lib.tconv_plan_create(ctypes.byref(problem), device, solver.encode() if solver else None,
                                      ctypes.byref(self._plan)))

    def __del__(self):
        if getattr(self, "_plan", None):
            _lib.tconv_plan_destroy(self._plan)
            self._plan = None

    @property
    def packed_bytes(self):
        return _lib.tconv_plan_packed_bytes(self._plan)

    def out_length(self, length):
        result = ctypes.c_int64()
        _check(_lib.tconv_plan_out_length(self._plan, length, ctypes.byref(result)))
        return result.value

    def pack(self, w, strides, packed, stream=0, threads=1, parallel=0):
        how = _How(ctypes.sizeof(_How), stream, threads, parallel)
        _check(_lib.tconv_plan_pack(self._plan, w, *strides, packed, ctypes.byref(how)))

    def run(self, x, packed, bias, y, batch, length, x_strides, y_strides, stream=0, threads=1, x_alpha=None,
            y_alpha=None, parallel=0):
        """bias: None where the problem has none; x_strides: of batch, channel and sample; y_strides: the first two.
        On a GPU the call is asynchronous on `stream`, on the CPU it takes `threads` threads, tconv's or those of
        `parallel`, as how() says."""
        call = _Run(ctypes.sizeof(_Run), x, packed, bias, y, batch, length, *x_strides, *y_strides, x_alpha, y_alpha)
        how = _How(ctypes.sizeof(_How), stream, threads, parallel)
        _check(_lib.tconv_plan_run(self._plan, ctypes.byref(call), ctypes.byref(how)))

    def launch(self, how, x, packed, bias, y, batch, length, x_batch, x_channel, x_sample, y_batch, y_channel,
               x_alpha=0, y_alpha=0, _pack=_run_fields.pack, _size=ctypes.sizeof(_Run), _run=_launch):
        """run() with every argument given: how(), then the members of struct tconv_run in order, 0 for NULL. They have
        names, as *members would take longer to hand on."""
        status = _run(self._plan, _pack(_size, x, packed, bias, y, batch, length, x_batch, x_channel, x_sample, y_batch,
                                        y_channel, x_alpha, y_alpha), how)
        if status:
            _check(status)

    def explain(self, batch, length):
        needed = ctypes.c_size_t()
        _check(_lib.tconv_plan_explain(self._plan, batch, length, None, 0, ctypes.byref(needed)))
        text = ctypes.create_string_buffer(needed.value)
        _check(_lib.tconv_plan_explain(self._plan, batch, length, text, needed.value, None))
        return text.value.decode()
