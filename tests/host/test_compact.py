"""The compact format: all codes, and the rounding of all values."""

from __future__ import annotations

import numpy as np

from ternlight import compact
from ternlight.formats import COMPACT_BITS, COMPACT_MANTISSA_BITS, COMPACT_STEP, GAIN_BITS

CODES = np.arange(-(1 << COMPACT_BITS - 1), 1 << COMPACT_BITS - 1)
VALUES = np.arange(-(1 << GAIN_BITS - 1), 1 << GAIN_BITS - 1)


def test_decode():
    """A signed mantissa below the exponent, counted in ones."""
    for code in [*CODES[::97].tolist(), -1, 0, 1, 0x1FFF, 0x2000, 0x3FFF, 0x4001, -0x8000, -0x4001, 0x7FFF]:
        word = code & 0xFFFF
        mantissa = word % 2**14 - (2**14 if word >> 13 & 1 else 0)
        assert compact.decode(np.array([code])) == mantissa * 4 ** (word >> 14)


def test_encode_returns_codes_of_values():
    """Each value that a code has keeps it, whatever code it came from."""
    values = compact.decode(CODES)
    np.testing.assert_array_equal(compact.decode(compact.encode(values)), values)
    assert values.max() == compact.VALUE_MAX
    assert values.min() == VALUES[0]


def test_encode_rounds():
    """Exact in 14 bits; beyond, within half a step of 4**exponent, or at the end of the mantissa."""
    decoded = compact.decode(compact.encode(VALUES))
    step = np.ones_like(VALUES)
    for bits in range(COMPACT_MANTISSA_BITS, GAIN_BITS, COMPACT_STEP):
        step[(-(1 << bits - 1) > VALUES) | (1 << bits - 1 <= VALUES)] <<= COMPACT_STEP
    rounded = (VALUES + step // 2) // step * step
    largest = (1 << COMPACT_MANTISSA_BITS - 1) * step - step
    np.testing.assert_array_equal(decoded, np.minimum(rounded, largest))
    assert (np.diff(decoded) >= 0).all()
