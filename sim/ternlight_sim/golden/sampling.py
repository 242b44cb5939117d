"""Token unit: the choice of the next token from the accumulators of the output product.

Greedy takes the largest accumulator. Otherwise the candidates' tempered logits get Gumbel noise and the largest sum
wins, which draws from their softmax (the Gumbel-max trick). The noise is a pure function of seed, position and token:
no order of evaluation can change it. Of equals, the lowest token id wins everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ternlight.formats import SHIFT_MAX
from ternlight.gumbel import (
    COARSE_BITS,
    CONSTANTS,
    FINE_BITS,
    FINE_FROM,
    FIRST_LOWER,
    FRACTION,
    POSITION_BITS,
    RISES,
    ROTATE_X,
    ROTATE_Y,
    TABLE,
    TAIL,
    WORD_BITS,
)
from ternlight.ufloat import MANTISSA_MAX

from .integer import Ints, round_shift
from .scalar import UFloat, bit_length

_MASK = (1 << WORD_BITS) - 1
_BASE, _SLOPE = np.array(TABLE, np.int64).T
_RISES = np.array(RISES, np.int64)


def _rotate_left(value: Ints, distance: int) -> Ints:
    return (value << distance | value >> WORD_BITS - distance) & _MASK


def random_bits(seed: ArrayLike, position: ArrayLike, token: ArrayLike) -> Ints:
    """32 uniform bits: the first word of the block (token, position) after all rounds of the cipher."""
    seed, y, x = (np.asarray(value, np.int64) for value in (seed, position, token))
    for constant in CONSTANTS:
        x = (_rotate_left(x, WORD_BITS - ROTATE_X) + y & _MASK) ^ seed ^ constant
        y = _rotate_left(y, ROTATE_Y) ^ x
    return x


def gumbel_of_bits(bits: Ints) -> Ints:
    """-ln(-ln u) with FRACTION bits, for u = (bits + 1/2) / 2**32; within 2.7e-4 of the exact value."""
    upper = bits >> WORD_BITS - 1
    w = (bits ^ -upper & _MASK) << 1 | 1
    octave = WORD_BITS - bit_length(w)
    fine = (upper == 1) | (octave == 0)
    # w with its leading one in bit 31, which the fields below leave out.
    rest = (w << octave) - (np.int64(1) << WORD_BITS - 1)
    fields = rest >> WORD_BITS - 1 - POSITION_BITS - np.where(fine, FINE_BITS, COARSE_BITS)
    row = np.where(upper == 1, np.minimum(octave, TAIL), FIRST_LOWER)
    index = np.where(fine, FINE_FROM + (row << FINE_BITS), octave << COARSE_BITS) + (fields >> POSITION_BITS)
    position = fields & (1 << POSITION_BITS) - 1
    base = _BASE[index] + upper * _RISES[octave]
    noise: Ints = base + round_shift(_SLOPE[index] * position, POSITION_BITS)
    return noise


def gumbel(seed: ArrayLike, position: ArrayLike, token: ArrayLike) -> Ints:
    """The noise of a token at a position, with FRACTION bits."""
    return gumbel_of_bits(random_bits(seed, position, token))


def temper(acc: Ints, scale: UFloat) -> Ints:
    """acc * scale with FRACTION bits; a scale from 1/2 up counts as the largest below (temperature almost zero)."""
    clipped = (scale.exponent > -FRACTION) & (scale.mantissa != 0)
    mantissa = np.where(clipped, MANTISSA_MAX, scale.mantissa)
    return round_shift(acc * mantissa, np.clip(-scale.exponent - FRACTION, 0, SHIFT_MAX))


def candidates(acc: Ints, top_k: int) -> Ints:
    """The ids of the top_k largest accumulators along the last axis (0: of all), in ascending order."""
    vocabulary = acc.shape[-1]
    if not 0 < top_k < vocabulary:
        return np.broadcast_to(np.arange(vocabulary, dtype=np.int64), acc.shape)
    return np.sort(np.argsort(-acc, axis=-1, kind="stable")[..., :top_k], axis=-1)


def sample(acc: Ints, scale: UFloat, top_k: int, seed: ArrayLike, position: ArrayLike) -> Ints:
    """The token for accumulators (..., vocabulary); scale, seed and position have the leading shape or none.

    top_k = 1 is greedy: neither scale nor noise enters.
    """
    acc = np.asarray(acc, np.int64)
    if top_k == 1:
        largest: Ints = acc.argmax(axis=-1)
        return largest
    ids = candidates(acc, top_k)
    spread = UFloat(*(np.asarray(part, np.int64)[..., None] for part in scale))
    seed, position = (np.asarray(value, np.int64)[..., None] for value in (seed, position))
    score = temper(np.take_along_axis(acc, ids, axis=-1), spread) + gumbel(seed, position, ids)
    best = score.argmax(axis=-1)[..., None]
    token: Ints = np.take_along_axis(ids, best, axis=-1)[..., 0]
    return token
