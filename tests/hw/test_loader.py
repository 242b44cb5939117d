"""Loader against the layout of a word: columns with random gaps become the blocks that ternlight.store_word says."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.geometry import STORE_BLOCK_BITS, Geometry, ceil_div
from ternlight.store_word import to_columns
from ternlight_hw.engine.loader import Loader
from ternlight_sim.bench import parameters, rng, simulate, start


@cocotb.test()
async def bench_loader(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    dut.load__enable.value = 0
    await start(dut)
    pairs = ceil_div(geometry.store_blocks, 2)
    bits = random.integers(0, 2, (20, geometry.store_bits)).astype(np.uint8)
    for address, (word, columns) in enumerate(zip(bits, to_columns(bits, geometry), strict=True)):
        written = {}
        for column, value in enumerate(columns):
            dut.load__enable.value, dut.load__address.value = 1, address
            dut.load__column.value, dut.load__data.value = column, int(value)
            await FallingEdge(dut.clk)
            dut.load__enable.value, dut.load__data.value = 0, int(random.integers(1 << 32))
            if dut.write__enable.value:
                assert int(dut.write__address.value) == address
                written[int(dut.write__pair.value)] = int(dut.write__data.value)
            while random.random() < 0.2:
                await FallingEdge(dut.clk)
                assert not dut.write__enable.value
        assert sorted(written) == list(range(pairs))
        stored = np.zeros(2 * STORE_BLOCK_BITS * pairs, np.uint8)
        stored[: len(word)] = word
        for pair, value in written.items():
            blocks = stored[2 * STORE_BLOCK_BITS * pair :][: 2 * STORE_BLOCK_BITS]
            # A pair may have no second block.
            mask = (1 << min(2, geometry.store_blocks - 2 * pair) * STORE_BLOCK_BITS) - 1
            assert value & mask == int.from_bytes(np.packbits(blocks, bitorder="little").tobytes(), "little")


@pytest.mark.parametrize(
    "sizes",
    [
        {"inputs": 4, "rows": 4, "vector": 4, "activations": 16, "embedding_bits": 5},  # 2 blocks
        {"inputs": 12, "rows": 12, "vector": 12, "activations": 24, "embedding_bits": 4},  # 14: one full set
        {"inputs": 32, "rows": 16, "vector": 8},  # 48
        {"inputs": 8, "rows": 28, "vector": 4, "store_words": 33},  # 21: an odd one
    ],
)
def test_loader(sizes):
    simulate(Loader(geometry=Geometry(**sizes)), __file__, bench="bench_loader", parameters={"geometry": sizes})
