"""BlockMemory and ByteBuffer against a list and a queue."""

from __future__ import annotations

import re
from collections import deque

import cocotb
import pytest
from amaranth import unsigned
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.block_memory import BlockMemory
from ternlight_hw.byte_buffer import ByteBuffer
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start


@cocotb.test()
async def bench_memory(dut):
    """Random reads and writes; a read in a cycle of a write does not happen."""
    depth, lanes = parameters()["depth"], parameters()["lanes"]
    random = rng()
    rows = [[0] * lanes for _ in range(depth)]
    await start(dut)
    held = [0] * lanes
    reads = 0
    for _ in range(2000):
        written = int(random.integers(1 << lanes)) if random.random() < 0.5 else 0
        write_row, read_row = int(random.integers(depth)), int(random.integers(depth))
        values = [int(value) for value in random.integers(256, size=lanes)]
        reading = random.random() < 0.7
        dut.write__en.value, dut.write__addr.value = written, write_row
        dut.write__data.value = sum(value << 8 * lane for lane, value in enumerate(values))
        dut.read__en.value, dut.read__addr.value = reading, read_row
        await FallingEdge(dut.clk)
        if reading and not written:
            held = list(rows[read_row])
            reads += 1
        for lane, value in enumerate(values):
            if written >> lane & 1:
                rows[write_row][lane] = value
        assert int(dut.read__data.value) == sum(value << 8 * lane for lane, value in enumerate(held))
    assert reads > 300


@pytest.mark.parametrize(("depth", "lanes"), [(2, 1), (40, 3)])
def test_memory(depth, lanes):
    simulate(
        BlockMemory(shape=unsigned(8 * lanes), depth=depth, granularity=8),
        __file__,
        bench="bench_memory",
        parameters={"depth": depth, "lanes": lanes, "seed": depth},
    )


@cocotb.test()
async def bench_bytes(dut):
    """Every byte in order, whatever the paces; full speed; and what it holds while nothing is taken."""
    depth = parameters()["depth"]
    random = rng()
    await start(dut)
    for source_stall, sink_stall in [(0.0, 0.0), (0.0, 0.7), (0.7, 0.0), (0.4, 0.4)]:
        sent = [int(byte) for byte in random.integers(256, size=5 * depth)]
        source = StreamSource(dut, "source", stall=source_stall, seed=1)
        sink = StreamSink(dut, "sink", stall=sink_stall, seed=2)
        begin = cocotb.utils.get_sim_time("ns")
        cocotb.start_soon(source.send(sent))
        assert await sink.receive(len(sent)) == sent
        if not source_stall and not sink_stall:
            assert (cocotb.utils.get_sim_time("ns") - begin) // 10 == len(sent) + 2
    held: deque[int] = deque()
    dut.sink__ready.value = 0
    dut.source__valid.value = 1
    for byte in range(2 * depth):
        dut.source__payload.value = byte & 0xFF
        await RisingEdge(dut.clk)
        if int(dut.source__ready.value):
            held.append(byte & 0xFF)
        await FallingEdge(dut.clk)
    dut.source__valid.value = 0
    # One more waits in the output register.
    assert len(held) == depth + 1
    assert await StreamSink(dut, "sink").receive(len(held)) == list(held)


@pytest.mark.parametrize("depth", [2, 16])
def test_bytes(depth):
    simulate(ByteBuffer(depth=depth), __file__, bench="bench_bytes", parameters={"depth": depth, "seed": depth})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BlockMemory(shape=unsigned(8), depth=1), "depth must be at least 2, not 1"),
        (lambda: ByteBuffer(depth=12), "depth must be a power of two from 2, not 12"),
    ],
)
def test_refuse(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
