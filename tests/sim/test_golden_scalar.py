"""Golden scalar arithmetic against exact rational numbers."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from ternlight.formats import BLOCK_FRACTION, BLOCK_SHIFT_MAX
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


def test_recip():
    values = operands(2000, 5)
    for a, got in zip(values, apply(scalar.recip, values), strict=True):
        assert got == (truncated(1 / value(a)) if a[0] else ZERO), a


def test_rsqrt():
    values = operands(2000, 6)
    for a, got in zip(values, apply(scalar.rsqrt, values), strict=True):
        if a == ZERO:
            assert got == ZERO
            continue
        # got is the largest of 15 bits whose square does not exceed 1 / a.
        square = 1 / value(a)
        assert MANTISSA_MIN <= got[0] <= MANTISSA_MAX
        assert value(got) ** 2 <= square < value((got[0] + 1, got[1])) ** 2, a


def test_qscale():
    values = operands(2000, 7)
    for a, got in zip(values, apply(scalar.qscale, values), strict=True):
        if a == ZERO:
            assert got == ZERO
            continue
        exponent = -22 - a[1]
        assert got == limited(math.floor(127 / value(a) / Fraction(2) ** exponent), exponent), a


def test_qscale_never_exceeds_127():
    mantissas = np.arange(MANTISSA_MIN, MANTISSA_MAX + 1)
    scale = scalar.qscale(UFloat(mantissas, np.zeros_like(mantissas)))
    product = mantissas * scale.mantissa
    assert np.all(scale.mantissa <= MANTISSA_MAX)
    assert np.all(product <= 127 << 22)
    assert np.all(product + mantissas > 127 << 22)


def test_lower():
    left, right = zip(*pairs(8), strict=True)
    for a, b, got in zip(left, right, apply(scalar.lower, left, right), strict=True):
        shift = min(max(b[1] - BLOCK_FRACTION, 0), BLOCK_SHIFT_MAX)
        assert got == limited(a[0], a[1] - 2 * shift), (a, b)


@pytest.mark.parametrize("function", [scalar.recip, scalar.rsqrt], ids=lambda function: function.__name__)
def test_every_mantissa(function):
    """Results stay normalised over a whole octave (two for the root)."""
    mantissas = np.arange(MANTISSA_MIN, MANTISSA_MAX + 1)
    for exponent in (0, 1):
        result = function(UFloat(mantissas, np.full_like(mantissas, exponent)))
        assert np.all((result.mantissa >= MANTISSA_MIN) & (result.mantissa <= MANTISSA_MAX))
        power = -1 if function is scalar.recip else -0.5
        exact = (mantissas * 2.0**exponent) ** power
        assert np.abs(result.real() / exact - 1).max() < 2**-14
