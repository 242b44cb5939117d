"""Vector unit: one function per opcode, on whole vectors (the last axis).

Formats: x (residual), v, t: 24 bits; f: U0.15; state h and z: 18 bits with a fraction per layer; gains: 20 bits with a
power-of-two scale per vector that the compiler folds into the scalar constants. Gains and states are given as the codes
that the memories hold (ternlight.compact). A 24-bit vector is read as 18 bits through the shift of its peak (block
floating point). `acc` is a ternary product's accumulator, `scale` the ufloat
that makes it real, with a trailing axis of one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ternlight.compact import decode, encode
from ternlight.formats import (
    ACTIVATION_MAX,
    BLOCK_BITS,
    ELEMENT_BITS,
    EMBED_SHIFT_MAX,
    ENERGY_BITS,
    FORGET_BITS,
    GAIN_BITS,
    GAIN_SHIFT,
    MLP_GAIN_BITS,
    MLP_GAIN_SHIFT,
    MLP_STAT_SHIFT,
    POWER_BITS,
    POWER_SHIFT,
    QUANT_FRACTION,
    SHIFT_MAX,
    STAT_SHIFT,
    STATE_BITS,
)
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, SEGMENTS, TABLE, Z_BITS

from .integer import Ints, round_shift, saturate
from .scalar import UFloat, block_shift

ONE = 1 << OUTPUT_FRACTION

_TABLE = np.array(TABLE, np.int64)


class Sums(NamedTuple):
    """Reductions of one operation, as integers; None where the operation has none."""

    peak: Ints | None = None
    energy: Ints | None = None
    power: Ints | None = None


def _peak(value: Ints) -> Ints:
    peak: Ints = np.abs(value).max(axis=-1)
    return peak


def _square_sum(value: Ints) -> Ints:
    total: Ints = (value * value).sum(axis=-1)
    return total


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


def embed(row: Ints, exponent: Ints) -> tuple[Ints, Sums]:
    """x = row << exponent (0..16), for an embedding row of signed bytes; exponent has a trailing axis of one."""
    x = row << np.clip(exponent, 0, EMBED_SHIFT_MAX)
    return x, Sums(peak=_peak(x))


def block(value: Ints, peak: UFloat) -> Ints:
    """A 24-bit vector in BLOCK_BITS, through the shift of its peak."""
    return saturate(round_shift(value, block_shift(peak)), BLOCK_BITS)


def stat(value: Ints, gain: Ints, peak: UFloat) -> Sums:
    """Energy of the gained vector and power of the vector itself, in its block floating point."""
    narrow = block(value, peak)
    gained = saturate(round_shift(narrow * decode(gain), STAT_SHIFT), ENERGY_BITS)
    return Sums(energy=_square_sum(gained), power=_square_sum(narrow))


def gain(value: Ints, gains: Ints, peak: UFloat) -> tuple[Ints, Sums]:
    """v = block(value) * gain / 2**GAIN_SHIFT."""
    v = saturate(round_shift(block(value, peak) * decode(gains), GAIN_SHIFT), ELEMENT_BITS)
    return v, Sums(peak=_peak(v))


def quant(v: Ints, scale: UFloat) -> Ints:
    """Activations q = round(v * scale) in -127..127, with scale = qscale(peak)."""
    shift = np.maximum(0, -QUANT_FRACTION - scale.exponent)
    narrow = saturate(round_shift(v, np.minimum(shift, SHIFT_MAX)), BLOCK_BITS)
    q = round_shift(narrow * scale.mantissa, np.clip(-scale.exponent - shift, 0, SHIFT_MAX))
    return np.clip(q, -ACTIVATION_MAX, ACTIVATION_MAX)


def forget(acc: Ints, lower_bound: Ints, scale: UFloat) -> Ints:
    """f = lb + (1 - lb) * sigmoid(acc * scale), as U0.15."""
    z = saturate(scaled(acc, scale, INPUT_FRACTION), Z_BITS)
    return lower_bound + round_shift((ONE - lower_bound) * sigmoid(z), OUTPUT_FRACTION)


def state(acc: Ints, f: Ints, h: Ints, scale: UFloat, fraction: int) -> Ints:
    """h' = s + f * (h - s) with s = silu(acc * scale): the recurrence f * h + (1 - f) * s."""
    s = silu(saturate(scaled(acc, scale, fraction), Z_BITS), fraction)
    change = round_shift(saturate(f, FORGET_BITS) * (decode(h) - s), OUTPUT_FRACTION)
    return encode(saturate(s + change, STATE_BITS))


def gate(acc: Ints, h: Ints, shift: int, fraction: int) -> tuple[Ints, Sums]:
    """t = acc * silu(h) / 2**shift; power of acc / 2**POWER_SHIFT."""
    s = silu(saturate(decode(h), Z_BITS), fraction)
    t = saturate(round_shift(acc * s, shift), ELEMENT_BITS)
    return t, Sums(peak=_peak(t), power=_square_sum(saturate(round_shift(acc, POWER_SHIFT), POWER_BITS)))


def mlp(acc: Ints, gains: Ints, scale: UFloat, shift: int, fraction: int) -> tuple[Ints, Sums]:
    """v = silu(a * scale) * b * gain, where acc holds a and b interleaved as (..., length, 2)."""
    s = silu(saturate(scaled(acc[..., 0], scale, fraction), Z_BITS), fraction)
    t = saturate(round_shift(acc[..., 1] * s, shift), ELEMENT_BITS)
    v = saturate(round_shift(t * (decode(gains) >> GAIN_BITS - MLP_GAIN_BITS), MLP_GAIN_SHIFT), ELEMENT_BITS)
    energy = _square_sum(saturate(round_shift(t, MLP_STAT_SHIFT), ENERGY_BITS))
    return v, Sums(peak=_peak(v), energy=energy)


def resid(acc: Ints, x: Ints, scale: UFloat, fraction: int) -> tuple[Ints, Sums]:
    """x + acc * scale, in the residual's format."""
    x = saturate(x + saturate(scaled(acc, scale, fraction), ELEMENT_BITS), ELEMENT_BITS)
    return x, Sums(peak=_peak(x))
