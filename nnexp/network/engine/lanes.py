"""Define vector types for Numba: a value holds one number for each of N_LANES runs, or rows, and arithmetic
works on all of them at once.

A compiler may or may not vectorise a loop over runs. A value of type <N_LANES x double> is always
vectorised, on any CPU, and each lane gets exactly the IEEE operation that the source names, in the
order written. An octet has eight lanes, so that several stay in registers.
"""

import operator
from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

N_LANES = 32
OCTET = 8

# Names for the signatures of compiled functions, whose types a type checker does not know:
Lanes = Any  # N_LANES floats
Octet = Any  # eight floats
Pointer = Any  # the first of some floats or integers in memory

_FLOATS = ir.VectorType(ir.DoubleType(), N_LANES)
_INTS = ir.VectorType(ir.IntType(64), N_LANES)
_EIGHT = ir.VectorType(ir.DoubleType(), OCTET)


class _LanesType(types.Type):
    """The Numba type of a vector; `element` is the type of one lane."""

    def __init__(self, name: str, element: types.Type, vector: ir.VectorType) -> None:
        super().__init__(name=f"{name}x{vector.count}")
        self.element = element
        self.vector = vector


_floats = _LanesType("floats", types.float64, _FLOATS)
_ints = _LanesType("ints", types.int64, _INTS)
_octet = _LanesType("floats", types.float64, _EIGHT)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: _LanesType) -> None:
        super().__init__(manager, lanes, lanes.vector)


def _splat(builder: ir.IRBuilder, scalar: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Build a vector with `scalar` in every lane."""
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar.constant] * vector.count)
    first = builder.insert_element(vector(ir.Undefined), scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, vector(ir.Undefined), zeros)


# --- Operators, between two vectors or a vector and a scalar.


def _operator(symbol: Callable[..., Any], lanes: _LanesType, instruction: str) -> None:
    """Let `symbol` mean `instruction`, lane by lane."""
    scalar = types.Integer if lanes is _ints else types.Float

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
    _operator(_symbol, _octet, _instruction)

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


def _splatting(kind: _LanesType) -> Callable[..., Any]:
    def lanes(typing: Any, scalar: Any) -> Any:
        """Return a vector with the float `scalar` in every lane."""

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            return _splat(builder, args[0], kind.vector)

        return kind(types.float64), lower

    return _function(lanes)


lanes, octet = _splatting(_floats), _splatting(_octet)


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

    return x(x, x, x, x), lower


@_function
def sqrt(typing: Any, x: Any) -> Any:
    """Compute the square root, which hardware rounds correctly."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(x.vector, [x.vector])
        function = builder.module.declare_intrinsic(f"llvm.sqrt.v{x.vector.count}f64", (), kind)
        return builder.call(function, args)

    return x(x), lower


@_function
def fused(typing: Any, x: Any, y: Any, z: Any) -> Any:
    """Compute x y + z, rounded once. Only for what has one right result, however it is computed."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(x.vector, [x.vector] * 3)
        function = builder.module.declare_intrinsic(f"llvm.fma.v{x.vector.count}f64", (), kind)
        return builder.call(function, args)

    return x(x, x, x), lower


@_function
def are_between(typing: Any, low: Any, x: Any, high: Any) -> Any:
    """Tell whether low < |x| < high in all lanes."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(x.vector, [x.vector])
        size = builder.call(
            builder.module.declare_intrinsic(f"llvm.fabs.v{x.vector.count}f64", (), kind), args[1:2]
        )
        are = builder.and_(builder.fcmp_ordered("<", args[0], size), builder.fcmp_ordered("<", size, args[2]))
        mask = ir.IntType(x.vector.count)
        return builder.icmp_unsigned("==", builder.bitcast(are, mask), mask(2**x.vector.count - 1))

    return types.boolean(x, x, x), lower


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


def _address(builder: ir.IRBuilder, floats: ir.Value, index: ir.Value, vector: ir.VectorType) -> ir.Value:
    """Return the address of vector number `index`, counted from the pointer `floats`."""
    return builder.gep(builder.bitcast(floats, vector.as_pointer()), [index])


def _loading(lanes: _LanesType) -> Callable[..., Any]:
    def load(typing: Any, floats: Any, index: Any) -> Any:
        """Read vector number `index`, counted from a pointer."""

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            at = context.cast(builder, args[1], sig.args[1], types.intp)
            return builder.load(_address(builder, args[0], at, lanes.vector), align=8)

        return lanes(floats, index), lower

    return _function(load)


def _storing(lanes: _LanesType) -> Callable[..., Any]:
    def store(typing: Any, floats: Any, index: Any, x: Any) -> Any:
        """Write x as vector number `index`, counted from a pointer."""

        def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
            at = context.cast(builder, args[1], sig.args[1], types.intp)
            builder.store(args[2], _address(builder, args[0], at, lanes.vector), align=8)
            return context.get_dummy_value()

        return types.void(floats, index, lanes), lower

    return _function(store)


load, load_octet = _loading(_floats), _loading(_octet)
store, store_octet = _storing(_floats), _storing(_octet)


@_function
def shifted(typing: Any, floats: Any, by: Any) -> Any:
    """Return the pointer to the element `by` places further on."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])

    return floats(floats, by), lower


@_function
def pinned(typing: Any, floats: Any) -> Any:
    """Return a pointer as it is, but let the compiler compute it once, in a register of its own.

    An x86 CPU takes an operand that lies at a register and a constant together with the operation; one whose
    address is a sum of registers takes a place of its own among those that the CPU looks ahead at.
    """

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        kind = ir.FunctionType(args[0].type, [args[0].type])
        return builder.call(ir.InlineAsm(kind, "", "=r,0"), args)

    return floats(floats), lower


@_function
def transpose(typing: Any, source: Any, step: Any, target: Any, target_step: Any) -> Any:
    """Transpose eight octets that lie `step` octets apart into eight that lie `target_step` apart."""

    def lower(context: Any, builder: ir.IRBuilder, sig: Any, args: Any) -> ir.Value:
        steps = [context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 3)]

        def address(pointer: ir.Value, step: ir.Value, i: int) -> ir.Value:
            return _address(builder, pointer, builder.mul(step, step.type(i)), _EIGHT)

        rows = [builder.load(address(args[0], steps[0], i), align=8) for i in range(OCTET)]
        for side in (1, 2, 4):  # squares of this side change places across the diagonal
            near = [i if not i & side else OCTET + i - side for i in range(OCTET)]
            far = [i + side if not i & side else OCTET + i for i in range(OCTET)]
            masks = [ir.Constant(ir.VectorType(ir.IntType(32), OCTET), mask) for mask in (near, far)]
            for i in range(OCTET):
                if not i & side:
                    pair = rows[i], rows[i + side]
                    rows[i], rows[i + side] = (builder.shuffle_vector(*pair, mask) for mask in masks)
        for i, row in enumerate(rows):
            builder.store(row, address(args[2], steps[1], i), align=8)
        return context.get_dummy_value()

    return types.void(source, step, target, target_step), lower
