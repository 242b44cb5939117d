"""Where things lie in a word of the weight store: one order for every target, which a fast device needs.

A word is a row of blocks of 18 bits. As trits it is a row of codes, 5 bits for 3 lanes (ternlight.trits). Lanes follow
in the order of their skew: the cycle in which a systolic array takes them. So a block RAM's codes are taken in one
cycle, and its address is delayed instead of its data.

As embedding cells, bit j of all cells lies side by side: a block RAM that is read one bit at a time picks the
cell by its address. A block's upper two bits cannot be read so; what the lower ones do not hold goes there.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from .geometry import BLOCK_LOW_BITS, COLUMN_BITS, SET_BLOCKS, STORE_BLOCK_BITS, Geometry, ceil_div

SEGMENT = 4
"""Lanes of a row that accumulate one after the other."""


def lane_skew(row: int, column: int, geometry: Geometry) -> int:
    """Cycles by which a lane runs behind the first: the first two of a segment start together, beat after beat."""
    return max(0, column % SEGMENT - 1) + row // geometry.vector


@cache
def lane_order(geometry: Geometry) -> NDArray[np.int64]:
    """The lanes (row * inputs + input) in the order of their codes."""
    rows, columns = np.divmod(np.arange(geometry.lanes), geometry.inputs)
    skew = np.maximum(0, columns % SEGMENT - 1) + rows // geometry.vector
    return np.argsort(skew, kind="stable")


@cache
def cell_positions(geometry: Geometry) -> NDArray[np.int64]:
    """The bit of the word that is bit j of cell c, as (cells, cell_bits)."""
    cells, low_bits = geometry.cells, geometry.cell_low_bits(geometry.cells)
    spread, width = ceil_div(cells, BLOCK_LOW_BITS), max(1, BLOCK_LOW_BITS // cells)
    cell, bit = np.arange(cells)[:, None], np.arange(geometry.cell_bits)[None, :]
    block = bit // width * spread + cell // BLOCK_LOW_BITS
    low = block * STORE_BLOCK_BITS + cell % BLOCK_LOW_BITS * width + bit % width
    upper = (bit - low_bits) * cells + cell
    return np.where(bit < low_bits, low, upper // 2 * STORE_BLOCK_BITS + BLOCK_LOW_BITS + upper % 2)


@cache
def column_positions(geometry: Geometry) -> NDArray[np.int64]:
    """The bit of the word that each bit of the host's columns stands for, or -1, as (store_columns, 32).

    A set of blocks is a column with the upper bits of all, and columns with the lower bits of two blocks each.
    """
    blocks = geometry.store_blocks
    columns = []
    for first in range(0, blocks, SET_BLOCKS):
        members = range(first, min(first + SET_BLOCKS, blocks))
        columns.append([block * STORE_BLOCK_BITS + BLOCK_LOW_BITS + bit for block in members for bit in range(2)])
        for pair in range(first, members.stop, 2):
            both = range(pair, min(pair + 2, blocks))
            columns.append([block * STORE_BLOCK_BITS + bit for block in both for bit in range(BLOCK_LOW_BITS)])
    return np.array([column + [-1] * (COLUMN_BITS - len(column)) for column in columns])


def to_columns(bits: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint32]:
    """The host's columns (words, store_columns) of words given bit by bit, (words, store_bits)."""
    positions = column_positions(geometry).reshape(-1)
    flat = np.where(positions < 0, 0, bits[:, positions])
    return np.packbits(np.ascontiguousarray(flat), axis=1, bitorder="little").view("<u4")


def from_columns(columns: NDArray[np.uint32], geometry: Geometry) -> NDArray[np.uint8]:
    """The inverse of to_columns."""
    positions = column_positions(geometry).reshape(-1)
    flat = np.unpackbits(np.ascontiguousarray(columns, "<u4").view(np.uint8), axis=1, bitorder="little")
    bits = np.zeros((len(columns), geometry.store_bits), np.uint8)
    bits[:, positions[positions >= 0]] = flat[:, positions >= 0]
    return bits
