"""ColumnMemory against a dictionary of words, plain and in an ECP5's block RAMs."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from ternlight_hw.memory import ColumnMemory
from ternlight_sim.bench import ECP5, parameters, rng, simulate, start


@cocotb.test()
async def bench_memory(dut):
    depth, columns, latency = (parameters()[name] for name in ("depth", "columns", "latency"))
    random = rng()
    await start(dut)
    model = [0] * depth
    stages = [None] * latency
    dut.write__enable.value = dut.read__enable.value = 0
    dut.load__enable.value = 1
    for row in range(depth):
        for column in range(columns):
            dut.load__address.value, dut.load__column.value, dut.load__data.value = row, column, 0
            await FallingEdge(dut.clk)
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
            stages = [model[address], *stages[:-1]]
        if stages[-1] is not None:
            assert int(dut.read__data.value) == stages[-1]
        if write:
            model[row] = word
        elif load:
            mask = 0xFFFFFFFF << 32 * column
            model[row] = model[row] & ~mask | (word & 0xFFFFFFFF) << 32 * column


@pytest.mark.parametrize("platform", [None, ECP5])
@pytest.mark.parametrize(
    ("depth", "columns", "registered"),
    [(2, 1, False), (5, 3, True), (513, 2, True), (1025, 1, False), (2050, 1, True), (4100, 1, True), (8200, 1, True)],
)
def test_memory(depth, columns, registered, platform):
    component = ColumnMemory(depth=depth, columns=columns, registered=registered)
    assert component.latency == 1 + registered
    simulate(
        component,
        __file__,
        bench="bench_memory",
        parameters={"depth": depth, "columns": columns, "latency": component.latency, "seed": 1},
        platform=platform,
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
