"""Non-negative integers to ufloat."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.ufloat import MANTISSA_BITS

from ..layouts import WRITEBACK
from .arithmetic import named
from .beat import Pulse

SUM_BITS = 48
TOTAL = data.StructLayout({"target": WRITEBACK["target"].shape, "value": unsigned(SUM_BITS)})
"""A reduction on its way to a scalar register."""

STEPS = ((32, 16), (8, 4), (2, 1))
"""Left shifts tried by each stage."""


class Normaliser(wiring.Component):
    """mantissa * 2**exponent = value, truncated to 15 bits: ternlight_sim.golden.scalar.normalise.

    Latency 3 cycles, one value per cycle.

    Attributes: latency.
    Members: input: TOTAL, in. output: layouts.WRITEBACK, out. Both are pulses.
    """

    latency = len(STEPS)

    def __init__(self) -> None:
        super().__init__(
            {
                "input": In(Pulse(TOTAL)),
                "output": Out(Pulse(WRITEBACK)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valid, total, distance = self.input.valid, self.input.payload, ()
        for number, steps in enumerate(STEPS, 1):
            value, done = total.value, []
            for step in steps:
                empty = named(m, ~value[-step:].any())
                value = named(m, Mux(empty, value << step, value)[:SUM_BITS])
                done = [empty, *done]
            next_valid = Signal(name=f"valid_{number}")
            next_total = Signal(TOTAL, name=f"total_{number}")
            next_distance = Signal(sum(map(len, STEPS[:number])), name=f"distance_{number}")
            m.d.sync += next_valid.eq(valid)
            with m.If(valid):
                m.d.sync += [
                    next_total.target.eq(total.target),
                    next_total.value.eq(value),
                    # Earlier stages shift further: their bits are above.
                    next_distance.eq(Cat(*done, distance)),
                ]
            valid, total, distance = next_valid, next_total, next_distance
        result = self.output.payload
        m.d.comb += [
            self.output.valid.eq(valid),
            result.target.eq(total.target),
            result.value.mantissa.eq(total.value[-MANTISSA_BITS:]),
            result.value.exponent.eq(Mux(total.value[-1], SUM_BITS - MANTISSA_BITS - distance, 0)),
        ]
        return m
