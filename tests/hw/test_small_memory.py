"""SmallMemory and ByteBuffer against a list and a queue."""

from __future__ import annotations

import re
from collections import deque

import cocotb
import pytest
from amaranth import unsigned
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.byte_buffer import ByteBuffer
from ternlight_hw.small_memory import SmallMemory
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start


@cocotb.test()
async def bench_memory(dut):
    """Random reads and writes, often of one row at once: what is read then is the old row."""
    depth, bits = parameters()["depth"], parameters()["bits"]
    random = rng()
    rows = [0] * depth
    await start(dut)
    held = together = 0
    for _ in range(2000):
        writing, reading = random.random() < 0.5, random.random() < 0.7
        write_row, read_row = int(random.integers(depth)), int(random.integers(depth))
        if random.random() < 0.2:
            read_row = write_row
        row = int(random.integers(1 << bits))
        dut.write__en.value, dut.write__addr.value, dut.write__data.value = writing, write_row, row
        dut.read__en.value, dut.read__addr.value = reading, read_row
        await FallingEdge(dut.clk)
        if reading:
            held = rows[read_row]
            together += writing and read_row == write_row
        if writing:
            rows[write_row] = row
        assert int(dut.read__data.value) == held
    assert together > 100


@pytest.mark.parametrize(("depth", "bits"), [(2, 1), (40, 24)])
def test_memory(depth, bits):
    simulate(
        SmallMemory(shape=unsigned(bits), depth=depth),
        __file__,
        bench="bench_memory",
        parameters={"depth": depth, "bits": bits, "seed": depth},
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
            assert (cocotb.utils.get_sim_time("ns") - begin) // 10 == 2 * len(sent) + 2
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
        (lambda: SmallMemory(shape=unsigned(8), depth=1), "depth must be at least 2, not 1"),
        (lambda: ByteBuffer(depth=12), "depth must be a power of two from 2, not 12"),
    ],
)
def test_refuse(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
