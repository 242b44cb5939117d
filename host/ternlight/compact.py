"""The compact format of gains and states in memory: 16 bits that hold small values as finely as 20 bits would.

A code is mantissa * 4**exponent: a signed mantissa of 14 bits, and an exponent of 2 bits above it. The gain of a
product is that of two norms, and one scale serves the whole vector: beside an outlier stand gains a thousand times
smaller, each before an activation that may be an outlier itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats import COMPACT_EXPONENT_MAX, COMPACT_MANTISSA_BITS, COMPACT_STEP

_MANTISSA_MAX = (1 << COMPACT_MANTISSA_BITS - 1) - 1
_MASK = (1 << COMPACT_MANTISSA_BITS) - 1
VALUE_MAX = _MANTISSA_MAX << COMPACT_STEP * COMPACT_EXPONENT_MAX
"""The largest value of a code."""


def encode(values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Codes, as signed integers, of values of up to GAIN_BITS.

    The smallest exponent that holds the value; the mantissa is rounded half up and saturates.
    """
    values = np.asarray(values, np.int64)
    exponent = np.zeros_like(values)
    for step in range(COMPACT_EXPONENT_MAX):
        limit = _MANTISSA_MAX + 1 << COMPACT_STEP * step
        exponent += (values < -limit) | (values >= limit)
    shift = COMPACT_STEP * exponent
    mantissa = np.minimum((values + (1 << shift >> 1)) >> shift, _MANTISSA_MAX)
    code = exponent << COMPACT_MANTISSA_BITS | mantissa & _MASK
    signed: NDArray[np.int64] = code.astype(np.int16).astype(np.int64)
    return signed


def decode(codes: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The values of codes."""
    codes = np.asarray(codes, np.int64)
    mantissa = ((codes & _MASK) ^ _MANTISSA_MAX + 1) - (_MANTISSA_MAX + 1)
    values: NDArray[np.int64] = mantissa << COMPACT_STEP * (codes >> COMPACT_MANTISSA_BITS & COMPACT_EXPONENT_MAX)
    return values
