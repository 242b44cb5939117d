"""The sigmoid table: 128 segments of 1/8 over [0, 16), linearly interpolated.

Input Q4.13 (18 bits, signed), output U0.15. The entries are the sigmoid at the segment ends, so that the interpolation
is continuous; sigmoid(-z) = 1 - sigmoid(z).
"""

from __future__ import annotations

import math

Z_BITS = 18
INPUT_FRACTION = 13
OUTPUT_FRACTION = 15
SEGMENT_BITS = 10
"""Bits of the position within a segment."""
SEGMENTS = 128
TABLE = tuple(
    round((1 << OUTPUT_FRACTION) / (1 + math.exp(-index * (1 << SEGMENT_BITS) / (1 << INPUT_FRACTION))))
    for index in range(SEGMENTS + 1)
)
