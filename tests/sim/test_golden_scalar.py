"""Golden scalar arithmetic against exact rational numbers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from ternlight.reciprocal import BASE_BITS, SLOPE_BITS, TABLE, Curve
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX, MANTISSA_MIN
from ternlight_sim.golden import scalar
from ternlight_sim.golden.scalar import UFloat

ZERO = (0, 0)
LARGEST = (MANTISSA_MAX, EXPONENT_MAX)
MANTISSAS = (MANTISSA_MIN, MANTISSA_MIN + 1, 23170, 23171, 32512, 32513, MANTISSA_MAX - 1, MANTISSA_MAX)
EXPONENTS = (EXPONENT_MIN, EXPONENT_MIN + 1, -45, -44, -29, -15, -14, -1, 0, 1, 14, 15, 16, EXPONENT_MAX)
CORNERS = [ZERO, *itertools.product(MANTISSAS, EXPONENTS)]


def operands(count, seed):
    """Corners, and random normalised values."""
    random = np.random.default_rng(seed)
    mantissas = random.integers(MANTISSA_MIN, MANTISSA_MAX + 1, count)
    exponents = random.integers(EXPONENT_MIN, EXPONENT_MAX + 1, count)
    return CORNERS + [(int(m), int(e)) for m, e in zip(mantissas, exponents, strict=True)]


def pairs(seed):
    """All pairs of corners, and random pairs whose exponents are close enough to interact."""
    random = np.random.default_rng(seed)
    close = []
    for mantissa, exponent in operands(2000, seed)[len(CORNERS) :]:
        other = int(np.clip(exponent + random.integers(-17, 18), EXPONENT_MIN, EXPONENT_MAX))
        close.append(((mantissa, exponent), (int(random.integers(MANTISSA_MIN, MANTISSA_MAX + 1)), other)))
    return list(itertools.product(CORNERS, repeat=2)) + close


def apply(function, *columns):
    """The function on arrays made of columns of (mantissa, exponent), as a list of such pairs."""
    arrays = [UFloat(*np.array(column, np.int64).T) for column in columns]
    result = function(*arrays)
    return list(zip(result.mantissa.tolist(), result.exponent.tolist(), strict=True))


def value(operand):
    return Fraction(operand[0]) * Fraction(2) ** operand[1]


def ulp(number):
    """The exponent that gives a positive number a mantissa of 15 bits."""
    exponent = number.numerator.bit_length() - number.denominator.bit_length() - 15
    while number >= Fraction(2) ** (exponent + 15):
        exponent += 1
    return exponent


def limited(mantissa, exponent):
    if mantissa == 0 or exponent < EXPONENT_MIN:
        return ZERO
    return LARGEST if exponent > EXPONENT_MAX else (mantissa, exponent)


def truncated(number):
    """The largest 15-bit ufloat that is not above an exact number."""
    if number == 0:
        return ZERO
    exponent = ulp(number)
    return limited(math.floor(number / Fraction(2) ** exponent), exponent)


def rounded(number):
    """The nearest 15-bit ufloat, the larger of two."""
    if number == 0:
        return ZERO
    exponent = ulp(number)
    mantissa = math.floor(number / Fraction(2) ** exponent + Fraction(1, 2))
    return limited(mantissa >> 1, exponent + 1) if mantissa > MANTISSA_MAX else limited(mantissa, exponent)


def test_normalise():
    random = np.random.default_rng(1)
    numbers = [0, 1, 2, 3, 2**48 - 1, 2**47, 2**47 - 1]
    numbers += [(1 << bits) + step for bits in range(2, 48) for step in (-1, 0, 1)]
    numbers += [int(n) for n in random.integers(0, 2**48, 1000) >> random.integers(0, 48, 1000)]
    result = scalar.normalise(np.array(numbers))
    for number, *got in zip(numbers, result.mantissa.tolist(), result.exponent.tolist(), strict=True):
        assert tuple(got) == truncated(Fraction(number)), number


def test_normalise_keeps_small_integers():
    numbers = np.arange(MANTISSA_MAX + 1)
    assert np.array_equal(scalar.normalise(numbers).real(), numbers)


def test_add():
    left, right = zip(*pairs(2), strict=True)
    for a, b, got in zip(left, right, apply(scalar.add, left, right), strict=True):
        big, small = (a, b) if value(a) >= value(b) else (b, a)
        step = Fraction(2) ** big[1]
        # The smaller operand loses what lies below the larger one's last bit.
        total = value(big) + math.floor(value(small) / step) * step
        assert got == truncated(total), (a, b)
        assert value(got) <= value(a) + value(b)


def test_add_commutes():
    left, right = zip(*pairs(3), strict=True)
    assert apply(scalar.add, left, right) == apply(scalar.add, right, left)


def test_mul():
    left, right = zip(*pairs(4), strict=True)
    for a, b, got in zip(left, right, apply(scalar.mul, left, right), strict=True):
        assert got == rounded(value(a) * value(b)), (a, b)


# Reciprocals and roots: a table, interpolated.

ALL = np.arange(MANTISSA_MIN, MANTISSA_MAX + 1)


def interpolated(curve, mantissa):
    """The contract of ternlight.reciprocal, on plain integers."""
    segment, position = divmod(mantissa - MANTISSA_MIN, 128)
    base, slope = TABLE[128 * curve + segment]
    return (base - slope * position // 128) // 8


def test_tables_fit_their_words():
    assert len(TABLE) == 128 * len(Curve)
    for base, slope in TABLE:
        assert 0 < base < 1 << BASE_BITS
        assert 0 < slope < 1 << SLOPE_BITS


@pytest.mark.parametrize(
    ("function", "curve", "exponent"),
    [
        (scalar.recip, lambda e: Curve.RECIP, lambda e: -29 - e),
        (scalar.rsqrt, lambda e: Curve.RSQRT_ODD if e % 2 else Curve.RSQRT_EVEN, lambda e: -22 - e // 2),
        (scalar.qscale, lambda e: Curve.QSCALE, lambda e: -22 - e),
    ],
    ids=["recip", "rsqrt", "qscale"],
)
def test_curves(function, curve, exponent):
    values = operands(2000, 5)
    for a, got in zip(values, apply(function, values), strict=True):
        if a == ZERO:
            assert got == ZERO
        else:
            assert got == limited(interpolated(curve(a[1]), a[0]), exponent(a[1])), a


def test_recip():
    """Within one unit of the exact value, whatever the mantissa, and normalised."""
    result = scalar.recip(UFloat(ALL, np.zeros_like(ALL)))
    assert (result.exponent == -29).all()
    assert np.all((result.mantissa >= MANTISSA_MIN) & (result.mantissa <= MANTISSA_MAX))
    assert np.all((result.mantissa - 1) * ALL <= 1 << 29)
    assert np.all((result.mantissa + 1) * ALL >= 1 << 29)


@pytest.mark.parametrize("odd", [0, 1])
def test_rsqrt(odd):
    """Within one unit of the exact value, whatever the mantissa, and normalised, over two octaves."""
    for exponent in (odd - 44, odd, odd + 2):
        result = scalar.rsqrt(UFloat(ALL, np.full_like(ALL, exponent)))
        assert (result.exponent == -22 - exponent // 2).all()
        assert np.all((result.mantissa >= MANTISSA_MIN) & (result.mantissa <= MANTISSA_MAX))
        square = ALL << odd
        assert np.all((result.mantissa - 1) ** 2 * square <= 1 << 44)
        assert np.all((result.mantissa + 1) ** 2 * square >= 1 << 44)


def test_qscale():
    """Within one unit, so that a peak becomes 127 after rounding, whatever its mantissa."""
    scale = scalar.qscale(UFloat(ALL, np.zeros_like(ALL)))
    assert (scale.exponent == -22).all()
    assert np.all(scale.mantissa <= MANTISSA_MAX)
    assert np.all((scale.mantissa - 1) * ALL <= 127 << 22)
    assert np.all((scale.mantissa + 1) * ALL >= 127 << 22)
    np.testing.assert_array_equal(ALL * scale.mantissa + (1 << 21) >> 22, 127)


@pytest.mark.parametrize(
    "function", [scalar.recip, scalar.rsqrt, scalar.qscale], ids=lambda function: function.__name__
)
def test_curves_fall(function):
    """A larger operand never has the larger result: across segments, and from one octave to the next."""
    both = [function(UFloat(ALL, np.full_like(ALL, exponent))).real() for exponent in (-1, 0)]
    assert (np.diff(np.concatenate(both)) <= 0).all()
