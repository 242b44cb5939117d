"""The queue of results against a queue in Python, cycle by cycle."""

from __future__ import annotations

from collections import deque

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry
from ternlight_hw.engine.results import Results, queue_depth
from ternlight_sim.bench import parameters, rng, simulate, start


@cocotb.test()
async def bench_queue(dut):
    """Never more beats than there is room for; a beat is seen in the cycle after it came."""
    depth, bits, random = parameters()["depth"], parameters()["bits"], rng()
    dut.sums__valid.value = dut.beats__ready.value = 0
    await start(dut)
    queue: deque[int] = deque()
    most = 0
    for _ in range(40):
        rates = random.choice([0.1, 0.5, 1.0], 2)
        for _ in range(60):
            beat = int.from_bytes(random.bytes(bits // 8 + 1), "little") & (1 << bits) - 1
            comes = len(queue) < depth and random.random() < rates[0]
            dut.sums__valid.value, dut.sums__payload.value = int(comes), beat
            ready = int(random.random() < rates[1])
            dut.beats__ready.value = ready
            await RisingEdge(dut.clk)
            assert bool(dut.beats__valid.value) == bool(queue)
            assert bool(dut.released.value) == bool(queue and ready)
            if queue:
                assert int(dut.beats__payload.value) == queue[0]
            if queue and ready:
                queue.popleft()
            if comes:
                queue.append(beat)
            most = max(most, len(queue))
            await FallingEdge(dut.clk)
    assert most == depth


@pytest.mark.parametrize(
    ("sizes", "depth"),
    [
        ({"inputs": 8, "rows": 16, "vector": 4}, 16),
        ({"inputs": 8, "rows": 40, "vector": 8, "accumulator": 13}, 32),
    ],
)
def test_results(sizes, depth):
    geometry = Geometry(**sizes)
    assert queue_depth(geometry) == depth
    bits = geometry.accumulator * geometry.vector + 1
    simulate(Results(geometry=geometry), __file__, bench="bench_queue", parameters={"depth": depth, "bits": bits})
