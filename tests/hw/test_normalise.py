"""Normaliser against its golden function."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from ternlight_hw.layouts import REGISTER, WRITEBACK
from ternlight_hw.vector.normalise import SUM_BITS, TOTAL, Normaliser
from ternlight_sim.bench import rng, simulate, start
from ternlight_sim.golden import scalar


@cocotb.test()
async def bench_normalise(dut):
    random = rng()
    powers = np.int64(1) << np.arange(SUM_BITS, dtype=np.int64)
    values = np.concatenate([[0], powers, powers - 1, powers + 1, (np.int64(1) << SUM_BITS) - powers])
    uniform = random.integers(0, 1 << SUM_BITS, 3000, dtype=np.int64)
    values = np.concatenate([values[values < 1 << SUM_BITS], uniform >> random.integers(0, SUM_BITS, uniform.size)])
    targets = random.integers(0, 1 << REGISTER.size, values.size)
    expected = scalar.normalise(values)
    dut.input__valid.value = 0
    await start(dut)
    pipe = [None] * Normaliser.latency
    index = 0
    while index < values.size or any(entry is not None for entry in pipe):
        valid = index < values.size and random.random() < 0.8
        dut.input__valid.value = int(valid)
        if valid:
            total = {"target": REGISTER.from_bits(int(targets[index])), "value": int(values[index])}
            dut.input__payload.value = TOTAL.const(total).as_value().value
        pipe = [index if valid else None, *pipe[:-1]]
        index += valid
        await FallingEdge(dut.clk)
        done = pipe[-1]
        assert int(dut.output__valid.value) == (done is not None)
        assert int(dut.busy.value) == any(entry is not None for entry in pipe)
        if done is not None:
            value = {"mantissa": int(expected.mantissa[done]), "exponent": int(expected.exponent[done])}
            due = WRITEBACK.const({"target": REGISTER.from_bits(int(targets[done])), "value": value}).as_value().value
            assert int(dut.output__payload.value) == due, values[done]


def test_normalise():
    simulate(Normaliser(), __file__, bench="bench_normalise", parameters={"seed": 1})
