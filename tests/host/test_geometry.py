"""Sizes of a device: what follows from them, and what is impossible."""

from __future__ import annotations

import pytest

from ternlight.abi import Window, column_bits, window_address, window_columns, window_words
from ternlight.errors import FitError
from ternlight.geometry import Geometry, ceil_div


@pytest.mark.parametrize(("numerator", "quotient"), [(0, 0), (1, 1), (7, 1), (8, 2), (14, 2), (15, 3)])
def test_ceil_div(numerator, quotient):
    assert ceil_div(numerator, 7) == quotient


def test_words_and_back():
    geometry = Geometry(inputs=64, rows=8, vector=4, block=5, slots=3, clock_hz=123_456)
    assert Geometry.from_words(geometry.words()) == geometry
    with pytest.raises(FitError, match=f"a geometry has {len(geometry.words())} words, not 2"):
        Geometry.from_words([1, 2])


def test_derived_sizes():
    """Lanes, and the words of the store: 3 trits in 5 bits, in whole columns of 32 bits."""
    geometry = Geometry(inputs=32, rows=16, vector=8)
    assert geometry.lanes == 512
    assert geometry.store_bits == 864  # 171 codes of 5 bits are 855
    assert geometry.store_columns == 27
    assert geometry.embedding_beats == 13  # of 64 bits
    assert geometry.gain_columns == 4


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rows": 0}, "rows must be a positive integer, not 0"),
        ({"slots": -1}, "slots must be a positive integer, not -1"),
        ({"clock_hz": 1e8}, "clock_hz must be a positive integer, not 100000000.0"),
        ({"vector": 3}, "vector must be an even number from 2 to 64, not 3"),
        ({"vector": 66}, "vector must be an even number from 2 to 64, not 66"),
        ({"inputs": 36}, "inputs must be a multiple of vector (8), not 36"),
        ({"rows": 4}, "rows must be a multiple of vector (8), not 4"),
        ({"activations": 1000}, "activations must be a multiple of inputs (32), not 1000"),
        ({"accumulator": 11}, "accumulator must be from 12 to 24 bits, not 11"),
        ({"accumulator": 25}, "accumulator must be from 12 to 24 bits, not 25"),
        ({"block": 1}, "block must be from 2 to 64 row groups, not 1"),
        ({"block": 65}, "block must be from 2 to 64 row groups, not 65"),
        ({"prompt": 48}, "prompt must be a power of two from 16 to 4096, not 48"),
        ({"ring": 8}, "ring must be a power of two from 16 to 4096, not 8"),
        ({"ring": 8192}, "ring must be a power of two from 16 to 4096, not 8192"),
        ({"slots": 65}, "slots must be at most 64, not 65"),
        (
            {"inputs": 2, "rows": 2, "vector": 2, "activations": 4},
            None,  # a column of 32 bits holds two embedding values
        ),
        (
            {"inputs": 8, "rows": 8, "vector": 8, "activations": 8},
            None,
        ),
        (
            {"inputs": 64, "rows": 64, "vector": 64, "activations": 64},
            None,
        ),
    ],
)
def test_limits(sizes, message):
    if message is None:
        assert Geometry(**sizes).embedding_beats >= 1
        return
    with pytest.raises(FitError) as error:
        Geometry(**sizes)
    assert str(error.value) == message


@pytest.mark.parametrize("vector", [2, 4, 8, 10])
def test_window_addresses(vector):
    """Rows start at multiples of a power of two; a word's address is unique and inside the window."""
    geometry = Geometry(inputs=vector * 2, rows=vector * 3, vector=vector, activations=vector * 4)
    columns = window_columns(geometry)
    for window, words in window_words(geometry).items():
        bits = column_bits(columns[window])
        assert 1 << bits >= columns[window] > (1 << bits) // 2
        assert words % columns[window] == 0
        addresses = [window_address(window, word, geometry) for word in range(min(words, 200))]
        assert addresses == sorted(set(addresses))
        for word, where in enumerate(addresses):
            assert where >> 28 == window
            assert (where & (1 << 28) - 1) >> bits == word // columns[window]
            assert where & (1 << bits) - 1 == word % columns[window]
    assert columns[Window.PROGRAM] == 3
