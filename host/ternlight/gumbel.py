"""Counter-based Gumbel noise: the cipher's constants, and the table from 32 uniform bits to g = -ln(-ln u).

The cipher is the round of Speck64 on the block (token id, position), with the round keys seed ^ constant.

The 32 bits r stand for u = (r + 1/2) / 2**32. By symmetry w = 2r + 1 in the lower half, and 2**33 - (2r + 1) in
the upper, is an odd number below 2**32 whose relative precision holds in both tails. The table has 16 segments per
octave of w for either half; g is interpolated linearly within a segment.
"""

from __future__ import annotations

import math

WORD_BITS = 32
ROUNDS = 12
ROTATE_X = 8
"""Rotation to the right of the block's first word (the token id) in a round."""
ROTATE_Y = 3
"""Rotation to the left of the block's second word (the position) in a round."""
CONSTANTS = tuple(0x9E3779B9 * index & (1 << WORD_BITS) - 1 for index in range(1, ROUNDS + 1))
"""Multiples of the golden ratio, which keep the rounds from being alike."""

FRACTION = 16
"""Fraction bits of noise, tempered logits and scores."""
NOISE_BITS = 22
SCORE_BITS = 40
"""Bits of a score: 24 bits of accumulator times 15 of scale, plus noise."""

OCTAVE_BITS = 5
SEGMENT_BITS = 4
POSITION_BITS = 12
"""Bits of the position within a segment."""
SLOPE_BITS = 14


def exact(w: float, upper: bool) -> float:
    """-ln(-ln u) in floating point, for u = w / 2**33, or 1 - w / 2**33 in the upper half."""
    part = w / (1 << WORD_BITS + 1)
    return -math.log(-math.log1p(-part) if upper else -math.log(part))


def _segment(upper: bool, octave: int, segment: int) -> tuple[int, int]:
    """A segment's noise at its start and its rise, both with FRACTION bits.

    The chord is moved by half of its error in the middle, so that the error is of either sign.
    """
    width = 2.0 ** (WORD_BITS - 1 - octave - SEGMENT_BITS)
    start = width * ((1 << SEGMENT_BITS) + segment)
    left, middle, right = (exact(start + width * part, upper) for part in (0, 0.5, 1))
    offset = (middle - (left + right) / 2) / 2
    base = round((left + offset) * (1 << FRACTION))
    return base, round((right + offset) * (1 << FRACTION)) - base


TABLE = tuple(
    _segment(upper, octave, segment)
    for upper in (False, True)
    for octave in range(1 << OCTAVE_BITS)
    for segment in range(1 << SEGMENT_BITS)
)
"""(base, slope) of each segment; the index is (upper half, leading zeros of w, top bits of w after its first)."""
