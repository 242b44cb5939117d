"""ResultSteering: every beat to the consumer of its command, whose readiness counts."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry
from ternlight_hw.steering import Consumer, ResultSteering
from ternlight_sim.bench import parameters, rng, simulate, start

SIDES = {Consumer.NORM: "norm", Consumer.GATE: "gate", Consumer.SAMPLER: "sampler"}


@cocotb.test()
async def bench_steering(dut):
    values, random = parameters(), rng()
    bits, depth = values["bits"], values["depth"]
    commands = []  # (consumer, beats), as many as the bench has made
    order = []  # of those, what the steering does not know yet
    queue = []  # what it knows: [consumer, cycle from which it can give beats]
    beats = []  # (payload, last) still to come
    full = gaps = transfers = 0
    dut.order__valid.value = dut.results__valid.value = 0
    await start(dut)
    for cycle in range(4000):
        # Phases in which the one side or the other is slow.
        slow = cycle // 500 % 3
        if len(order) < 3:
            consumer = list(SIDES)[random.integers(len(SIDES))]
            commands.append((consumer, int(random.choice([1, 1, 2, int(random.integers(1, 9))]))))
            order.append(consumer)
            count = commands[-1][1]
            payloads = [int.from_bytes(random.bytes(-(-bits // 8)), "little") >> -bits % 8 for _ in range(count)]
            beats += [(payload, place == count - 1) for place, payload in enumerate(payloads)]
        ordered = random.random() < (0.2 if slow == 1 else 0.9)
        valid = random.random() < (0.3 if slow == 2 else 0.9)
        payload, last = beats[0]
        ready = {side: int(random.random() < 0.7) for side in SIDES.values()}
        dut.order__valid.value, dut.order__payload.value = ordered, order[0].value
        dut.results__valid.value, dut.results__payload.value = valid, payload | last << bits
        for side, value in ready.items():
            getattr(dut, f"{side}__ready").value = value
        await RisingEdge(dut.clk)
        oldest = SIDES[queue[0]] if queue else None
        assert bool(dut.order__ready.value) == (len(queue) < depth)
        assert bool(dut.results__ready.value) == (oldest is not None and ready[oldest])
        for side in SIDES.values():
            assert bool(getattr(dut, f"{side}__valid").value) == (valid and side == oldest)
            if valid and side == oldest:
                assert int(getattr(dut, f"{side}__payload").value) == payload
        full += len(queue) == depth
        gaps += not queue
        taken = ordered and len(queue) < depth
        if valid and oldest is not None and ready[oldest]:
            beats.pop(0)
            transfers += 1
            if last:
                queue.pop(0)
        if taken:
            queue.append(order.pop(0))
        await FallingEdge(dut.clk)
    assert min(full, gaps, transfers) > 100


@pytest.mark.parametrize("depth", [1, 4])
def test_steering(depth):
    geometry = Geometry(vector=4, inputs=4, rows=4, accumulator=16, embedding_bits=4)
    simulate(
        ResultSteering(geometry=geometry, depth=depth),
        __file__,
        bench="bench_steering",
        parameters={"bits": geometry.vector * geometry.accumulator, "depth": depth},
    )


def test_steering_refuses_depth():
    with pytest.raises(ValueError, match="depth must be positive, not 0"):
        ResultSteering(geometry=Geometry(), depth=0)
