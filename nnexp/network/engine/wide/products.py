"""Multiply matrices: every sum is taken in ascending order, one term after another, in a register.

Eight neighbouring columns of a row are an octet; the same eight columns of all rows are a panel. Four octets
are summed at a time: enough that none waits for another, and few enough for the registers of any CPU.
"""

from typing import NamedTuple

from nnexp.network.engine.compilation import HAS_LONG_REGISTERS, compiled, placed
from nnexp.network.engine.lanes import Pointer, load_octet, octet, pinned, shifted, store_octet

# How many octets are summed at a time: enough that none waits for another, and few enough for the registers.
SUMS = 8 if HAS_LONG_REGISTERS else 4


class Scalars(NamedTuple):
    """A matrix of single numbers: where it begins, and how many elements apart its rows and columns are."""

    first: Pointer
    row: int
    column: int


class Octets(NamedTuple):
    """A matrix of octets: where it begins, and how many octets apart its rows and panels are."""

    first: Pointer
    row: int
    panel: int


@compiled
def _add_one(c: Pointer, a: Scalars, at: int, b: Octets, b_at: int, count: int) -> None:
    """Add one row of a panel to the octet at c."""
    total = load_octet(c, 0)
    for i in range(count):
        total = total + a.first[at + i * a.column] * load_octet(b.first, b_at + i * b.row)
    store_octet(c, 0, total)


@placed
def _row(a: Scalars, at: int, i: int) -> Pointer:
    """Point to the element i rows below `at`, in a register of its own."""
    return pinned(shifted(a.first, at + i * a.row))


@compiled
def _add_four_rows(c: Pointer, c_row: int, a: Scalars, at: int, b: Octets, b_at: int, count: int) -> None:
    """Add four rows of a panel to the octets from c on."""
    s0, s1 = load_octet(c, 0), load_octet(c, c_row)
    s2, s3 = load_octet(c, 2 * c_row), load_octet(c, 3 * c_row)
    a0, a1, a2, a3 = _row(a, at, 0), _row(a, at, 1), _row(a, at, 2), _row(a, at, 3)
    for i in range(count):
        x, j = load_octet(b.first, b_at + i * b.row), i * a.column
        s0, s1 = s0 + a0[j] * x, s1 + a1[j] * x
        s2, s3 = s2 + a2[j] * x, s3 + a3[j] * x
    store_octet(c, 0, s0)
    store_octet(c, c_row, s1)
    store_octet(c, 2 * c_row, s2)
    store_octet(c, 3 * c_row, s3)


@compiled
def _add_eight_rows(c: Pointer, c_row: int, a: Scalars, at: int, b: Octets, b_at: int, count: int) -> None:
    """Add eight rows of a panel to the octets from c on."""
    s0, s1 = load_octet(c, 0), load_octet(c, c_row)
    s2, s3 = load_octet(c, 2 * c_row), load_octet(c, 3 * c_row)
    s4, s5 = load_octet(c, 4 * c_row), load_octet(c, 5 * c_row)
    s6, s7 = load_octet(c, 6 * c_row), load_octet(c, 7 * c_row)
    a0, a1, a2, a3 = _row(a, at, 0), _row(a, at, 1), _row(a, at, 2), _row(a, at, 3)
    a4, a5, a6, a7 = _row(a, at, 4), _row(a, at, 5), _row(a, at, 6), _row(a, at, 7)
    for i in range(count):
        x, j = load_octet(b.first, b_at + i * b.row), i * a.column
        s0, s1 = s0 + a0[j] * x, s1 + a1[j] * x
        s2, s3 = s2 + a2[j] * x, s3 + a3[j] * x
        s4, s5 = s4 + a4[j] * x, s5 + a5[j] * x
        s6, s7 = s6 + a6[j] * x, s7 + a7[j] * x
    store_octet(c, 0, s0)
    store_octet(c, c_row, s1)
    store_octet(c, 2 * c_row, s2)
    store_octet(c, 3 * c_row, s3)
    store_octet(c, 4 * c_row, s4)
    store_octet(c, 5 * c_row, s5)
    store_octet(c, 6 * c_row, s6)
    store_octet(c, 7 * c_row, s7)


@compiled
def _add_four_panels(c: Pointer, c_panel: int, a: Scalars, at: int, b: Octets, b_at: int, count: int) -> None:
    """Add one row of four panels to the octets from c on."""
    s0, s1 = load_octet(c, 0), load_octet(c, c_panel)
    s2, s3 = load_octet(c, 2 * c_panel), load_octet(c, 3 * c_panel)
    for i in range(count):
        x, j = a.first[at + i * a.column], b_at + i * b.row
        s0 = s0 + x * load_octet(b.first, j)
        s1 = s1 + x * load_octet(b.first, j + b.panel)
        s2 = s2 + x * load_octet(b.first, j + 2 * b.panel)
        s3 = s3 + x * load_octet(b.first, j + 3 * b.panel)
    store_octet(c, 0, s0)
    store_octet(c, c_panel, s1)
    store_octet(c, 2 * c_panel, s2)
    store_octet(c, 3 * c_panel, s3)


@compiled
def add_product(c: Octets, a: Scalars, b: Octets, rows: int, panels: int, count: int) -> None:
    """Compute C = C + A B for `rows` rows and `panels` panels of C; A has `count` columns."""
    eights, fours = rows - rows % 8 if SUMS == 8 else 0, rows - rows % 4
    for panel in range(panels):
        for row in range(0, eights, 8):
            at = shifted(c.first, 8 * (row * c.row + panel * c.panel))
            _add_eight_rows(at, c.row, a, row * a.row, b, panel * b.panel, count)
        for row in range(eights, fours, 4):
            at = shifted(c.first, 8 * (row * c.row + panel * c.panel))
            _add_four_rows(at, c.row, a, row * a.row, b, panel * b.panel, count)
    for row in range(fours, rows):
        panel = 0
        while panel < panels:
            at = shifted(c.first, 8 * (row * c.row + panel * c.panel))
            if panel + 4 <= panels:
                _add_four_panels(at, c.panel, a, row * a.row, b, panel * b.panel, count)
                panel += 4
            else:
                _add_one(at, a, row * a.row, b, panel * b.panel, count)
                panel += 1


@compiled
def fill(c: Octets, number: float, rows: int, panels: int) -> None:
    """Write the number into `rows` rows of `panels` panels."""
    for row in range(rows):
        for panel in range(panels):
            store_octet(c.first, row * c.row + panel * c.panel, octet(number))
