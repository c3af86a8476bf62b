"""Evaluate a condition over the columns of a table, for --where and exclude=.

The grammar is small, and no part of a condition is executed as code: Python's parser reads the text, and
this module evaluates the tree: columns, literals, arithmetic, comparisons, in, and, or, not. Anything else,
such as a call or an attribute, is refused, so a condition from an untrusted source is safe.
"""

from __future__ import annotations

import ast
import json
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnexp.config.errors import unknown
from nnexp.config.text import on_one_line, shortened

MAX_CHARACTERS = 10_000
# For each kind that occurs: the values, of shape (rows,) or (1,), and a mask of the rows that have a value of
# this kind.
_Value = dict[str, tuple[NDArray[Any], NDArray[np.bool_]]]
_WORDS = {"number": "a number", "text": "text", "truth": "true or false", "time": "a time"}
# Text in quotes, or a column's name in backticks.
_QUOTED = re.compile(r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|`([^`]*)`""")
_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.eq,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_COMPUTED: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_ALLOWED = "names, numbers, text in quotes, lists, + - * / // % **, == != < <= > >=, in, and, or, not"


class NotACondition(ValueError):
    """A text that is not a condition over these columns; the message says why."""


def rows(table: pd.DataFrame, text: str) -> NDArray[np.bool_]:
    """Return for each row of the table whether the condition holds, as an array of shape (rows,).

    Numbers are compared with numbers, text with text; a row without a value is unequal to every value. A name
    may have dots, as in `init.scale`; a name with other characters is put in backticks. Raises NotACondition.
    """
    names: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        if found[2] is None:
            return found[0]
        names[f"_{len(names)}_"] = found[2]
        return f"_{len(names) - 1}_"

    if len(text) > MAX_CHARACTERS:
        raise NotACondition(f"has more than {MAX_CHARACTERS} characters")
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # a text such as "\d" causes one
            tree = ast.parse(_QUOTED.sub(named, text).strip(), mode="eval")
            value = _Condition(table, names).value(tree.body)
    except NotACondition:
        raise
    except (RecursionError, MemoryError):
        raise NotACondition("is nested too deeply") from None
    except (SyntaxError, ValueError) as error:
        raise NotACondition(f"cannot be read: {_reason(error)}; a condition has {_ALLOWED}") from None
    if set(value) != {"truth"}:
        raise NotACondition("must be true or false for each run")
    values, known = value["truth"]
    return np.broadcast_to(values & known, len(table)).astype(bool)


class _Condition:
    """An evaluator of the parts of a condition over a table."""

    def __init__(self, table: pd.DataFrame, names: Mapping[str, str]) -> None:
        self._table, self._names = table, names

    def value(self, node: ast.expr) -> _Value:
        """Evaluate an expression. Raises NotACondition if it is not allowed."""
        match node:
            case ast.BoolOp():
                join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return _truth(join.reduce(np.broadcast_arrays(*map(self._truth, node.values))))
            case ast.UnaryOp(op=ast.Not()):
                return _truth(~self._truth(node.operand))
            case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
                values, known = self._number(node.operand)
                return {"number": (-values if isinstance(node.op, ast.USub) else values, known)}
            case ast.BinOp() if type(node.op) in _COMPUTED:
                left, right = self._number(node.left), self._number(node.right)
                return {"number": (_COMPUTED[type(node.op)](left[0], right[0]), left[1] & right[1])}
            case ast.Compare():
                sides = [node.left, *node.comparators]
                pairs = zip(sides, node.ops, sides[1:], strict=False)
                parts = [self._compared(*pair) for pair in pairs]
                return _truth(np.logical_and.reduce(np.broadcast_arrays(*parts)))
            case ast.Constant(value=bool() | int() | float() | str()):
                return _of([node.value])
            case ast.List() | ast.Tuple():
                return _of([_as_typed(_literal(node))])
            case ast.Name() | ast.Attribute():
                return self._column(_name(node))
            case _:
                raise _not_allowed(node)

    def _column(self, name: str) -> _Value:
        """Return a column's values, or those of the words true and false. Raises NotACondition."""
        name = self._names.get(name, name)
        if name not in self._table.columns:
            if name in ("true", "false"):
                return _of([name == "true"])
            raise NotACondition(str(unknown("name", name, map(str, self._table.columns))))
        column = self._table[name]
        if pd.api.types.is_datetime64_any_dtype(column):
            times = pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy("datetime64[ns]")
            return {"time": (times, ~np.isnat(times))}
        if pd.api.types.is_bool_dtype(column):
            return _truth(column.to_numpy(bool))
        if pd.api.types.is_numeric_dtype(column):
            numbers = column.to_numpy(float)
            return {"number": (numbers, ~np.isnan(numbers))}
        return _of([_as_typed(list(v)) if isinstance(v, tuple) else v for v in column.tolist()])

    def _truth(self, node: ast.expr) -> NDArray[np.bool_]:
        """Evaluate an expression that is true or false; rows without a value are false."""
        value = self.value(node)
        if set(value) != {"truth"}:
            raise NotACondition(f"{_source(node)} is not true or false: compare it with something")
        return value["truth"][0] & value["truth"][1]

    def _number(self, node: ast.expr) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Evaluate an expression of numbers; return the values and the mask of the rows that have one."""
        value = self.value(node)
        if "number" not in value:
            raise NotACondition(f"{_source(node)} is {_kinds(value)}, not a number to compute with")
        return value["number"]

    def _compared(self, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> NDArray[np.bool_]:
        """Return for which rows one comparison holds."""
        if isinstance(sign, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple):
                raise NotACondition(f"{_source(right)}: write a list after in, [1, 2]")
            found = [self._both(left, operator.eq, item) for item in right.elts] or [np.zeros(1, bool)]
            is_in = np.logical_or.reduce(np.broadcast_arrays(*found))
            return np.asarray(~is_in if isinstance(sign, ast.NotIn) else is_in, bool)
        if type(sign) not in _COMPARED:
            raise NotACondition(f"{_source(left)} is {_source(right)}: write == or !=")
        result = self._both(left, _COMPARED[type(sign)], right)
        return ~result if isinstance(sign, ast.NotEq) else result

    def _both(self, left: ast.expr, compare: Callable[[Any, Any], Any], right: ast.expr) -> NDArray[np.bool_]:
        """Return for which rows both sides have a value of the same kind and the comparison holds."""
        one, other = self.value(left), self.value(right)
        one, other = _as_time(one, other), _as_time(other, one)
        if one and other and not one.keys() & other.keys():
            raise NotACondition(
                f"{_source(left)} is {_kinds(one)}, {_source(right)} is {_kinds(other)}: "
                "numbers are compared with numbers, text with text in quotes"
            )
        result = np.zeros(1, bool)
        for kind in one.keys() & other.keys():
            (a, a_known), (b, b_known) = one[kind], other[kind]
            result = result | (np.asarray(compare(a, b), bool) & a_known & b_known)
        return result


def _truth(values: NDArray[np.bool_]) -> _Value:
    """Return truth values that all rows have."""
    return {"truth": (values, np.ones(len(values), bool))}


def _of(values: Sequence[Any]) -> _Value:
    """Split Python values by their kinds."""
    found: _Value = {}
    kinds: list[tuple[str, type | tuple[type, ...], Any]] = [
        ("truth", (bool, np.bool_), False),
        ("text", str, ""),
        ("number", (int, float, np.integer, np.floating), np.nan),
    ]
    for kind, types, none in kinds:
        are = [
            isinstance(v, types) and (kind == "truth" or not isinstance(v, bool | np.bool_)) for v in values
        ]
        known = np.array(are, bool)
        if kind == "number":
            numbers = np.array([_float(v) if is_one else none for v, is_one in zip(values, are, strict=True)])
            known &= ~np.isnan(numbers)
            if known.any():
                found[kind] = numbers, known
        elif known.any():
            texts = [v if is_one else none for v, is_one in zip(values, are, strict=True)]
            found[kind] = np.array(texts, bool if kind == "truth" else object), known
    return found


def _float(value: Any) -> float:
    """Convert a number to float. Raises NotACondition if it is too large."""
    try:
        return float(value)
    except OverflowError:
        raise NotACondition("has a number beyond 1.8e308") from None


def _as_time(value: _Value, other: _Value) -> _Value:
    """Read text as times if the other side has times. Raises NotACondition if it is not a time."""
    if set(value) != {"text"} or set(other) != {"time"}:
        return value
    texts, known = value["text"]
    try:
        times = pd.to_datetime(list(texts), utc=True).tz_localize(None).to_numpy("datetime64[ns]")
    except ValueError:
        raise NotACondition(f"{texts[0]!r} is not a time: write 2026-01-31 or 2026-01-31T12:00") from None
    return {"time": (times, known)}


def _name(node: ast.expr) -> str:
    """Return a name, which may have dots. Raises NotACondition for an attribute of anything else."""
    first: ast.expr = node
    rest = ""
    while isinstance(first, ast.Attribute):
        rest = f".{first.attr}{rest}"
        first = first.value
    if not isinstance(first, ast.Name):
        raise _not_allowed(node)
    return first.id + rest


def _literal(node: ast.expr) -> Any:
    """Return the plain value of a list, a number or a text; a bare name is text. Raises NotACondition."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
        return node.value
    if isinstance(node, ast.Name):
        return node.id
    raise _not_allowed(node)


def _as_typed(values: list[Any]) -> str:
    """Return a list as the text of a param: `[4,2]`."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _kinds(value: _Value) -> str:
    """Return the kinds of a value in words."""
    return " and ".join(_WORDS[kind] for kind in value) or "empty"


def _source(node: ast.expr) -> str:
    """Return an expression as text for an error, on one line and short."""
    return on_one_line(shortened(ast.unparse(node), 60))


def _not_allowed(node: ast.expr) -> NotACondition:
    """Return the error for an expression that is not allowed; it says what to write instead, if known."""
    what = {ast.Call: "a call", ast.Subscript: "an element", ast.Attribute: "an attribute"}
    what |= {ast.BinOp: "& or |", ast.UnaryOp: "~"}
    instead = {ast.BinOp: ": write and, or", ast.UnaryOp: ": write not"}.get(type(node), "")
    words = what.get(type(node), f"what Python calls {type(node).__name__}")
    return NotACondition(
        f"{_source(node)} is {words}, which is not allowed{instead}; a condition has {_ALLOWED}"
    )


def _reason(error: Exception) -> str:
    """Return why a text cannot be read."""
    if not isinstance(error, SyntaxError):
        return on_one_line(str(error))
    rest = (error.text or "")[(error.offset or 1) - 1 :].strip()
    return f"{error.msg} at {on_one_line(rest[:20])!r}" if rest else str(error.msg)
