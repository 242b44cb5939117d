"""ColumnMemory against a dictionary of words."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from ternlight_hw.memory import ColumnMemory
from ternlight_sim.bench import parameters, rng, simulate, start


@cocotb.test()
async def bench_memory(dut):
    depth, columns = parameters()["depth"], parameters()["columns"]
    random = rng()
    await start(dut)
    model = [0] * depth
    pending = None
    for _ in range(2000):
        row, column = int(random.integers(depth)), int(random.integers(columns))
        word = int.from_bytes(random.bytes(columns * 4), "little")
        write, load, read = (int(random.integers(2)) for _ in range(3))
        address = int(random.integers(depth))
        read &= address != row or not (write or load)
        dut.write__enable.value, dut.write__address.value, dut.write__data.value = write, row, word
        dut.load__enable.value, dut.load__address.value = load, row
        dut.load__column.value, dut.load__data.value = column, word & 0xFFFFFFFF
        dut.read__enable.value, dut.read__address.value = read, address
        await FallingEdge(dut.clk)
        if read:
            pending = model[address]
        if pending is not None:
            assert int(dut.read__data.value) == pending
        if write:
            model[row] = word
        elif load:
            mask = 0xFFFFFFFF << 32 * column
            model[row] = model[row] & ~mask | (word & 0xFFFFFFFF) << 32 * column


@pytest.mark.parametrize(("depth", "columns"), [(2, 1), (5, 3), (64, 4)])
def test_memory(depth, columns):
    simulate(
        ColumnMemory(depth=depth, columns=columns),
        __file__,
        bench="bench_memory",
        parameters={"depth": depth, "columns": columns, "seed": 1},
    )


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": 1, "columns": 1}, "depth must be at least 2, not 1"),
        ({"depth": 4, "columns": 0}, "columns must be positive, not 0"),
    ],
)
def test_memory_refuses(sizes, message):
    with pytest.raises(ValueError, match=message):
        ColumnMemory(**sizes)
