"""Reduce against the golden reductions of random operations, at its stated latency."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.formats import ELEMENT_BITS, ENERGY_BITS, POWER_BITS
from ternlight.isa import WRITES_ENERGY, WRITES_PEAK, WRITES_POWER, VectorOp
from ternlight_hw.layouts import WRITEBACK
from ternlight_hw.vector.beat import ROUTE
from ternlight_hw.vector.reduce import Reduce
from ternlight_sim.bench import pack, parameters, rng, simulate, start
from ternlight_sim.golden import scalar

WIDTHS = {"values": ELEMENT_BITS, "energies": ENERGY_BITS, "powers": POWER_BITS}
ELEMENTS_MAX = 1 << 13
BETWEEN_LASTS = 2
"""Cycles between the last beats of operations, at least."""


def extremes(random, shape, bits: int) -> np.ndarray:
    """Signed values of so many bits, of all magnitudes, one in five at an end of the range."""
    limit = 1 << bits - 1
    spread = random.integers(-limit, limit, shape) >> random.integers(0, bits, shape)
    return np.where(random.random(shape) < 0.2, random.choice([-limit, -1, 0, limit - 1], shape), spread)


def reductions(op: VectorOp, beats: dict[str, np.ndarray]) -> list[tuple[str, int]]:
    """The reductions of an operation, by the name of their target, in the order of their writebacks."""
    sums = [
        ("peak", op in WRITES_PEAK, np.abs(beats["values"]).max()),
        ("energy", op in WRITES_ENERGY, (beats["energies"] ** 2).sum()),
        ("power", op in WRITES_POWER, (beats["powers"] ** 2).sum()),
    ]
    return [(name, int(total)) for name, written, total in sums if written]


def writeback(target: int, total: int) -> int:
    value = scalar.normalise(np.int64(total))
    fields = {"mantissa": int(value.mantissa), "exponent": int(value.exponent)}
    return WRITEBACK.const({"target": target, "value": fields}).as_value().value


class Bench:
    """Drives beats, and checks every cycle's writeback and `busy`."""

    def __init__(self, dut, latency: int):
        self.dut, self.latency = dut, latency
        self.cycle = 0
        self.due: dict[int, int] = {}  # payloads by their cycle
        self.begun = -latency - 2  # cycle of the latest beat that has a reduction
        self.last = -BETWEEN_LASTS  # cycle of the latest last beat

    async def tick(self) -> None:
        """The next cycle, with what is driven now."""
        await FallingEdge(self.dut.clk)
        self.cycle += 1
        due = self.due.pop(self.cycle, None)
        assert bool(self.dut.writeback__valid.value) == (due is not None), self.cycle
        if due is not None:
            assert int(self.dut.writeback__payload.value) == due
        # As long as the second reduction of the latest beat, were it the last one, could take.
        assert bool(self.dut.busy.value) == (self.cycle - self.begun <= self.latency + 1)

    async def run(self, random, op: VectorOp, beats: dict[str, np.ndarray], gap: float) -> None:
        """One operation; idle cycles carry noise."""
        dut, count = self.dut, len(beats["values"])
        targets = {name: int(random.integers(16)) for name in ("peak", "energy", "power")}
        totals = reductions(op, beats)
        for beat in range(count):
            while random.random() < gap or (beat == count - 1 and self.cycle - self.last < BETWEEN_LASTS):
                dut.valid.value = 0
                dut.op.value = int(random.integers(len(VectorOp)))
                dut.route.value = int(random.integers(1 << 32))
                for port, bits in WIDTHS.items():
                    getattr(dut, port).value = pack(extremes(random, beats[port][beat].shape, bits), bits)
                await self.tick()
            dut.valid.value, dut.op.value = 1, op
            route = targets | {"produces": 1, "first": beat == 0, "last": beat == count - 1}
            dut.route.value = ROUTE.const({name: int(value) for name, value in route.items()}).as_value().value
            for port, bits in WIDTHS.items():
                getattr(dut, port).value = pack(beats[port][beat], bits)
            if totals:
                self.begun = self.cycle
            if beat == count - 1:
                self.last = self.cycle
                for place, (name, total) in enumerate(totals):
                    self.due[self.cycle + self.latency + place] = writeback(targets[name], total)
            await self.tick()
        dut.valid.value = 0


@cocotb.test()
async def bench_operations(dut):
    lanes, latency, random = parameters()["lanes"], parameters()["latency"], rng()
    dut.valid.value = 0
    await start(dut)
    bench = Bench(dut, latency)
    for number in range(300):
        op = VectorOp(int(random.integers(len(VectorOp))))
        count = int(random.choice([1, 1, 2, 3, int(random.integers(1, 20))]))
        beats = {port: extremes(random, (count, lanes), bits) for port, bits in WIDTHS.items()}
        if random.random() < 0.1:
            beats = {port: np.zeros_like(values) for port, values in beats.items()}
        await bench.run(random, op, beats, gap=0.3 if number % 3 == 0 else 0.0)
        if random.random() < 0.1:
            for _ in range(latency + 4):
                await bench.tick()
    # The largest sums there are.
    for op in (VectorOp.STAT, VectorOp.MLP):
        shape = (ELEMENTS_MAX // lanes, lanes)
        lowest = {port: np.full(shape, -1 << bits - 1) for port, bits in WIDTHS.items()}
        await bench.run(random, op, lowest, gap=0.0)
    for _ in range(latency + 4):
        await bench.tick()
    assert not bench.due


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_operations(lanes):
    component = Reduce(lanes=lanes)
    simulate(
        component,
        __file__,
        bench="bench_operations",
        parameters={"lanes": lanes, "latency": component.latency, "seed": lanes},
    )
