"""Scorer against the golden temper and noise."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.geometry import Geometry
from ternlight.gumbel import SCORE_BITS
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX, MANTISSA_MIN
from ternlight_hw.gumbel import ID_BITS
from ternlight_hw.layouts import UFLOAT
from ternlight_hw.score import SCORED, Scorer, candidate_layout
from ternlight_sim.bench import parameters, rng, simulate, start
from ternlight_sim.golden.sampling import gumbel, temper
from ternlight_sim.golden.scalar import UFloat

EXPONENTS = [EXPONENT_MIN, *range(-66, -13), EXPONENT_MAX]
"""Around every shift, and beyond both ends."""


@cocotb.test()
async def bench_scores(dut):
    bits = parameters()["accumulator"]
    layout = candidate_layout(Geometry(accumulator=bits))
    limit = 1 << bits - 1
    random = rng()
    dut.candidate__valid.value = 0
    await start(dut)
    mantissas = [MANTISSA_MIN, MANTISSA_MAX, *random.integers(MANTISSA_MIN, MANTISSA_MAX, len(EXPONENTS) - 2).tolist()]
    scales = [(0, 0), *zip(random.permutation(mantissas).tolist(), EXPONENTS, strict=True)]
    for scale in scales:
        seed, position = (int(value) for value in random.integers(0, 1 << 32, 2))
        dut.seed.value, dut.position.value = seed, position
        dut.scale.value = UFLOAT.const({"mantissa": scale[0], "exponent": scale[1]}).as_value().value
        accs = [-limit, limit - 1, 0, -1, 1, *random.integers(-limit, limit, 30).tolist()]
        offered = []  # per cycle: the candidate, or None
        while accs or any(offered[-Scorer.latency :]):
            candidate = None
            if accs and random.random() < 0.8:
                candidate = int(random.integers(1 << ID_BITS)), accs.pop()
                payload = layout.const({"token": candidate[0], "acc": candidate[1]})
                dut.candidate__payload.value = payload.as_value().value
            offered.append(candidate)
            dut.candidate__valid.value = int(candidate is not None)
            await FallingEdge(dut.clk)
            due = offered[-Scorer.latency] if len(offered) >= Scorer.latency else None
            assert int(dut.scored__valid.value) == int(due is not None)
            if due:
                token, acc = due
                golden = temper(np.int64(acc), UFloat(*(np.int64(part) for part in scale)))
                score = int(golden + gumbel(seed, position, token))
                expected = SCORED.const({"token": token, "score": score}).as_value().value
                assert int(dut.scored__payload.value) == expected & (1 << ID_BITS + SCORE_BITS) - 1, (due, scale)


@pytest.mark.parametrize("accumulator", [12, 24])
def test_scores(accumulator):
    simulate(
        Scorer(Geometry(accumulator=accumulator)),
        __file__,
        bench="bench_scores",
        parameters={"accumulator": accumulator, "seed": accumulator},
    )
