"""Sigmoid against its golden function: every fifth z without a lift, and random ones with it."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from ternlight.sigmoid import INPUT_FRACTION, Z_BITS
from ternlight_hw.vector.sigmoid import Sigmoid
from ternlight_sim.bench import rng, simulate, start
from ternlight_sim.golden import vector
from ternlight_sim.golden.integer import saturate


@cocotb.test()
async def bench_sigmoid(dut):
    random = rng()
    limit = 1 << Z_BITS - 1
    plain = np.concatenate([np.arange(-limit, limit, 5), [-limit, 1 - limit, -1, 0, 1, limit - 1]])
    z = np.concatenate([plain, random.integers(-limit, limit, 4000)])
    lift = np.concatenate([np.zeros_like(plain), random.integers(0, INPUT_FRACTION + 1, 4000)])
    expected = vector.sigmoid(saturate(z << lift, Z_BITS))
    gaps = np.flatnonzero(random.random(z.size) < 0.01)
    dut.input__valid.value = 0
    await start(dut)
    pipe = [None] * Sigmoid.latency
    waits = set(gaps.tolist())
    index = 0
    while index < z.size or any(entry is not None for entry in pipe):
        gap = index >= z.size or index in waits
        waits.discard(index)
        dut.input__valid.value = int(not gap)
        if not gap:
            dut.input__payload.value = int(z[index]) & (1 << Z_BITS) - 1 | int(lift[index]) << Z_BITS
        pipe = [None if gap else index, *pipe[:-1]]
        index += not gap
        await FallingEdge(dut.clk)
        done = pipe[-1]
        assert int(dut.output__valid.value) == (done is not None)
        if done is not None:
            assert int(dut.output__payload.value) == expected[done], (z[done], lift[done])


def test_sigmoid():
    simulate(Sigmoid(), __file__, bench="bench_sigmoid", parameters={"seed": 1})
