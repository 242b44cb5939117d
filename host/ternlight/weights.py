"""How ternary matrices and embedding rows lie in the weight store: the order in which the engine reads them.

A product is blocked: for every block of up to `block` row groups, for every chunk of inputs, for every group of the
block, one store word. A chunk's activations are held while the groups of a block pass, and the accumulators of
a block stay in the engine. Rows and inputs that pad the last group and chunk are zero trits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import FitError
from .formats import EMBED_SHIFT_MAX
from .geometry import Geometry, ceil_div
from .isa import ENGINE_FIELDS


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
    tiles = padded.reshape(groups, geometry.rows, chunks, geometry.inputs).transpose(2, 0, 1, 3)
    ordered = np.empty((words, geometry.lanes), np.int8)
    for first in range(0, groups, geometry.block):
        block = tiles[:, first : first + geometry.block]
        start = first * chunks
        ordered[start : start + chunks * block.shape[1]] = block.reshape(-1, geometry.lanes)
    return ordered


def row_words(width: int, geometry: Geometry) -> int:
    """Store words of one embedding row: a header group and `width` bytes, in groups of V."""
    return ceil_div(1 + ceil_div(width, geometry.vector), geometry.embedding_beats)


def embedding_words(
    embedding: NDArray[np.int8], exponents: NDArray[np.integer[Any]], geometry: Geometry
) -> NDArray[np.uint32]:
    """The store words of an embedding (tokens, width) of signed bytes, as (tokens * row_words, store_columns).

    A row is a group of V bytes whose first is the row's exponent (the real row is shifted left by it), then its
    values in groups of V; a store word holds `embedding_beats` groups from the low bits up.
    """
    tokens, width = embedding.shape
    if exponents.min() < 0 or exponents.max() > EMBED_SHIFT_MAX:
        limits = f"{exponents.min()} to {exponents.max()}"
        raise ValueError(f"embedding exponents must be from 0 to {EMBED_SHIFT_MAX}, not {limits}")
    words = row_words(width, geometry)
    filled = geometry.embedding_beats * geometry.vector
    values = np.zeros((tokens, words * filled), np.int8)
    values[:, 0] = exponents
    values[:, geometry.vector : geometry.vector + width] = embedding
    stored = np.zeros((tokens * words, geometry.store_columns * 4), np.int8)
    stored[:, :filled] = values.reshape(-1, filled)
    return stored.view("<u4")
