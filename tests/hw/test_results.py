"""Results against a queue in Python, cycle by cycle."""

from __future__ import annotations

from collections import deque

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry
from ternlight_hw.results import Results
from ternlight_sim.bench import pack, parameters, rng, simulate, start, unpack

LATENCY = 2
"""From a group to its first beat."""
EMBEDDING_LATENCY = 1


def extremes(random, bits: int, count: int) -> list[int]:
    """Signed values of so many bits, one in five at an end of their range."""
    limit = 1 << bits - 1
    ends = random.choice([-limit, -1, 0, limit - 1], count)
    values: list[int] = np.where(random.random(count) < 0.2, ends, random.integers(-limit, limit, count)).tolist()
    return values


class Bench:
    """Drives the ports for one cycle at a time, and holds what was due in that cycle against them."""

    def __init__(self, dut, geometry: Geometry, depth: int, random):
        self.dut, self.geometry, self.depth, self.random = dut, geometry, depth, random
        self.group_beats = geometry.rows // geometry.vector
        self.queue: deque[list[list[int]]] = deque()  # the beats still to go of each group
        self.offered: list[int] | None = None
        self.given = 0

    async def cycle(self, *, group: bool, embedding: bool, ready: bool) -> None:
        dut, geometry, random = self.dut, self.geometry, self.random
        sums = extremes(random, geometry.accumulator, geometry.rows)
        end = int(random.integers(self.group_beats))
        row = extremes(random, ACTIVATION_BITS, geometry.vector)
        dut.sums__valid.value = int(group)
        dut.sums__payload.value = pack(sums, geometry.accumulator) | end << geometry.accumulator * geometry.rows
        dut.embedding__valid.value = int(embedding)
        dut.embedding__payload.value = pack(row, ACTIVATION_BITS)
        dut.beats__ready.value = int(ready)

        await RisingEdge(dut.clk)
        advance = self.offered is None or ready
        released = bool(advance and self.queue and len(self.queue[0]) == 1)
        assert int(dut.sums__ready.value)
        assert bool(dut.released.value) == released
        assert bool(dut.embedding__ready.value) == (advance and not self.queue)
        assert bool(dut.beats__valid.value) == (self.offered is not None)
        if self.offered is not None:
            assert unpack(int(dut.beats__payload.value), geometry.accumulator, geometry.vector) == self.offered
        if advance:
            self.offered = self.queue[0].pop(0) if self.queue else row if embedding else None
        if released:
            self.queue.popleft()
        if group:
            self.queue.append([sums[at * geometry.vector :][: geometry.vector] for at in range(end + 1)])
            self.given += 1
        await FallingEdge(dut.clk)


@cocotb.test()
async def bench_beats(dut):
    """Random groups and embeddings at changing rates, never more groups than the queue holds."""
    geometry, depth, random = Geometry(**parameters()["geometry"]), parameters()["depth"], rng()
    await start(dut)
    bench = Bench(dut, geometry, depth, random)
    for _ in range(40):
        rates = random.choice([0.0, 0.1, 0.5, 1.0], 3, p=[0.1, 0.2, 0.4, 0.3])
        for _ in range(60):
            group, embedding, ready = (bool(random.random() < rate) for rate in rates)
            await bench.cycle(group=group and len(bench.queue) < depth, embedding=embedding, ready=ready)
    assert bench.given > 100


@cocotb.test()
async def bench_latency(dut):
    geometry, depth, random = Geometry(**parameters()["geometry"]), parameters()["depth"], rng()
    await start(dut)
    bench = Bench(dut, geometry, depth, random)
    for latency, kind in ((LATENCY, "group"), (EMBEDDING_LATENCY, "embedding")):
        await bench.cycle(group=kind == "group", embedding=kind == "embedding", ready=True)
        for _ in range(latency - 1):
            assert not int(dut.beats__valid.value)
            await bench.cycle(group=False, embedding=False, ready=True)
        assert int(dut.beats__valid.value)
        for _ in range(bench.group_beats + 1):
            await bench.cycle(group=False, embedding=False, ready=True)
        assert not int(dut.beats__valid.value)


SIZES = [
    ({"inputs": 8, "rows": 16, "vector": 4, "accumulator": 20}, 4),
    ({"inputs": 6, "rows": 12, "vector": 6, "activations": 96, "accumulator": 13}, 1),
]


@pytest.mark.parametrize("bench", ["bench_beats", "bench_latency"])
@pytest.mark.parametrize(("sizes", "depth"), SIZES)
def test_results(bench, sizes, depth):
    simulate(
        Results(geometry=Geometry(**sizes), depth=depth),
        __file__,
        bench=bench,
        parameters={"geometry": sizes, "depth": depth, "seed": 2},
    )


def test_results_refuse_depth():
    with pytest.raises(ValueError, match="depth must be positive, not 0"):
        Results(geometry=Geometry(), depth=0)
