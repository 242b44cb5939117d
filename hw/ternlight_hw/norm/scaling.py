"""Scales as the lanes apply them: a factor of 17 bits, and a right shift by a multiple of three.

A product with a mantissa of 15 bits leaves two bits of a multiplier unused. What a shift is short of a multiple of
three goes into the factor, once for all lanes, and saves each of them two of six multiplexers.
"""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data

from ternlight.geometry import ceil_div
from ternlight.ufloat import MANTISSA_BITS

STEP = 3
"""Bits that a shift of the lanes is a multiple of."""
SHIFT_END = 39
"""The shift that leaves nothing of any product: of an accumulator of 24 bits and a mantissa."""
FACTOR_BITS = MANTISSA_BITS + STEP - 1

SHIFT = data.StructLayout({"lift": unsigned(2), "steps": unsigned(4)})
"""A right shift by STEP * steps of a product whose factor is lifted by so many bits."""


def clip_negative(value: Value, offset: int, high: int) -> Value:
    """The nearest value in 0..high to -value - offset, where all is compared and computed at once."""
    return Mux(value > -offset, 0, Mux(value < -offset - high, high, (-value - offset)[: high.bit_length()]))


def split(m: Module, amount: Value, *, offset: int = 0) -> data.View:
    """A right shift by amount + offset as the lanes do it; one beyond SHIFT_END is as SHIFT_END.

    A table: as a switch, synthesis would make more levels of it than its few inputs ask for.
    """
    shift = Signal(SHIFT, src_loc_at=1)
    values = [min(index + offset, SHIFT_END) for index in range(1 << len(amount))]
    steps = [ceil_div(value, STEP) for value in values]
    lifts = [count * STEP - value for count, value in zip(steps, values, strict=True)]
    for field, entries in ((shift.steps, steps), (shift.lift, lifts)):
        for bit, target in enumerate(field):
            table = sum((entry >> bit & 1) << index for index, entry in enumerate(entries))
            m.d.comb += target.eq(Const(table, len(entries)).bit_select(amount, 1))
    return shift


def lifted(mantissa: Value, shift: data.View) -> Value:
    """A mantissa as the factor of a product that is then shifted so."""
    return (mantissa << shift.lift)[:FACTOR_BITS]
