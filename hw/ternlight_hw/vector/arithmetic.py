"""Fixed-point expressions that the stages of the lane share; the twins of ternlight_sim.golden.integer."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value

LOW_BITS = 17
"""Bits of the unsigned low part of a factor of 24 bits: with its sign bit it fills one 18x18 multiplier."""
FINE_BITS = 4
"""Bits of a shift's amount that have a stage for themselves; those above share theirs with an adder."""


def named(m: Module, value: Value) -> Signal:
    """A signal for an expression that is used more than once: Amaranth emits an expression at each of its uses."""
    signal = Signal(value.shape(), src_loc_at=1)
    m.d.comb += signal.eq(value)
    return signal


def clamp(value: Value, low: int, high: int) -> Value:
    """The nearest value in low..high."""
    return Mux(value < low, low, Mux(value > high, high, value))


def saturate(value: Value, bits: int) -> Value:
    """The nearest signed integer of so many bits; of a signal, as it is used several times."""
    if len(value) <= bits:
        return value
    above, limit = value[bits - 1 :], 1 << (bits - 1)
    return Mux(above.all() | ~above.any(), value[:bits].as_signed(), Mux(value[-1], -limit, limit - 1))


def halves(value: Value) -> Value:
    """A signed value with one bit more below the point, which `round_half` consumes after a right shift."""
    return Cat(Const(0, 1), value).as_signed()


def shift_coarse(value: Value, amount: Value) -> Value:
    """The right shift by the multiple of 2**FINE_BITS in the amount."""
    return value >> (amount[FINE_BITS:] << FINE_BITS)


def shift_fine(value: Value, amount: Value) -> Value:
    """The right shift by what remains."""
    return value >> amount[:FINE_BITS]


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
