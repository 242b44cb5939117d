"""Activations against lists of vectors: passes over chunks that arrive late, claims, and declared cycles."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.geometry import Geometry, ceil_div
from ternlight_hw.activations import Activations
from ternlight_sim.bench import StreamSink, StreamSource, pack, parameters, rng, simulate, start, unpack

LATENCY = 2
"""From the last beat of a chunk to the chunk."""


def request(buffer, chunks, groups):
    return buffer | chunks << 1 | groups << 11


async def claim(dut, buffer, beats):
    """Claim a buffer as soon as it is free; returns on the falling edge after."""
    while not int(dut.free.value) >> buffer & 1:
        await FallingEdge(dut.clk)
    dut.claim__enable.value, dut.claim__buffer.value, dut.claim__beats.value = 1, buffer, beats
    await FallingEdge(dut.clk)
    dut.claim__enable.value = 0
    assert not int(dut.free.value) >> buffer & 1


@cocotb.test()
async def bench_random(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    inputs, vector = geometry.inputs, geometry.vector
    await start(dut)
    jobs = []
    for index in range(40):
        length = int(random.integers(1, geometry.activations + 1))
        groups = int(random.integers(1, 3 * geometry.block + 1))
        jobs.append((index % 2 if index < 20 else int(random.integers(2)), random.integers(-128, 128, length), groups))
    claimed = 0

    async def claim_all():
        nonlocal claimed
        for buffer, values, _ in jobs:
            await claim(dut, buffer, ceil_div(len(values), vector))
            claimed += 1

    async def send_all(source, payloads):
        for index, beats in enumerate(payloads):
            while claimed <= index:
                await FallingEdge(dut.clk)
            await source.send(beats)

    vectors, requests, expected = [], [], []
    for buffer, values, groups in jobs:
        beats = np.zeros((ceil_div(len(values), vector), vector), np.int64)
        beats.flat[: len(values)] = values
        vectors.append([buffer | pack(beat, 8) << 1 for beat in beats])
        chunks = ceil_div(len(values), inputs)
        requests.append([request(buffer, chunks, groups)])
        for _ in range(ceil_div(groups, geometry.block)):
            expected += [beats.flat[at : at + inputs].tolist() for at in range(0, chunks * inputs, inputs)]
    cocotb.start_soon(claim_all())
    cocotb.start_soon(send_all(StreamSource(dut, "quantised", stall=0.2, seed=1), vectors))
    cocotb.start_soon(send_all(StreamSource(dut, "requests", stall=0.2, seed=2), requests))
    sink = StreamSink(dut, "chunks", stall=0.3, seed=3, convert=lambda value: unpack(int(value), 8, inputs))
    for chunk in expected:
        (received,) = await sink.receive(1)
        assert received[: len(chunk)] == chunk
    assert int(dut.free.value) == 3


@cocotb.test()
async def bench_cycles(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    vector, chunk_beats = geometry.vector, geometry.inputs // geometry.vector
    chunks = geometry.activations // geometry.inputs
    await start(dut)
    quantised, requests = StreamSource(dut, "quantised"), StreamSource(dut, "requests")
    beats = random.integers(-128, 128, (2, chunks * chunk_beats - 1 + (chunk_beats == 1), vector))

    def payloads(buffer, first, last):
        return [buffer | pack(beat, 8) << 1 for beat in beats[buffer][first:last]]

    # A chunk is valid LATENCY cycles after its last beat, and not before; the claim ends a short last chunk.
    await claim(dut, 0, beats.shape[1])
    dut.chunks__ready.value = 1
    await requests.send([request(0, chunks, geometry.block)])
    for chunk in range(chunks):
        await quantised.send(payloads(0, chunk * chunk_beats, (chunk + 1) * chunk_beats))
        for _ in range(LATENCY - 1):
            assert not dut.chunks__valid.value
            await FallingEdge(dut.clk)
        assert dut.chunks__valid.value
        await FallingEdge(dut.clk)
    assert not dut.chunks__valid.value
    assert int(dut.free.value) == 3

    # With both vectors there, chunks follow each other across passes and requests.
    for buffer in (0, 1):
        await claim(dut, buffer, beats.shape[1])
        await quantised.send(payloads(buffer, 0, None))
    sending = cocotb.start_soon(
        requests.send([request(0, chunks, 2 * geometry.block + 1), request(1, chunks, geometry.block + 1)])
    )
    while not dut.chunks__valid.value:
        await FallingEdge(dut.clk)
    for index in range(5 * chunks):
        assert dut.chunks__valid.value
        expected = beats[int(index >= 3 * chunks)][index % chunks * chunk_beats :][:chunk_beats].ravel().tolist()
        assert unpack(int(dut.chunks__payload.value), 8, len(expected)) == expected
        # A buffer is free while its last chunk is on its way.
        assert int(dut.free.value) == (index >= 3 * chunks - 1) + 2 * (index == 5 * chunks - 1)
        await FallingEdge(dut.clk)
    assert not dut.chunks__valid.value
    await sending


SIZES = [
    {"inputs": 8, "rows": 8, "vector": 4, "block": 3, "activations": 40},
    {"inputs": 8, "rows": 8, "vector": 8, "block": 2, "activations": 64},
    {"inputs": 12, "rows": 8, "vector": 2, "block": 4, "activations": 12},
]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("bench", ["bench_random", "bench_cycles"])
def test_activations(bench, sizes):
    simulate(Activations(geometry=Geometry(**sizes)), __file__, bench=bench, parameters={"geometry": sizes, "seed": 4})
