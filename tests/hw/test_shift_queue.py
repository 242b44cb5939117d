"""ShiftQueue against a list."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.shift_queue import ShiftQueue
from ternlight_sim.bench import parameters, rng, simulate, start

WIDTH = 3


@cocotb.test()
async def bench_random(dut):
    random, depth = rng(), parameters()["depth"]
    entries = []
    full = together = 0
    dut.push.value = dut.pop.value = 0
    await start(dut)
    for cycle in range(3000):
        # It fills and empties in turn.
        pushes = len(entries) < depth and random.random() < (0.8 if cycle // 100 % 2 else 0.3)
        pops = bool(entries) and random.random() < 0.5
        entry = int(random.integers(1, 1 << WIDTH)) if pushes else 0
        dut.push.value, dut.pop.value = entry, pops
        await RisingEdge(dut.clk)
        assert int(dut.oldest.value) == (entries[0] if entries else 0)
        assert bool(dut.full.value) == (len(entries) == depth)
        full += len(entries) == depth
        together += pushes and pops
        entries = entries[pops:] + ([entry] if pushes else [])
        await FallingEdge(dut.clk)
    assert full > 100
    assert together > 100 or depth == 1


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_shift_queue(depth):
    simulate(ShiftQueue(width=WIDTH, depth=depth), __file__, bench="bench_random", parameters={"depth": depth})


def test_shift_queue_refuses_depth():
    with pytest.raises(ValueError, match="depth must be positive, not 0"):
        ShiftQueue(width=1, depth=0)
