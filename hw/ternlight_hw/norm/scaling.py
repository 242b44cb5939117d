"""Scales as the lanes apply them: a factor of 17 bits, and a right shift by a multiple of three.

A product with a mantissa of 15 bits leaves two bits of a multiplier unused. What a shift is short of a multiple of
three goes into the factor, once for all lanes, and saves each of them two of six multiplexers.
"""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value, unsigned
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


def clip(value: Value, high: int) -> Value:
    """The nearest value in 0..high."""
    return Mux(value < 0, 0, Mux(value > high, high, value))[: high.bit_length()]


def clip_negative(value: Value, offset: int, high: int) -> Value:
    """The nearest value in 0..high to -value - offset, where all is compared and computed at once."""
    return Mux(value > -offset, 0, Mux(value < -offset - high, high, (-value - offset)[: high.bit_length()]))


def split(m: Module, amount: Value) -> data.View:
    """A right shift of 0..SHIFT_END as the lanes do it."""
    shift = Signal(SHIFT, src_loc_at=1)
    with m.Switch(amount):
        for value in range(min(SHIFT_END + 1, 1 << len(amount))):
            steps = ceil_div(value, STEP)
            with m.Case(value):
                m.d.comb += [shift.steps.eq(steps), shift.lift.eq(steps * STEP - value)]
    return shift


def lifted(mantissa: Value, shift: data.View) -> Value:
    """A mantissa as the factor of a product that is then shifted so."""
    return (mantissa << shift.lift)[:FACTOR_BITS]
