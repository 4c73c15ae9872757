"""Reads a Triton transposed convolution without running it: code on standard input, one JSON object on standard
output. The answer is {"code": {...}}, whose fields are those of code.hpp, or {"refusal": {kind, line, what, rule}}.

Three readers over one syntax tree, none of which evaluates Python:
  Constructor   copies __init__ statement by statement out of a closed set of syntax
  Machine       follows the sizes of tensors from forward through the wrapper to the launch, on made-up numbers
  KernelReader  follows the kinds of values through a kernel
What a size is (batch, L_out, ...) is decided by its value: every size is a different number, in several draws.
"""

import ast
import json
import math
import random
import re
import struct
import sys
import warnings

MAX_BYTES = 1 << 20
MAX_NODES = 200_000
MAX_DEPTH = 150
MAX_STEPS = 50_000  # statements and calls that the Machine follows
MAX_CONFIGS = 256
MAX_INT = 1 << 62
DRAWS = 3

ROLE_NAMES = {
    "c_in": ("in_channels", "c_in", "in_ch", "input_channels", "in_channel", "cin"),
    "c_out": ("out_channels", "c_out", "out_ch", "output_channels", "out_channel", "cout"),
    "kernel": ("kernel_size", "kernel", "k", "ksize", "kernel_width"),
    "stride": ("stride", "s", "strides"),
    "padding": ("padding", "pad", "p"),
    "output_padding": ("output_padding", "out_padding", "output_pad", "out_pad"),
    "dilation": ("dilation", "dil", "d"),
    "groups": ("groups", "num_groups", "n_groups", "g"),
    "bias": ("bias", "use_bias", "has_bias"),
}
NEUTRAL = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
CONV_ARGUMENTS = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "bias",
                  "dilation", "padding_mode", "device", "dtype")
CONV_ROLES = {"in_channels": "c_in", "out_channels": "c_out", "kernel_size": "kernel", "stride": "stride",
              "padding": "padding", "output_padding": "output_padding", "groups": "groups", "bias": "bias",
              "dilation": "dilation"}
CONV = "torch.nn.ConvTranspose1d"
DTYPES = ("float16", "bfloat16", "float32", "float64", "half", "float", "double", "int8", "uint8", "int16", "int32",
          "int64")
DROP_IN = "the answer repeats the constructor of the code it replaces, from a closed set of statements"
# A kernel may compute more than the answer would where nothing replaces it: `tconv verify` only calls it.
WILL_REPLACE = "interface" not in sys.argv[2:]
PURE = "the answer computes a transposed convolution and a bias, nothing else"


class Refusal(Exception):
    def __init__(self, kind, node, what, rule):
        super().__init__(what)
        self.kind, self.what, self.rule = kind, what, rule
        self.line = node if isinstance(node, int) else getattr(node, "lineno", 0)


def unsupported(node, what, rule):
    return Refusal("unsupported", node, what, rule)


def role_of_name(name):
    lower = name.lower()
    return next((role for role, names in ROLE_NAMES.items() if lower in names), None)


def constant_int(value):
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MAX_INT


def text_of(node, limit=80):
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


# --- the file ----------------------------------------------------------------------------------------------------


class File:
    """The top level: what names stand for, kernels, functions, classes."""

    def __init__(self, tree):
        self.imports = {}
        self.constants = {}
        self.functions = {}
        self.kernels = {}
        self.classes = {}
        for node in tree.body:
            self._read(node)

    def _read(self, node):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    self.imports[alias.asname] = alias.name
                else:
                    root = alias.name.split(".")[0]
                    self.imports[root] = root
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                self.imports[alias.asname or alias.name] = node.module + "." + alias.name
        elif isinstance(node, ast.FunctionDef):
            (self.kernels if self.is_kernel(node) else self.functions)[node.name] = node
        elif isinstance(node, ast.ClassDef):
            self.classes[node.name] = node
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            self.constants[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            self.constants[node.target.id] = node.value

    def dotted(self, node):
        """The full name of an imported thing, "torch.nn.Parameter"; None for anything else."""
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imports:
            return None
        name = ".".join([self.imports[node.id]] + parts[::-1])
        for short, full in (("torch.nn.functional.", "torch.nn.functional."), ("triton.language.math.", "tl.math."),
                            ("triton.language.", "tl.")):
            if name.startswith(short):
                return full + name[len(short):]
        return name

    def decorators(self, node):
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            yield self.dotted(call.func if call else decorator), call

    def is_kernel(self, node):
        return any(name in ("triton.jit", "triton.runtime.jit") for name, _ in self.decorators(node))


# --- values of the Machine ---------------------------------------------------------------------------------------


UNKNOWN = object()


class Dotted(str):
    """Something imported or built in, by its full name."""


class Tensor:
    def __init__(self, role, shape=None, contiguous=True, made_by=""):
        self.role, self.shape, self.contiguous, self.made_by = role, shape, contiguous, made_by
        self.parameter = False
        self.inits = []  # (function, arguments by name)

    def like(self, **changes):
        other = Tensor(self.role, self.shape, self.contiguous, self.made_by)
        other.parameter, other.inits = self.parameter, self.inits
        for name, value in changes.items():
            setattr(other, name, value)
        return other


class StrideOf:
    def __init__(self, tensor):
        self.tensor = tensor


class Block(int):
    """META['NAME']: a block size that the autotuner chooses; the number stands in for it."""

    name = ""


class Count(int):
    """A product of cdiv(n, block) and plain sizes, as in a grid."""

    parts = ()


class Part:
    def __init__(self, n, name="", block=None):
        self.n, self.name, self.block = n, name, block


class Instance:
    """self, or an nn.ConvTranspose1d."""

    def __init__(self, kind, attributes):
        self.kind, self.attributes = kind, attributes


class Meta:
    def __init__(self, values):
        self.values = values


class Bound:
    """A method of a tensor or of an instance."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name


class Function:
    def __init__(self, node, owner=None, closure=None):
        self.node, self.owner, self.closure = node, owner, closure


class Kernel:
    def __init__(self, name):
        self.name = name


class Launcher:
    def __init__(self, kernel, grid, grid_node):
        self.kernel, self.grid, self.grid_node = kernel, grid, grid_node


class LaunchRecord:
    def __init__(self, kernel, axes, grid_node, arguments, function, node):
        self.kernel, self.axes, self.grid_node = kernel, axes, grid_node
        self.arguments, self.function, self.node = arguments, function, node


class Return(Exception):
    def __init__(self, value):
        super().__init__()
        self.value = value


class Raised(Exception):
    pass


def parts_of(value):
    return value.parts if isinstance(value, Count) else (Part(int(value)),)


def count(n, block, name):
    value = Count(-(-n // block))
    value.parts = (Part(int(n), name, block),)
    return value


BUILTINS = ("abs", "bool", "float", "getattr", "hasattr", "int", "isinstance", "len", "max", "min", "print", "range",
            "round", "str", "sum", "tuple", "list", "dict", "type", "zip", "enumerate", "super", "ValueError", "TypeError",
            "RuntimeError", "NotImplementedError", "AssertionError")
KEEPS_TENSOR = ("to", "type", "half", "float", "bfloat16", "double", "int", "cuda", "cpu", "detach", "type_as",
                "requires_grad_", "zero_", "fill_", "__enter__")
MOVES_TENSOR = ("view", "reshape", "permute", "transpose", "unsqueeze", "squeeze", "flatten", "t", "flip", "expand",
                "swapaxes", "movedim", "narrow", "unflatten")
ALLOCATES = ("empty", "zeros", "ones", "randn", "rand", "full", "Tensor", "empty_strided")


class Machine:
    """Follows one draw of sizes through __init__ and forward."""

    def __init__(self, file, module_class, draw, blocks):
        self.file, self.cls, self.draw, self.blocks = file, module_class, draw, blocks
        self.methods = {node.name: node for node in module_class.body if isinstance(node, ast.FunctionDef)}
        self.self_ = Instance("self", {})
        self.in_constructor = False
        self.steps = 0
        self.depth = 0
        self.function = ""
        self.launches = []
        self.calls = []  # (function name, parameter, value) of every call of a function of the file
        self.integers = []  # every integer assigned to a name
        self.made_contiguous = set()
        self.strides_of = set()
        self.pending = []  # what the function being followed returns under conditions that are not known
        for node in module_class.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
                self.self_.attributes[node.targets[0].id] = self.eval(node.value, {})

    def tick(self, node):
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise unsupported(node, "the code around the launch is too long to follow", f"at most {MAX_STEPS} steps")

    # -- running ---------------------------------------------------------------------------------------------

    def construct(self, arguments):
        self.in_constructor = True
        self.call_function(Function(self.methods["__init__"], self.self_), [], arguments, self.methods["__init__"])
        self.in_constructor = False

    def forward(self):
        x = Tensor("x", (self.draw["batch"], self.draw["c_in"], self.draw["in_length"]), contiguous=False)
        node = self.methods["forward"]
        return self.call_function(Function(node, self.self_), [x], {}, node)

    def call_function(self, function, positional, named, node):
        self.tick(node)
        if self.depth >= 12:
            raise unsupported(node, "calls nest too deeply", "at most 12 levels")
        definition = function.node
        arguments = definition.args
        env = dict(function.closure or {})
        names = [a.arg for a in arguments.posonlyargs + arguments.args]
        if function.owner is not None and names:
            env[names[0]] = function.owner
            names = names[1:]
        defaults = [a.arg for a in arguments.posonlyargs + arguments.args][len(arguments.posonlyargs + arguments.args)
                                                                          - len(arguments.defaults):]
        for name, default in zip(defaults, arguments.defaults):
            env[name] = self.eval(default, {})
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
            env[argument.arg] = self.eval(default, {}) if default is not None else UNKNOWN
        for name in names:
            env.setdefault(name, UNKNOWN)
        for name, value in list(zip(names, positional)) + list(named.items()):
            env[name] = value
        for name in names:
            self.calls.append((definition.name, name, env[name]))
        outer, self.function = self.function, definition.name if function.owner is None else (
            f"{self.cls.name}.{definition.name}")
        pending, self.pending = self.pending, []
        self.depth += 1
        try:
            self.run(definition.body, env)
            values = [None]
        except Return as result:
            values = [result.value]
        except Raised:
            if not self.pending:
                raise
            values = []
        finally:
            values_before, self.pending = self.pending, pending
            self.depth -= 1
            self.function = outer
        return self.one_of(values + values_before, node)

    def one_of(self, values, node):
        """The value of a call that returns one of these."""
        tensors = [v for v in values if isinstance(v, Tensor)]
        if not tensors:
            return values[0] if all(self.same(values[0], v) for v in values[1:]) else UNKNOWN
        chosen = next((t for t in tensors if t.role == "out"), tensors[0])
        for other in tensors:
            if other.role != "torch" and not self.same(chosen, other):
                raise unsupported(node, "the code returns different tensors under different conditions", PURE)
        return chosen

    def run(self, body, env):
        for statement in body:
            self.step(statement, env)

    def step(self, node, env):
        self.tick(node)
        if isinstance(node, ast.Assign):
            value = self.eval(node.value, env)
            for target in node.targets:
                self.assign(target, value, env)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self.assign(node.target, self.eval(node.value, env), env)
        elif isinstance(node, ast.AugAssign):
            as_load = ast.copy_location(ast.BinOp(node.target, node.op, node.value), node)
            self.assign(node.target, self.eval(as_load, env), env)
        elif isinstance(node, ast.Expr):
            self.eval(node.value, env)
        elif isinstance(node, ast.Return):
            raise Return(self.eval(node.value, env) if node.value is not None else None)
        elif isinstance(node, ast.If):
            self.branch(node, env)
        elif isinstance(node, ast.For):
            self.loop(node, env)
        elif isinstance(node, ast.With):
            for item in node.items:
                value = self.eval(item.context_expr, env)
                if item.optional_vars is not None:
                    self.assign(item.optional_vars, value, env)
            self.run(node.body, env)
        elif isinstance(node, ast.Try):
            self.run(node.body, env)
            self.run(node.finalbody, env)
        elif isinstance(node, ast.FunctionDef):
            env[node.name] = Function(node, closure=env)
        elif isinstance(node, ast.Raise):
            raise Raised()
        elif isinstance(node, ast.While):
            raise unsupported(node, "a while loop around the launch", "its sizes cannot be followed")
        # assert, pass, import, global, del: no size changes

    def branch(self, node, env):
        known = self.truth(self.eval(node.test, env))
        if known is not None:
            self.run(node.body if known else node.orelse, env)
            return
        outcomes = []
        for body in (node.body, node.orelse):
            mine = dict(env)
            try:
                self.run(body, mine)
                outcomes.append((mine, None))
            except Return as result:
                outcomes.append((mine, result))
            except Raised:
                continue
        if not outcomes:
            raise Raised()
        going_on = [mine for mine, result in outcomes if result is None]
        returned = [result for _, result in outcomes if result is not None]
        if not going_on:
            self.pending += [result.value for result in returned[1:]]
            raise returned[0]
        self.pending += [result.value for result in returned]
        env.update(going_on[0])
        for other in going_on[1:]:
            for name in set(env) | set(other):
                if not self.same(env.get(name, UNKNOWN), other.get(name, UNKNOWN)):
                    env[name] = UNKNOWN

    @staticmethod
    def same(a, b):
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return a.role == b.role and a.shape == b.shape
        return a is b or (type(a) is type(b) and not isinstance(a, (Instance, Function)) and a == b)

    def loop(self, node, env):
        over = self.eval(node.iter, env)
        if isinstance(over, range):
            over = tuple(over[:16])
        if not isinstance(over, tuple):
            over = (UNKNOWN,)
        for value in over[:16]:
            self.assign(node.target, value, env)
            self.run(node.body, env)

    def assign(self, target, value, env):
        if isinstance(target, ast.Name):
            env[target.id] = value
            if constant_int(value):
                self.integers.append(int(value))
        elif isinstance(target, (ast.Tuple, ast.List)):
            values = value if isinstance(value, tuple) and len(value) == len(target.elts) else None
            for i, element in enumerate(target.elts):
                self.assign(element, values[i] if values else UNKNOWN, env)
        elif isinstance(target, ast.Attribute):
            owner = self.eval(target.value, env)
            if isinstance(owner, Instance):
                owner.attributes[target.attr] = value
                if isinstance(value, Tensor) and not value.role:
                    value.role = "parameter"
        elif isinstance(target, ast.Subscript) and isinstance(self.eval(target.value, env), Tensor):
            raise unsupported(target, f"'{text_of(target)} = ...' writes into a tensor outside a kernel", PURE)

    # -- expressions -----------------------------------------------------------------------------------------

    def truth(self, value):
        if value is UNKNOWN or isinstance(value, (StrideOf, Dotted, Meta)):
            return None
        if isinstance(value, (Tensor, Instance, Function, Kernel, Bound)):
            return True
        return bool(value)

    def eval(self, node, env):
        method = getattr(self, "eval_" + type(node).__name__, None)
        return method(node, env) if method else UNKNOWN

    def eval_Constant(self, node, env):
        return node.value if isinstance(node.value, (int, float, str, bool, type(None))) else UNKNOWN

    def eval_Name(self, node, env):
        if node.id in env:
            return env[node.id]
        if node.id in self.file.kernels:
            return Kernel(node.id)
        if node.id in self.file.functions:
            return Function(self.file.functions[node.id])
        if node.id in self.file.constants:
            return self.eval(self.file.constants[node.id], {}) if env is not self.file.constants else UNKNOWN
        if node.id in self.file.imports:
            return Dotted(self.file.dotted(node))
        return Dotted(node.id) if node.id in BUILTINS else UNKNOWN

    def eval_Attribute(self, node, env):
        dotted = None if self.root_is_local(node, env) else self.file.dotted(node)
        if dotted:
            return Dotted(dotted)
        owner = self.eval(node.value, env)
        if isinstance(owner, Tensor):
            if node.attr == "shape":
                return owner.shape if owner.shape is not None else UNKNOWN
            if node.attr == "ndim":
                return len(owner.shape) if owner.shape is not None else UNKNOWN
            if node.attr == "is_cuda":
                return True
            if node.attr == "data":
                return owner
            if node.attr in ("T", "mT"):
                return owner.like(shape=None, contiguous=False)
            return Bound(owner, node.attr)
        if isinstance(owner, Bound) and isinstance(owner.owner, Tensor) and (owner.name, node.attr) == ("device", "type"):
            return "cuda"
        if isinstance(owner, Instance):
            if node.attr in owner.attributes:
                return owner.attributes[node.attr]
            return Bound(owner, node.attr)
        return UNKNOWN

    @staticmethod
    def root_is_local(node, env):
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in env

    def eval_Subscript(self, node, env):
        owner = self.eval(node.value, env)
        if isinstance(owner, Kernel):
            return Launcher(owner, self.eval(node.slice, env), node.slice)
        key = self.eval(node.slice, env)
        if isinstance(owner, Meta) and isinstance(key, str):
            return owner.values.get(key, UNKNOWN)
        if isinstance(owner, tuple):
            if isinstance(node.slice, ast.Slice):
                bounds = [None if part is None else self.eval(part, env)
                          for part in (node.slice.lower, node.slice.upper, node.slice.step)]
                if all(bound is None or constant_int(bound) for bound in bounds) and bounds[2] != 0:
                    return owner[slice(*bounds)]
            if constant_int(key) and -len(owner) <= key < len(owner):
                return owner[key]
        if isinstance(owner, Tensor):
            if self.in_constructor:
                return UNKNOWN
            raise unsupported(node, f"'{text_of(node)}' takes part of a tensor outside a kernel", PURE)
        return UNKNOWN

    def eval_Tuple(self, node, env):
        return tuple(self.eval(element, env) for element in node.elts)

    eval_List = eval_Tuple

    def eval_Lambda(self, node, env):
        body = [ast.copy_location(ast.Return(node.body), node.body)]
        definition = ast.FunctionDef(name="lambda", args=node.args, body=body, decorator_list=[], lineno=node.lineno)
        return Function(definition, closure=env)

    def eval_IfExp(self, node, env):
        known = self.truth(self.eval(node.test, env))
        if known is not None:
            return self.eval(node.body if known else node.orelse, env)
        a, b = self.eval(node.body, env), self.eval(node.orelse, env)
        return a if self.same(a, b) else UNKNOWN

    def eval_BoolOp(self, node, env):
        stop = isinstance(node.op, ast.Or)
        value = UNKNOWN
        for operand in node.values:
            value = self.eval(operand, env)
            known = self.truth(value)
            if known is None:
                return UNKNOWN
            if known is stop:
                return value
        return value

    def eval_Compare(self, node, env):
        if len(node.ops) != 1:
            return UNKNOWN
        a, b = self.eval(node.left, env), self.eval(node.comparators[0], env)
        op = node.ops[0]
        if isinstance(op, (ast.Is, ast.IsNot)):
            if a is UNKNOWN or b is UNKNOWN or (a is not None and b is not None):
                return UNKNOWN
            return (a is b) == isinstance(op, ast.Is)
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(b, tuple):
            if a is UNKNOWN or isinstance(a, Bound) or UNKNOWN in b or any(isinstance(e, Bound) for e in b):
                return UNKNOWN
            return (a in b) == isinstance(op, ast.In)
        number = (int, float)
        if not ((isinstance(a, number) and isinstance(b, number)) or (isinstance(a, tuple) and isinstance(b, tuple))
                or (type(a) is str and type(b) is str)):
            return UNKNOWN
        try:
            return {ast.Eq: lambda: a == b, ast.NotEq: lambda: a != b, ast.Lt: lambda: a < b, ast.LtE: lambda: a <= b,
                    ast.Gt: lambda: a > b, ast.GtE: lambda: a >= b}.get(type(op), lambda: UNKNOWN)()
        except TypeError:
            return UNKNOWN

    def eval_UnaryOp(self, node, env):
        inner = node.operand
        if (isinstance(node.op, ast.USub) and isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.FloorDiv)
                and isinstance(inner.left, ast.UnaryOp) and isinstance(inner.left.op, ast.USub)):
            return self.ceil_div(self.eval(inner.left.operand, env), inner.right, env)
        value = self.eval(inner, env)
        if isinstance(node.op, ast.Not):
            known = self.truth(value)
            return UNKNOWN if known is None else not known
        if isinstance(value, Tensor) and not self.in_constructor:
            raise unsupported(node, f"'{text_of(node)}' computes on a tensor outside a kernel", PURE)
        if not isinstance(value, (int, float)):
            return UNKNOWN
        return -value if isinstance(node.op, ast.USub) else +value if isinstance(node.op, ast.UAdd) else UNKNOWN

    def ceil_div(self, n, block_node, env):
        block = self.eval(block_node, env)
        if not (constant_int(n) and constant_int(block)) or block <= 0:
            return UNKNOWN
        if isinstance(block, Block):
            return count(n, int(block), block.name)
        return count(n, int(block), block_node.id if isinstance(block_node, ast.Name) else str(int(block)))

    def eval_BinOp(self, node, env):
        # (a + b - 1) // b and (a + (b - 1)) // b
        if isinstance(node.op, ast.FloorDiv) and isinstance(node.left, ast.BinOp):
            left, block = node.left, ast.dump(node.right)
            if (isinstance(left.op, ast.Sub) and isinstance(left.right, ast.Constant) and left.right.value == 1
                    and isinstance(left.left, ast.BinOp) and isinstance(left.left.op, ast.Add)
                    and ast.dump(left.left.right) == block):
                return self.ceil_div(self.eval(left.left.left, env), node.right, env)
            if (isinstance(left.op, ast.Add) and isinstance(left.right, ast.BinOp) and isinstance(left.right.op, ast.Sub)
                    and ast.dump(left.right.left) == block and isinstance(left.right.right, ast.Constant)
                    and left.right.right.value == 1):
                return self.ceil_div(self.eval(left.left, env), node.right, env)
        a, b = self.eval(node.left, env), self.eval(node.right, env)
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            if self.in_constructor:
                tensor = a if isinstance(a, Tensor) else b
                return tensor.like(made_by="scaled " + tensor.made_by)
            raise unsupported(node, f"'{text_of(node)}' computes on a tensor outside a kernel", PURE)
        if isinstance(a, tuple) and isinstance(b, tuple) and isinstance(node.op, ast.Add):
            return a + b if len(a) + len(b) <= 64 else UNKNOWN
        if not (isinstance(a, (int, float)) and isinstance(b, (int, float))):
            return UNKNOWN
        if isinstance(node.op, ast.Mult) and (isinstance(a, Count) or isinstance(b, Count)):
            if not (constant_int(a) and constant_int(b)):
                return UNKNOWN
            product = Count(int(a) * int(b))
            product.parts = tuple(parts_of(a)) + tuple(parts_of(b))
            return product
        return self.arithmetic(node.op, a, b)

    @staticmethod
    def arithmetic(op, a, b):
        if isinstance(a, int):
            a = int(a)
        if isinstance(b, int):
            b = int(b)
        try:
            if isinstance(op, ast.Pow):
                if abs(b) > 64 or abs(a) > MAX_INT:
                    return UNKNOWN
                value = a ** b
            else:
                value = {ast.Add: lambda: a + b, ast.Sub: lambda: a - b, ast.Mult: lambda: a * b,
                         ast.Div: lambda: a / b, ast.FloorDiv: lambda: a // b,
                         ast.Mod: lambda: a % b}.get(type(op), lambda: UNKNOWN)()
        except (ArithmeticError, ValueError):
            return UNKNOWN
        if isinstance(value, complex) or (isinstance(value, int) and abs(value) > MAX_INT):
            return UNKNOWN
        return value

    # -- calls -----------------------------------------------------------------------------------------------

    def arguments(self, node, env):
        positional = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                values = self.eval(argument.value, env)
                positional += list(values) if isinstance(values, tuple) else [UNKNOWN]
            else:
                positional.append(self.eval(argument, env))
        return positional, {k.arg: self.eval(k.value, env) for k in node.keywords if k.arg is not None}

    def eval_Call(self, node, env):
        self.tick(node)
        callee = self.eval(node.func, env)
        positional, named = self.arguments(node, env)
        if isinstance(callee, Launcher):
            return self.launch(callee, positional, named, node)
        if isinstance(callee, Function):
            return self.call_function(callee, positional, named, node)
        if isinstance(callee, Bound):
            if isinstance(callee.owner, Tensor):
                return self.tensor_method(callee.owner, callee.name, positional, named, node)
            return self.instance_method(callee, positional, named, node)
        if isinstance(callee, Dotted):
            return self.library(str(callee), positional, named, node, env)
        if isinstance(callee, Instance):
            raise unsupported(node, f"'{text_of(node.func)}(...)' calls PyTorch's own layer", PURE)
        self.refuse_tensors(node, positional, named)
        return UNKNOWN

    def refuse_tensors(self, node, positional, named):
        if not self.in_constructor and any(isinstance(v, Tensor) for v in positional + list(named.values())):
            raise unsupported(node, f"'{text_of(node.func, 60)}' is applied to a tensor outside a kernel", PURE)

    def instance_method(self, callee, positional, named, node):
        if callee.owner is self.self_:
            if callee.name in self.methods:
                return self.call_function(Function(self.methods[callee.name], self.self_), positional, named, node)
            if callee.name in ("register_parameter", "register_buffer") and len(positional) >= 2:
                name, value = positional[:2]
                if isinstance(name, str):
                    self.self_.attributes[name] = value
                    if isinstance(value, Tensor) and not value.role:
                        value.role = "parameter"
                return None
        self.refuse_tensors(node, positional, named)
        return UNKNOWN

    def shape_of(self, values):
        if len(values) == 1 and isinstance(values[0], tuple):
            values = values[0]
        return tuple(values) if all(constant_int(v) for v in values) else None

    def tensor_method(self, tensor, name, positional, named, node):
        if name == "size":
            if tensor.shape is None:
                return UNKNOWN
            if not positional:
                return tensor.shape
            i = positional[0]
            return tensor.shape[i] if constant_int(i) and -len(tensor.shape) <= i < len(tensor.shape) else UNKNOWN
        if name == "stride":
            self.strides_of.add(tensor.role)
            if positional:
                return StrideOf(tensor)
            return tuple(StrideOf(tensor) for _ in range(len(tensor.shape) if tensor.shape is not None else 3))
        if name in ("numel", "nelement"):
            return math.prod(tensor.shape) if tensor.shape is not None else UNKNOWN
        if name in ("dim", "ndimension"):
            return len(tensor.shape) if tensor.shape is not None else UNKNOWN
        if name == "is_contiguous":
            return tensor.contiguous
        if name in ("contiguous", "clone"):
            self.made_contiguous.add(tensor.role)
            return tensor.like(contiguous=True)
        if name in KEEPS_TENSOR:
            return tensor
        if name in ("new_empty", "new_zeros"):
            return Tensor("", self.shape_of(positional))
        if name in MOVES_TENSOR:
            return self.move(tensor, name, positional)
        if name.endswith("_") and self.in_constructor:
            tensor.inits.append((name, dict(zip(("a", "b"), positional), **named)))
            return tensor
        if name in ("data_ptr", "element_size", "get_device", "is_floating_point", "item", "storage_offset"):
            return UNKNOWN
        raise unsupported(node, f"'.{name}(...)' is applied to a tensor outside a kernel", PURE)

    @staticmethod
    def move(tensor, name, positional):
        shape = None
        if tensor.shape is not None and all(constant_int(v) for v in positional):
            rank = len(tensor.shape)
            axes = [v % rank for v in positional if rank and -rank <= v < rank]
            if name in ("transpose", "swapaxes") and len(axes) == 2:
                swapped = list(tensor.shape)
                swapped[axes[0]], swapped[axes[1]] = swapped[axes[1]], swapped[axes[0]]
                shape = tuple(swapped)
            elif name == "permute" and sorted(axes) == list(range(rank)):
                shape = tuple(tensor.shape[a] for a in axes)
            elif name == "flip":
                shape = tensor.shape
            elif name in ("view", "reshape") and all(v > 0 for v in positional):
                shape = tuple(positional)
        return tensor.like(shape=shape, contiguous=name in ("view", "reshape", "flatten") and tensor.contiguous)

    def library(self, name, positional, named, node, env):
        if name == "triton.cdiv" and len(node.args) == 2:
            return self.ceil_div(positional[0], node.args[1], env)
        if name == "triton.next_power_of_2" and positional and constant_int(positional[0]):
            return 1 << max(0, int(positional[0]) - 1).bit_length()
        if name in (CONV, "torch.nn.modules.conv.ConvTranspose1d"):
            return self.conv_module(positional, named)
        if name == "torch.nn.Parameter" and positional:
            tensor = positional[0]
            if isinstance(tensor, Tensor):
                tensor.parameter = True
                tensor.role = "parameter"
            return tensor
        if name.startswith("torch.nn.init."):
            return self.initialise(name[len("torch.nn.init."):], positional, named)
        if name.startswith("torch.") and name[6:] in ALLOCATES:
            values = positional or [named.get("size", UNKNOWN)]
            if name in ("torch.full", "torch.empty_strided"):
                values = values[:1]
            return Tensor("", self.shape_of(values), made_by=name[6:])
        if name in ("torch.empty_like", "torch.zeros_like", "torch.ones_like") and positional:
            if isinstance(positional[0], Tensor):
                return Tensor("", positional[0].shape, made_by=name[6:-5])
            return UNKNOWN
        if name in ("torch.nn.functional.conv_transpose1d", "torch.conv_transpose1d"):
            return Tensor("torch", None)
        if name in ("math.ceil", "math.floor", "math.sqrt", "math.gcd", "math.prod", "math.log2"):
            return self.numeric(getattr(math, name[5:]), positional)
        if name in BUILTINS:
            return self.builtin(name, positional, node)
        if name.startswith(("torch.is_", "torch.cuda.", "torch.device", "torch.no_grad", "torch.inference_mode",
                            "torch.enable_grad", "torch.finfo", "torch.version", "torch.get_", "torch.autocast",
                            "torch.amp.", "triton.", "typing.")):
            return UNKNOWN
        self.refuse_tensors(node, positional, named)
        return UNKNOWN

    @staticmethod
    def numeric(function, values):
        if not values or not all(isinstance(v, (int, float)) for v in values):
            return UNKNOWN
        try:
            return function(*values)
        except (ArithmeticError, ValueError, TypeError):
            return UNKNOWN

    def builtin(self, name, positional, node):
        first = positional[0] if positional else UNKNOWN
        if name in ("int", "float", "bool", "abs", "round"):
            if name == "int" and isinstance(first, Count):
                return first
            return self.numeric({"int": int, "float": float, "bool": bool, "abs": abs, "round": round}[name],
                                positional[:1])
        if name in ("max", "min"):
            values = first if len(positional) == 1 and isinstance(first, tuple) else tuple(positional)
            if not values or not all(isinstance(v, (int, float)) for v in values):
                return UNKNOWN
            return (max if name == "max" else min)(values)
        if name == "len":
            return len(first) if isinstance(first, tuple) else UNKNOWN
        if name in ("tuple", "list"):
            return first if isinstance(first, tuple) else UNKNOWN
        if name == "range" and positional and all(constant_int(v) for v in positional) and len(positional) <= 3:
            try:
                return range(*(int(v) for v in positional))
            except ValueError:
                return UNKNOWN
        if name == "isinstance" and len(node.args) == 2:
            wanted = ast.unparse(node.args[1])
            if isinstance(first, int):
                return "int" in wanted or "Number" in wanted
            if isinstance(first, tuple):
                return "tuple" in wanted or "list" in wanted
        return UNKNOWN

    def conv_module(self, positional, named):
        values = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "bias": True, "dilation": 1}
        values.update(zip(CONV_ARGUMENTS, positional))
        values.update(named)
        for name in ("kernel_size", "stride", "padding", "output_padding", "dilation"):
            value = values.get(name, UNKNOWN)
            values[name] = value if isinstance(value, tuple) else (value,)
        c_in, c_out, groups = (values.get(name, UNKNOWN) for name in ("in_channels", "out_channels", "groups"))
        shape = None
        if constant_int(c_in) and constant_int(c_out) and constant_int(groups) and groups > 0:
            shape = (c_in, c_out // groups, values["kernel_size"][0])
        weight = Tensor("parameter", shape)
        weight.parameter = True
        values["weight"] = weight
        bias = None
        if values["bias"]:
            bias = Tensor("parameter", (c_out,))
            bias.parameter = True
        values["bias"] = bias
        return Instance("conv", values)

    def initialise(self, name, positional, named):
        if name == "_calculate_fan_in_and_fan_out" and positional and isinstance(positional[0], Tensor):
            shape = positional[0].shape
            if shape is None or len(shape) < 2 or not all(constant_int(v) for v in shape):
                return UNKNOWN
            field = math.prod(shape[2:])
            return (shape[1] * field, shape[0] * field)
        if positional and isinstance(positional[0], Tensor):
            keys = ("a", "mode", "nonlinearity") if name.startswith("kaiming") else (
                ("mean", "std") if "normal" in name else ("a", "b"))
            positional[0].inits.append((name, dict(zip(keys, positional[1:]), **named)))
            return positional[0]
        return UNKNOWN

    # -- launches --------------------------------------------------------------------------------------------

    def launch(self, launcher, positional, named, node):
        definition = self.file.kernels[launcher.kernel.name]
        names = [a.arg for a in definition.args.posonlyargs + definition.args.args + definition.args.kwonlyargs]
        arguments = dict(zip(names, positional))
        arguments.update(named)
        for tensor in arguments.values():
            if isinstance(tensor, Tensor) and tensor.role == "":
                tensor.role = "out"
        meta = {k: v for k, v in arguments.items() if constant_int(v)}
        for name, value in self.blocks.get(launcher.kernel.name, {}).items():
            block = Block(value)
            block.name = name
            meta[name] = block
        grid = launcher.grid
        if isinstance(grid, Function):
            grid = self.call_function(grid, [Meta(meta)], {}, node)
        if constant_int(grid):
            grid = (grid,)
        axes = None
        if isinstance(grid, tuple) and 1 <= len(grid) <= 3:
            axes = [parts_of(v) if constant_int(v) else None for v in grid]
        grid_node = launcher.grid_node
        self.launches.append(LaunchRecord(launcher.kernel.name, axes, grid_node, arguments, self.function, node))
        return UNKNOWN


# --- the constructor, copied -------------------------------------------------------------------------------------

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
PLAIN_TEXT = re.compile(r"[A-Za-z0-9_.\- ]{0,64}\Z")
TAKEN = {"torch", "nn", "triton", "tl", "self", "super", "int", "float", "bool", "abs", "min", "max", "isinstance",
         "tuple", "list", "len"}
TAKEN_ATTRIBUTES = {"forward", "training", "_parameters", "_buffers", "_modules", "__class__", "__dict__"}
SCALAR_CALLS = ("int", "float", "bool", "abs", "min", "max", "isinstance", "len")
INITS = {"kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_", "uniform_", "normal_", "zeros_",
         "ones_", "constant_", "trunc_normal_", "orthogonal_"}
IN_PLACE = {"uniform_", "normal_", "zero_", "fill_"}
EXCEPTIONS = {"ValueError", "TypeError", "NotImplementedError", "RuntimeError", "AssertionError"}


def name_node(name):
    return ast.Name(id=name, ctx=ast.Load())


def attribute_node(*names):
    node = name_node(names[0])
    for name in names[1:]:
        node = ast.Attribute(value=node, attr=name, ctx=ast.Load())
    return node


class Constructor:
    """Statements of __init__ as new lines. Only nodes made here, from checked names and numbers, reach a line."""

    def __init__(self, file, module_class):
        self.file = file
        self.methods = {node.name: node for node in module_class.body if isinstance(node, ast.FunctionDef)}
        self.init = self.methods["__init__"]
        self.lines = []
        self.parameters = self.read_parameters()
        self.locals = set()
        self.attributes = {}  # name -> "scalar", "tensor" or "conv"
        self.convs = []  # (attribute, {argument: node}, line)
        self.block(self.init.body, 0)

    def refuse(self, node, what=None):
        what = what or f"'{text_of(node)}'"
        return unsupported(node, f"the constructor has {what}", DROP_IN)

    def identifier(self, node, name):
        if not IDENTIFIER.match(name) or name in TAKEN or name.startswith("__"):
            raise self.refuse(node, f"the name '{name}', which the answer cannot use")
        return name

    def read_parameters(self):
        arguments = self.init.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs:
            raise self.refuse(self.init, "parameters other than plain ones (*, ** or /)")
        if not arguments.args or arguments.args[0].arg != "self":
            raise self.refuse(self.init, "no 'self'")
        result = []
        defaults = [None] * (len(arguments.args) - len(arguments.defaults)) + list(arguments.defaults)
        for argument, default in list(zip(arguments.args, defaults))[1:]:
            annotation = argument.annotation
            known = isinstance(annotation, ast.Name) and annotation.id in ("int", "bool", "float", "str")
            text = ""
            if default is not None:
                if isinstance(default, ast.Tuple) or not self.is_literal(default):
                    raise self.refuse(default, f"the default '{text_of(default)}'")
                text = ast.unparse(self.scalar(default))
            result.append({"name": self.identifier(argument, argument.arg),
                           "annotation": annotation.id if known else "", "default_value": text})
        return result

    @staticmethod
    def is_literal(node):
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            node = node.operand
        return isinstance(node, ast.Constant)

    def emit(self, depth, node):
        text = ast.unparse(ast.fix_missing_locations(node))
        self.put(depth, text)

    def put(self, depth, text):
        self.lines.append("    " * depth + text)

    # -- statements ------------------------------------------------------------------------------------------

    def block(self, body, depth):
        if depth > 6:
            raise self.refuse(body[0], "more than 6 nested blocks")
        for statement in body:
            self.statement(statement, depth)

    def statement(self, node, depth):
        if len(self.lines) > 500:
            raise self.refuse(node, "more than 500 statements")
        if isinstance(node, ast.Pass):
            return
        if isinstance(node, ast.Expr):
            self.expression_statement(node, depth)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            self.assignment(node, node.targets[0], node.value, depth)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self.assignment(node, node.target, node.value, depth)
        elif isinstance(node, ast.If):
            self.condition(node, depth)
        elif isinstance(node, ast.With) and len(node.items) == 1 and self.is_no_grad(node.items[0]):
            self.put(depth, "with torch.no_grad():")
            self.nested(node.body, depth, node)
        elif isinstance(node, ast.Assert):
            self.put(depth, "assert " + ast.unparse(self.scalar(node.test)))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name) and (
                node.exc.func.id in EXCEPTIONS and node.cause is None):
            self.put(depth, f"raise {node.exc.func.id}('unsupported argument')")
        else:
            raise self.refuse(node)

    def is_no_grad(self, item):
        return (isinstance(item.context_expr, ast.Call) and item.optional_vars is None and not item.context_expr.args
                and self.file.dotted(item.context_expr.func) == "torch.no_grad")

    def nested(self, body, depth, node):
        before = len(self.lines)
        self.block(body, depth + 1)
        if len(self.lines) == before:
            raise self.refuse(node, "an empty block")

    def condition(self, node, depth):
        test = ast.unparse(self.scalar(node.test))
        header = len(self.lines)
        self.put(depth, f"if {test}:")
        self.block(node.body, depth + 1)
        empty = len(self.lines) == header + 1
        if empty:
            self.lines[header] = "    " * depth + f"if not ({test}):"
            before = len(self.lines)
        else:
            before = len(self.lines)
            self.put(depth, "else:")
        filled = len(self.lines)
        self.block(node.orelse, depth + 1)
        if len(self.lines) == filled:
            del self.lines[header if empty else before:]

    def expression_statement(self, node, depth):
        call = node.value
        if isinstance(call, ast.Constant) and isinstance(call.value, str):
            return  # a docstring
        if not isinstance(call, ast.Call):
            raise self.refuse(node)
        if self.is_super_init(call):
            self.put(depth, "super().__init__()")
            return
        dotted = self.file.dotted(call.func) or ""
        if dotted.startswith("torch.nn.init.") and dotted[14:] in INITS and call.args:
            arguments = [self.stored_tensor(call.args[0])] + [self.scalar(a) for a in call.args[1:]]
            self.emit(depth, ast.Expr(self.call(attribute_node("nn", "init", dotted[14:]), arguments, call.keywords)))
            return
        if isinstance(call.func, ast.Attribute):
            method, owner = call.func.attr, call.func.value
            if isinstance(owner, ast.Name) and owner.id == "self":
                if method in ("register_parameter", "register_buffer") and len(call.args) == 2 and not call.keywords:
                    self.register(call, method, depth)
                    return
                if method in self.methods and method != "__init__" and not call.args and not call.keywords:
                    self.inline(call, self.methods[method], depth)
                    return
            elif method in IN_PLACE:
                data = isinstance(owner, ast.Attribute) and owner.attr == "data"
                tensor = self.stored_tensor(owner.value if data else owner)
                if data:
                    tensor = ast.Attribute(value=tensor, attr="data", ctx=ast.Load())
                target = ast.Attribute(value=tensor, attr=method, ctx=ast.Load())
                self.emit(depth, ast.Expr(self.call(target, [self.scalar(a) for a in call.args], call.keywords)))
                return
        raise self.refuse(node)

    def is_super_init(self, call):
        func = call.func
        if not (isinstance(func, ast.Attribute) and func.attr == "__init__"):
            return False
        if isinstance(func.value, ast.Call) and isinstance(func.value.func, ast.Name) and func.value.func.id == "super":
            return not call.args and not call.keywords
        return self.file.dotted(func.value) == "torch.nn.Module" and len(call.args) == 1

    def inline(self, node, method, depth):
        if len(method.args.args) != 1 or any(isinstance(n, ast.Return) for n in ast.walk(method)):
            raise self.refuse(node, f"a call of {method.name}, which takes arguments or returns")
        mine = {n.id for n in ast.walk(method) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        if mine & (self.locals | {p["name"] for p in self.parameters}):
            raise self.refuse(node, f"a call of {method.name}, whose names are used twice")
        parameters, self.parameters = self.parameters, []  # a method sees none of them
        outer, self.locals = self.locals, set()
        self.block(method.body, depth)
        self.parameters, self.locals = parameters, outer | mine

    def register(self, call, method, depth):
        name = call.args[0]
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            raise self.refuse(call)
        attribute = self.attribute(name, name.value)
        value = call.args[1]
        if isinstance(value, ast.Constant) and value.value is None:
            new, kind = ast.Constant(None), "scalar"
        elif method == "register_parameter":
            new, kind = self.parameter(value), "tensor"
        else:
            new, kind = self.tensor(value), "tensor"
        arguments = [ast.Constant(attribute), new]
        self.emit(depth, ast.Expr(ast.Call(attribute_node("self", method), arguments, [])))
        self.store(attribute, kind)

    def store(self, attribute, kind):
        # Once a tensor in one branch, a tensor: `self.bias = None` may come first or last.
        if self.attributes.get(attribute) != "tensor":
            self.attributes[attribute] = kind

    def attribute(self, node, name):
        if name in TAKEN_ATTRIBUTES:
            raise self.refuse(node, f"an attribute '{name}', which belongs to nn.Module")
        if not IDENTIFIER.match(name) or name.startswith("__"):
            raise self.refuse(node, f"the name '{name}', which the answer cannot use")
        return name

    def assignment(self, node, target, value, depth):
        if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            attribute = self.attribute(target, target.attr)
            new, kind = self.attribute_value(attribute, value)
            store = ast.Attribute(value=name_node("self"), attr=attribute, ctx=ast.Store())
            self.emit(depth, ast.Assign([store], new, lineno=0))
            self.store(attribute, kind)
        elif isinstance(target, ast.Name):
            new = self.scalar(value)
            name = self.identifier(target, target.id)
            self.locals.add(name)
            self.emit(depth, ast.Assign([ast.Name(id=name, ctx=ast.Store())], new, lineno=0))
        elif isinstance(target, ast.Tuple) and all(isinstance(e, ast.Name) for e in target.elts):
            names = [self.identifier(e, e.id) for e in target.elts]
            new = self.fans(value) if isinstance(value, ast.Call) else self.scalar(value)
            self.locals.update(names)
            # Not through unparse, whose parentheses here depend on Python's version.
            self.put(depth, f"{', '.join(names)} = {ast.unparse(new)}")
        else:
            raise self.refuse(node)

    def fans(self, call):
        if self.file.dotted(call.func) != "torch.nn.init._calculate_fan_in_and_fan_out" or len(call.args) != 1:
            raise self.refuse(call)
        return ast.Call(attribute_node("nn", "init", "_calculate_fan_in_and_fan_out"), [self.stored_tensor(call.args[0])],
                        [])

    def attribute_value(self, attribute, value):
        dotted = self.file.dotted(value.func) if isinstance(value, ast.Call) else None
        if dotted == CONV:
            return self.conv(attribute, value), "conv"
        if dotted == "torch.nn.Parameter":
            return self.parameter(value), "tensor"
        if dotted and dotted.startswith("torch.nn.") and dotted[9:10].isupper():
            raise unsupported(value, f"the module has a layer {dotted[6:]}", PURE)
        return self.scalar(value), "scalar"

    # -- tensors ---------------------------------------------------------------------------------------------

    def conv(self, attribute, call):
        given = {}
        for name, argument in list(zip(CONV_ARGUMENTS, call.args)) + [(k.arg, k.value) for k in call.keywords]:
            if name not in CONV_ARGUMENTS or name in given:
                raise self.refuse(call, f"an nn.ConvTranspose1d argument '{name}'")
            given[name] = argument
        for name in ("device", "dtype"):
            if name in given and not (isinstance(given[name], ast.Constant) and given[name].value is None):
                raise self.refuse(given[name], f"nn.ConvTranspose1d with {name}={text_of(given[name])}")
        mode = given.get("padding_mode")
        if mode is not None and not (isinstance(mode, ast.Constant) and mode.value == "zeros"):
            raise self.refuse(mode, f"nn.ConvTranspose1d with padding_mode={text_of(mode)}")
        self.convs.append((attribute, given, call.lineno))
        keywords = [ast.keyword(k.arg, self.scalar(k.value)) for k in call.keywords]
        return ast.Call(attribute_node("nn", "ConvTranspose1d"), [self.scalar(a) for a in call.args], keywords)

    def parameter(self, value):
        if not (isinstance(value, ast.Call) and self.file.dotted(value.func) == "torch.nn.Parameter"
                and len(value.args) == 1):
            raise self.refuse(value)
        keywords = []
        for keyword in value.keywords:
            if keyword.arg != "requires_grad" or not isinstance(keyword.value, ast.Constant):
                raise self.refuse(value)
            keywords.append(ast.keyword("requires_grad", ast.Constant(bool(keyword.value.value))))
        return ast.Call(attribute_node("nn", "Parameter"), [self.tensor(value.args[0])], keywords)

    def tensor(self, node):
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Mult, ast.Div)):
            if self.makes_tensor(node.left):
                return ast.BinOp(self.tensor(node.left), type(node.op)(), self.scalar(node.right))
            if isinstance(node.op, ast.Mult):
                return ast.BinOp(self.scalar(node.left), ast.Mult(), self.tensor(node.right))
        if isinstance(node, ast.Call):
            dotted = self.file.dotted(node.func) or ""
            if dotted in ("torch.empty", "torch.zeros", "torch.ones", "torch.randn", "torch.rand", "torch.full",
                          "torch.Tensor"):
                keywords = []
                for keyword in node.keywords:
                    dtype = self.file.dotted(keyword.value) or ""
                    if keyword.arg != "dtype" or dtype not in ["torch." + d for d in DTYPES]:
                        raise self.refuse(keyword.value, f"'{keyword.arg}={text_of(keyword.value)}' of a tensor")
                    keywords.append(ast.keyword("dtype", attribute_node("torch", dtype[6:])))
                return ast.Call(attribute_node("torch", dotted[6:]), [self.scalar(a) for a in node.args], keywords)
        raise self.refuse(node)

    def makes_tensor(self, node):
        return any(isinstance(n, ast.Call) and (self.file.dotted(n.func) or "").startswith("torch.")
                   for n in ast.walk(node))

    def stored_tensor(self, node):
        names = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        names = names[::-1]
        if isinstance(node, ast.Name) and node.id == "self" and names:
            kind = self.attributes.get(names[0])
            if (kind == "tensor" and len(names) == 1) or (
                    kind == "conv" and len(names) == 2 and names[1] in ("weight", "bias")):
                return attribute_node("self", *names)
        raise self.refuse(node, "an initialisation of something other than a parameter")

    def call(self, target, arguments, keywords):
        new = []
        for keyword in keywords:
            if keyword.arg is None or not IDENTIFIER.match(keyword.arg):
                raise self.refuse(keyword.value)
            new.append(ast.keyword(keyword.arg, self.scalar(keyword.value)))
        return ast.Call(target, arguments, new)

    # -- scalars ---------------------------------------------------------------------------------------------

    def scalar(self, node):
        if isinstance(node, ast.Constant):
            return self.constant(node)
        if isinstance(node, ast.Name):
            if node.id in self.locals or any(p["name"] == node.id for p in self.parameters):
                return name_node(self.identifier(node, node.id))
            raise self.refuse(node, f"the name '{node.id}', which is no argument and no local")
        if isinstance(node, ast.Attribute):
            return self.scalar_attribute(node)
        if isinstance(node, ast.BinOp):
            if not isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)):
                raise self.refuse(node)
            return ast.BinOp(self.scalar(node.left), type(node.op)(), self.scalar(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
            return ast.UnaryOp(type(node.op)(), self.scalar(node.operand))
        if isinstance(node, ast.BoolOp):
            return ast.BoolOp(type(node.op)(), [self.scalar(v) for v in node.values])
        if isinstance(node, ast.Compare):
            return ast.Compare(self.scalar_or_tensor(node.left), [type(op)() for op in node.ops],
                               [self.scalar(c) for c in node.comparators])
        if isinstance(node, ast.IfExp):
            return ast.IfExp(self.scalar(node.test), self.scalar(node.body), self.scalar(node.orelse))
        if isinstance(node, (ast.Tuple, ast.List)):
            return type(node)([self.scalar(e) for e in node.elts], ast.Load())
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and constant_int(node.slice.value):
            return ast.Subscript(self.scalar(node.value), ast.Constant(node.slice.value), ast.Load())
        if isinstance(node, ast.Call):
            return self.scalar_call(node)
        raise self.refuse(node)

    def scalar_or_tensor(self, node):
        """`self.bias is not None` asks for a tensor."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self" and (
                self.attributes.get(node.attr) == "tensor"):
            return attribute_node("self", node.attr)
        return self.scalar(node)

    def constant(self, node):
        value = node.value
        fine = value is None or isinstance(value, bool) or constant_int(value) or (
            isinstance(value, float) and math.isfinite(value)) or (isinstance(value, str) and PLAIN_TEXT.match(value))
        if not fine:
            raise self.refuse(node, "a constant that the answer cannot repeat")
        return ast.Constant(value)

    def scalar_attribute(self, node):
        names = []
        root = node
        while isinstance(root, ast.Attribute):
            names.append(root.attr)
            root = root.value
        names = names[::-1]
        if isinstance(root, ast.Name) and root.id == "self":
            kind = self.attributes.get(names[0])
            if (kind == "scalar" and len(names) == 1) or (kind == "tensor" and names[1:] == ["shape"]) or (
                    kind == "conv" and (names[1:] == ["weight", "shape"] or (
                        len(names) == 2 and names[1] in CONV_ARGUMENTS))):
                return attribute_node("self", *names)
        raise self.refuse(node)

    def scalar_call(self, node):
        dotted = self.file.dotted(node.func)
        if dotted == "math.sqrt" and len(node.args) == 1 and not node.keywords:
            # The answer imports torch, torch.nn, triton and triton.language alone.
            return ast.BinOp(self.scalar(node.args[0]), ast.Pow(), ast.Constant(0.5))
        if isinstance(node.func, ast.Name) and node.func.id in SCALAR_CALLS and not node.keywords:
            if node.func.id == "isinstance":
                return self.isinstance_call(node)
            return ast.Call(name_node(node.func.id), [self.scalar(a) for a in node.args], [])
        if isinstance(node.func, ast.Attribute) and node.func.attr == "size" and len(node.args) == 1:
            size = ast.Attribute(value=self.stored_tensor(node.func.value), attr="size", ctx=ast.Load())
            return ast.Call(size, [self.scalar(node.args[0])], [])
        raise self.refuse(node)

    def isinstance_call(self, node):
        kinds = node.args[1] if len(node.args) == 2 else None
        names = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
        if not all(isinstance(n, ast.Name) and n.id in ("int", "float", "tuple", "list", "bool") for n in names):
            raise self.refuse(node)
        new = [name_node(n.id) for n in names]
        kinds = ast.Tuple(new, ast.Load()) if isinstance(kinds, ast.Tuple) else new[0]
        return ast.Call(name_node("isinstance"), [self.scalar(node.args[0]), kinds], [])


# --- kernels -----------------------------------------------------------------------------------------------------

NONLINEAR = {"exp", "exp2", "log", "log2", "sigmoid", "tanh", "maximum", "minimum", "abs", "sqrt", "rsqrt", "sqrt_rn",
             "erf", "sin", "cos", "clamp", "softmax", "relu", "gelu", "silu", "max", "min", "argmax", "argmin", "cumsum",
             "cumprod", "floor", "ceil", "pow", "div_rn", "umulhi", "philox", "rand", "randn"}
SHAPES = {"trans", "reshape", "permute", "join", "broadcast_to", "expand_dims", "view", "ravel", "split", "cat",
          "interleave", "broadcast", "sum", "multiple_of", "max_contiguous", "fma", "static_assert"}
FLOATS = {"float16", "bfloat16", "float32", "float64"}
INTEGERS = {"int32", "int64", "int16", "int8"}


class KernelReader:
    """What the body of a kernel does, from the kinds of its values: value (loaded data and sums of it), bits (a value
    as an integer, to round it by hand), index, float_index (an index in floating point), bool, value_bool (a
    comparison of data), param."""

    def __init__(self, file, name, strides=(), constants=None, machine=None):
        self.file, self.node = file, file.kernels[name]
        self.machine, self.constants = machine, constants or {}
        arguments = self.node.args
        every = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
        self.parameters = [a.arg for a in every]
        self.constexprs = [a.arg for a in every if a.annotation is not None
                           and "constexpr" in ast.unparse(a.annotation)]
        self.strides = set(strides) or {n for n in self.parameters if role_of_name(n) == "stride"}
        self.facts = {"uses_dot": False, "dot_precision": "", "uses_atomics": False, "float_index_arithmetic": False,
                      "division_in_loop": False, "scans_all_taps": False, "int64_offsets": False, "masks_loads": False,
                      "masks_stores": False}
        self.activations = []  # (name, node, live)
        self.stores = []
        self.float_product = None  # (line, name of the factor) of an index times a floating-point factor
        self.float_division = 0
        self.int32_product, self.int32_whole = None, False
        self.kinds = {}
        self.remainders = set()
        self.programs = set()  # names of program ids
        self.loops = 0
        self.live = True
        self.callees = 0
        self.returned = []
        for annotated in every:
            if annotated.annotation is not None and "int64" in ast.unparse(annotated.annotation):
                self.facts["int64_offsets"] = True
        for _ in range(2):  # twice: a loop carries kinds from its end to its start
            self.activations.clear()
            self.run(self.node.body)

    def run(self, body):
        for node in body:
            self.step(node)

    def step(self, node):
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            if node.value is None:
                return
            kind = self.kind(node.value)
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                self.bind(target, kind, node.value)
        elif isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Name):
                self.kinds[node.target.id] = self.kind(
                    ast.copy_location(ast.BinOp(name_node(node.target.id), node.op, node.value), node))
        elif isinstance(node, ast.Expr):
            self.kind(node.value)
        elif isinstance(node, ast.If):
            self.kind(node.test, condition=True)
            known = self.machine.truth(self.machine.eval(node.test, dict(self.constants))) if self.machine else None
            live = self.live
            self.live = live and known is not False
            self.run(node.body)
            self.live = live and known is not True
            self.run(node.orelse)
            self.live = live
        elif isinstance(node, (ast.For, ast.While)):
            if isinstance(node, ast.For):
                self.kind(node.iter)
                self.bind(node.target, "index", None)
            self.loops += 1
            self.run(node.body)
            self.loops -= 1
        elif isinstance(node, ast.Return) and node.value is not None:
            self.returned.append(self.kind(node.value))
        elif isinstance(node, ast.With):
            self.run(node.body)

    def bind(self, target, kind, value):
        if isinstance(target, ast.Name):
            self.kinds[target.id] = kind
            if value is None:
                return
            # A name that stands for the stride, or for a remainder by it.
            if isinstance(value, ast.Name) and value.id in self.strides:
                self.strides.add(target.id)
            if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mod) and self.is_stride(value.right):
                self.remainders.add(target.id)
            if isinstance(value, ast.Call) and self.file.dotted(value.func) == "tl.program_id":
                self.programs.add(target.id)
        elif isinstance(target, (ast.Tuple, ast.List)):
            for element in target.elts:
                self.bind(element, kind, None)

    def activate(self, name, node):
        self.activations.append((name, node, self.live))

    def kind(self, node, condition=False):
        if isinstance(node, ast.Name):
            return self.kinds.get(node.id, "param" if node.id in self.parameters else None)
        if isinstance(node, ast.BinOp):
            return self.binary(node)
        if isinstance(node, ast.UnaryOp):
            return self.kind(node.operand)
        if isinstance(node, ast.Compare):
            return self.comparison(node, condition)
        if isinstance(node, ast.BoolOp):
            kinds = [self.kind(v, condition) for v in node.values]
            return "value_bool" if "value_bool" in kinds else "bool"
        if isinstance(node, (ast.Subscript, ast.Attribute)):
            if isinstance(node, ast.Attribute) and node.attr not in ("T", "handle"):
                self.kind(node.value)
                return None
            return self.kind(node.value)
        if isinstance(node, ast.IfExp):
            self.kind(node.test, condition=True)
            kinds = {self.kind(node.body), self.kind(node.orelse)}
            return "value" if "value" in kinds else next(iter(kinds - {None}), None)
        if isinstance(node, (ast.Tuple, ast.List)):
            kinds = [self.kind(e) for e in node.elts]
            return "value" if "value" in kinds else None
        if isinstance(node, ast.Call):
            return self.call(node)
        return None

    def is_stride(self, node):
        return isinstance(node, ast.Name) and node.id in self.strides

    def is_multiple(self, node):
        return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and (
            self.is_stride(node.left) or self.is_stride(node.right))

    def binary(self, node):
        left, right = self.kind(node.left), self.kind(node.right)
        kinds = (left, right)
        if isinstance(node.op, (ast.FloorDiv, ast.Mod)) and self.loops and self.is_stride(node.right) and (
                isinstance(node.right, ast.Name) and node.right.id not in self.constexprs):
            self.facts["division_in_loop"] = True
        if "value" in kinds:
            self.check_value(node, left, right)
            return "value"
        for kind in ("value_bool", "bits"):
            if kind in kinds:
                return kind
        if isinstance(node.op, (ast.BitAnd, ast.BitOr, ast.BitXor)) and "bool" in kinds:
            return "bool"
        if "float_index" in kinds:
            if isinstance(node.op, ast.Mult):
                factor = node.right if left == "float_index" else node.left
                if isinstance(factor, ast.Name):
                    self.float_product = (node.lineno, factor.id)
            elif isinstance(node.op, ast.Div):
                self.float_division = node.lineno
            return "float_index"
        if "index" in kinds:
            if isinstance(node.op, ast.Div):
                self.float_division = node.lineno
                return "float_index"
            if isinstance(node.op, ast.Mult):
                self.note_product(node, *((node.left, node.right) if left == "index" else (node.right, node.left)))
            return "index"
        return "param" if "param" in kinds else None

    def note_product(self, node, index, factor):
        """An index times a run-time size. Those of a program id tell most."""
        constant = isinstance(factor, ast.Constant) or (isinstance(factor, ast.Name) and factor.id in self.constexprs)
        if constant or any(isinstance(n, ast.Attribute) and n.attr == "to" for n in ast.walk(node)):
            return
        whole = isinstance(index, ast.Name) and index.id in self.programs
        if self.int32_product is None or whole and not self.int32_whole:
            self.int32_product, self.int32_whole = node, whole

    def check_value(self, node, left, right):
        other_node, other = (node.right, right) if left == "value" else (node.left, left)
        if left == right == "value":
            if isinstance(node.op, ast.Mult) and ast.dump(node.left) == ast.dump(node.right):
                self.activate("a square", node)
            elif isinstance(node.op, (ast.Div, ast.FloorDiv, ast.Mod, ast.Pow)):
                self.activate("a quotient or power of values", node)
            return
        if other == "value_bool":
            self.activate("a selection by value", node)
        elif other == "param":
            self.activate(f"'{text_of(node, 40)}'", node)
        elif isinstance(other_node, ast.Constant) and other_node.value not in (0, 1):
            self.activate(f"'{text_of(node, 40)}'", node)
        elif isinstance(node.op, ast.Pow):
            self.activate("a power", node)

    def comparison(self, node, condition):
        kinds = [self.kind(node.left)] + [self.kind(c) for c in node.comparators]
        if self.loops and not condition and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            for one in (node.left, node.comparators[0]):
                remainder = (isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mod) and self.is_stride(one.right)
                             ) or (isinstance(one, ast.Name) and one.id in self.remainders)
                difference = isinstance(one, ast.BinOp) and isinstance(one.op, ast.Sub) and (
                    self.is_multiple(one.left) or self.is_multiple(one.right))
                if remainder or difference or self.is_multiple(one):
                    self.facts["scans_all_taps"] = True
        return "value_bool" if "value" in kinds else "bool"

    def call(self, node):
        callee = node.func
        arguments = [self.kind(a) for a in node.args] + [self.kind(k.value) for k in node.keywords]
        name = self.file.dotted(callee)
        if name and name.startswith("tl."):
            return self.language(name[3:], node, arguments)
        if name and ("libdevice" in name or "math" in name):
            if "value" in arguments:
                self.activate(name.split(".")[-1], node)
                return "value"
            if "float_index" in arguments and name.split(".")[-1] == "floor":
                self.facts["float_index_arithmetic"] = True
            return next((k for k in arguments if k), None)
        if isinstance(callee, ast.Name) and callee.id in self.file.kernels:
            return self.jit_function(callee.id, arguments, node)
        if isinstance(callee, ast.Name) and callee.id in ("range", "min", "max", "abs", "int", "float", "len"):
            if callee.id in ("min", "max", "abs") and "value" in arguments:
                self.activate(callee.id, node)
                return "value"
            return "index" if callee.id != "range" and "index" in arguments else None
        if isinstance(callee, ast.Attribute):
            owner = self.kind(callee.value)
            if callee.attr == "to":
                return self.convert(owner, node)
            if owner == "value" and callee.attr in NONLINEAR:
                self.activate(callee.attr, node)
            return owner
        return "value" if "value" in arguments else None

    def convert(self, owner, node):
        target = ast.unparse(node.args[0]).split(".")[-1] if node.args else ""
        if any(k.arg == "bitcast" for k in node.keywords) and owner in ("value", "bits"):
            return "bits" if target in INTEGERS else "value"
        if target == "int64":
            self.facts["int64_offsets"] = True
        if target in FLOATS and owner == "index":
            return "float_index"
        if target in INTEGERS and owner == "float_index":
            self.facts["float_index_arithmetic"] = True
            return "index"
        return owner

    def language(self, name, node, arguments):
        short = name.split(".")[-1]
        if short in ("program_id", "arange", "num_programs", "range", "static_range"):
            return "index"
        if short == "load":
            self.facts["masks_loads"] |= len(node.args) > 1 or any(k.arg == "mask" for k in node.keywords)
            return "value"
        if short == "store":
            masked = len(node.args) > 2 or any(k.arg == "mask" for k in node.keywords)
            self.stores.append((node.lineno, masked))
            self.facts["masks_stores"] |= masked
            return None
        if short.startswith("atomic_"):
            self.facts["uses_atomics"] = True
            return "value"
        if short in ("dot", "dot_scaled"):
            self.facts["uses_dot"] = True
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg == "input_precision" and value in ("tf32", "ieee", "tf32x3"):
                    self.facts["dot_precision"] = value
                elif keyword.arg == "allow_tf32" and isinstance(value, bool):
                    self.facts["dot_precision"] = "tf32" if value else "ieee"
            return "value"
        if short in ("zeros", "full", "zeros_like"):
            return "value"
        if short == "cast" and node.args:
            return self.convert(arguments[0], ast.Call(node.func, node.args[1:], node.keywords))
        if short == "where":
            if arguments and arguments[0] == "value_bool":
                self.activate("a selection by value (tl.where)", node)
            return self.strongest(arguments[1:])
        if short in ("floor", "math.floor") and "float_index" in arguments:
            self.facts["float_index_arithmetic"] = True
            return "float_index"
        if "value" in arguments:
            if short in NONLINEAR or name.startswith("math.") or short not in SHAPES:
                self.activate("tl." + name, node)
            return "value"
        return next((k for k in arguments if k and k != "param"), None)

    def jit_function(self, name, arguments, node):
        if self.callees >= 32:
            raise unsupported(node, "the kernel calls too many functions", "at most 32 calls are followed")
        self.callees += 1
        definition = self.file.kernels[name]
        inner = [a.arg for a in definition.args.args]
        outer = self.kinds, self.parameters, self.returned
        self.kinds = {n: k for n, k in zip(inner, arguments) if k not in (None, "param")}
        self.parameters, self.returned = inner, []
        self.run(definition.body)
        result = self.strongest(self.returned)
        self.kinds, self.parameters, self.returned = outer
        self.callees -= 1
        return result

    @staticmethod
    def strongest(kinds):
        """Of what a call or a selection may give."""
        return next((k for k in ("value", "bits", "value_bool", "float_index", "index", "bool", "param") if k in kinds),
                    None)


# --- faults that the code alone shows ------------------------------------------------------------------------------


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def lost_taps(max_stride=64, max_position=300_000):
    """Strides s for which floor(float32(n) * float32(1/s)) < n/s at some multiple n of s, with the smallest n."""
    lost = {}
    for s in range(2, max_stride + 1):
        inverse = float32(1.0 / s)
        if inverse * s >= 1.0 and inverse >= 1.0 / s:
            continue  # rounded up: a product never falls below n/s
        for quotient in range(1, max_position // s + 1):
            # A product of two 24-bit significands is exact in a double.
            if float32(float(quotient * s) * inverse) < quotient:
                lost[s] = quotient * s
                break
    return lost


class Reader:
    def __init__(self, tree, source):
        self.file = File(tree)
        self.tree, self.source = tree, source
        self.findings = []
        self.cls = self.module_class()
        methods = {n.name: n for n in self.cls.body if isinstance(n, ast.FunctionDef)}
        for name in ("__init__", "forward"):
            if name not in methods:
                raise unsupported(self.cls, f"class {self.cls.name} has no {name}", "a drop-in repeats both")
        self.forward = methods["forward"]
        self.init_node = methods["__init__"]
        self.input = self.forward_input()
        self.constructor = Constructor(self.file, self.cls)
        self.configs = {name: self.autotune(node) for name, node in self.file.kernels.items()}

    def find(self, severity, line, title, detail):
        self.findings.append({"severity": severity, "line": line, "title": title, "detail": detail})

    def module_class(self):
        cls = self.file.classes.get("ModelNew")
        if cls is None:
            raise unsupported(0, "there is no class ModelNew", "the answer is a drop-in for class ModelNew(nn.Module)")
        if [self.file.dotted(base) for base in cls.bases] != ["torch.nn.Module"]:
            raise unsupported(cls, "class ModelNew is no nn.Module", "the answer is a class ModelNew(nn.Module)")
        return cls

    def forward_input(self):
        arguments = self.forward.args
        plain = not (arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.posonlyargs)
        if not plain or len(arguments.args) != 2 or arguments.defaults:
            raise unsupported(self.forward, "forward takes something other than one tensor", PURE)
        name = arguments.args[1].arg
        if not IDENTIFIER.match(name) or name in TAKEN or name.startswith("__"):
            raise unsupported(self.forward, f"forward's argument '{name}' is no name the answer can use", DROP_IN)
        return name

    # -- autotune --------------------------------------------------------------------------------------------

    def autotune(self, node):
        configs, key = [], []
        for name, call in self.file.decorators(node):
            if name != "triton.autotune" or call is None:
                continue
            given = dict(zip(("configs", "key"), call.args))
            given.update({k.arg: k.value for k in call.keywords if k.arg})
            value = given.get("configs")
            if isinstance(value, ast.Name):
                value = self.file.constants.get(value.id)
            configs = self.config_list(value)
            if configs is None:
                configs = []
                self.find("note", node.lineno, "the autotune list was not understood",
                          "its configs are not written out as triton.Config(...)")
            if isinstance(given.get("key"), (ast.List, ast.Tuple)):
                key = [e.value for e in given["key"].elts if isinstance(e, ast.Constant) and isinstance(e.value, str)]
        return {"configs": configs, "key": key}

    def config_list(self, node):
        if isinstance(node, ast.ListComp):
            return self.config_product(node)
        if not isinstance(node, (ast.List, ast.Tuple)) or len(node.elts) > MAX_CONFIGS:
            return None
        configs = [self.config(e, {}) for e in node.elts]
        return None if None in configs else configs

    def config_product(self, node):
        machine = Machine(self.file, self.cls, {}, {})
        envs = [{}]
        for generator in node.generators:
            if generator.ifs:
                return None
            values = [machine.eval(generator.iter, env) for env in envs]
            if not all(isinstance(v, (tuple, range)) for v in values) or sum(len(v) for v in values) > MAX_CONFIGS:
                return None
            following = []
            for env, over in zip(envs, values):
                for value in over:
                    following.append(dict(env))
                    machine.assign(generator.target, value, following[-1])
            envs = following
        configs = [self.config(node.elt, env) for env in envs]
        return None if None in configs else configs

    def config(self, node, env):
        if not (isinstance(node, ast.Call) and self.file.dotted(node.func) == "triton.Config"):
            return None
        machine = Machine(self.file, self.cls, {}, {})
        given = dict(zip(("kwargs", "num_warps", "num_stages"), node.args))
        given.update({k.arg: k.value for k in node.keywords if k.arg})
        kwargs = given.get("kwargs")
        if isinstance(kwargs, ast.Call) and isinstance(kwargs.func, ast.Name) and kwargs.func.id == "dict":
            pairs = [(k.arg, k.value) for k in kwargs.keywords]
        elif isinstance(kwargs, ast.Dict):
            pairs = [(k.value if isinstance(k, ast.Constant) else None, v) for k, v in zip(kwargs.keys, kwargs.values)]
        else:
            return None
        meta = {}
        for name, value in pairs:
            number = machine.eval(value, dict(env))
            if isinstance(name, str) and constant_int(number):
                meta[name] = int(number)
        options = {}
        for name in ("num_warps", "num_stages"):
            number = machine.eval(given[name], dict(env)) if name in given else 0
            options[name] = int(number) if constant_int(number) and 0 <= number <= 64 else 0
        return {"meta": meta, **options}

    # -- roles and draws -------------------------------------------------------------------------------------

    def constructor_roles(self):
        """Argument -> role, and role -> number for what the module fixes."""
        roles, fixed = {}, {}
        names = [p["name"] for p in self.constructor.parameters]
        if len(self.constructor.convs) > 1:
            raise unsupported(self.constructor.convs[1][2], "the module has two nn.ConvTranspose1d",
                              "one transposed convolution for one answer")
        if self.constructor.convs:
            given = self.constructor.convs[0][1]
            for argument, role in CONV_ROLES.items():
                node = given.get(argument)
                if isinstance(node, ast.Name) and node.id in names:
                    roles.setdefault(node.id, role)
                elif isinstance(node, ast.Constant) and role != "bias" and constant_int(node.value):
                    fixed[role] = node.value
                elif node is None and role in NEUTRAL:
                    fixed[role] = NEUTRAL[role]
        taken = set(roles.values())
        for name in names:
            role = role_of_name(name)
            if name not in roles and role and role not in taken:
                roles[name] = role
                taken.add(role)
        for role in NEUTRAL:
            if role in taken:
                fixed.pop(role, None)
        return roles, fixed

    def make_draw(self, rng, fixed):
        """Different numbers for different sizes, so that a size is known by its value."""
        for _ in range(1000):
            d = {"stride": rng.randint(3, 9), "dilation": rng.randint(2, 7), "groups": rng.choice((3, 5, 7)),
                 "kernel": rng.randint(8, 19), "padding": rng.randint(2, 9), "batch": rng.randint(11, 40)}
            d["output_padding"] = rng.randint(1, 2)
            d.update({k: v for k, v in fixed.items() if k in d})
            d["c_in"] = fixed.get("c_in", d["groups"] * rng.randint(41, 90))
            d["c_out"] = fixed.get("c_out", d["groups"] * rng.randint(91, 160))
            d["in_length"] = rng.randint(3000, 9000)
            d["out_length"] = self.length(d)
            free = [d[k] for k in d if k not in fixed and k not in ("output_padding", "padding", "dilation")]
            free += [d["c_in"] // d["groups"], d["c_out"] // d["groups"]] if d["groups"] > 1 else []
            small = [d[k] for k in ("stride", "padding", "dilation", "output_padding", "kernel") if k not in fixed]
            if d["out_length"] > 0 and len(set(free)) == len(free) and len(set(small)) == len(small) and (
                    d["groups"] >= 1 and d["c_in"] % d["groups"] == 0 and d["c_out"] % d["groups"] == 0):
                return d
        raise unsupported(self.init_node, "the fixed sizes leave no valid transposed convolution",
                          "nn.ConvTranspose1d's rules")

    @staticmethod
    def length(d):
        return ((d["in_length"] - 1) * d["stride"] - 2 * d["padding"] + d["dilation"] * (d["kernel"] - 1)
                + d["output_padding"] + 1)

    def machine(self, draw, roles, bias):
        blocks = {}
        for name, tuned in self.configs.items():
            if tuned["configs"]:
                blocks[name] = {k: v for k, v in tuned["configs"][0]["meta"].items() if v > 0}
        machine = Machine(self.file, self.cls, draw, blocks)
        arguments = {}
        for parameter in self.constructor.parameters:
            role = roles.get(parameter["name"])
            if role == "bias":
                arguments[parameter["name"]] = bias
            elif role:
                arguments[parameter["name"]] = draw[role]
        machine.construct(arguments)
        return machine

    def parameters_of(self, machine):
        """Expressions of weight and bias over self, with their tensors. None where there is none."""
        weight = bias = None
        for name, value in machine.self_.attributes.items():
            if isinstance(value, Instance) and value.kind == "conv":
                conv = value.attributes
                return (f"self.{name}.weight", conv["weight"]), (f"self.{name}.bias", conv["bias"])
            if isinstance(value, Tensor) and value.parameter and value.shape is not None:
                if len(value.shape) == 3:
                    if weight is not None:
                        raise unsupported(self.init_node, "the module has two 3-D parameters",
                                          "one transposed convolution for one answer")
                    weight = (f"self.{name}", value)
                elif len(value.shape) == 1:
                    if bias is not None:
                        raise unsupported(self.init_node, "the module has two 1-D parameters", PURE)
                    bias = (f"self.{name}", value)
                else:
                    raise unsupported(self.init_node, f"the module has a {len(value.shape)}-D parameter self.{name}",
                                      "a weight (C_in, C_out/groups, K) and a bias (C_out)")
        return weight, bias

    # -- reading ---------------------------------------------------------------------------------------------

    def read(self):
        roles, fixed = self.constructor_roles()
        has = {role: role in roles.values() for role in ROLE_NAMES}
        if not self.constructor.convs:
            fixed = {**{r: v for r, v in NEUTRAL.items() if not has[r]}, **self.fixed_by_code(roles, fixed)}
        rng = random.Random(20240229)
        draws = [self.make_draw(rng, fixed) for _ in range(DRAWS)]
        self.fill_derived(draws, roles)
        machines = [self.machine(draw, roles, True) for draw in draws]
        pairs = [self.parameters_of(m) for m in machines]
        weight, bias = pairs[0]
        if weight is None:
            raise unsupported(self.cls, "no transposed convolution: the module has no 3-D weight",
                              "an nn.ConvTranspose1d, or a parameter (C_in, C_out/groups, K)")
        for draw, (w, _) in zip(draws, pairs):
            wanted = (draw["c_in"], draw["c_out"] // draw["groups"], draw["kernel"])
            if w[1].shape != wanted:
                self.refuse_layout(w[1].shape, draw)
        for m, (w, b) in zip(machines, pairs):
            w[1].role = "weight"
            if b is not None and b[1] is not None:
                b[1].role = "bias"
        bias_possible = bias is not None and bias[1] is not None
        if bias_possible and not has["bias"] and bias[1].shape != (draws[0]["c_out"],):
            raise unsupported(self.init_node, "the 1-D parameter does not hold one number for each output channel", PURE)

        outputs = self.run_forward(draws, machines, roles, has)
        code = {
            "kernels": [], "launches": self.launches(draws, machines),
            "wrapper": machines[0].launches[0].function,
            "makes_input_contiguous": "x" in machines[0].made_contiguous,
            "makes_weight_contiguous": "weight" in machines[0].made_contiguous,
            "uses_strides": any(isinstance(v, StrideOf) for l in machines[0].launches for v in l.arguments.values()),
            "admits_i32": self.admits_i32(), "dtypes": self.dtypes(),
            "output_length_formula": outputs or all(d["out_length"] in m.integers for d, m in zip(draws, machines)),
        }
        readers = self.kernel_readers(draws, machines)
        helpers = {n.func.id for k in self.file.kernels.values() for n in ast.walk(k)
                   if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        launched = {launch["kernel"] for launch in code["launches"]}
        for name, reader in readers.items():
            if name in helpers - launched:
                continue  # a function of the kernels that call it, and read with them
            code["kernels"].append({
                "name": name, "line": self.file.kernels[name].lineno, "parameters": reader.parameters,
                "constexprs": reader.constexprs, "autotune": self.configs[name]["configs"],
                "autotune_key": self.configs[name]["key"], "activations": sorted({a for a, _, _ in reader.activations}),
                **reader.facts})
        code["module"] = self.module(draws, machines, has, fixed, weight, bias, bias_possible)
        self.faults(draws, machines, readers, code, has)
        code["findings"] = self.findings
        return code

    def fixed_by_code(self, roles, fixed):
        """Numbers that a module of raw parameters fixes: `self.stride = 2`, or an argument of the wrapper."""
        found = dict(fixed)
        draw = self.make_draw(random.Random(1), {**NEUTRAL, **{r: v for r, v in fixed.items()}})
        for role in NEUTRAL:
            if role in roles.values():
                draw[role] = NEUTRAL[role]
        try:
            machine = self.machine(draw, roles, True)
            for name, value in machine.self_.attributes.items():
                role = role_of_name(name)
                if role in NEUTRAL and role not in roles.values() and constant_int(value):
                    found[role] = int(value)
            machine.forward()
            for _, name, value in machine.calls:
                role = role_of_name(name)
                if role in NEUTRAL and role not in roles.values() and role not in found and constant_int(value):
                    found[role] = int(value)
        except (Refusal, Raised):
            pass  # the real run says why
        return found

    def fill_derived(self, draws, roles):
        """Sizes that the constructor computes from others, such as padding = (K - stride) // 2."""
        if not self.constructor.convs:
            return
        for draw in draws:
            machine = self.machine(draw, roles, True)
            conv = next((v for v in machine.self_.attributes.values()
                         if isinstance(v, Instance) and v.kind == "conv"), None)
            if conv is None:
                raise unsupported(self.init_node, "the module makes its nn.ConvTranspose1d under some arguments only",
                                  "one transposed convolution for one answer")
            for argument, role in CONV_ROLES.items():
                value = conv.attributes.get(argument)
                value = value[0] if isinstance(value, tuple) and value else value
                if role == "bias":
                    continue
                if not constant_int(value):
                    raise unsupported(self.constructor.convs[0][2],
                                      f"the {argument} of nn.ConvTranspose1d cannot be followed", DROP_IN)
                draw[role] = int(value)
            draw["out_length"] = self.length(draw)
            valid = draw["groups"] > 0 and draw["stride"] > 0 and draw["out_length"] > 0
            if not valid or draw["c_in"] % draw["groups"] or draw["c_out"] % draw["groups"]:
                raise unsupported(self.constructor.convs[0][2], "the constructor makes no valid nn.ConvTranspose1d",
                                  "nn.ConvTranspose1d's rules")

    def refuse_layout(self, shape, draw):
        names = {draw["c_in"] // draw["groups"]: "C_in/groups", draw["c_out"] // draw["groups"]: "C_out/groups",
                 draw["kernel"]: "K", draw["c_in"]: "C_in", draw["c_out"]: "C_out"}
        text = ", ".join(names.get(v, str(v)) for v in shape)
        kind = "no transposed convolution: " if shape[:1] == (draw["c_out"],) else ""
        raise unsupported(self.init_node, f"{kind}the weight is ({text})",
                          "a transposed convolution's weight is (C_in, C_out/groups, K)")

    def run_forward(self, draws, machines, roles, has):
        """Follows forward in every draw. True when each output has the length of a transposed convolution."""
        good = True
        for draw, machine in zip(draws, machines):
            try:
                result = machine.forward()
            except Raised:
                result = UNKNOWN
            if not machine.launches:
                refused = [r for r in ("output_padding", "groups", "dilation") if has[r]]
                if result is UNKNOWN and refused and self.runs_at_neutral(draw, roles, machine, refused):
                    good = False
                    continue
                raise unsupported(self.forward, "no launch of a Triton kernel was found on the way from forward",
                                  "kernel[grid](...) in forward or in a function it calls")
            good &= self.check_output(result, draw)
        return good

    def runs_at_neutral(self, draw, roles, machine, refused):
        """The code raises at this draw: does it launch when one of these is at its neutral value?"""
        for many in range(1, len(refused) + 1):
            plain = dict(draw)
            plain.update({r: NEUTRAL[r] for r in refused[:many]})
            plain["out_length"] = self.length(plain)
            other = self.machine(plain, roles, True)
            weight, bias = self.parameters_of(other)
            weight[1].role = "weight"
            if bias is not None and bias[1] is not None:
                bias[1].role = "bias"
            try:
                other.forward()
            except Raised:
                continue
            if other.launches:
                machine.launches, machine.strides_of = other.launches, other.strides_of
                machine.made_contiguous = other.made_contiguous
                draw.update(plain)
                if not any(f["title"].startswith("some arguments are refused") for f in self.findings):
                    self.find("limitation", self.forward.lineno, "some arguments are refused",
                              f"the constructor takes {', '.join(refused[:many])}, and forward raises unless "
                              + ", ".join(f"{r} is {NEUTRAL[r]}" for r in refused[:many]))
                return True
        return False

    def check_output(self, value, draw):
        if value is UNKNOWN or (isinstance(value, Tensor) and value.role == "torch"):
            return False
        if not isinstance(value, Tensor):
            raise unsupported(self.forward, "forward does not return the kernel's output", PURE)
        if value.shape is None:
            return False
        if value.role != "out":
            raise unsupported(self.forward, "forward does not return the kernel's output", PURE)
        wanted = (draw["batch"], draw["c_out"], draw["out_length"])
        if value.shape == wanted:
            return True
        # The formula may leave out a parameter that the constructor takes.
        for role in ("output_padding", "dilation", "padding"):
            plain = dict(draw)
            plain[role] = NEUTRAL[role]
            if value.shape == (draw["batch"], draw["c_out"], self.length(plain)) and (
                    draw[role] != NEUTRAL[role]):
                if not any(f["title"] == f"{role} is ignored" for f in self.findings):
                    self.find("wrong_result", self.forward.lineno, f"{role} is ignored",
                              f"the output has the length for {role} {NEUTRAL[role]} whatever the constructor was given")
                return True
        if value.shape == (draw["batch"], draw["c_out"] // draw["groups"], draw["out_length"]) and draw["groups"] > 1:
            if not any(f["title"] == "groups is ignored" for f in self.findings):
                self.find("wrong_result", self.forward.lineno, "groups is ignored",
                          "the output has C_out/groups channels where nn.ConvTranspose1d has C_out")
            return True
        raise unsupported(self.forward, "no transposed convolution: the output is not (batch, C_out, "
                          "(L-1)*stride - 2*padding + dilation*(K-1) + output_padding + 1)", "nn.ConvTranspose1d's shape")

    # -- launches --------------------------------------------------------------------------------------------

    def launches(self, draws, machines):
        result, seen = [], set()
        for record in machines[0].launches:
            if id(record.node) in seen:
                continue
            seen.add(id(record.node))
            others = [next((l for l in m.launches if l.node is record.node), None) for m in machines]
            if None in others:
                continue
            constant = {}
            for name, value in record.arguments.items():
                if constant_int(value) and all(constant_int(o.arguments.get(name)) and o.arguments[name] == value
                                               for o in others):
                    constant[name] = int(value)
            kernel = self.file.kernels[record.kernel]
            arguments = kernel.args.posonlyargs + kernel.args.args + kernel.args.kwonlyargs
            runtime = {a.arg for a in arguments
                       if a.annotation is None or "constexpr" not in ast.unparse(a.annotation)}
            meta = {k: v for k, v in constant.items() if k not in runtime}
            result.append({
                "kernel": record.kernel, "grid": self.grid([o.axes for o in others], draws, record.kernel),
                "grid_text": self.grid_text(record), "meta": meta,
                "num_warps": constant.get("num_warps", 0), "num_stages": constant.get("num_stages", 0)})
        return result

    def grid_text(self, record):
        node = record.grid_node
        if isinstance(node, ast.Name):  # what the name last stood for before the launch
            before = [a for a in ast.walk(self.tree) if getattr(a, "lineno", 0) and a.lineno <= record.node.lineno and (
                isinstance(a, ast.FunctionDef) and a.name == node.id or isinstance(a, ast.Assign) and any(
                    isinstance(t, ast.Name) and t.id == node.id for t in a.targets))]
            if before:
                last = max(before, key=lambda a: a.lineno)
                node = last.value if isinstance(last, ast.Assign) else next(
                    (r.value for r in ast.walk(last) if isinstance(r, ast.Return) and r.value is not None), node)
        return text_of(node, 200)

    def grid(self, axes, draws, kernel):
        if any(a is None or len(a) != len(axes[0]) for a in axes):
            return []
        tuned = set()
        for config in self.configs[kernel]["configs"]:
            tuned.update(config["meta"])
        result = []
        for i in range(len(axes[0])):
            per_draw = [a[i] for a in axes]
            if any(p is None or len(p) != len(per_draw[0]) for p in per_draw):
                result.append({"factors": [self.factor("unknown")]})
                continue
            factors = []
            for j in range(len(per_draw[0])):
                factors += self.factors([p[j] for p in per_draw], draws, tuned)
            result.append({"factors": factors})
        return result

    @staticmethod
    def factor(size, constant=1, block="", block_value=0):
        return {"size": size, "constant": constant, "block": block, "block_value": block_value}

    def factors(self, parts, draws, tuned):
        sizes = ("batch", "c_out", "out_length", "in_length", "c_in", "stride", "groups")
        block, block_value = "", 0
        if parts[0].name:
            block = parts[0].name
            if block not in tuned and all(p.block == parts[0].block for p in parts):
                block_value = parts[0].block
        if all(p.n == 1 for p in parts):
            return [self.factor("one")]
        for size in sizes:
            if all(p.n == d[size] for p, d in zip(parts, draws)):
                return [self.factor(size, 1, block, block_value)]
        if not block:
            for first in sizes:
                for second in sizes:
                    if all(p.n == d[first] * d[second] for p, d in zip(parts, draws)):
                        return [self.factor(first), self.factor(second)]
        if all(p.n == parts[0].n for p in parts):
            return [self.factor("constant", parts[0].n, block, block_value)]
        return [self.factor("unknown", 1, block, block_value)]

    # -- kernels ---------------------------------------------------------------------------------------------

    def kernel_readers(self, draws, machines):
        readers = {}
        launched = {l.kernel: l for l in reversed(machines[0].launches)}
        for name in self.file.kernels:
            strides, constants = [], {}
            record = launched.get(name)
            if record is not None:
                others = [next((l for l in m.launches if l.node is record.node), record) for m in machines]
                strides = [k for k in record.arguments if all(
                    constant_int(o.arguments.get(k)) and o.arguments[k] == d["stride"] for o, d in zip(others, draws))]
                constants = {k: v for k, v in record.arguments.items() if not isinstance(v, (Tensor, StrideOf))}
            reader = KernelReader(self.file, name, strides, constants, machines[0] if record is not None else None)
            readers[name] = reader
            if record is None:
                continue
            live = next(((a, node) for a, node, alive in reader.activations if alive), None)
            if live is not None and WILL_REPLACE:
                raise unsupported(live[1], f"kernel {name} fuses {live[0]}", PURE)
        return readers

    # -- the module ------------------------------------------------------------------------------------------

    def module(self, draws, machines, has, fixed, weight, bias, bias_possible):
        expressions = {}
        conv = self.constructor.convs[0][0] if self.constructor.convs else None
        given = self.constructor.convs[0][1] if conv else {}
        for role in NEUTRAL:
            stored = [name for name, kind in self.constructor.attributes.items() if kind == "scalar" and all(
                constant_int(m.self_.attributes.get(name)) and m.self_.attributes[name] == d[role]
                for m, d in zip(machines, draws))]
            named = [n for n in stored if role_of_name(n.lstrip("_")) == role]
            if role in fixed:
                expressions[role] = str(fixed[role])
            elif named:
                expressions[role] = "self." + named[0]
            elif conv:
                expressions[role] = f"self.{conv}.{role}" + ("" if role == "groups" else "[0]")
            elif stored and has[role]:
                expressions[role] = "self." + stored[0]
            elif has[role]:
                raise unsupported(self.init_node, f"the module does not keep its {role}",
                                  "forward reaches every size through self")
            else:
                expressions[role] = str(NEUTRAL[role])
        if conv:
            always = isinstance(given.get("bias"), ast.Constant) and bool(given["bias"].value) or "bias" not in given
            bias_text = f"self.{conv}.bias"
        else:
            always = bias_possible
            bias_text = bias[0] if bias is not None else "None"
        for role in ("stride", "padding", "output_padding", "dilation", "groups"):
            if conv and CONV_ROLES.get(role) and role in given and role not in fixed and not has[role]:
                self.find("note", self.constructor.convs[0][2], f"{role} is computed by the constructor",
                          f"{role}={text_of(given[role])} follows from other arguments, so a caller cannot choose it")
        return {
            "class_name": self.cls.name, "parameters": self.constructor.parameters, "body": self.constructor.lines,
            "input": self.input, "weight": weight[0], "bias": bias_text, **expressions,
            "bias_possible": bool(has["bias"] and bias_possible or always and bias_possible),
            **{"has_" + r: has[r] for r in ("stride", "padding", "output_padding", "dilation", "groups")},
            "has_bias": has["bias"] and bias_possible,
            "uses_conv_module": conv is not None, **self.initialisation(draws, machines, conv)}

    def initialisation(self, draws, machines, conv):
        same = {"bias_init_differs": False, "bias_init_note": ""}
        weights, biases = zip(*(self.parameters_of(m) for m in machines))
        fans = [d["c_out"] // d["groups"] * d["kernel"] for d in draws]
        line = self.init_node.lineno
        if conv is None:
            kaiming = all(self.is_default_weight(w[1], fan) for w, fan in zip(weights, fans))
            if not kaiming:
                self.find("note", line, "the weight starts differently from nn.ConvTranspose1d's",
                          "nn.ConvTranspose1d draws it with kaiming_uniform_(a=sqrt(5)), uniform within "
                          "1/sqrt(C_out/groups*K); the constructor's own initialisation is kept")
        elif all(not w[1].inits for w in weights) and all(b is None or b[1] is None or not b[1].inits for b in biases):
            return same
        bounds = [self.bias_bound(b[1]) if b is not None and b[1] is not None else None for b in biases]
        if any(b is None or b[1] is None for b in biases):
            return same
        if conv is not None and not biases[0][1].inits:
            return same
        if all(bound is not None and math.isclose(bound, fan ** -0.5, rel_tol=1e-9) for bound, fan in zip(bounds, fans)):
            return same
        candidates = {"C_in*K": [d["c_in"] * d["kernel"] for d in draws],
                      "C_in/groups*K": [d["c_in"] // d["groups"] * d["kernel"] for d in draws],
                      "C_out*K": [d["c_out"] * d["kernel"] for d in draws],
                      "C_in": [d["c_in"] for d in draws], "C_out": [d["c_out"] for d in draws]}
        taken = next((name for name, values in candidates.items() if all(
            bound is not None and math.isclose(bound, v ** -0.5, rel_tol=1e-9) for bound, v in zip(bounds, values))), None)
        if taken:
            note = (f"the bias starts uniform within 1/sqrt({taken}); nn.ConvTranspose1d uses 1/sqrt(C_out/groups*K), the "
                    "fan_in that PyTorch takes from dimension 1 of the weight")
        else:
            how = biases[0][1].inits[-1][0] if biases[0][1].inits else "torch." + (biases[0][1].made_by or "empty")
            note = (f"the bias starts with {how}; nn.ConvTranspose1d draws it uniform within 1/sqrt(C_out/groups*K)")
        self.find("limitation", line, "the bias starts differently from nn.ConvTranspose1d's",
                  note + "; the answer keeps the constructor's own values")
        return {"bias_init_differs": True, "bias_init_note": note}

    @staticmethod
    def is_default_weight(tensor, fan):
        if len(tensor.inits) != 1:
            return False
        name, arguments = tensor.inits[0]
        a = arguments.get("a")
        if name == "kaiming_uniform_":
            plain = arguments.get("mode", "fan_in") == "fan_in" and (
                arguments.get("nonlinearity", "leaky_relu") == "leaky_relu")
            return plain and isinstance(a, (int, float)) and math.isclose(a, 5 ** 0.5, rel_tol=1e-9)
        b = arguments.get("b")
        return name == "uniform_" and isinstance(a, float) and isinstance(b, float) and (
            math.isclose(b, fan ** -0.5, rel_tol=1e-9) and a == -b)

    @staticmethod
    def bias_bound(tensor):
        if not tensor.inits:
            return None
        name, arguments = tensor.inits[-1]
        a, b = arguments.get("a"), arguments.get("b")
        if name == "uniform_" and isinstance(a, (int, float)) and isinstance(b, (int, float)) and a == -b and b > 0:
            return float(b)
        return None

    # -- faults ----------------------------------------------------------------------------------------------

    def faults(self, draws, machines, readers, code, has):
        for launch, record in zip(code["launches"], self.distinct(machines[0].launches)):
            reader = readers[launch["kernel"]]
            self.tap_test(reader, record, draws[0])
            self.parallelism(launch, reader)
            self.grid_limits(launch, reader)
            self.layout(record)
            self.widths(reader)
            self.masks(reader, launch)
        missing = [r for r in ("output_padding", "groups") if not has[r]]
        if missing:
            self.find("note", self.init_node.lineno, f"no {' and no '.join(missing)}",
                      "nn.ConvTranspose1d has " + ("both" if len(missing) == 2 else "it")
                      + "; the answer keeps this constructor")

    @staticmethod
    def distinct(records):
        seen = {}
        for record in records:
            seen.setdefault(id(record.node), record)
        return list(seen.values())

    def tap_test(self, reader, record, draw):
        facts = reader.facts
        if facts["float_index_arithmetic"] and reader.float_product:
            line, factor = reader.float_product
            value = record.arguments.get(factor)
            if isinstance(value, float) and math.isclose(value, 1 / draw["stride"], rel_tol=1e-12):
                lost = lost_taps()
                first = ", ".join(f"{s} at {n}" for s, n in lost.items())
                self.find("wrong_result", line, "taps are lost where the stride's inverse rounds down",
                          "the tap test is floor(n * float32(1/stride)) with n = t + padding - k*dilation; it falls below "
                          f"n/stride, and the tap is dropped, for {len(lost)} of the strides up to 64, first at n: {first}")
        if facts["float_index_arithmetic"] and (reader.float_product or reader.float_division):
            line = reader.float_product[0] if reader.float_product else reader.float_division
            self.find("wrong_result", line, "positions past 2^24 are not exact",
                      "an index goes through float32, which holds integers up to 16777216: from L_out about 16.8 million on "
                      "taps are tested against a rounded position")
        if facts["scans_all_taps"]:
            self.find("performance", reader.node.lineno, "every output scans all K taps",
                      "a divisibility test masks them: on average one tap in stride lands on an input"
                      + ("; the test divides inside the loop" if facts["division_in_loop"] else ""))

    def parallelism(self, launch, reader):
        single = any(f["size"] == "c_out" and not f["block"] for a in launch["grid"] for f in a["factors"])
        if single:
            self.find("performance", reader.node.lineno, "one output channel per program",
                      "each program loads its window of x again: x is read C_out/groups * K times")
        if not reader.facts["uses_dot"]:
            self.find("performance", reader.node.lineno, "no matrix unit",
                      "the sum runs over channels and taps one multiply-add at a time; there is no tl.dot")

    def grid_limits(self, launch, reader):
        names = {"batch": "batch", "out_length": "L_out", "in_length": "L_in"}
        for index, axis in enumerate(launch["grid"]):
            factors = [f for f in axis["factors"] if f["size"] in names]
            if index == 0 or len(factors) != len(axis["factors"]) or len(factors) != 1:
                continue
            factor = factors[0]
            blocks = [factor["block_value"]] if factor["block_value"] else [
                c["meta"][factor["block"]] for c in self.configs[launch["kernel"]]["configs"]
                if factor["block"] in c["meta"]]
            if factor["block"] and not blocks:
                continue
            smallest = min(blocks) if blocks else 1
            what = names[factor["size"]]
            through = f" in blocks of {smallest}" if smallest > 1 else ""
            severity = "note" if what == "batch" else "limitation"
            self.find(severity, reader.node.lineno, f"{what} has a limit on grid axis {index}",
                      f"axis {index} runs over {what}{through}, and CUDA launches at most 65535 programs there: it fails "
                      f"from {what} {65535 * smallest + 1} on")

    def layout(self, record):
        tensors = [v for v in record.arguments.values() if isinstance(v, Tensor) and v.role == "x"]
        strided = any(isinstance(v, StrideOf) and v.tensor.role == "x" for v in record.arguments.values())
        if tensors and not strided and not all(t.contiguous for t in tensors):
            self.find("wrong_result", record.node.lineno, "a non-contiguous input is read wrongly",
                      "the kernel takes x as contiguous, and nothing makes it so or passes its strides: "
                      "x.transpose(1, 2) of a (batch, length, channels) tensor gives wrong values without an error")

    def widths(self, reader):
        if reader.facts["int64_offsets"] or reader.int32_product is None:
            return
        node = reader.int32_product
        self.find("limitation", node.lineno, "offsets are 32-bit",
                  f"'{text_of(node, 60)}' and the like are int32: they wrap once a tensor holds more than 2147483647 "
                  "elements (batch * channels * length)")

    def masks(self, reader, launch):
        blocks = any(f["block"] for a in launch["grid"] for f in a["factors"])
        unmasked = next((line for line, masked in reader.stores if not masked), None)
        if blocks and unmasked is not None and not reader.facts["masks_stores"]:
            self.find("wrong_result", unmasked, "stores are not masked",
                      "the last block of a size that its block does not divide writes past its row")

    # -- dtypes ----------------------------------------------------------------------------------------------

    def dtypes(self):
        found = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and node.attr in DTYPES and self.file.dotted(node) == "torch." + node.attr:
                found.add(node.attr)
        return sorted(found)

    def admits_i32(self):
        for node in ast.walk(self.tree):
            if not isinstance(node, (ast.Compare, ast.Dict)):
                continue
            parts = [node.left] + node.comparators if isinstance(node, ast.Compare) else [k for k in node.keys if k]
            for part in parts:
                if any(isinstance(n, ast.Attribute) and self.file.dotted(n) == "torch.int32" for n in ast.walk(part)):
                    return True
        return False


# --- main ----------------------------------------------------------------------------------------------------------


def limit_resources():
    try:
        import resource
    except ImportError:
        return
    for what, amount in ((resource.RLIMIT_AS, 1 << 30), (resource.RLIMIT_CPU, 20)):
        try:
            resource.setrlimit(what, (amount, amount))
        except (ValueError, OSError):
            pass  # a lower limit is already in place


def parse(source):
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Refusal("usage", error.lineno or 0, f"the code does not parse: {error.msg}", "Python")
    except ValueError as error:
        raise Refusal("usage", 0, f"the code does not parse: {error}", "Python")
    stack, nodes = [(tree, 0)], 0
    while stack:
        node, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH:
            raise Refusal("usage", node, "the code nests too deeply", f"at most {MAX_DEPTH} levels")
        if nodes > MAX_NODES:
            raise Refusal("usage", node, "the code is too long", f"at most {MAX_NODES} syntax nodes")
        stack += [(child, depth + 1) for child in ast.iter_child_nodes(node)]
    return tree


def main():
    warnings.simplefilter("ignore")
    limit_resources()
    sys.setrecursionlimit(5000)
    try:
        if sys.version_info < (3, 9):
            raise Refusal("python", 0, "Python %d.%d cannot read code" % sys.version_info[:2], "Python 3.9 or later")
        raw = sys.stdin.buffer.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise Refusal("usage", 0, "the code is too long", f"at most {MAX_BYTES} bytes")
        try:
            source = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal("usage", 0, "the code is no UTF-8", "Python")
        try:
            tree = parse(source)
            result = {"code": Reader(tree, source).read()}
        except (RecursionError, MemoryError):
            raise Refusal("usage", 0, "the code nests too deeply", f"at most {MAX_DEPTH} levels")
        except Raised:
            raise unsupported(0, "the constructor raises for plain arguments", DROP_IN)
    except Refusal as refusal:
        result = {"refusal": {"kind": refusal.kind, "line": refusal.line, "what": refusal.what, "rule": refusal.rule}}
    json.dump(result, sys.stdout)
    sys.stdout.write("\n")


main()
