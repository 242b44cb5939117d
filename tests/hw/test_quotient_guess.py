"""The table of the scalar unit: every guess is the quotient or root, or one more."""

from __future__ import annotations

from math import isqrt

import pytest

from ternlight.formats import ACTIVATION_MAX, QSCALE_FRACTION
from ternlight.ufloat import MANTISSA_MAX, MANTISSA_MIN
from ternlight_hw.quotient_guess import GUESS_BITS, SEGMENTS, SLOPE_BITS, START_BITS, Curve, guess

RESULTS = {
    Curve.RECIP: lambda mantissa: (1 << 29) // mantissa,
    Curve.QSCALE: lambda mantissa: (ACTIVATION_MAX << QSCALE_FRACTION) // mantissa,
    Curve.RSQRT_EVEN: lambda mantissa: isqrt((1 << 44) // mantissa),
    Curve.RSQRT_ODD: lambda mantissa: isqrt((1 << 44) // (2 * mantissa)),
}


@pytest.mark.parametrize("curve", Curve)
def test_guesses(curve):
    over = [guess(curve, mantissa) - RESULTS[curve](mantissa) for mantissa in range(MANTISSA_MIN, MANTISSA_MAX + 1)]
    assert set(over) == {0, 1}
    # Half a unit above the exact value.
    assert 0.45 < sum(over) / len(over) < 0.65
    assert guess(curve, MANTISSA_MIN) < 1 << GUESS_BITS


def test_fields():
    starts, slopes = zip(*SEGMENTS, strict=True)
    assert all(0 <= start < 1 << START_BITS for start in starts)
    assert all(0 <= slope < 1 << SLOPE_BITS for slope in slopes)
