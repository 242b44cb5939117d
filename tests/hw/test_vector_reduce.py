"""Peak and SquareSum against the golden reductions, at their stated latencies."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight.formats import ELEMENT_BITS, SQUARE_BITS
from ternlight_hw.layouts import REGISTER, WRITEBACK
from ternlight_hw.vector.reduce import Peak, SquareSum
from ternlight_sim.bench import pack, parameters, rng, simulate, start
from ternlight_sim.golden import scalar

ELEMENTS_MAX = 1 << 13
HIGHEST = 1 << ELEMENT_BITS - 1
BEYONDS = (0b00, 0b10, 0b01)
"""BEYOND as a payload: neither, above, below."""


def extremes(random, shape, bits: int) -> np.ndarray:
    """Signed values of so many bits, of all magnitudes, one in five at an end of the range."""
    limit = 1 << bits - 1
    spread = random.integers(-limit, limit, shape) >> random.integers(0, bits, shape)
    return np.where(random.random(shape) < 0.2, random.choice([-limit, -1, 0, limit - 1], shape), spread)


def magnitudes(random, values: np.ndarray) -> int:
    """A beat of magnitudes as a payload: floor + plus in one of its two forms."""
    plus = random.integers(2, size=values.shape) & (values > 0)
    return pack((values - plus) << 1 | plus, ELEMENT_BITS + 1)


def writeback(target: int, total: int) -> int:
    value = scalar.normalise(np.int64(total))
    fields = {"mantissa": int(value.mantissa), "exponent": int(value.exponent)}
    layout = {"target": REGISTER.from_bits(target), "value": fields}
    return WRITEBACK.const(layout).as_value().value


class Bench:
    """Drives beats, and checks in every cycle what is written back, and `busy`."""

    def __init__(self, dut, latency: int):
        self.dut, self.latency = dut, latency
        self.cycle = 0
        self.due: dict[int, int] = {}  # payloads by their cycle
        self.begun = -latency - 1  # cycle of the latest beat

    async def tick(self) -> None:
        """The next cycle, with what is driven now."""
        if int(self.dut.valid.value):
            self.begun = self.cycle
        await FallingEdge(self.dut.clk)
        self.cycle += 1
        self.dut.valid.value = 0
        due = self.due.pop(self.cycle, None)
        assert bool(self.dut.writeback__valid.value) == (due is not None), self.cycle
        if due is not None:
            assert int(self.dut.writeback__payload.value) == due
            assert int(self.dut.busy.value)

    async def settle(self) -> None:
        """Until all is written back; then nothing is busy."""
        for _ in range(self.latency + 1):
            await self.tick()
        assert not self.due
        assert not int(self.dut.busy.value)
        assert self.cycle - self.begun > self.latency

    def beat(self, target: int, total: int | None) -> None:
        """Drive a beat; the last one of its operation has a total."""
        self.dut.valid.value, self.dut.last.value = 1, total is not None
        self.dut.target.value = target
        if total is not None:
            self.due[self.cycle + self.latency] = writeback(target, total)


def lengths(random, count: int) -> list[int]:
    """Beats of operations: often one."""
    return [int(random.choice([1, 1, 2, 3, int(random.integers(1, 20))])) for _ in range(count)]


@cocotb.test()
async def bench_peak(dut):
    lanes, random = parameters()["lanes"], rng()
    dut.valid.value = 0
    await start(dut)
    bench = Bench(dut, parameters()["latency"])
    for number, length in enumerate(lengths(random, 300)):
        beats = np.abs(extremes(random, (length, lanes), ELEMENT_BITS))
        kind = random.random()
        if kind < 0.1:
            beats[:] = 0
        elif kind < 0.4:
            # Powers of two and their neighbours, where a carry goes through all bits.
            power = 1 << int(random.integers(ELEMENT_BITS))
            beats = np.minimum(np.maximum(power + random.integers(-1, 1, beats.shape), 0), HIGHEST)
        # One operation in four has elements beyond the range: each is below it (2), above it (1), or neither.
        share = 0.2 if random.random() < 0.25 else 0.0
        beyond = np.where(random.random(beats.shape) < share, random.integers(1, 3, beats.shape), 0)
        beats[beyond > 0] = random.integers(HIGHEST, size=(beyond > 0).sum())
        greatest = HIGHEST if (beyond == 2).any() else HIGHEST - 1 if (beyond == 1).any() else int(beats.max())
        for index, beat in enumerate(beats):
            while number % 3 == 0 and random.random() < 0.3:
                await bench.tick()
                dut.beyond.value = int(random.integers(1 << 2 * lanes))
            bench.beat(int(random.integers(1 << REGISTER.size)), greatest if index == length - 1 else None)
            dut.magnitudes.value = magnitudes(random, beat)
            await bench.tick()
            dut.beyond.value = pack([BEYONDS[kind] for kind in beyond[index]], 2)
        if random.random() < 0.1:
            await bench.settle()
    await bench.settle()


@cocotb.test()
async def bench_square_sum(dut):
    """Operations of each way back to back, while those of the others are in progress."""
    lanes, ways, random = parameters()["lanes"], parameters()["ways"], rng()
    dut.valid.value = 0
    await start(dut)
    bench = Bench(dut, parameters()["latency"])
    shape = (ELEMENTS_MAX // lanes, lanes)
    queues = [
        [extremes(random, (length, lanes), SQUARE_BITS) for length in lengths(random, 150)]
        + [np.full(shape, -1 << SQUARE_BITS - 1)] * (way == 0)
        for way in range(ways)
    ]
    places = [0] * ways
    while any(queues):
        way = int(random.choice([way for way in range(ways) if queues[way]]))
        terms = queues[way][0]
        last = places[way] == len(terms) - 1
        bench.beat(int(random.integers(1 << REGISTER.size)), int((terms**2).sum()) if last else None)
        dut.way.value = way
        dut.terms.value = pack(terms[places[way]], SQUARE_BITS)
        places[way] += 1
        if last:
            queues[way].pop(0)
            places[way] = 0
        await bench.tick()
        while len(queues[0]) % 3 == 0 and random.random() < 0.3:
            await bench.tick()
        if random.random() < 0.01:
            await bench.settle()
    await bench.settle()


@pytest.mark.parametrize("lanes", [3, 4, 8])
def test_peak(lanes):
    component = Peak(lanes=lanes)
    parameters = {"lanes": lanes, "latency": component.latency, "seed": lanes}
    simulate(component, __file__, bench="bench_peak", parameters=parameters)


@pytest.mark.parametrize(("lanes", "ways"), [(1, 1), (6, 3)])
def test_square_sum(lanes, ways):
    component = SquareSum(lanes=lanes, ways=ways)
    parameters = {"lanes": lanes, "ways": ways, "latency": component.latency, "seed": lanes}
    simulate(component, __file__, bench="bench_square_sum", parameters=parameters)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Peak(lanes=2), "lanes must be at least 3, not 2"),
        (lambda: SquareSum(lanes=0), "lanes must be positive, not 0"),
        (lambda: SquareSum(lanes=1, ways=0), "ways must be positive, not 0"),
    ],
)
def test_refuses(build, message):
    with pytest.raises(ValueError, match=message):
        build()
