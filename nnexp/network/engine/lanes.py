"""Define vector types for Numba: a value holds one number for each of N_LANES runs, and arithmetic
works on all of them at once.

A compiler may or may not vectorise a loop over runs. A value of type <N_LANES x double> is always
vectorised, on any CPU, and each lane gets exactly the IEEE operation that the source names, in the
order written.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

N_LANES = 32

# Names for the signatures of compiled functions, whose types a type checker does not know:
Lanes = Any  # N_LANES floats
Pointer = Any  # the first of some floats or integers in memory

_FLOATS = ir.VectorType(ir.DoubleType(), N_LANES)
_INTS = ir.VectorType(ir.IntType(64), N_LANES)


class _LanesType(types.Type):
    """The Numba type of a vector; `element` is the type of one lane."""

    def __init__(self, name: str, element: types.Type, vector: ir.Type) -> None:
        super().__init__(name=f"{name}x{N_LANES}")
        self.element = element
        self.vector = vector


_floats = _LanesType("floats", types.float64, _FLOATS)
_ints = _LanesType("ints", types.int64, _INTS)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: _LanesType) -> None:
        super().__init__(manager, lanes, lanes.vector)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Build a vector with `scalar` in every lane."""
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar.constant] * N_LANES)
    first = builder.insert_element(vector(ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), N_LANES), [0] * N_LANES)
    return builder.shuffle_vector(first, vector(ir.Undefined), zeros)


# --- Operators, between two vectors or a vector and a scalar.


def _operator(symbol: Callable[..., Any], lanes: _LanesType, instruction: str) -> None:
    """Let `symbol` mean `instruction`, lane by lane."""
    scalar = types.Float if lanes is _floats else types.Integer

    def type_of(a: types.Type, b: types.Type) -> types.Type | None:
        pair_is_ours = (a is lanes or isinstance(a, scalar)) and (b is lanes or isinstance(b, scalar))
        return lanes if pair_is_ours and lanes in (a, b) else None

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        vectors = [
            value
            if kind is lanes
            else _splat(builder, context.cast(builder, value, kind, lanes.element), lanes.vector)
            for value, kind in zip(args, sig.args, strict=True)
        ]
        return getattr(builder, instruction)(*vectors)

    type_callable(symbol)(lambda context: type_of)
    for pair in ((lanes, lanes), (lanes, scalar), (scalar, lanes)):
        lower_builtin(symbol, *pair)(lower)


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_symbol, _floats, _instruction)

for _symbol, _instruction in (
    (operator.add, "add"),
    (operator.sub, "sub"),
    (operator.and_, "and_"),
    (operator.or_, "or_"),
    (operator.lshift, "shl"),
    (operator.rshift, "lshr"),  # logical: zeros come in from the left
):
    _operator(_symbol, _ints, _instruction)


# --- Functions. Each is one instruction, or the few that move lanes to and from memory.


def _function(lowering: Callable[..., Any]) -> Callable[..., Any]:
    """Make a Numba intrinsic; compiled code calls it without the first parameter, `typing`."""
    return cast(Callable[..., Any], intrinsic(lowering))


@_function
def lanes(typing: Any, scalar: Any) -> Any:
    """Return a vector with the float `scalar` in every lane."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return _splat(builder, args[0], _FLOATS)

    return _floats(types.float64), lower


@_function
def bits(typing: Any, x: Any) -> Any:
    """Return the floats' bit patterns as integers."""
    return _ints(_floats), lambda c, builder, sig, args: builder.bitcast(args[0], _INTS)


@_function
def from_bits(typing: Any, i: Any) -> Any:
    """Return the floats that have these bit patterns."""
    return _floats(_ints), lambda c, builder, sig, args: builder.bitcast(args[0], _FLOATS)


@_function
def if_greater(typing: Any, x: Any, y: Any, a: Any, b: Any) -> Any:
    """Return, lane by lane, a where x > y, else b; b also where x or y is not a number."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return _floats(_floats, _floats, _floats, _floats), lower


@_function
def sqrt(typing: Any, x: Any) -> Any:
    """Compute the square root, which hardware rounds correctly."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(_FLOATS, [_FLOATS])
        function = builder.module.declare_intrinsic(f"llvm.sqrt.v{N_LANES}f64", (), kind)
        return builder.call(function, args)

    return _floats(_floats), lower


@_function
def pointer(typing: Any, array: Any, index: Any) -> Any:
    """Return the address of element `index` of a contiguous array. It does not keep the array alive.

    Passing an array on, or taking it from a tuple, counts a reference, which costs more than the
    arithmetic on a small network's weights; a pointer costs nothing.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.gep(data, [context.cast(builder, args[1], sig.args[1], types.intp)])

    return types.CPointer(array.dtype)(array, index), lower


def _address(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
    """Return the address of vector number args[1], counted from the pointer args[0]."""
    vectors = builder.bitcast(args[0], _FLOATS.as_pointer())
    return builder.gep(vectors, [context.cast(builder, args[1], sig.args[1], types.intp)])


@_function
def load(typing: Any, floats: Any, index: Any) -> Any:
    """Read vector number `index`, counted from a pointer."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.load(_address(context, builder, sig, args), align=8)

    return _floats(floats, index), lower


@_function
def store(typing: Any, floats: Any, index: Any, x: Any) -> Any:
    """Write x as vector number `index`, counted from a pointer."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        builder.store(args[2], _address(context, builder, sig, args), align=8)
        return context.get_dummy_value()

    return types.void(floats, index, _floats), lower
