"""Store against a list of words: order, throughput and latency."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge

from ternlight.geometry import Geometry
from ternlight_hw.store import Store
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start

LATENCY = 3


def request(address, chunks, groups):
    return address | chunks << 24 | groups << 34


async def load(dut, geometry, words):
    dut.load__enable.value = 1
    for address, word in enumerate(words):
        for column in range(geometry.store_columns):
            dut.load__address.value, dut.load__column.value = address, column
            dut.load__data.value = word >> 32 * column & 0xFFFFFFFF
            await FallingEdge(dut.clk)
    dut.load__enable.value = 0


@cocotb.test()
async def bench_store(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    await start(dut)
    words = [int.from_bytes(random.bytes(geometry.store_columns * 4), "little") for _ in range(geometry.store_words)]
    await load(dut, geometry, words)

    for stall_source, stall_sink in ((0.5, 0.0), (0.0, 0.5), (0.3, 0.3)):
        source = StreamSource(dut, "requests", stall=stall_source, seed=1)
        sink = StreamSink(dut, "words", stall=stall_sink, seed=2)
        requests, expected = [], []
        for _ in range(60):
            chunks, groups = (int(random.integers(1, limit)) for limit in (6, 4))
            address = int(random.integers(geometry.store_words - chunks * groups + 1))
            requests.append(request(address, chunks, groups))
            expected += words[address : address + chunks * groups]
        sending = cocotb.start_soon(source.send(requests))
        assert await sink.receive(len(expected)) == expected
        await sending
        await FallingEdge(dut.clk)
        assert not dut.words__valid.value

    # Requests back to back: the first word after the latency, then one per cycle.
    shapes = [(0, 1, 1), (3, 1, 1), (5, 4, 1), (2, 1, 5), (1, 3, 2), (0, 1, 1)]
    source = StreamSource(dut, "requests")
    sending = cocotb.start_soon(source.send(request(*shape) for shape in shapes))
    expected = [word for address, chunks, groups in shapes for word in words[address : address + chunks * groups]]
    dut.words__ready.value = 1
    for _ in range(LATENCY):
        assert not dut.words__valid.value
        await FallingEdge(dut.clk)
    for word in expected:
        assert dut.words__valid.value
        assert int(dut.words__payload.value) == word
        await FallingEdge(dut.clk)
    assert not dut.words__valid.value
    await sending


@pytest.mark.parametrize(
    "sizes",
    [
        {"inputs": 4, "rows": 4, "vector": 4, "store_words": 23},
        {"inputs": 8, "rows": 16, "vector": 4, "store_words": 64},
    ],
)
def test_store(sizes):
    geometry = Geometry(**sizes)
    simulate(Store(geometry=geometry), __file__, bench="bench_store", parameters={"geometry": sizes, "seed": 3})
