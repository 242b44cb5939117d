"""The scalar format: nearest values, saturation above, zero below."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX, MANTISSA_MIN, from_float, to_float

LARGEST = (MANTISSA_MAX, EXPONENT_MAX)


def test_the_nearest_value():
    """Within half a unit in the last place of 15 bits, exactly."""
    for value in np.random.default_rng(0).lognormal(0, 20, 2000).tolist():
        mantissa, exponent = from_float(value)
        assert MANTISSA_MIN <= mantissa <= MANTISSA_MAX
        error = abs(Fraction(mantissa) * Fraction(2) ** exponent - Fraction(value))
        # A mantissa that was rounded up to the next power of two is closer than half of the coarser unit.
        assert error <= Fraction(2) ** exponent / 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, (0, 0)),
        (-0.0, (0, 0)),
        (1.0, (MANTISSA_MIN, -14)),
        (float(MANTISSA_MAX), (MANTISSA_MAX, 0)),
        (MANTISSA_MAX + 0.5, (MANTISSA_MIN, 1)),  # half to even, with a carry
        (MANTISSA_MAX + 1.0, (MANTISSA_MIN, 1)),
        (math.ldexp(MANTISSA_MAX, EXPONENT_MAX), LARGEST),
        (math.ldexp(MANTISSA_MAX + 0.75, EXPONENT_MAX), LARGEST),
        (math.ldexp(1.0, 1000), LARGEST),
        (math.ldexp(MANTISSA_MIN, EXPONENT_MIN), (MANTISSA_MIN, EXPONENT_MIN)),
        (math.ldexp(MANTISSA_MIN, EXPONENT_MIN - 1), (0, 0)),
        (5e-324, (0, 0)),
    ],
)
def test_corners(value, expected):
    assert from_float(value) == expected


def test_every_value_goes_through():
    random = np.random.default_rng(1)
    mantissas = random.integers(MANTISSA_MIN, MANTISSA_MAX + 1, 1000).tolist()
    exponents = random.integers(EXPONENT_MIN, EXPONENT_MAX + 1, 1000).tolist()
    for pair in zip(mantissas, exponents, strict=True):
        assert from_float(to_float(*pair)) == pair


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_what_is_no_scalar(value):
    with pytest.raises(ValueError, match=f"a scalar must be finite and not negative, not {value}"):
        from_float(value)
