"""The unsigned floating-point format of the scalar unit, for compiler constants and the golden model.

A value is mantissa * 2**exponent. The mantissa has 15 bits and is normalised (its top bit set), or the value is
zero, written (0, 0). The exponent is signed, 10 bits: larger values saturate, smaller ones become zero.
"""

from __future__ import annotations

import math

MANTISSA_BITS = 15
EXPONENT_BITS = 10
MANTISSA_MIN = 1 << MANTISSA_BITS - 1
MANTISSA_MAX = (1 << MANTISSA_BITS) - 1
EXPONENT_MIN = -(1 << EXPONENT_BITS - 1)
EXPONENT_MAX = (1 << EXPONENT_BITS - 1) - 1


def from_float(value: float) -> tuple[int, int]:
    """The nearest (mantissa, exponent); raises ValueError for what is negative or not finite."""
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a scalar must be finite and not negative, not {value}")
    if value == 0:
        return 0, 0
    fraction, exponent = math.frexp(value)
    mantissa = round(fraction * (1 << MANTISSA_BITS))
    exponent -= MANTISSA_BITS
    if mantissa > MANTISSA_MAX:
        mantissa, exponent = mantissa >> 1, exponent + 1
    if exponent > EXPONENT_MAX:
        return MANTISSA_MAX, EXPONENT_MAX
    if exponent < EXPONENT_MIN:
        return 0, 0
    return mantissa, exponent


def to_float(mantissa: int, exponent: int) -> float:
    """The real value."""
    return math.ldexp(mantissa, exponent)
