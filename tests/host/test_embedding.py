"""Embedding rows: quantised with the smallest scales that hold them, packed into the cells of store words, and back."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from ternlight.compiler import quantise_rows
from ternlight.geometry import Geometry, ceil_div
from ternlight.weights import embedding_words, unpack_embedding_words

BITS = range(4, 9)
SCALES = [m | s << 5 for s in range(32) for m in range(32)]
ELEMENT_MAX = 1 << 23


def step(scale: int, bits: int) -> Fraction:
    """What one unit of a value stands for, in units of the residual's last bit."""
    return Fraction((32 + scale % 32) * 2 ** (9 + 8 - bits), 2 ** (scale // 32))


def smallest_step(peak: Fraction, bits: int) -> Fraction:
    """Of all scales, the finest whose largest value holds a peak, or else the coarsest."""
    limit = (1 << bits - 1) - 1
    steps = [step(scale, bits) for scale in SCALES]
    return min((one for one in steps if one * limit >= peak), default=max(steps))


def check(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Quantise, and hold every value to the bound; returns values and scales."""
    values, scales = quantise_rows(rows, bits)
    limit = (1 << bits - 1) - 1
    assert values.dtype == np.int8
    assert np.abs(values).max(initial=0) <= limit
    for row, stored, scale in zip(rows.tolist(), values.tolist(), scales.tolist(), strict=True):
        assert scale in range(1024)
        finest = smallest_step(max(abs(Fraction(one)) for one in row), bits)
        for wanted, value in zip(row, stored, strict=True):
            held = max(-limit * finest, min(limit * finest, Fraction(wanted)))
            assert abs(value * step(scale, bits) - held) <= finest / 2
    return values, scales


@pytest.mark.parametrize("bits", BITS)
def test_half_a_step_of_the_smallest_scale(bits):
    """Rows of every magnitude, with and without outliers."""
    random = np.random.default_rng(bits)
    rows = random.normal(size=(60, 7)) * 2.0 ** random.uniform(-12, 20, (60, 1))
    rows[::3, 2] *= 300
    rows[1::3] = np.rint(rows[1::3])
    check(np.clip(rows, -(1 << 21), 1 << 21), bits)


@pytest.mark.parametrize("bits", BITS)
def test_corners(bits):
    """Rows that are zero, one outlier, at the ends of a scale, below the finest and beyond the coarsest."""
    limit = (1 << bits - 1) - 1
    finest, coarsest = float(step(31 << 5, bits)), float(step(31, bits))
    rows = np.zeros((14, 4))
    rows[1] = 1, 0, 0, 0
    rows[2] = 1 << 21, 1, -1, 0
    rows[3] = -(1 << 21), 1 << 20, 5, -3
    rows[4] = coarsest * limit, 0, -coarsest * limit, coarsest
    rows[5] = coarsest * limit * 1.01, coarsest, 0, -coarsest * limit * 3
    rows[6] = ELEMENT_MAX, -ELEMENT_MAX, 100, 0
    rows[7] = finest * limit, -finest, 0, finest * 1.4
    rows[8] = finest * limit / 3, -finest, 0, finest / 2
    rows[9] = 1e-300, -1e-310, 0, 0
    rows[10] = 64 * limit, -63, 17, 0  # a mantissa that is rounded up to 64
    rows[11] = np.nextafter(64 * limit, 0), 0, 0, 0
    rows[12] = np.nextafter(64 * limit, ELEMENT_MAX), 0, 0, 0
    # Exact at a power of two that is coarser than any scale.
    rows[13] = float(2 * step(0, bits)) * np.array([2 * limit // 3, -limit // 4, limit // 4, 1])
    values, scales = check(rows, bits)
    assert not values[[0, 9]].any()
    assert scales[4] == 31
    assert scales[7] == scales[8] == scales[0] == 31 << 5
    assert values[6].tolist() == [limit, -limit, 0, 0]
    assert values[7].tolist() == [limit, -1, 0, 1]


def test_bytes_are_exact_with_8_bits():
    """A row of an image is signed bytes times a power of two: no second rounding changes it."""
    random = np.random.default_rng(5)
    rows = random.integers(-127, 128, (50, 9))
    rows[:, 0] = random.integers(64, 128, 50)
    exponents = random.integers(0, 15, 50)
    values, scales = check(np.ldexp(rows.astype(float), exponents[:, None]), 8)
    for row, exponent, stored, scale in zip(rows, exponents.tolist(), values, scales.tolist(), strict=True):
        np.testing.assert_array_equal([int(value) * step(scale, 8) for value in stored], row * 2**exponent)


def test_rows_scale_with_powers_of_two():
    """A row of twice the size has the same values and the next scale, wherever there is one."""
    row = np.array([[71.25, -13.0, 0.5, 44.1]])
    values, scales = quantise_rows(row * 2.0 ** np.arange(12)[:, None], 6)
    assert (values == values[0]).all()
    assert (scales % 32 == scales[0] % 32).all()
    assert (np.diff(scales // 32) == -1).all()


# Cells.

GEOMETRIES = [
    Geometry(inputs=8, rows=8, vector=4, activations=8),
    Geometry(inputs=36, rows=12, vector=12, activations=36),
    Geometry(inputs=32, rows=16, vector=8),
]


def cell(words: np.ndarray, beat: int, token: int, tokens: int, geometry: Geometry) -> tuple[list[int], int]:
    """One cell as the contract of embedding_words places it, read through the inverse of its word alone."""
    stride = ceil_div(tokens, geometry.cells)
    word = words[beat * stride + token // geometry.cells]
    values, scales = unpack_embedding_words(word[None], 1, geometry)
    return values[token % geometry.cells].tolist(), int(scales[token % geometry.cells])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sizes", GEOMETRIES, ids=lambda sizes: f"vector-{sizes.vector}")
@pytest.mark.parametrize(("tokens", "width"), [(1, 1), (3, 5), (37, 12), (64, 25), (131, 8)])
def test_cells_and_back(sizes, bits, tokens, width):
    geometry = replace(sizes, embedding_bits=bits)
    random = np.random.default_rng(tokens)
    limit = 1 << bits - 1
    values = random.integers(-limit, limit, (tokens, width)).astype(np.int8)
    values[0, :1], values[-1, -1:] = -limit, limit - 1
    scales = random.integers(0, 1024, tokens)
    scales[-1] = 1023
    words = embedding_words(values, scales, geometry)
    beats, stride = ceil_div(width, geometry.vector), ceil_div(tokens, geometry.cells)
    assert words.shape == (beats * stride, geometry.store_columns)
    assert words.dtype == np.uint32
    found, told = unpack_embedding_words(words, beats, geometry)
    np.testing.assert_array_equal(found[:tokens, :width], values)
    np.testing.assert_array_equal(told[:tokens], scales)
    assert not found[tokens:].any()
    assert not found[:, width:].any()
    assert not told[tokens:].any()
    # Every cell has its own scale, and lies where the engine looks for it.
    padded = np.zeros((tokens, beats * geometry.vector), np.int64)
    padded[:, :width] = values
    for token in {0, tokens // 2, tokens - 1}:
        for beat in range(beats):
            expected = padded[token, beat * geometry.vector : (beat + 1) * geometry.vector].tolist()
            assert cell(words, beat, token, tokens, geometry) == (expected, scales[token])


@pytest.mark.parametrize(
    ("values", "scales", "message"),
    [
        ([[8]], [0], "embedding values must have 4 bits, not 8 to 8"),
        ([[-9]], [0], "embedding values must have 4 bits, not -9 to -9"),
        ([[7]], [1024], "scales must have 10 bits, not 1024 to 1024"),
        ([[7]], [-1], "scales must have 10 bits, not -1 to -1"),
    ],
)
def test_refuses(values, scales, message):
    geometry = Geometry(embedding_bits=4)
    with pytest.raises(ValueError, match=f"^{message}$"):
        embedding_words(np.array(values, np.int8), np.array(scales), geometry)
