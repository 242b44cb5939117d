"""Adders out of the columns of an ECP5's carry chains, which can do more than synthesis asks of them.

A column has a LUT of four inputs a, b, c, d, of which P is the output and G the quarter for c = d = 0. Its sum is
P ^ carry, and its carry out is P ? carry : G. So it adds X(a, b) + Y(a, b, c, d) wherever P = X ^ Y, and G = X where
they are equal: the selection of an operand costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from amaranth import Cat, Const, Instance, Module, Signal, Value

ONE = Const(1, 1)
ZERO = Const(0, 1)


def _table(function: Callable[[int, int, int, int], int]) -> int:
    """The INIT of a LUT."""
    return sum((function(i & 1, i >> 1 & 1, i >> 2 & 1, i >> 3) & 1) << i for i in range(16))


SELECT_ADD = _table(lambda a, b, c, d: a ^ ((b ^ c) & d))
"""a + (d ? b ^ c : 0)."""
ADD = _table(lambda a, b, c, d: a ^ b if c or d else a)
"""a + b, with c = d = 1."""
ACCUMULATE = _table(lambda a, b, c, d: a & (1 - b) ^ (c | d))
"""(b ? 0 : a) + (c | d)."""
GUARD = _table(lambda a, b, c, d: a & b if not (c or d) else 0)
"""A carry out of a & b, whatever comes in, with c = d = 1: begins an adder."""


class Column(NamedTuple):
    """The LUT of a column, and its inputs."""

    init: int
    a: Value
    b: Value
    c: Value = ONE
    d: Value = ONE


def guard(a: Value = ZERO, b: Value = ZERO) -> Column:
    """The column before an adder's first: it takes the carry of a & b, and none of the adder below in its chain."""
    return Column(GUARD, a, b)


def bit(value: Value, index: int) -> Value:
    """A bit of a signed value that goes on for ever."""
    return value[min(index, len(value) - 1)]


def add(a: Value, b: Value, *, bits: int, carry: tuple[Value, Value] = (ZERO, ZERO)) -> list[Column]:
    """The columns of a + b + (carry[0] & carry[1])."""
    return [guard(*carry)] + [Column(ADD, bit(a, index), bit(b, index)) for index in range(bits)]


def select_add(a: Value, x: Value, *, negative: Value, nonzero: Value, bits: int) -> list[Column]:
    """The columns of a + x * trit."""
    return [guard(negative, nonzero)] + [
        Column(SELECT_ADD, bit(a, index), bit(x, index), negative, nonzero) for index in range(bits)
    ]


def accumulate(
    a: Value, x: Value, *, clear: Value, other: Value, bits: int, carry: tuple[Value, Value]
) -> list[Column]:
    """The columns of (clear ? 0 : a) + (x | other) + (carry[0] & carry[1]); x and other are not set together."""
    return [guard(*carry)] + [
        Column(ACCUMULATE, bit(a, index), clear, bit(x, index), other[index]) for index in range(bits)
    ]


def chain(m: Module, adders: Sequence[list[Column]]) -> list[Value]:
    """One carry chain of several adders, each begun by its guard; returns the sum of each."""
    columns = [column for adder in adders for column in adder]
    if len(columns) % 2:
        columns.append(guard())
    sums = Signal(len(columns))
    carry = Const(0, 1)
    for index in range(0, len(columns), 2):
        low, high = columns[index : index + 2]
        carry_out = Signal()
        m.submodules += Instance(
            "CCU2C",
            p_INIT0=Const(low.init, 16),
            p_INIT1=Const(high.init, 16),
            p_INJECT1_0="NO",
            p_INJECT1_1="NO",
            i_CIN=carry,
            **{f"i_{name}0": value for name, value in zip("ABCD", low[1:], strict=True)},
            **{f"i_{name}1": value for name, value in zip("ABCD", high[1:], strict=True)},
            o_S0=sums[index],
            o_S1=sums[index + 1],
            o_COUT=carry_out,
        )
        carry = carry_out
    values, position = [], 0
    for adder in adders:
        values.append(Cat(sums[position + 1 : position + len(adder)]))
        position += len(adder)
    return values
