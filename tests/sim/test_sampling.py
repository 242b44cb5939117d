"""The golden sampler: noise against the exact function, choices against the softmax."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ternlight.gumbel import FRACTION, NOISE_BITS, SCORE_BITS, SLOPE_BITS, TABLE, exact
from ternlight.ufloat import MANTISSA_MAX, MANTISSA_MIN, from_float
from ternlight_sim.golden.sampling import candidates, gumbel, gumbel_of_bits, random_bits, sample, temper
from ternlight_sim.golden.scalar import UFloat

ERROR = 2.7e-4
"""What the noise's docstring promises."""


def ufloat(real):
    return UFloat(*(np.int64(part) for part in from_float(real)))


def corner_bits(random):
    """Uniform bits, both tails, the middle, and every octave."""
    near = np.arange(20_000)
    octaves = random.integers(0, 1 << 31, 50_000) >> random.integers(0, 31, 50_000)
    return np.concatenate(
        [
            random.integers(0, 1 << 32, 500_000),
            near,
            (1 << 32) - 1 - near,
            (1 << 31) + near - 10_000,
            octaves,
            (1 << 32) - 1 - octaves,
        ]
    )


def exact_noise(bits):
    upper = bits >= 1 << 31
    w = np.where(upper, (1 << 33) - (2 * bits + 1), 2 * bits + 1) / 2.0**33
    return -np.log(np.where(upper, -np.log1p(-w), -np.log(w)))


def test_noise_is_close_to_the_exact_function():
    bits = corner_bits(np.random.default_rng(0))
    noise = gumbel_of_bits(bits) / (1 << FRACTION)
    assert np.abs(noise - exact_noise(bits)).max() < ERROR
    # The error does not lean: what biases every token alike would not matter, but there is no such bias either.
    assert abs((noise - exact_noise(bits))[:500_000].mean()) < 3e-5


def test_noise_spans_its_tails():
    ends = np.array([0, (1 << 32) - 1])
    low, high = gumbel_of_bits(ends) / (1 << FRACTION)
    assert low == pytest.approx(exact(1, upper=False), abs=ERROR)
    assert high == pytest.approx(exact(1, upper=True), abs=ERROR)
    assert high > 22.8


def test_noise_rises_with_its_bits():
    bits = np.unique(corner_bits(np.random.default_rng(1)))
    # Neighbouring segments may disagree by two units in the last place where they meet.
    assert np.diff(gumbel_of_bits(bits)).min() >= -2


def test_noise_has_the_moments_of_gumbel():
    noise = gumbel(np.arange(1000)[:, None], 7, np.arange(1000)) / (1 << FRACTION)
    deviation = math.pi / math.sqrt(6)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=4 * deviation / 1000)
    assert noise.std() == pytest.approx(deviation, abs=0.006)


def test_table_fits_its_formats():
    bases, slopes = zip(*TABLE, strict=True)
    assert min(bases) >= -(1 << NOISE_BITS - 1)
    # An interpolated value never leaves the span of its segment's ends.
    assert max(base + max(slope, 0) for base, slope in TABLE) < 1 << NOISE_BITS - 1
    assert min(slopes) >= -(1 << SLOPE_BITS - 1)
    assert max(slopes) < 1 << SLOPE_BITS - 1


def test_random_bits_depend_on_every_input_bit():
    random = np.random.default_rng(2)
    count = 10_000
    seed, position = random.integers(0, 1 << 32, (2, count))
    token = random.integers(0, 1 << 17, count)
    base = random_bits(seed, position, token)
    flips = [(seed ^ 1 << bit, position, token) for bit in range(32)]
    flips += [(seed, position ^ 1 << bit, token) for bit in range(32)]
    flips += [(seed, position, token ^ 1 << bit) for bit in range(17)]
    for flipped in flips:
        changed = base ^ random_bits(*flipped)
        share = (changed[:, None] >> np.arange(32) & 1).mean(axis=0)
        assert np.abs(share - 0.5).max() < 5 * 0.5 / math.sqrt(count)


def test_noise_is_independent_across_neighbours():
    """Correlation between neighbouring positions, tokens and seeds stays within what chance allows."""
    bits = random_bits(np.arange(64)[:, None, None], np.arange(64)[:, None], np.arange(256)) / 2.0**32 - 0.5
    for axis in range(3):
        left, right = np.delete(bits, 0, axis), np.delete(bits, -1, axis)
        assert abs((left * right).mean() * 12) < 5 / math.sqrt(left.size)


def frequencies(acc, scale, top_k, count, seed):
    """How often each token is chosen at `count` positions."""
    rows = np.broadcast_to(acc, (count, len(acc)))
    return np.bincount(sample(rows, scale, top_k, seed, np.arange(count)), minlength=len(acc))


def chi_square(counts, probability):
    """Pearson's statistic, as a number of standard deviations above its mean."""
    kept = probability > 0
    assert counts[~kept].sum() == 0
    mean = probability[kept] * counts.sum()
    freedom = kept.sum() - 1
    return (((counts[kept] - mean) ** 2 / mean).sum() - freedom) / math.sqrt(2 * freedom)


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize(("vocabulary", "top_k", "spread"), [(5, 0, 1.0), (40, 0, 2.0), (40, 12, 2.0), (3, 2, 0.0)])
def test_choices_follow_the_softmax(vocabulary, top_k, spread):
    random = np.random.default_rng(vocabulary)
    acc = np.rint(random.normal(size=vocabulary) * 1000).astype(np.int64)
    scale = ufloat(max(spread, 1e-9) / 1000)
    logits = acc * float(scale.real())
    kept = candidates(acc, top_k)
    probability = np.zeros(vocabulary)
    probability[kept] = softmax(logits[kept])
    counts = frequencies(acc, scale, top_k, 300_000, seed=11)
    assert abs(chi_square(counts, probability)) < 4
    # The test would notice a temperature that is a few per cent off.
    if spread:
        warped = np.zeros(vocabulary)
        warped[kept] = softmax(1.05 * logits[kept])
        assert chi_square(counts, warped) > 20


def test_far_tail_is_sampled():
    """A token nine nats below the best one still comes as often as it should."""
    scale = ufloat(9 / 10_000)
    counts = frequencies(np.array([10_000, 0]), scale, 0, 1_000_000, seed=3)
    mean = 1_000_000 * math.exp(-9)
    assert abs(counts[1] - mean) < 4 * math.sqrt(mean)


def test_seed_and_position_decide():
    acc = np.random.default_rng(4).integers(-1000, 1000, (50, 30))
    scale = ufloat(1e-3)
    again = [sample(acc, scale, 0, 5, np.arange(50)) for _ in range(2)]
    assert np.array_equal(*again)
    assert not np.array_equal(again[0], sample(acc, scale, 0, 6, np.arange(50)))
    assert not np.array_equal(again[0], sample(acc, scale, 0, 5, np.arange(1, 51)))


def test_batches_equal_single_rows():
    random = np.random.default_rng(5)
    acc = random.integers(-500, 500, (20, 9))
    scale = UFloat(random.integers(MANTISSA_MIN, MANTISSA_MAX + 1, 20), random.integers(-24, -20, 20))
    seeds, positions = random.integers(0, 1 << 32, (2, 20))
    for top_k in (0, 1, 4):
        batch = sample(acc, scale, top_k, seeds, positions)
        for row in range(20):
            one = UFloat(scale.mantissa[row], scale.exponent[row])
            assert sample(acc[row], one, top_k, seeds[row], positions[row]) == batch[row]


def test_greedy_takes_the_first_of_equals():
    assert sample(np.array([3, 9, 9, 1]), ufloat(1.0), 1, 0, 0) == 1


def test_candidates_keep_the_first_of_equals():
    acc = np.array([5, 7, 5, 7, 5, 9])
    assert candidates(acc, 4).tolist() == [0, 1, 3, 5]
    assert candidates(acc, 5).tolist() == [0, 1, 2, 3, 5]
    ties = np.random.default_rng(6).integers(0, 3, 500)
    assert candidates(ties, 300).tolist() == sorted(sorted(range(500), key=lambda token: (-ties[token], token))[:300])
    for all_of_them in (0, 6, 60):
        assert candidates(acc, all_of_them).tolist() == list(range(6))


def test_temper_limits():
    acc = np.array([-(1 << 23), -1, 0, 1, (1 << 23) - 1])
    assert temper(acc, ufloat(0.0)).tolist() == [0] * 5
    assert temper(acc, ufloat(2.0**-500)).tolist() == [0] * 5
    largest = temper(acc, UFloat(np.int64(MANTISSA_MAX), np.int64(-16)))
    assert largest.tolist() == (acc * MANTISSA_MAX).tolist()
    # From 1/2 up there is only one scale; below it, every scale is exact to half a unit.
    for real in (0.5, 3.0, 2.0**100):
        assert temper(acc, ufloat(real)).tolist() == largest.tolist()
    quarter = temper(acc, ufloat(0.25))
    assert quarter.tolist() == (acc << 14).tolist()
    # Any sum with noise fits a score.
    assert np.abs(largest).max() + (1 << NOISE_BITS) < 1 << SCORE_BITS - 1
