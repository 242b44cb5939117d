"""The order of weights and embedding rows in the store, against the loops of the engine written out."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.errors import FitError
from ternlight.geometry import Geometry, ceil_div
from ternlight.store_word import cell_positions, from_columns
from ternlight.weights import embedding_words, matvec_shape, matvec_words, unpack_embedding_words

SMALL = Geometry(inputs=4, rows=8, vector=4, activations=16, embedding_bits=5)


@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (8, 4), (24, 16), (25, 5), (60, 13), (49, 16)])
def test_words_follow_group_and_chunk(rows, inputs):
    matrix = np.random.default_rng(rows).integers(-1, 2, (rows, inputs)).astype(np.int8)
    words = matvec_words(matrix, SMALL)
    shape = matvec_shape(rows, inputs, SMALL)
    assert words.shape == (shape.words, SMALL.lanes)
    rebuilt = np.zeros((shape.groups * SMALL.rows, shape.chunks * SMALL.inputs), np.int8)
    position = iter(range(shape.words))
    for group in range(shape.groups):
        for chunk in range(shape.chunks):
            for lane, trit in enumerate(words[next(position)]):
                row, column = divmod(lane, SMALL.inputs)
                rebuilt[group * SMALL.rows + row, chunk * SMALL.inputs + column] = trit
    assert next(position, None) is None
    assert (rebuilt[:rows, :inputs] == matrix).all()
    assert not rebuilt[rows:].any()
    assert not rebuilt[:, inputs:].any()


def test_shape_counts_what_the_engine_reads():
    assert matvec_shape(25, 5, SMALL) == (2, 4, 7, 8)
    assert matvec_shape(1, 1, SMALL) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("rows", "inputs", "message"),
    [
        (1, 17, "a product needs from 1 to 16 inputs .the activation buffer., not 17"),
        (1, 0, "a product needs from 1 to 16 inputs .the activation buffer., not 0"),
        (65533, 1, "a product needs from 1 to 65532 rows, not 65533"),
        (0, 1, "a product needs from 1 to 65532 rows, not 0"),
    ],
)
def test_shape_refuses(rows, inputs, message):
    with pytest.raises(FitError, match=message):
        matvec_shape(rows, inputs, SMALL)


@pytest.mark.parametrize("width", [1, 4, 5, 40])
@pytest.mark.parametrize("tokens", [1, 7, 40])
@pytest.mark.parametrize("geometry", [SMALL, Geometry(), Geometry(inputs=32, rows=64, vector=16, embedding_bits=6)])
def test_embedding_rows(width, tokens, geometry):
    random = np.random.default_rng(width)
    bits, limit = geometry.embedding_bits, 1 << geometry.embedding_bits - 1
    values = random.integers(-limit, limit, (tokens, width)).astype(np.int8)
    scales = random.integers(0, 1024, tokens)
    beats, stride = ceil_div(width, geometry.vector), ceil_div(tokens, geometry.cells)
    stored = embedding_words(values, scales, geometry)
    assert stored.dtype == np.uint32
    assert stored.shape == (beats * stride, geometry.store_columns)
    word_bits, positions = from_columns(stored, geometry), cell_positions(geometry)
    for token in range(tokens):
        place, cell = divmod(token, geometry.cells)
        for beat in range(beats):
            read = word_bits[beat * stride + place, positions[cell]].astype(np.int64)
            assert read[geometry.vector * bits :] @ (1 << np.arange(10)) == scales[token]
            for index, at in enumerate(range(beat * geometry.vector, (beat + 1) * geometry.vector)):
                value = int(read[index * bits :][:bits] @ (1 << np.arange(bits)))
                assert value - (value >> bits - 1 << bits) == (values[token, at] if at < width else 0)
    unpacked, unpacked_scales = unpack_embedding_words(stored, beats, geometry)
    assert (unpacked[:tokens, :width] == values).all()
    assert not unpacked[tokens:].any()
    assert not unpacked[:, width:].any()
    assert (unpacked_scales[:tokens] == scales).all()


@pytest.mark.parametrize(("value", "scale"), [(16, 0), (-17, 0), (0, 1024), (0, -1)])
def test_embedding_refuses(value, scale):
    message = f"scales must have 10 bits, not {scale} to {scale}"
    if value:
        message = f"embedding values must have 5 bits, not {value} to {value}"
    with pytest.raises(ValueError, match=message):
        embedding_words(np.full((1, 4), value, np.int8), np.array([scale]), SMALL)
