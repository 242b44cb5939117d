"""Reciprocals and reciprocal square roots of the scalar unit: tables with linear interpolation, for all to share.

A mantissa m of 15 bits, its top bit set, has its segment in the next 7 bits and its position in the low 7:
    (base[segment] - (slope[segment] * position >> 7)) >> GUARD_BITS
is 2**29 / m, 127 * 2**22 / m, or 2**22 / sqrt(m) and 2**22 / sqrt(2 * m) for even and odd exponents, within one unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

from .formats import ACTIVATION_MAX, QSCALE_FRACTION
from .ufloat import MANTISSA_BITS, MANTISSA_MIN

POSITION_BITS = 7
SEGMENT_BITS = MANTISSA_BITS - 1 - POSITION_BITS
SEGMENTS = 1 << SEGMENT_BITS
GUARD_BITS = 3
BASE_BITS = MANTISSA_BITS + GUARD_BITS
SLOPE_BITS = 12
RECIP_EXPONENT = 29
RSQRT_EXPONENT = 22


class Curve(IntEnum):
    """Which function a segment belongs to: the upper bits of a table's address."""

    RECIP = 0
    RSQRT_EVEN = 1
    RSQRT_ODD = 2
    QSCALE = 3


_FUNCTIONS: dict[Curve, Callable[[float], float]] = {
    Curve.RECIP: lambda m: 2.0**RECIP_EXPONENT / m,
    Curve.RSQRT_EVEN: lambda m: 2.0**RSQRT_EXPONENT / math.sqrt(m),
    Curve.RSQRT_ODD: lambda m: 2.0**RSQRT_EXPONENT / math.sqrt(2 * m),
    Curve.QSCALE: lambda m: ACTIVATION_MAX * 2.0**QSCALE_FRACTION / m,
}


def _segment(function: Callable[[float], float], first: int) -> tuple[int, int]:
    """Base and slope from the segment's ends, lowered by half of what the chord is above the curve in its middle.

    The base has the half unit that rounds the guard bits away.
    """
    width = 1 << POSITION_BITS
    left, middle, right = (function(first + width * part) * 2.0**GUARD_BITS for part in (0, 0.5, 1))
    excess = (left + right) / 2 - middle
    base = round(left - excess / 2) + (1 << GUARD_BITS - 1)
    return min(base, (1 << BASE_BITS) - 1), round(left - right)


TABLE = tuple(
    _segment(function, MANTISSA_MIN + (segment << POSITION_BITS))
    for function in _FUNCTIONS.values()
    for segment in range(SEGMENTS)
)
"""(base, slope) by curve * SEGMENTS + segment."""
