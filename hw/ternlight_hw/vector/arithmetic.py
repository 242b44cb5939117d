"""Fixed-point expressions that the stages of the lanes share; the twins of ternlight_sim.golden.integer."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, Value

LOW_BITS = 17
"""Bits of the unsigned low part of a factor of 24 bits: with its sign bit it fills one 18x18 multiplier."""


def named(m: Module, value: Value) -> Signal:
    """A signal for an expression that is used more than once: Amaranth emits an expression at each of its uses."""
    signal = Signal(value.shape(), src_loc_at=1)
    m.d.comb += signal.eq(value)
    return signal


def saturate(value: Value, bits: int) -> Value:
    """The nearest signed integer of so many bits; of a signal, as it is used several times."""
    if len(value) <= bits:
        return value
    above, limit = value[bits - 1 :], 1 << (bits - 1)
    return Mux(above.all() | ~above.any(), value[:bits].as_signed(), Mux(value[-1], -limit, limit - 1))


def select(choice, zero, one):
    """One of two operands, bit by bit; for chain.carry_sum."""
    return (choice & one) | (~choice & zero)


def round_shift(value: Value, shift: int) -> Value:
    """A signed value / 2**shift for a constant shift of at least 1, rounded half up."""
    return (value + (1 << (shift - 1))) >> shift


def product(low: Value, high: Value) -> Value:
    """a * b from its partial products."""
    return low + (high << LOW_BITS)
