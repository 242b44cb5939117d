"""The vector unit's functions against exact rational arithmetic, element by element, and against real formulas."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from ternlight.formats import (
    ACTIVATION_MAX,
    BLOCK_BITS,
    BLOCK_SHIFT_MAX,
    COMPACT_BITS,
    COMPACT_EXPONENT_MAX,
    COMPACT_MANTISSA_BITS,
    COMPACT_STEP,
    ELEMENT_BITS,
    ENERGY_BITS,
    GAIN_BITS,
    GAIN_SHIFT,
    MLP_GAIN_BITS,
    MLP_GAIN_SHIFT,
    MLP_STAT_SHIFT,
    POWER_BITS,
    POWER_SHIFT,
    STAT_SHIFT,
    STATE_BITS,
)
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, TABLE, Z_BITS
from ternlight_sim.golden import vector
from ternlight_sim.golden.scalar import UFloat, block_shift, normalise, qscale

LENGTH = 400
ACC_BITS = 20
ONE = 1 << OUTPUT_FRACTION
HALF = Fraction(1, 2)
Z_MAX = (1 << Z_BITS - 1) - 1
TABLE_ERROR = 8
"""The table's interpolation is so far from the sigmoid at most, in units of the last place."""


def nearest(value: Fraction) -> int:
    """Half rounds up."""
    return math.floor(value + HALF)


def limited(value: int, bits: int) -> int:
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, value))


def decoded(code: int) -> int:
    """mantissa * 4**exponent, the exponent above the mantissa."""
    exponent = code >> COMPACT_MANTISSA_BITS & COMPACT_EXPONENT_MAX
    mantissa = code & (1 << COMPACT_MANTISSA_BITS) - 1
    sign = mantissa >> COMPACT_MANTISSA_BITS - 1
    return mantissa - (sign << COMPACT_MANTISSA_BITS) << COMPACT_STEP * exponent


def stored(value: int) -> int:
    """What a state in memory is worth: rounded to the finest exponent that holds it."""
    limit = 1 << COMPACT_MANTISSA_BITS - 1
    exponent = next(exponent for exponent in range(9) if -limit <= value >> COMPACT_STEP * exponent < limit)
    step = 1 << COMPACT_STEP * exponent
    return min(nearest(Fraction(value, step)), limit - 1) * step


def real(scale: UFloat) -> Fraction:
    return int(scale.mantissa.reshape(-1)[0]) * Fraction(2) ** int(scale.exponent.reshape(-1)[0])


def ufloat(mantissa: int, exponent: int) -> UFloat:
    return UFloat(np.array([mantissa], np.int64), np.array([exponent], np.int64))


def values(bits: int, seed: int, spread: bool = True) -> np.ndarray:
    """Signed integers of so many bits: the corners, then random ones of every magnitude."""
    random = np.random.default_rng(seed)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    corners = [low, low + 1, -(1 << bits - 2), -1, 0, 1, 1 << bits - 2, high - 1, high]
    drawn = random.integers(low, high, LENGTH - len(corners), endpoint=True)
    if spread:
        drawn >>= random.integers(0, bits - 1, len(drawn))
    return np.concatenate([np.array(corners, np.int64), drawn])


def elements(*arrays: np.ndarray):
    return zip(*(array.tolist() for array in arrays), strict=True)


def exact_sigmoid(z: int) -> int:
    """The chord of the table over 1/8 of the argument."""
    magnitude = min(abs(z), Z_MAX)
    index, position = divmod(magnitude, 1 << SEGMENT_BITS)
    rise = TABLE[min(index + 1, len(TABLE) - 1)] - TABLE[index]
    value = TABLE[index] + nearest(Fraction(rise * position, 1 << SEGMENT_BITS))
    return min(ONE - value if z < 0 else value, ONE - 1)


def exact_silu(z: int, fraction: int) -> int:
    gate = exact_sigmoid(limited(z << INPUT_FRACTION - fraction, Z_BITS))
    return nearest(Fraction(z * gate, ONE))


# Peaks of every size: the block shift is 0, in the middle, at its limit.
PEAKS = [0, 1, (1 << 15) - 1, 1 << 15, 123_456, (1 << ELEMENT_BITS - 1) - 1, 1 << ELEMENT_BITS - 1]
SCALES = [
    ufloat(0, 0),
    ufloat(1 << 14, -14),
    ufloat((1 << 15) - 1, -30),
    ufloat(20_001, -22),
    ufloat(16_385, -60),
    ufloat(30_000, 100),  # the right shift is 0
    ufloat(30_000, -500),
]
SCALE_IDS = [f"{int(scale.mantissa[0])}e{int(scale.exponent[0])}" for scale in SCALES]


def product_shift(scale: UFloat, fraction: int) -> int:
    return max(0, min(47, -int(scale.exponent[0]) - fraction))


def exact_scaled(acc: int, scale: UFloat, fraction: int) -> int:
    return nearest(Fraction(acc * int(scale.mantissa[0]), 1 << product_shift(scale, fraction)))


# Activation functions.


def test_sigmoid_over_its_whole_range():
    z = np.arange(-(1 << Z_BITS - 1), 1 << Z_BITS - 1)
    found = vector.sigmoid(z)
    assert found.tolist() == [exact_sigmoid(one) for one in z.tolist()]
    wanted = ONE / (1 + np.exp(-np.ldexp(z.astype(float), -INPUT_FRACTION)))
    assert np.abs(found - wanted).max() < TABLE_ERROR
    assert (np.diff(found) >= 0).all()
    assert vector.sigmoid(np.array([0])) == ONE // 2


@pytest.mark.parametrize("fraction", [0, 5, INPUT_FRACTION])
def test_silu(fraction):
    z = np.concatenate([values(Z_BITS, fraction), np.arange(-3000, 3000)])
    found = vector.silu(z, fraction)
    assert found.tolist() == [exact_silu(one, fraction) for one in z.tolist()]
    argument = np.ldexp(z.astype(float), -fraction)
    wanted = np.ldexp(argument / (1 + np.exp(-np.clip(argument, -50, 50))), fraction)
    # The sigmoid's error times z, its saturation, and the rounding.
    assert (np.abs(found - wanted) <= np.abs(z) * TABLE_ERROR / ONE + np.ldexp(32.0, fraction - 15) + 0.5).all()


# Operations.


def test_embed():
    row = np.arange(-128, 128)
    for exponent in (0, 1, 9, 16):
        x, sums = vector.embed(row, np.array([exponent]))
        assert x.tolist() == [one << exponent for one in row.tolist()]
        assert sums == vector.Sums(peak=128 << exponent)
    assert vector.embed(row, np.array([40]))[0].tolist() == [one << 16 for one in row.tolist()]


@pytest.mark.parametrize("peak", PEAKS)
def test_block(peak):
    """Divided by a power of two that keeps BLOCK_BITS of the peak."""
    scalar = normalise(np.array([peak]))
    shift = int(block_shift(scalar)[0])
    x = values(ELEMENT_BITS, 1)
    assert vector.block(x, scalar).tolist() == [
        limited(nearest(Fraction(one, 1 << shift)), BLOCK_BITS) for one in x.tolist()
    ]
    assert peak >> shift < 1 << BLOCK_BITS - 1 or shift == BLOCK_SHIFT_MAX
    assert shift == 0 or peak >> shift >= 1 << BLOCK_BITS - 2


@pytest.mark.parametrize("peak", PEAKS)
def test_stat(peak):
    scalar = normalise(np.array([peak]))
    x, gain = values(ELEMENT_BITS, 2), values(COMPACT_BITS, 3, spread=False)
    narrow = vector.block(x, scalar)
    energy = sum(
        limited(nearest(Fraction(one * decoded(other), 1 << STAT_SHIFT)), ENERGY_BITS) ** 2
        for one, other in elements(narrow, gain)
    )
    assert vector.stat(x, gain, scalar) == vector.Sums(energy=energy, power=sum(one**2 for one in narrow.tolist()))


@pytest.mark.parametrize("peak", PEAKS)
def test_gain(peak):
    scalar = normalise(np.array([peak]))
    x, gain = values(ELEMENT_BITS, 4), values(COMPACT_BITS, 5, spread=False)
    narrow = vector.block(x, scalar)
    expected = [
        limited(nearest(Fraction(one * decoded(other), 1 << GAIN_SHIFT)), ELEMENT_BITS)
        for one, other in elements(narrow, gain)
    ]
    v, sums = vector.gain(x, gain, scalar)
    assert v.tolist() == expected
    assert sums == vector.Sums(peak=max(map(abs, expected)))


@pytest.mark.parametrize("peak", [1, 5, 127, 128, 32_767, 32_768, 1_000_003, (1 << ELEMENT_BITS - 1) - 1])
def test_quant(peak):
    """round(127 * v / peak) but for what two roundings of the scale and the value can turn, and never beyond 127."""
    random = np.random.default_rng(peak)
    v = np.concatenate([[peak, -peak, 0], random.integers(-peak, peak, LENGTH, endpoint=True)])
    scale = qscale(normalise(np.array([peak])))
    q = vector.quant(v, scale)
    assert (q[0], q[1], q[2]) == (ACTIVATION_MAX, -ACTIVATION_MAX, 0)
    exact = ACTIVATION_MAX * v / peak
    assert np.abs(q - exact).max() < 0.5 + 127 * 2**-14 + 2**-7
    assert (np.sign(q) * np.sign(v) >= 0).all()


def test_quant_of_nothing():
    assert not vector.quant(np.zeros(9, np.int64), qscale(normalise(np.array([0])))).any()
    assert not vector.quant(values(ELEMENT_BITS, 6), ufloat(0, 0)).any()


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
def test_forget(scale):
    acc = values(ACC_BITS, 7)
    bound = np.random.default_rng(8).integers(0, ONE, LENGTH)
    bound[:4] = 0, ONE - 1, 0, ONE - 1
    f = vector.forget(acc, bound, scale)
    for found, one, low in elements(f, acc, bound):
        gate = exact_sigmoid(limited(exact_scaled(one, scale, INPUT_FRACTION), Z_BITS))
        assert found == low + nearest(Fraction((ONE - low) * gate, ONE))
        assert low <= found <= ONE
    z = np.clip(acc * float(real(scale)), -16, 16)
    wanted = bound + (ONE - bound) / (1 + np.exp(-z))
    if -47 <= int(scale.exponent[0]) + INPUT_FRACTION <= 0:
        assert np.abs(f - wanted).max() < TABLE_ERROR + 5


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
@pytest.mark.parametrize("fraction", [0, 7, INPUT_FRACTION])
def test_state(scale, fraction):
    acc, h = values(ACC_BITS, 9), values(COMPACT_BITS, 10)
    f = np.random.default_rng(11).integers(0, ONE, LENGTH)
    f[:4] = 0, ONE - 1, ONE - 1, 0
    new = vector.state(acc, f, h, scale, fraction)
    for found, one, keep, before in elements(new, acc, f, h):
        s = exact_silu(limited(exact_scaled(one, scale, fraction), Z_BITS), fraction)
        change = nearest(Fraction(keep * (decoded(before) - s), ONE))
        assert decoded(found) == stored(limited(s + change, STATE_BITS))
        # A mean of the two: but for what memory holds of them, no rounding leaves their interval.
        low, high = (stored(limited(one, STATE_BITS)) for one in sorted((s, decoded(before))))
        assert low <= decoded(found) <= high


@pytest.mark.parametrize("shift", [0, 9, 47])
@pytest.mark.parametrize("fraction", [3, INPUT_FRACTION])
def test_gate(shift, fraction):
    acc, h = values(ACC_BITS, 12), values(COMPACT_BITS, 13)
    t, sums = vector.gate(acc, h, shift, fraction)
    expected = [
        limited(
            nearest(Fraction(one * exact_silu(limited(decoded(other), Z_BITS), fraction), 1 << shift)), ELEMENT_BITS
        )
        for one, other in elements(acc, h)
    ]
    assert t.tolist() == expected
    power = sum(limited(nearest(Fraction(one, 1 << POWER_SHIFT)), POWER_BITS) ** 2 for one in acc.tolist())
    assert sums == vector.Sums(peak=max(map(abs, expected)), power=power)


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
@pytest.mark.parametrize(("shift", "fraction"), [(0, INPUT_FRACTION), (11, 6), (40, 0)])
def test_mlp(scale, shift, fraction):
    acc = np.stack([values(ACC_BITS, 14), values(ACC_BITS, 15)[::-1]], axis=-1)
    gains = values(COMPACT_BITS, 16, spread=False)
    v, sums = vector.mlp(acc, gains, scale, shift, fraction)
    energy, expected = 0, []
    for (a, b), weight in zip(acc.tolist(), gains.tolist(), strict=True):
        s = exact_silu(limited(exact_scaled(a, scale, fraction), Z_BITS), fraction)
        t = limited(nearest(Fraction(b * s, 1 << shift)), ELEMENT_BITS)
        energy += limited(nearest(Fraction(t, 1 << MLP_STAT_SHIFT)), ENERGY_BITS) ** 2
        upper = decoded(weight) >> GAIN_BITS - MLP_GAIN_BITS
        expected.append(limited(nearest(Fraction(t * upper, 1 << MLP_GAIN_SHIFT)), ELEMENT_BITS))
    assert v.tolist() == expected
    assert sums == vector.Sums(peak=max(map(abs, expected)), energy=energy)


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
@pytest.mark.parametrize("fraction", [0, 12, ELEMENT_BITS - 1])
def test_resid(scale, fraction):
    acc, x = values(ACC_BITS, 17), values(ELEMENT_BITS, 18)
    total, sums = vector.resid(acc, x, scale, fraction)
    expected = [
        limited(before + limited(exact_scaled(one, scale, fraction), ELEMENT_BITS), ELEMENT_BITS)
        for one, before in elements(acc, x)
    ]
    assert total.tolist() == expected
    assert sums == vector.Sums(peak=max(map(abs, expected)))


def test_leading_axes_are_sessions():
    """A batch gives what its rows give, each with a scale of its own."""
    random = np.random.default_rng(19)
    acc, x = random.integers(-5000, 5000, (3, 20)), random.integers(-(1 << 22), 1 << 22, (3, 20))
    scales = UFloat(random.integers(1 << 14, 1 << 15, (3, 1)), random.integers(-25, -15, (3, 1)))
    together, sums = vector.resid(acc, x, scales, 5)
    for row in range(3):
        alone, own = vector.resid(acc[row], x[row], UFloat(scales.mantissa[row], scales.exponent[row]), 5)
        np.testing.assert_array_equal(together[row], alone)
        assert sums.peak[row] == own.peak
