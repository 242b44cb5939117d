"""Counter-based Gumbel noise: the cipher's constants, and the table from 32 uniform bits to g = -ln(-ln u).

The cipher is the round of Speck64 on the block (token id, position), with the round keys seed ^ constant.

The 32 bits r stand for u = (r + 1/2) / 2**32. By symmetry w = 2r + 1 in the lower half, and 2**33 - (2r + 1) in
the upper, is an odd number below 2**32 whose relative precision holds in both tails. The table has segments of every
octave of w, between whose ends g is interpolated linearly:
* 16 per octave in the upper half, and in the first octave of the lower one;
* 8 per octave in the rest of the lower half, which bends less.
Far up, g is -ln(w / 2**33) within a unit in the last place: there an octave is the one before it, ln 2 higher, and all
octaves from TAIL on share their segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
FINE_BITS = 4
COARSE_BITS = 3
"""Of the number of a segment in its octave."""
TAIL = 14
"""The first octave of the upper half, counted from the middle, of those that share their segments."""
FINE_FROM = 1 << OCTAVE_BITS + COARSE_BITS
"""Index of the first fine segment. Before are the coarse ones, in the order of octaves; the first is never used."""
FIRST_LOWER = TAIL + 1
"""The row of fine segments, after those of the upper half, of the first octave of the lower half."""
POSITION_BITS = 12
"""Bits of the position within a segment."""
SLOPE_BITS = 14


def exact(w: float, upper: bool) -> float:
    """-ln(-ln u) in floating point, for u = w / 2**33, or 1 - w / 2**33 in the upper half."""
    part = w / (1 << WORD_BITS + 1)
    return -math.log(-math.log1p(-part) if upper else -math.log(part))


def _segments(upper: bool, octave: int, bits: int) -> Iterator[tuple[int, int]]:
    """Of an octave's 2**bits segments the noise at the start and the rise, both with FRACTION bits.

    The chord is moved by half of its error in the middle, so that the error is of either sign.
    """
    width = 2.0 ** (WORD_BITS - 1 - octave - bits)
    for segment in range(1 << bits):
        start = width * ((1 << bits) + segment)
        left, middle, right = (exact(start + width * part, upper) for part in (0, 0.5, 1))
        offset = (middle - (left + right) / 2) / 2
        base = round((left + offset) * (1 << FRACTION))
        yield base, round((right + offset) * (1 << FRACTION)) - base


TABLE = (
    *(segment for octave in range(1 << OCTAVE_BITS) for segment in _segments(False, octave, COARSE_BITS)),
    *(segment for octave in range(TAIL + 1) for segment in _segments(True, octave, FINE_BITS)),
    *_segments(False, 0, FINE_BITS),
)
"""(base, slope) of each segment; the index is (octave, segment), or (1, row, segment) of the fine ones."""

RISES = tuple(round(max(octave - TAIL, 0) * math.log(2) * (1 << FRACTION)) for octave in range(1 << OCTAVE_BITS))
"""How far an octave of the upper half, counted from the middle, lies above the segments that it uses."""
