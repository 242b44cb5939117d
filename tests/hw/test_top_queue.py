"""TopQueue against a stable sort, and against the golden sampler's candidates."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.geometry import Geometry
from ternlight_hw.gumbel import ID_BITS
from ternlight_hw.top_queue import TopQueue
from ternlight_sim.bench import parameters, rng, simulate, start
from ternlight_sim.golden.sampling import candidates

LATENCY = 4
"""From a candidate to the tail."""


def ranking(acc: list[int], keep: int) -> list[int]:
    """Places of the `keep` largest, in descending order; the earlier of equals first."""
    return [int(place) for place in np.argsort(-np.array(acc, np.int64), kind="stable")[:keep]]


def random_accumulators(random, bits: int, count: int) -> list[int]:
    """Few different values make ties; sorted ones enter at one end of the queue only."""
    limit = 1 << bits - 1
    reach = int(random.choice([1, 3, 30, limit]))
    acc = random.integers(-reach, reach, count)
    match int(random.integers(5)):
        case 0:
            acc.sort()
        case 1:
            acc[::-1].sort()
        case 2:
            acc[random.random(count) < 0.3] = random.choice([-limit, limit - 1])
    return [int(value) for value in acc]


@cocotb.test()
async def bench_ranking(dut):
    """In every cycle the tail is the threshold; shifted out, the queue gives its candidates in ascending order."""
    geometry = Geometry(**parameters()["geometry"])
    random, bits = rng(), geometry.accumulator
    dut.clear.value = dut.candidate__valid.value = dut.shift.value = 0
    await start(dut)

    def threshold(acc: list[int], base: int, keep: int) -> tuple[int, int] | None:
        """What the tail is after the accumulators of tokens from `base` on."""
        if not 0 < keep <= len(acc):
            return None
        place = ranking(acc, keep)[-1]
        return base + place, acc[place]

    def tail() -> tuple[int, int] | None:
        """Token and accumulator of the last place, if it holds any."""
        valid, token, acc = (int(dut.tail.value) >> at for at in (0, 1, 1 + ID_BITS))
        acc -= (acc >> bits - 1) << bits
        return (token & (1 << ID_BITS) - 1, acc) if valid & 1 else None

    for turn in range(250):
        keep = [0, 1, geometry.top_k, int(random.integers(geometry.top_k + 1))][turn % 4]
        count = int(random.integers(keep + 1) if turn % 3 == 0 else random.integers(4 * geometry.top_k + 1))
        gap = 0.3 if turn % 2 else 0.0
        acc = random_accumulators(random, bits, count)
        base = int(random.integers((1 << ID_BITS) - count))

        dut.clear.value, dut.keep.value = 1, keep
        await FallingEdge(dut.clk)
        dut.clear.value, dut.keep.value = 0, int(random.integers(geometry.top_k + 1))
        if keep == 0:
            # Nothing is larger than the tail, whatever its token is.
            assert tail()[1] == (1 << bits - 1) - 1
        else:
            assert tail() is None
        given, arrived = 0, [0] * LATENCY
        while arrived[-1] < count:
            valid = given < count and random.random() >= gap
            dut.candidate__valid.value = int(valid)
            # Without `valid` the payload is as large as can be.
            value = acc[given] if valid else (1 << bits - 1) - 1
            dut.candidate__payload.value = base + given * valid | (value & (1 << bits) - 1) << ID_BITS
            given += valid
            arrived = [given, *arrived[:-1]]
            await FallingEdge(dut.clk)
            if keep > 0:
                assert tail() == threshold(acc[: arrived[-1]], base, keep)
        dut.candidate__valid.value = 0

        held = ranking(acc, keep)
        if keep > 0:
            assert sorted(held) == candidates(np.array(acc, np.int64), keep).tolist()
        places = [(base + place, acc[place]) for place in held] + [None] * (keep - len(held))
        dut.shift.value = 1
        await FallingEdge(dut.clk)
        for entry in reversed(places):
            assert tail() == entry
            await FallingEdge(dut.clk)
        dut.shift.value = 0


@pytest.mark.parametrize(("top_k", "accumulator"), [(1, 12), (2, 20), (7, 24)])
def test_ranking(top_k, accumulator):
    sizes = {"top_k": top_k, "accumulator": accumulator}
    simulate(
        TopQueue(Geometry(**sizes)), __file__, bench="bench_ranking", parameters={"geometry": sizes, "seed": top_k}
    )
