"""How ternary matrices and embedding rows lie in the weight store: the order in which the engine reads them.

A product is read group by group: for every group of R rows, for every chunk of C inputs, one store word. Rows and
inputs that pad the last group and chunk are zero trits. An embedding is stored in cells: V values of a token, and the
scale of its row; a store word holds the same V values of `Geometry.cells` tokens.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FitError
from .formats import EMBEDDING_SCALE_BITS
from .geometry import Geometry, ceil_div
from .isa import ENGINE_FIELDS
from .store_word import cell_positions, from_columns, to_columns


class MatvecShape(NamedTuple):
    """The size of a product in chunks of inputs, groups of rows, result beats, and store words."""

    chunks: int
    groups: int
    beats: int
    words: int


def matvec_shape(rows: int, inputs: int, geometry: Geometry) -> MatvecShape:
    """The shape of a product of `rows` outputs and `inputs` activations; raises FitError if it fits no instruction."""
    if not 1 <= inputs <= geometry.activations:
        raise FitError(
            f"a product needs from 1 to {geometry.activations} inputs (the activation buffer), not {inputs}: "
            f"raise activations"
        )
    rows_max = geometry.vector * ((1 << ENGINE_FIELDS["beats"]) - 1)
    if not 1 <= rows <= rows_max:
        raise FitError(f"a product needs from 1 to {rows_max} rows, not {rows}: raise vector")
    chunks = ceil_div(inputs, geometry.inputs)
    groups = ceil_div(rows, geometry.rows)
    return MatvecShape(chunks, groups, ceil_div(rows, geometry.vector), chunks * groups)


def matvec_words(trits: NDArray[np.int8], geometry: Geometry) -> NDArray[np.int8]:
    """The store words of a matrix of trits (rows, inputs), as (words, lanes); lane = row * inputs + input."""
    rows, inputs = trits.shape
    chunks, groups, _, words = matvec_shape(rows, inputs, geometry)
    padded = np.zeros((groups * geometry.rows, chunks * geometry.inputs), np.int8)
    padded[:rows, :inputs] = trits
    tiles = padded.reshape(groups, geometry.rows, chunks, geometry.inputs)
    return tiles.transpose(0, 2, 1, 3).reshape(words, geometry.lanes)


def embedding_words(
    values: NDArray[np.int8], scales: NDArray[np.integer[Any]], geometry: Geometry
) -> NDArray[np.uint32]:
    """The store words of an embedding, (beats * ceil(tokens / cells), store_columns).

    values: (tokens, width), signed, of embedding_bits; scales: (tokens,), of EMBEDDING_SCALE_BITS. Beat g of token t is
    cell t % cells of word g * ceil(tokens / cells) + t // cells; a cell has its values from the low bits up, then the
    scale.
    """
    tokens, width = values.shape
    bits, cells = geometry.embedding_bits, geometry.cells
    limit = 1 << bits - 1
    if values.min() < -limit or values.max() >= limit:
        raise ValueError(f"embedding values must have {bits} bits, not {values.min()} to {values.max()}")
    if scales.min() < 0 or scales.max() >= 1 << EMBEDDING_SCALE_BITS:
        raise ValueError(f"scales must have {EMBEDDING_SCALE_BITS} bits, not {scales.min()} to {scales.max()}")
    beats, stride = ceil_div(width, geometry.vector), ceil_div(tokens, cells)
    padded = np.zeros((stride * cells, beats * geometry.vector), np.int64)
    padded[:tokens, :width] = values
    ordered = padded.reshape(stride, cells, beats, geometry.vector).transpose(2, 0, 1, 3)
    scale = np.zeros(stride * cells, np.int64)
    scale[:tokens] = scales
    repeated = np.broadcast_to(scale.reshape(stride, cells), (beats, stride, cells))
    fields = [_bits(ordered, bits).reshape(beats, stride, cells, -1), _bits(repeated, EMBEDDING_SCALE_BITS)]
    flat = np.zeros((beats * stride, geometry.store_bits), np.uint8)
    flat[:, cell_positions(geometry)] = np.concatenate(fields, axis=-1).reshape(beats * stride, cells, -1)
    return to_columns(flat, geometry)


def unpack_embedding_words(
    words: NDArray[np.uint32], beats: int, geometry: Geometry
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """The inverse of embedding_words: values (tokens, beats * V) and scales (tokens,), with those of the padding."""
    bits = geometry.embedding_bits
    cells = from_columns(words, geometry)[:, cell_positions(geometry)]
    stored = cells.reshape(beats, -1, *cells.shape[1:]).astype(np.int64)
    split = geometry.vector * bits
    values = stored[..., :split].reshape(*stored.shape[:3], geometry.vector, bits) @ (1 << np.arange(bits))
    values -= (values >> bits - 1) << bits
    scales = stored[0, ..., split:] @ (1 << np.arange(EMBEDDING_SCALE_BITS))
    ordered = values.transpose(1, 2, 0, 3).reshape(-1, beats * geometry.vector)
    return ordered.astype(np.int8), scales.reshape(-1)


def _bits(values: NDArray[np.int64], bits: int) -> NDArray[np.uint8]:
    """The low bits of integers, along a new last axis."""
    return (values[..., None] >> np.arange(bits) & 1).astype(np.uint8)
