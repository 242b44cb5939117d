"""ResultSteering: every beat to the chosen side, whose readiness counts."""

from __future__ import annotations

import cocotb
from cocotb.triggers import Timer

from ternlight.geometry import Geometry
from ternlight_hw.steering import ResultSteering
from ternlight_sim.bench import parameters, rng, simulate


@cocotb.test()
async def bench_steering(dut):
    random, bits = rng(), parameters()["bits"]
    sides = {0: "vector", 1: "sampler"}
    transfers = 0
    for _ in range(500):
        beat = int.from_bytes(random.bytes(-(-bits // 8)), "little") >> -bits % 8
        valid, sampling = int(random.integers(2)), int(random.integers(2))
        ready = {side: int(random.integers(2)) for side in sides.values()}
        dut.results__payload.value, dut.results__valid.value, dut.sampling.value = beat, valid, sampling
        for side in sides.values():
            getattr(dut, f"{side}__ready").value = ready[side]
        await Timer(1, "ns")
        chosen = sides[sampling]
        assert int(dut.results__ready.value) == ready[chosen]
        for side in sides.values():
            assert int(getattr(dut, f"{side}__valid").value) == (valid and side == chosen)
        if valid:
            assert int(getattr(dut, f"{chosen}__payload").value) == beat
            transfers += ready[chosen]
    assert transfers > 50


def test_steering():
    geometry = Geometry(vector=4, inputs=4, rows=4, accumulator=16)
    simulate(
        ResultSteering(geometry=geometry),
        __file__,
        bench="bench_steering",
        parameters={"bits": geometry.vector * geometry.accumulator},
    )
