"""Integer helpers that every operation shares: rounding shift and saturation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def round_shift(value: Ints, shift: Ints | int) -> Ints:
    """value / 2**shift, rounded half up (towards plus infinity); shift >= 0."""
    shift = np.asarray(shift, np.int64)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 0)
    return (value + half) >> shift


def saturate(value: Ints, bits: int) -> Ints:
    """The nearest signed integer of so many bits."""
    limit = np.int64(1) << (bits - 1)
    return np.clip(value, -limit, limit - 1)
