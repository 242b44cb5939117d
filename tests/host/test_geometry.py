"""Sizes of a device: what follows from them, and what is impossible."""

from __future__ import annotations

import pytest

from ternlight.abi import Window, column_bits, window_address, window_columns, window_words
from ternlight.errors import FitError
from ternlight.geometry import Geometry, ceil_div
from ternlight.isa import INSTRUCTION_COLUMNS


@pytest.mark.parametrize(("numerator", "quotient"), [(0, 0), (1, 1), (7, 1), (8, 2), (14, 2), (15, 3)])
def test_ceil_div(numerator, quotient):
    assert ceil_div(numerator, 7) == quotient


def test_words_and_back():
    geometry = Geometry(inputs=64, rows=8, vector=4, embedding_bits=5, contexts=3, slots=3, clock_hz=123_456)
    assert Geometry.from_words(geometry.words()) == geometry
    with pytest.raises(FitError, match=f"a geometry has {len(geometry.words())} words, not 2"):
        Geometry.from_words([1, 2])


def test_derived_sizes():
    """Lanes, and the words of the store: 3 trits in 5 bits, in blocks of 18 bits, two of them in a column of 32."""
    geometry = Geometry(inputs=32, rows=16, vector=8, embedding_bits=8)
    assert geometry.lanes == 512
    assert geometry.store_bits == 864  # 171 codes of 5 bits are 855
    assert geometry.store_columns == 24 + 4  # and the upper bits of up to 14 blocks in one
    assert geometry.cell_bits == 74  # 8 values of 8 bits, and a scale of 10
    assert geometry.cells == 8  # 11 would fit: the cell of a token is some low bits of its number
    assert geometry.gain_columns == 4
    assert geometry.half == 4
    assert geometry.state_columns == 2


@pytest.mark.parametrize("bits", range(4, 9))
@pytest.mark.parametrize(("inputs", "rows", "vector"), [(8, 8, 4), (24, 12, 12), (64, 32, 8), (64, 64, 64)])
def test_cells_fill_a_store_word(inputs, rows, vector, bits):
    """As many as fit, of the powers of two."""
    geometry = Geometry(inputs=inputs, rows=rows, vector=vector, embedding_bits=bits, activations=8 * inputs)
    assert geometry.cell_bits == vector * bits + 10
    assert geometry.cells in [1 << power for power in range(12)]
    assert geometry.cells * geometry.cell_bits <= geometry.store_bits < 2 * geometry.cells * geometry.cell_bits


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rows": 0}, "rows must be a positive integer, not 0"),
        ({"slots": -1}, "slots must be a positive integer, not -1"),
        ({"clock_hz": 1e8}, "clock_hz must be a positive integer, not 100000000.0"),
        ({"vector": 6}, "vector must be a multiple of 4 from 4 to 64, not 6"),
        ({"vector": 2}, "vector must be a multiple of 4 from 4 to 64, not 2"),
        ({"vector": 68}, "vector must be a multiple of 4 from 4 to 64, not 68"),
        ({"inputs": 36}, "inputs must be a multiple of vector (8), not 36"),
        ({"rows": 4}, "rows must be a multiple of vector (8), not 4"),
        ({"activations": 1000}, "activations must be a multiple of inputs (32), not 1000"),
        ({"accumulator": 11}, "accumulator must be from 12 to 24 bits, not 11"),
        ({"accumulator": 25}, "accumulator must be from 12 to 24 bits, not 25"),
        ({"embedding_bits": 3}, "embedding_bits must be from 4 to 8, not 3"),
        ({"embedding_bits": 9}, "embedding_bits must be from 4 to 8, not 9"),
        ({"contexts": 5}, "contexts must be at most 4, not 5"),
        ({"prompt": 48}, "prompt must be a power of two from 16 to 4096, not 48"),
        ({"ring": 8}, "ring must be a power of two from 16 to 4096, not 8"),
        ({"ring": 8192}, "ring must be a power of two from 16 to 4096, not 8192"),
        ({"slots": 65}, "slots must be at most 64, not 65"),
        (
            {"inputs": 4, "rows": 4, "vector": 4, "activations": 4},
            "a store word of 36 bits does not hold 4 embedding values and their scale (42 bits): raise inputs or rows",
        ),
        (
            {"inputs": 4, "rows": 4, "vector": 4, "activations": 4, "embedding_bits": 5, "contexts": 4},
            None,  # one cell of 30 bits
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
        assert Geometry(**sizes).cells >= 1
        return
    with pytest.raises(FitError) as error:
        Geometry(**sizes)
    assert str(error.value) == message


@pytest.mark.parametrize("vector", [4, 8, 12, 20])
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
    assert columns[Window.PROGRAM] == INSTRUCTION_COLUMNS == 2
    assert 2 * columns[Window.STATES] == columns[Window.GAINS] == vector // 2
