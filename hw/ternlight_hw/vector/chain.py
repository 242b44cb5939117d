"""An adder whose second operand is a function: on ECP5 it costs nothing, as it lies within the carry chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amaranth import Cat, Const, Instance, Module, Signal, Value

from ..primitives import is_ecp5

INJECT = 0x000A
"""A column that hands on A as the carry, whatever comes in, with C = D = 1."""


def carry_sum(
    m: Module,
    platform: Any,
    a: Value,
    function: Callable[..., Any],
    *operands: Value,
    mask: Value | None = None,
    carry: Value | int = 0,
) -> Signal:
    """a + function(*operands) + carry, modulo 2**len(a); with a mask, `a` counts only where it is set.

    function: of up to three operands, bitwise with Python's operators; of three, it is 0 where the last two are. With a
    mask it has two, and is 0 where both are. An operand or mask of one bit serves all bits; others are as long as `a`.

    A column of ECP5's CCU2C has any function P of four inputs for what it adds to the carry; where P is 0, it hands on
    what P would be with C = D = 0. For P = A ^ function(B, C, D) this must be A, for (A & B) ^ function(C, D) A & B.
    """
    bits = len(a)
    masks = [] if mask is None else [mask]
    inputs = [operand if len(operand) == bits else operand.replicate(bits) for operand in (*masks, *operands)]
    if len(inputs) == 3 and any(function(*([b] if mask is None else []), 0, 0) & 1 for b in (0, 1)):
        raise ValueError(
            "a function of three operands must be 0 where the last two are, one beside a mask where both are"
        )
    total = Signal(bits, src_loc_at=1)
    if not is_ecp5(platform):
        first, others = (a, inputs) if mask is None else (a & inputs[0], inputs[1:])
        m.d.comb += total.eq(first + function(*others) + carry)
        return total

    init = 0
    for index in range(16):
        first, *others = (index >> place & 1 for place in range(4))
        if mask is not None:
            first &= others.pop(0)
        init |= (first if index < 4 else (first ^ function(*others[: len(operands)])) & 1) << index
    high = Const(1)
    columns = [((Value.cast(carry), high, high, high), INJECT)]
    for bit in range(bits):
        others = [operand[bit] for operand in inputs]
        columns.append(((a[bit], *others, *[high] * (3 - len(others))), init))
    if len(columns) % 2:
        columns.append(((Const(0),) * 4, 0))
    sums, link = [], Const(0, 1)
    for first in range(0, len(columns), 2):
        ports: dict[str, Any] = {}
        for place, (values, table) in enumerate(columns[first : first + 2]):
            total_bit = Signal(name=f"sum_{first + place}")
            sums.append(total_bit)
            ports |= {f"i_{name}{place}": value for name, value in zip("ABCD", values, strict=True)}
            ports |= {f"p_INIT{place}": Const(table, 16), f"p_INJECT1_{place}": "NO", f"o_S{place}": total_bit}
        onward = Signal(name=f"carry_{first}")
        m.submodules += Instance("CCU2C", i_CIN=link, o_COUT=onward, **ports)
        link = onward
    m.d.comb += total.eq(Cat(sums[1 : bits + 1]))
    return total
