"""Norm and gate unit's functions against exact rational arithmetic, element by element, and against real formulas."""

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
    GAIN_BITS,
    GAIN_SHIFT,
    LIFT_MAX,
    LIFT_STEP,
    POWER_SHIFT,
    SQUARE_BITS,
    SQUARE_SHIFT,
    STATE_BITS,
)
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, TABLE, Z_BITS
from ternlight_sim.golden import vector
from ternlight_sim.golden.scalar import UFloat, normalise, qscale

LENGTH = 400
ACC_BITS = 24
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


def truncated(value: int) -> tuple[int, int]:
    """The upper 15 bits of an integer as mantissa and exponent."""
    exponent = value.bit_length() - 15
    return (math.floor(value * Fraction(2) ** -exponent), exponent) if value else (0, 0)


def told(reduction: UFloat) -> tuple[int, int]:
    """A reduction as mantissa and exponent."""
    return int(reduction.mantissa), int(reduction.exponent)


def squares(numbers: list[int], shift: int) -> tuple[int, int]:
    """The sum of squares in units of 4**shift, each of SQUARE_BITS at most."""
    return truncated(sum(limited(nearest(Fraction(one, 1 << shift)), SQUARE_BITS) ** 2 for one in numbers))


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


# The norm unit.

GAINS = values(COMPACT_BITS, 3, spread=False)
"""Codes of gains; all the corners of a code, and of its exponents."""


def code(mantissa: int, exponent: int) -> int:
    """A code as the memory holds it, a signed integer."""
    word = exponent << COMPACT_MANTISSA_BITS | mantissa & (1 << COMPACT_MANTISSA_BITS) - 1
    return word - (word >> COMPACT_BITS - 1 << COMPACT_BITS)


LOWEST_GAIN = code(-(1 << COMPACT_MANTISSA_BITS - 1), COMPACT_EXPONENT_MAX)
UNITY = code(1 << COMPACT_MANTISSA_BITS - 2, COMPACT_EXPONENT_MAX)
"""Half of the lowest gain's magnitude: a power of two."""


def exact_gained(source: int, gain: int, lift: int) -> int:
    """Limited before it is rounded, so that the highest element may be rounded up."""
    v = Fraction(source * decoded(gain), 1 << GAIN_SHIFT - LIFT_STEP * lift)
    floor = math.floor(v)
    return nearest(v) if limited(floor, ELEMENT_BITS) == floor else limited(floor, ELEMENT_BITS)


def gained(sources: np.ndarray, gains: np.ndarray, lift: int = 0) -> list[int]:
    return [exact_gained(one, gain, lift) for one, gain in elements(sources, gains)]


SOURCES = {
    "all": values(ELEMENT_BITS, 2),
    "large": values(ELEMENT_BITS, 4, spread=False),
    "small": np.random.default_rng(5).integers(-9, 10, LENGTH),
    "one": np.eye(1, LENGTH, 7, dtype=np.int64)[0],
    "zero": np.zeros(LENGTH, np.int64),
}
each_lift = pytest.mark.parametrize("lift", range(LIFT_MAX + 1))
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


@pytest.mark.parametrize("shift", [0, 1, 8, 9, 10, 17, 30, 31])
@pytest.mark.parametrize("mantissa", [0, 1, 18, 31])
def test_embed(mantissa, shift):
    row = np.arange(-128, 128)
    x, power = vector.embed(row, np.array([mantissa | shift << 5]))
    expected = [nearest(Fraction(one * (32 + mantissa) * 512, 1 << shift)) for one in row.tolist()]
    assert x.tolist() == expected
    assert max(map(abs, expected)) < 1 << ELEMENT_BITS - 1
    assert told(power) == squares(expected, SQUARE_SHIFT)


def test_embed_of_nothing():
    x, power = vector.embed(np.zeros(8, np.int64), np.array([31]))
    assert not x.any()
    assert told(power) == (0, 0)


@each_lift
@each_source
def test_gained(source, lift):
    """Exact for the gains of a power of two that leave no fraction; without a lift never larger than the source."""
    v = vector.gained(source, GAINS, lift)
    assert v.tolist() == gained(source, GAINS, lift)
    assert lift or (np.abs(v) <= np.abs(source)).all()
    halves = vector.gained(2 * (source // 2), np.full(LENGTH, UNITY), lift)
    lowest, highest = -(1 << ELEMENT_BITS - 1), (1 << ELEMENT_BITS - 1) - 1
    np.testing.assert_array_equal(halves, np.clip(source // 2 << LIFT_STEP * lift, lowest, highest))


def test_halves_are_rounded_up():
    """One and minus one, and so on, times a half."""
    gains = np.full(4, UNITY)
    assert decoded(UNITY) == 1 << GAIN_SHIFT - 1
    assert vector.gained(np.array([1, -1, 3, -3]), gains, 0).tolist() == [1, 0, 2, -1]


@each_lift
@each_source
def test_peak(source, lift):
    assert told(vector.peak(source, GAINS, lift)) == truncated(max(map(abs, gained(source, GAINS, lift))))


def test_the_largest_peak():
    """The lowest element times the lowest gain is one more than 24 bits hold: it is limited. Rounding may reach it."""
    lowest = np.array([-(1 << ELEMENT_BITS - 1), 5])
    gains = np.array([LOWEST_GAIN, UNITY])
    assert decoded(LOWEST_GAIN) == -(1 << GAIN_BITS - 1)
    peak = vector.peak(lowest, gains, 0)
    assert told(peak) == truncated((1 << ELEMENT_BITS - 1) - 1)
    # 4097 * 4095 is one less than a power of two: half a unit above the highest element.
    half_above = vector.gained(np.array([4097 << 8]), np.array([code(4095, COMPACT_EXPONENT_MAX)]), 1)
    assert half_above.tolist() == [1 << ELEMENT_BITS - 1]
    assert told(vector.stat(lowest, gains, 0)) == truncated(((1 << SQUARE_BITS - 1) - 1) ** 2)
    scale = UFloat(*(part[None] for part in qscale(peak)))
    assert vector.quant(lowest, gains, scale, 0).tolist() == [ACTIVATION_MAX, 0]


@each_lift
@each_source
def test_stat(source, lift):
    found = vector.stat(source, GAINS, lift)
    assert told(found) == squares(gained(source, GAINS, lift), SQUARE_SHIFT)


def test_every_square():
    """Vectors of one element each: no larger element hides how a small one is rounded."""
    source = np.concatenate([np.arange(-2000, 2000), values(ELEMENT_BITS, 21)])[:, None]
    gains = np.resize(GAINS, len(source))[:, None]
    found = vector.stat(source, gains, 0)
    expected = [squares([one], SQUARE_SHIFT) for one in gained(source[:, 0], gains[:, 0])]
    assert list(zip(found.mantissa.tolist(), found.exponent.tolist(), strict=True)) == expected
    zero = np.zeros_like(source)
    _, power = vector.resid(zero, source, SCALES[0], 0)
    expected = [squares([one], SQUARE_SHIFT) for one in source[:, 0].tolist()]
    assert list(zip(power.mantissa.tolist(), power.exponent.tolist(), strict=True)) == expected
    _, power = vector.gate(source, zero, 0, 0)
    expected = [squares([one], POWER_SHIFT) for one in source[:, 0].tolist()]
    assert list(zip(power.mantissa.tolist(), power.exponent.tolist(), strict=True)) == expected


def exact_quant(v: int, scale: UFloat) -> int:
    """v in block floating point, of BLOCK_BITS, times the scale."""
    mantissa, exponent = told(scale)
    # The scale of a peak of n bits has the exponent 15 - 22 - n.
    shift = max(0, min(BLOCK_SHIFT_MAX, 15 - 22 - exponent - (BLOCK_BITS - 1)))
    narrow = limited(nearest(Fraction(v, 1 << shift)), BLOCK_BITS)
    right = max(0, min(47, -exponent - shift))
    q = nearest(Fraction(narrow * mantissa, 1 << right))
    return max(-ACTIVATION_MAX, min(ACTIVATION_MAX, q))


PEAKS = [1, 2, 127, 128, 32_767, 32_768, 1_000_003, (1 << 17) - 1, 1 << 17, (1 << 22) - 1, (1 << 22) + 1, (1 << 23) - 1]


@pytest.mark.parametrize("peak", PEAKS)
def test_quant(peak):
    """round(127 * v / peak) but for what two roundings of the scale and the value can turn, and never beyond 127."""
    random = np.random.default_rng(peak)
    source = random.integers(-peak, peak, LENGTH, endpoint=True)
    gains = GAINS.copy()
    source[:2], gains[:2] = -peak, LOWEST_GAIN
    source[2:4], gains[2:4] = peak - 1, LOWEST_GAIN
    source[4] = 0
    v = np.array(gained(source, gains))
    assert np.abs(v).max() == peak
    scalar = vector.peak(source, gains, 0)
    assert told(scalar) == truncated(peak)
    scale = qscale(scalar)
    q = vector.quant(source, gains, UFloat(scale.mantissa[None], scale.exponent[None]), 0)
    assert q.tolist() == [exact_quant(one, scale) for one in v.tolist()]
    assert q[0] == ACTIVATION_MAX
    assert q[4] == 0
    exact = ACTIVATION_MAX * v / peak
    assert np.abs(q - exact).max() < 0.5 + 127 * 2**-13
    assert (np.sign(q) * np.sign(v) >= 0).all()


@pytest.mark.parametrize("peak", [peak for peak in PEAKS if peak > ACTIVATION_MAX])
def test_quant_at_its_thresholds(peak):
    """Right where one activation becomes the next, each rounding shows."""
    middle = (2 * np.arange(-ACTIVATION_MAX, ACTIVATION_MAX)[:, None] + 1) * peak // (2 * ACTIVATION_MAX)
    reach = 2 + (peak >> 15)
    offsets = np.unique(np.linspace(-reach, reach, 41).astype(np.int64))
    v = np.concatenate([[peak], (middle + offsets).reshape(-1)])
    v = v[np.abs(v) <= peak]
    scale = qscale(normalise(np.array(peak)))
    q = vector.quant(-v, np.full(len(v), LOWEST_GAIN), UFloat(scale.mantissa[None], scale.exponent[None]), 0)
    assert q.tolist() == [exact_quant(one, scale) for one in v.tolist()]


def test_quant_saturates_its_block():
    """A scale that is not of the vector's peak: the block of 18 bits holds what it can."""
    v = np.array([(1 << 17) - 2, (1 << 17) - 1, 1 << 17, 1 << 22, -(1 << 22)])
    q = vector.quant(-v, np.full(len(v), LOWEST_GAIN), ufloat(1, -13), 0)
    assert q.tolist() == [16, 16, 16, 16, -16]


@each_lift
@each_source
@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
def test_quant_by_any_scale(source, scale, lift):
    """Whatever the scale, each shift stays within its limits, and activations saturate."""
    found = vector.quant(source, GAINS, scale, lift)
    scalar = UFloat(*(part[0] for part in scale))
    assert found.tolist() == [exact_quant(one, scalar) for one in gained(source, GAINS, lift)]


def test_quant_of_nothing():
    nothing = qscale(normalise(np.array([0])))
    assert not vector.quant(np.zeros(LENGTH, np.int64), GAINS, nothing, 0).any()
    assert not vector.quant(values(ELEMENT_BITS, 6), GAINS, ufloat(0, 0), 0).any()


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
@pytest.mark.parametrize("fraction", [0, 12, ELEMENT_BITS - 1])
def test_resid(scale, fraction):
    acc, x = values(ACC_BITS, 17), np.roll(values(ELEMENT_BITS, 18), 3)
    total, power = vector.resid(acc, x, scale, fraction)
    expected = [
        limited(before + limited(exact_scaled(one, scale, fraction), ELEMENT_BITS), ELEMENT_BITS)
        for one, before in elements(acc, x)
    ]
    assert total.tolist() == expected
    assert told(power) == squares(expected, SQUARE_SHIFT)


def test_squares_saturate():
    """The ends of an element are rounded beyond SQUARE_BITS."""
    for end in ((1 << ELEMENT_BITS - 1) - 1, -(1 << ELEMENT_BITS - 1)):
        x, power = vector.resid(np.zeros(3, np.int64), np.array([end, 0, 0]), ufloat(0, 0), 0)
        assert x[0] == end
        largest = (1 << SQUARE_BITS - 1) - (end > 0)
        assert told(power) == truncated(largest**2)


# The gate unit.


def test_forget_corners():
    """Bounds of one less than 1, and below 0, and gates that are shut and open."""
    low = np.array([0, ONE - 1, 1 - ONE, 0, ONE - 1, 1 - ONE])
    acc = np.array([-1, -1, -1, 1, 1, 1]) << ACC_BITS - 2
    shut, open_ = exact_sigmoid(-Z_MAX - 1), exact_sigmoid(Z_MAX)
    expected = [
        bound + nearest(Fraction((ONE - bound) * gate, ONE))
        for bound, gate in zip(low.tolist(), [shut] * 3 + [open_] * 3, strict=True)
    ]
    assert vector.forget(acc, low, ufloat(1 << 14, 0)).tolist() == expected
    assert open_ == ONE - 1


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
def test_forget(scale):
    acc = values(ACC_BITS, 7)
    bound = np.random.default_rng(8).integers(1 - ONE, ONE, LENGTH)
    bound[:6] = 0, ONE - 1, 0, ONE - 1, 1 - ONE, -1
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
    f = np.random.default_rng(11).integers(0, ONE, LENGTH, endpoint=True)
    f[:6] = 0, ONE - 1, ONE - 1, 0, ONE, ONE
    new = vector.state(acc, f, h, scale, fraction)
    for found, one, keep, before in elements(new, acc, f, h):
        s = exact_silu(limited(exact_scaled(one, scale, fraction), Z_BITS), fraction)
        change = nearest(Fraction(keep * (decoded(before) - s), ONE))
        assert decoded(found) == stored(limited(s + change, STATE_BITS))
        # A mean of the two: but for what memory holds of them, no rounding leaves their interval.
        low, high = (stored(limited(one, STATE_BITS)) for one in sorted((s, decoded(before))))
        assert low <= decoded(found) <= high


def test_state_rounds_halves_up():
    """Of states that only fade: f * h around one half."""
    f = np.array([16_383, 16_384, 16_385] * 2)
    h = np.array([code(1, 0)] * 3 + [code(-1, 0)] * 3)
    new = vector.state(np.zeros(6, np.int64), f, h, SCALES[1], 9)
    assert [decoded(one) for one in new.tolist()] == [0, 1, 1, 0, 0, -1]


@pytest.mark.parametrize("shift", [0, 9, 47])
@pytest.mark.parametrize("fraction", [3, INPUT_FRACTION])
def test_gate(shift, fraction):
    acc, h = values(ACC_BITS, 12), np.roll(values(COMPACT_BITS, 13), 5)
    t, power = vector.gate(acc, h, shift, fraction)
    expected = [
        limited(
            nearest(Fraction(one * exact_silu(limited(decoded(other), Z_BITS), fraction), 1 << shift)), ELEMENT_BITS
        )
        for one, other in elements(acc, h)
    ]
    assert t.tolist() == expected
    assert told(power) == squares(acc.tolist(), POWER_SHIFT)


@pytest.mark.parametrize("scale", SCALES, ids=SCALE_IDS)
@pytest.mark.parametrize(("shift", "fraction"), [(0, INPUT_FRACTION), (11, 6), (40, 0)])
def test_mlp(scale, shift, fraction):
    acc = np.stack([values(ACC_BITS, 14), values(ACC_BITS, 15)[::-1]])
    t, energy = vector.mlp(acc, scale, shift, fraction)
    expected = []
    for a, b in elements(*acc):
        s = exact_silu(limited(exact_scaled(a, scale, fraction), Z_BITS), fraction)
        expected.append(limited(nearest(Fraction(b * s, 1 << shift)), ELEMENT_BITS))
    assert t.tolist() == expected
    assert told(energy) == squares(expected, SQUARE_SHIFT)


def test_gates_of_nothing():
    zero = np.zeros(LENGTH, np.int64)
    for t, reduction in (
        vector.gate(zero, values(COMPACT_BITS, 1), 0, 9),
        vector.mlp(np.stack([zero] * 2), SCALES[1], 0, 9),
    ):
        assert not t.any()
        assert told(reduction) == (0, 0)
    np.testing.assert_array_equal(vector.state(zero, zero, zero, SCALES[1], 9), zero)


def test_leading_axes_are_sessions():
    """A batch gives what its rows give, each with a scale of its own."""
    random = np.random.default_rng(19)
    acc, x = random.integers(-5000, 5000, (3, 20)), random.integers(-(1 << 22), 1 << 22, (3, 20))
    acc[1], x[2] = acc[1] * 1000, x[2] >> 9
    scales = UFloat(random.integers(1 << 14, 1 << 15, (3, 1)), random.integers(-25, -15, (3, 1)))
    gains, h = GAINS[:20], values(COMPACT_BITS, 20)[:60].reshape(3, 20)
    operations = {
        "resid": lambda one: vector.resid(acc[one], x[one], of(scales, one), 5),
        "peak": lambda one: (x[one], vector.peak(x[one], gains, 1)),
        "stat": lambda one: (x[one], vector.stat(x[one], gains, 1)),
        "quant": lambda one: (vector.quant(x[one], gains, of(scales, one), 1), None),
        "forget": lambda one: (vector.forget(acc[one], h[0], of(scales, one)), None),
        "state": lambda one: (vector.state(acc[one], acc[one], h[one], of(scales, one), 9), None),
        "gate": lambda one: vector.gate(acc[one], h[one], 9, 9),
        "mlp": lambda one: vector.mlp(np.stack([acc[one], x[one]], axis=-2), of(scales, one), 9, 9),
    }
    for name, operation in operations.items():
        together, reductions = operation(slice(None))
        for row in range(3):
            alone, own = operation(row)
            np.testing.assert_array_equal(together[row], alone, err_msg=name)
            assert own is None or told(own) == (reductions.mantissa[row], reductions.exponent[row]), name


def of(scales: UFloat, rows: int | slice) -> UFloat:
    """The scales of some rows of a batch."""
    return UFloat(scales.mantissa[rows], scales.exponent[rows])
