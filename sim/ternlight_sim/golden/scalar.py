"""Scalar unit: arithmetic on ufloat values (ternlight.ufloat), one function per opcode."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ternlight.formats import ACTIVATION_MAX, BLOCK_FRACTION, BLOCK_SHIFT_MAX, QSCALE_FRACTION
from ternlight.ufloat import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    MANTISSA_BITS,
    MANTISSA_MAX,
    MANTISSA_MIN,
)

from .integer import Ints


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


def block_shift(peak: UFloat) -> Ints:
    """The right shift, within 0..15, that brings a vector with this peak into BLOCK_BITS."""
    return np.clip(peak.exponent - BLOCK_FRACTION, 0, BLOCK_SHIFT_MAX)


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


def recip(a: UFloat) -> UFloat:
    """1 / a, truncated; 0 for 0."""
    mantissa = np.int64(1 << 29) // np.maximum(a.mantissa, 1)
    one = a.mantissa == MANTISSA_MIN
    mantissa = np.where(a.mantissa == 0, 0, np.where(one, MANTISSA_MIN, mantissa))
    return _limit(mantissa, -29 - a.exponent + one)


def rsqrt(a: UFloat) -> UFloat:
    """1 / sqrt(a) = isqrt(2**44 // m) * 2**(-22 - e/2), with m * 2**e = a and e even; 0 for 0."""
    odd = a.exponent & 1
    mantissa = a.mantissa << odd
    exponent = (a.exponent - odd) >> 1
    quotient = np.int64(1 << 44) // np.maximum(mantissa, 1)
    root = np.sqrt(quotient.astype(np.float64)).astype(np.int64)
    root = root - (root * root > quotient)
    one = root > MANTISSA_MAX
    root = np.where(one, MANTISSA_MIN, root)
    return _limit(np.where(a.mantissa == 0, 0, root), -22 - exponent + one)


def qscale(a: UFloat) -> UFloat:
    """127 / a for quantisation: (127 * 2**22 // mantissa, -22 - exponent), not normalised; 0 for 0."""
    mantissa = np.int64(ACTIVATION_MAX << QSCALE_FRACTION) // np.maximum(a.mantissa, 1)
    return _limit(np.where(a.mantissa == 0, 0, mantissa), -QSCALE_FRACTION - a.exponent)


def lower(a: UFloat, b: UFloat) -> UFloat:
    """a * 2**(-2 * block_shift(b)): an energy, in the block floating point of the vector with peak b."""
    return _limit(a.mantissa, a.exponent - 2 * block_shift(b))
