"""Sigmoid against its golden function: every fifth z without a lift, and random ones with it."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.sigmoid import INPUT_FRACTION, Z_BITS
from ternlight_hw.vector.sigmoid import ARGUMENT, MAGNITUDE_BITS, Sigmoid, limit_of
from ternlight_sim.bench import ECP5, rng, simulate, start
from ternlight_sim.golden import vector
from ternlight_sim.golden.integer import saturate


def argument(z: int, lift: int) -> int:
    """The payload for z with a lift; what lies above the magnitude's bits means nothing when it is over."""
    fields = {
        "magnitude": abs(z) & (1 << MAGNITUDE_BITS) - 1,
        "over": abs(z) >> MAGNITUDE_BITS,
        "negative": int(z < 0),
        "lift": lift,
        "limit": limit_of(lift),
    }
    return ARGUMENT.const(fields).as_value().value


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
            dut.input__payload.value = argument(int(z[index]), int(lift[index]))
        pipe = [None if gap else index, *pipe[:-1]]
        index += not gap
        await FallingEdge(dut.clk)
        done = pipe[-1]
        assert int(dut.output__valid.value) == (done is not None)
        if done is not None:
            assert int(dut.output__payload.value) == expected[done], (z[done], lift[done])


@pytest.mark.parametrize("platform", [None, ECP5], ids=["plain", "ecp5"])
def test_sigmoid(platform):
    simulate(Sigmoid(), __file__, bench="bench_sigmoid", parameters={"seed": 1}, platform=platform)
