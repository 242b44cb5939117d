"""Fixed-point expressions that the stages of the lane share; the twins of ternlight_sim.golden.integer."""

from __future__ import annotations

from amaranth import Cat, Const, Mux, Value

LOW_BITS = 17
"""Bits of the unsigned low part of a factor of 24 bits: with its sign bit it fills one 18x18 multiplier."""
COARSE = (5, 4)
FINE = (3, 2, 1, 0)
"""The levels of a shift by 0..63, over two stages: the first level shares its stage with an adder."""


def clamp(value: Value, low: int, high: int) -> Value:
    """The nearest value in low..high."""
    return Mux(value < low, low, Mux(value > high, high, value))


def saturate(value: Value, bits: int) -> Value:
    """The nearest signed integer of so many bits."""
    if len(value) <= bits:
        return value
    above, sign = value[bits - 1 :], value[-1]
    return Mux(above.all() | ~above.any(), value[:bits], Cat((~sign).replicate(bits - 1), sign)).as_signed()


def halves(value: Value) -> Value:
    """A signed value with one bit more below the point, which `round_half` consumes after a right shift."""
    return Cat(Const(0, 1), value).as_signed()


def shift_right(value: Value, amount: Value, levels: tuple[int, ...]) -> Value:
    """The arithmetic right shift of a signed value by those bits of the amount that `levels` names."""
    for level in levels:
        value = Mux(amount[level], value >> (1 << level), value)
    return value


def round_half(value: Value) -> Value:
    """Round away the one bit below the point, half up."""
    return (value >> 1) + value[0]


def round_shift(value: Value, shift: int) -> Value:
    """A signed value / 2**shift for a constant shift of at least 1, rounded half up."""
    return (value + (1 << (shift - 1))) >> shift


def partial_products(a: Value, b: Value) -> tuple[Value, Value]:
    """Two products of one 18x18 multiplier each, for a * b with signed a of up to 35 bits and b of up to 18."""
    return a[:LOW_BITS] * b, a[LOW_BITS:].as_signed() * b


def product(low: Value, high: Value) -> Value:
    """a * b from its partial products."""
    return low + (high << LOW_BITS)
