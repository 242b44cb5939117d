"""Norm unit and gate unit: one function per opcode, on whole vectors (the last axis).

Formats: x (residual), v, t: 24 bits; f: U0.15; state h and z: 18 bits with a fraction per layer; gains: 20 bits with a
power-of-two scale per vector that the compiler folds into the scalar constants. Gains and states are given as the codes
that the memories hold (ternlight.compact). A gained vector is narrowed to 18 bits by the shift of a peak that bounds
it (block floating point). `acc` is a ternary product's accumulator, `scale` the ufloat that makes it real, with a
trailing axis of one.
"""

from __future__ import annotations

import numpy as np

from ternlight.compact import decode, encode
from ternlight.formats import (
    ACTIVATION_MAX,
    BLOCK_BITS,
    BLOCK_SHIFT_MAX,
    ELEMENT_BITS,
    EMBEDDING_FACTOR_SHIFT,
    EMBEDDING_MANTISSA_BITS,
    FORGET_BITS,
    GAIN_SHIFT,
    LIFT_STEP,
    POWER_SHIFT,
    QUANT_FRACTION,
    SHIFT_MAX,
    SQUARE_BITS,
    SQUARE_SHIFT,
    STATE_BITS,
)
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, SEGMENTS, TABLE, Z_BITS

from .integer import Ints, round_shift, saturate
from .scalar import UFloat, normalise

ONE = 1 << OUTPUT_FRACTION

_TABLE = np.array(TABLE, np.int64)


def _square_sum(value: Ints) -> UFloat:
    """The sum of squares of elements, in units of 4**SQUARE_SHIFT."""
    narrow = saturate(round_shift(value, SQUARE_SHIFT), SQUARE_BITS)
    return normalise((narrow * narrow).sum(axis=-1))


def scaled(acc: Ints, scale: UFloat, fraction: int) -> Ints:
    """acc * scale in fixed point with so many fraction bits (the right shift is kept within 0..47)."""
    return round_shift(acc * scale.mantissa, np.clip(-scale.exponent - fraction, 0, SHIFT_MAX))


def sigmoid(z: Ints) -> Ints:
    """Sigmoid of Q4.13 as U0.15, from the interpolated table; at most 32767."""
    magnitude = np.minimum(np.abs(z), (1 << Z_BITS - 1) - 1)
    index, position = magnitude >> SEGMENT_BITS, magnitude & (1 << SEGMENT_BITS) - 1
    left = _TABLE[index]
    value = left + round_shift((_TABLE[np.minimum(index + 1, SEGMENTS)] - left) * position, SEGMENT_BITS)
    result: Ints = np.minimum(np.where(z < 0, ONE - value, value), ONE - 1)
    return result


def silu(z: Ints, fraction: int) -> Ints:
    """z * sigmoid(z) for z of Z_BITS with so many fraction bits (at most 13); same format."""
    gate = sigmoid(saturate(z << (INPUT_FRACTION - fraction), Z_BITS))
    return round_shift(z * gate, OUTPUT_FRACTION)


# The norm unit.


def embed(row: Ints, scale: Ints) -> tuple[Ints, UFloat]:
    """x = row * (32 + m) * 2**(9 - s), for a row of signed bytes and its scale (with an axis of one); its power."""
    one = 1 << EMBEDDING_MANTISSA_BITS
    mantissa, shift = one | scale & one - 1, scale >> EMBEDDING_MANTISSA_BITS
    x = saturate(round_shift(row * (mantissa << EMBEDDING_FACTOR_SHIFT), shift), ELEMENT_BITS)
    return x, _square_sum(x)


def resid(acc: Ints, x: Ints, scale: UFloat, fraction: int) -> tuple[Ints, UFloat]:
    """x + acc * scale, in the residual's format; its power."""
    x = saturate(x + saturate(scaled(acc, scale, fraction), ELEMENT_BITS), ELEMENT_BITS)
    return x, _square_sum(x)


def gained(source: Ints, gains: Ints, lift: int) -> Ints:
    """v = source * gain / 2**(GAIN_SHIFT - LIFT_STEP * lift), within -2**23..2**23; beyond, the limit."""
    product, shift = source * decode(gains), GAIN_SHIFT - LIFT_STEP * lift
    floor = product >> shift
    limited = saturate(floor, ELEMENT_BITS)
    return limited + np.where(limited == floor, product >> shift - 1 & 1, 0)


def peak(source: Ints, gains: Ints, lift: int) -> UFloat:
    """The peak of v."""
    return normalise(np.abs(gained(source, gains, lift)).max(axis=-1))


def stat(source: Ints, gains: Ints, lift: int) -> UFloat:
    """The energy of v."""
    return _square_sum(gained(source, gains, lift))


def quant(source: Ints, gains: Ints, scale: UFloat, lift: int) -> Ints:
    """Activations q = round(v * scale) in -127..127, with scale = qscale(peak of v)."""
    shift = np.clip(-QUANT_FRACTION - scale.exponent, 0, BLOCK_SHIFT_MAX)
    narrow = saturate(round_shift(gained(source, gains, lift), shift), BLOCK_BITS)
    q = round_shift(narrow * scale.mantissa, np.clip(-scale.exponent - shift, 0, SHIFT_MAX))
    return np.clip(q, -ACTIVATION_MAX, ACTIVATION_MAX)


# The gate unit.


def forget(acc: Ints, lower_bound: Ints, scale: UFloat) -> Ints:
    """f = lb + (1 - lb) * sigmoid(acc * scale), as U0.15."""
    z = saturate(scaled(acc, scale, INPUT_FRACTION), Z_BITS)
    return lower_bound + round_shift((ONE - lower_bound) * sigmoid(z), OUTPUT_FRACTION)


def state(acc: Ints, f: Ints, h: Ints, scale: UFloat, fraction: int) -> Ints:
    """h' = s + f * (h - s) with s = silu(acc * scale): the recurrence f * h + (1 - f) * s."""
    s = silu(saturate(scaled(acc, scale, fraction), Z_BITS), fraction)
    change = round_shift(saturate(f, FORGET_BITS) * (decode(h) - s), OUTPUT_FRACTION)
    return encode(saturate(s + change, STATE_BITS))


def gate(acc: Ints, h: Ints, shift: int, fraction: int) -> tuple[Ints, UFloat]:
    """t = acc * silu(h) / 2**shift; the power of acc, in units of 4**POWER_SHIFT."""
    s = silu(saturate(decode(h), Z_BITS), fraction)
    t = saturate(round_shift(acc * s, shift), ELEMENT_BITS)
    narrow = saturate(round_shift(acc, POWER_SHIFT), SQUARE_BITS)
    return t, normalise((narrow * narrow).sum(axis=-1))


def mlp(acc: Ints, scale: UFloat, shift: int, fraction: int) -> tuple[Ints, UFloat]:
    """t = silu(a * scale) * b / 2**shift, where acc holds a and b as (..., 2, length); its energy."""
    s = silu(saturate(scaled(acc[..., 0, :], scale, fraction), Z_BITS), fraction)
    t = saturate(round_shift(acc[..., 1, :] * s, shift), ELEMENT_BITS)
    return t, _square_sum(t)
