"""Where things lie in a word of the store: every bit has one place, and the places are those the hardware reads."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.geometry import BLOCK_LOW_BITS, STORE_BLOCK_BITS, Geometry
from ternlight.store_word import (
    SEGMENT,
    cell_positions,
    column_positions,
    from_columns,
    lane_order,
    lane_skew,
    to_columns,
)

GEOMETRIES = [
    Geometry(inputs=32, rows=64, vector=16, activations=384, embedding_bits=6),  # 32 cells
    Geometry(),  # 8
    Geometry(inputs=16, rows=32, vector=4, activations=64, embedding_bits=4),  # 32
    Geometry(inputs=16, rows=32, vector=4, activations=64, embedding_bits=8),  # 16
    Geometry(inputs=24, rows=12, vector=12, activations=96, embedding_bits=6),  # 4
    Geometry(inputs=4, rows=24, vector=4, activations=40),  # 2
    Geometry(inputs=4, rows=4, vector=4, activations=16, embedding_bits=5),  # 1
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_lanes_are_ordered_by_skew(geometry):
    order = lane_order(geometry).tolist()
    assert sorted(order) == list(range(geometry.lanes))
    skews = [lane_skew(*divmod(lane, geometry.inputs), geometry) for lane in order]
    assert skews == sorted(skews)
    assert skews[-1] == SEGMENT - 2 + geometry.group_beats - 1
    assert lane_skew(0, 1, geometry) == lane_skew(0, 0, geometry) == 0


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_cells_do_not_overlap(geometry):
    positions = cell_positions(geometry)
    assert positions.shape == (geometry.cells, geometry.cell_bits)
    assert len(np.unique(positions)) == positions.size
    assert positions.min() >= 0
    assert positions.max() < geometry.store_bits


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_narrow_port_reads_the_same_bit_of_each_cell(geometry):
    """Bit j of cell c: in a block that is the same for sixteen cells, at an address that is the same for all j."""
    width = max(1, BLOCK_LOW_BITS // geometry.cells)
    low = min(geometry.cell_low_bits(geometry.cells), geometry.cell_bits)
    blocks, bits = np.divmod(cell_positions(geometry)[:, :low], STORE_BLOCK_BITS)
    for cell in range(geometry.cells):
        assert (blocks[cell] == blocks[cell % 16] + cell // 16).all()
        assert (bits[cell] // width == cell % 16).all()
        assert (bits[cell] % width == np.arange(low) % width).all()
    upper_bits = cell_positions(geometry)[:, low:] % STORE_BLOCK_BITS
    assert (upper_bits >= BLOCK_LOW_BITS).all()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_as_many_cells_as_fit(geometry):
    def capacity(cells):
        return geometry.cell_low_bits(cells) + 2 * geometry.store_blocks // cells

    assert capacity(geometry.cells) >= geometry.cell_bits > capacity(2 * geometry.cells)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_columns(geometry):
    """A column holds the upper bits of the blocks whose lower bits follow, two blocks a column."""
    positions = column_positions(geometry)
    assert positions.shape == (geometry.store_columns, 32)
    assert sorted(positions[positions >= 0].tolist()) == list(range(geometry.store_bits))
    blocks = geometry.store_blocks
    for block in range(blocks):
        place = 8 * (block // 14)
        assert positions[place, 2 * (block % 14) :][:2].tolist() == [block * 18 + 16, block * 18 + 17]
        half = 16 * (block % 2)
        column = positions[place + 1 + block % 14 // 2]
        assert column[half : half + 16].tolist() == list(range(block * 18, block * 18 + 16))
    bits = np.random.default_rng(1).integers(0, 2, (9, geometry.store_bits)).astype(np.uint8)
    columns = to_columns(bits, geometry)
    assert columns.dtype == np.dtype("<u4")
    np.testing.assert_array_equal(from_columns(columns, geometry), bits)
