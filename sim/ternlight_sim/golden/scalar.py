"""Scalar unit: arithmetic on ufloat values (ternlight.ufloat), one function per opcode."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ternlight.formats import QSCALE_FRACTION
from ternlight.reciprocal import (
    GUARD_BITS,
    POSITION_BITS,
    RECIP_EXPONENT,
    RSQRT_EXPONENT,
    SEGMENTS,
    TABLE,
    Curve,
)
from ternlight.ufloat import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    MANTISSA_BITS,
    MANTISSA_MAX,
)

from .integer import Ints

_TABLE = np.array(TABLE, np.int64)


class UFloat(NamedTuple):
    """Mantissas and exponents of the same shape; mantissa * 2**exponent."""

    mantissa: Ints
    exponent: Ints

    def real(self) -> np.ndarray:
        """The values in floating point."""
        return np.ldexp(self.mantissa.astype(np.float64), self.exponent.astype(np.int32))


def _limit(mantissa: Ints, exponent: Ints) -> UFloat:
    """Saturate an exponent above the range, flush to zero below it, and write zero as (0, 0)."""
    over, under = exponent > EXPONENT_MAX, (exponent < EXPONENT_MIN) | (mantissa == 0)
    mantissa = np.where(over, MANTISSA_MAX, mantissa)
    exponent = np.where(over, EXPONENT_MAX, exponent)
    return UFloat(np.where(under, 0, mantissa), np.where(under, 0, exponent))


def bit_length(value: Ints) -> Ints:
    """Bits of non-negative integers below 2**62; exact."""
    length = np.zeros_like(value)
    for step in (32, 16, 8, 4, 2, 1):
        larger = value >= np.int64(1) << step
        length = np.where(larger, length + step, length)
        value = np.where(larger, value >> step, value)
    return length + (value > 0)


def normalise(value: Ints) -> UFloat:
    """A non-negative integer (a peak or a sum, below 2**48) as ufloat, truncated."""
    value = np.asarray(value, np.int64)
    exponent = bit_length(value) - MANTISSA_BITS
    mantissa = np.where(exponent > 0, value >> np.maximum(exponent, 0), value << np.maximum(-exponent, 0))
    return _limit(mantissa, exponent)


def add(a: UFloat, b: UFloat) -> UFloat:
    """a + b: the operand of the smaller exponent is shifted right and truncated, and so is the carry."""
    swap = ((a.exponent < b.exponent) & (b.mantissa != 0)) | (a.mantissa == 0)
    big = UFloat(np.where(swap, b.mantissa, a.mantissa), np.where(swap, b.exponent, a.exponent))
    small = UFloat(np.where(swap, a.mantissa, b.mantissa), np.where(swap, a.exponent, b.exponent))
    distance = np.clip(big.exponent - small.exponent, 0, MANTISSA_BITS)
    total = big.mantissa + (small.mantissa >> distance)
    carry = total > MANTISSA_MAX
    return _limit(np.where(carry, total >> 1, total), big.exponent + carry)


def mul(a: UFloat, b: UFloat) -> UFloat:
    """a * b, the product rounded half up to 15 bits."""
    product = a.mantissa * b.mantissa
    shift = np.where(product >= 1 << 2 * MANTISSA_BITS - 1, MANTISSA_BITS, MANTISSA_BITS - 1)
    mantissa = (product + (np.int64(1) << shift - 1)) >> shift
    carry = mantissa > MANTISSA_MAX
    return _limit(np.where(carry, mantissa >> 1, mantissa), a.exponent + b.exponent + shift + carry)


def _from_table(curve: Ints | Curve, a: UFloat, exponent: Ints) -> UFloat:
    """The mantissa's value on a curve of ternlight.reciprocal; 0 for an operand of 0."""
    segment = a.mantissa >> POSITION_BITS & SEGMENTS - 1
    entry = _TABLE[curve * SEGMENTS + segment]
    value = entry[..., 0] - (entry[..., 1] * (a.mantissa & (1 << POSITION_BITS) - 1) >> POSITION_BITS)
    return _limit(np.where(a.mantissa == 0, 0, value >> GUARD_BITS), exponent)


def recip(a: UFloat) -> UFloat:
    """1 / a, from the table; 0 for 0."""
    return _from_table(Curve.RECIP, a, -RECIP_EXPONENT - a.exponent)


def rsqrt(a: UFloat) -> UFloat:
    """1 / sqrt(a), from the table; 0 for 0."""
    odd = a.exponent & 1
    return _from_table(Curve.RSQRT_EVEN + odd, a, -RSQRT_EXPONENT - ((a.exponent - odd) >> 1))


def qscale(a: UFloat) -> UFloat:
    """127 / a for quantisation, from the table, its mantissa not normalised; 0 for 0."""
    return _from_table(Curve.QSCALE, a, -QSCALE_FRACTION - a.exponent)
