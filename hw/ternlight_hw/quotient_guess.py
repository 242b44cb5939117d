"""The scalar unit's table: quotients and roots by linear interpolation, right or one too large.

The scalar unit checks a guess by multiplying it back, so that its results are exact whatever this table holds, as long
as a guess is the quotient or the quotient + 1. The index of a segment is (Curve, top bits of the mantissa after its
first); the rest of the mantissa is the position in the segment.
"""

from __future__ import annotations

import math
from enum import IntEnum

from ternlight.formats import ACTIVATION_MAX, QSCALE_FRACTION
from ternlight.ufloat import MANTISSA_BITS, MANTISSA_MIN

SEGMENT_BITS = 7
POSITION_BITS = MANTISSA_BITS - 1 - SEGMENT_BITS
FRACTION = 4
"""Fraction bits of a segment's start."""
SLOPE_FRACTION = 10
"""Fraction bits of the slope per unit of the position."""
GUESS_BITS = MANTISSA_BITS + 1
START_BITS = GUESS_BITS + FRACTION
SLOPE_BITS = SLOPE_FRACTION + 1


class Curve(IntEnum):
    """What is guessed of a mantissa m."""

    RECIP = 0
    QSCALE = 1
    RSQRT_EVEN = 2
    RSQRT_ODD = 3


def exact(curve: Curve, mantissa: int) -> float:
    """The value whose integer part is the result."""
    match curve:
        case Curve.RECIP:
            return (1 << 29) / mantissa
        case Curve.QSCALE:
            return (ACTIVATION_MAX << QSCALE_FRACTION) / mantissa
        case _:
            # An odd exponent lends the mantissa a factor of two.
            return math.sqrt((1 << 44) / (mantissa << (curve == Curve.RSQRT_ODD)))


def _segment(curve: Curve, segment: int) -> tuple[int, int]:
    """(start, slope): the chord, lowered by half of its error in the middle, and half a unit above the curve."""
    width = 1 << POSITION_BITS
    first = MANTISSA_MIN + segment * width
    left, middle, right = (exact(curve, first + position) for position in (0, width // 2, width))
    start = left - ((left + right) / 2 - middle) / 2 + 1 / 2
    return round(start * (1 << FRACTION)), round((left - right) / width * (1 << SLOPE_FRACTION))


SEGMENTS = tuple(_segment(curve, segment) for curve in Curve for segment in range(1 << SEGMENT_BITS))
"""(start, slope) of each segment; the curves fall."""


def guess(curve: Curve, mantissa: int) -> int:
    """The guess, as the scalar unit computes it."""
    start, slope = SEGMENTS[curve << SEGMENT_BITS | mantissa >> POSITION_BITS & (1 << SEGMENT_BITS) - 1]
    fall = slope * (mantissa & (1 << POSITION_BITS) - 1)
    return start - (fall >> SLOPE_FRACTION - FRACTION) >> FRACTION
