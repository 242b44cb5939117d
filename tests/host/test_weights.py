"""The order of weights and embedding rows in the store, against the loops of the engine written out."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.errors import FitError
from ternlight.geometry import Geometry
from ternlight.weights import embedding_words, matvec_shape, matvec_words, row_words

SMALL = Geometry(inputs=4, rows=8, vector=2, block=3, activations=16)


@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (8, 4), (24, 16), (25, 5), (60, 13), (49, 16)])
def test_words_follow_block_chunk_and_group(rows, inputs):
    matrix = np.random.default_rng(rows).integers(-1, 2, (rows, inputs)).astype(np.int8)
    words = matvec_words(matrix, SMALL)
    shape = matvec_shape(rows, inputs, SMALL)
    assert words.shape == (shape.words, SMALL.lanes)
    rebuilt = np.zeros((shape.groups * SMALL.rows, shape.chunks * SMALL.inputs), np.int8)
    position = iter(range(shape.words))
    for block in range(0, shape.groups, SMALL.block):
        for chunk in range(shape.chunks):
            for group in range(block, min(block + SMALL.block, shape.groups)):
                for lane, trit in enumerate(words[next(position)]):
                    row, column = divmod(lane, SMALL.inputs)
                    rebuilt[group * SMALL.rows + row, chunk * SMALL.inputs + column] = trit
    assert next(position, None) is None
    assert (rebuilt[:rows, :inputs] == matrix).all()
    assert not rebuilt[rows:].any()
    assert not rebuilt[:, inputs:].any()


def test_shape_counts_what_the_engine_reads():
    assert matvec_shape(25, 5, SMALL) == (2, 4, 13, 8)
    assert matvec_shape(1, 1, SMALL) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("rows", "inputs", "message"),
    [
        (1, 17, "a product needs from 1 to 16 inputs .the activation buffer., not 17"),
        (1, 0, "a product needs from 1 to 16 inputs .the activation buffer., not 0"),
        (32767, 1, "a product needs from 1 to 32766 rows, not 32767"),
        (0, 1, "a product needs from 1 to 32766 rows, not 0"),
    ],
)
def test_shape_refuses(rows, inputs, message):
    with pytest.raises(FitError, match=message):
        matvec_shape(rows, inputs, SMALL)


@pytest.mark.parametrize("width", [1, 2, 3, 6, 7, 40])
@pytest.mark.parametrize("geometry", [SMALL, Geometry()])
def test_embedding_rows(width, geometry):
    random = np.random.default_rng(width)
    table = random.integers(-128, 128, (5, width)).astype(np.int8)
    exponents = random.integers(0, 17, 5)
    words = row_words(width, geometry)
    stored = embedding_words(table, exponents, geometry)
    assert stored.dtype == np.uint32
    assert stored.shape == (5 * words, geometry.store_columns)
    group_bits = 8 * geometry.vector
    for token in range(5):
        groups = []
        for columns in stored[token * words : (token + 1) * words]:
            word = int.from_bytes(columns.astype("<u4").tobytes(), "little")
            for _ in range(geometry.embedding_beats):
                groups.append((word & (1 << group_bits) - 1).to_bytes(geometry.vector, "little"))
                word >>= group_bits
            assert word == 0
        values = np.frombuffer(b"".join(groups), np.int8)
        assert values[0] == exponents[token]
        assert not values[1 : geometry.vector].any()
        assert (values[geometry.vector : geometry.vector + width] == table[token]).all()
        assert not values[geometry.vector + width :].any()


@pytest.mark.parametrize("exponent", [-1, 17])
def test_embedding_refuses_exponents(exponent):
    with pytest.raises(ValueError, match=f"embedding exponents must be from 0 to 16, not {exponent} to {exponent}"):
        embedding_words(np.zeros((1, 4), np.int8), np.array([exponent]), SMALL)
