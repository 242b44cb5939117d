"""Non-negative integers to ufloat."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.ufloat import MANTISSA_BITS

from ..layouts import UFLOAT, WRITEBACK
from ..pipeline import Flow
from .arithmetic import named

SUM_BITS = 48
TOTAL = data.StructLayout({"target": WRITEBACK["target"].shape, "value": unsigned(SUM_BITS)})
"""A sum on its way to a scalar register."""

STEPS = (16, 16, 8, 4, 2, 1)
"""Left shifts, each by a stage of its own: done if that many bits at the top are empty."""


def leading_zeros(m: Module, value: Value) -> Value:
    """The zeros above the highest bit that is set; of zero, the width, unless it is a power of two."""
    padding = (1 << (len(value) - 1).bit_length()) - len(value)
    return _leading(m, Cat(Const(1 << padding >> 1, padding), value))[1]


def _leading(m: Module, value: Value) -> tuple[Value, Value]:
    """Whether any bit of a power of two is set, and the zeros above it."""
    if len(value) == 1:
        return value, Const(0, 0)
    (low_any, low), (high_any, high) = (
        _leading(m, half) for half in (value[: len(value) // 2], value[len(value) // 2 :])
    )
    return named(m, low_any | high_any), named(m, Cat(Mux(high_any, high, low), ~high_any))


class Normaliser(wiring.Component):
    """mantissa * 2**exponent = value, truncated to 15 bits: ternlight_sim.golden.scalar.normalise.

    Latency 6 cycles, one value per cycle.

    Attributes: latency.
    Members: input: Flow of TOTAL, in. output: Flow of layouts.WRITEBACK, out. busy: a value is on its way, out.
    """

    latency = len(STEPS)

    def __init__(self) -> None:
        super().__init__(
            {
                "input": In(Flow(TOTAL)),
                "output": Out(Flow(WRITEBACK)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        valid, total, exponent = self.input.valid, self.input.payload, Const(SUM_BITS - MANTISSA_BITS)
        busy = []
        for number, step in enumerate(STEPS, 1):
            empty = named(m, ~total.value[-step:].any())
            next_valid = Signal(name=f"valid_{number}")
            next_total = Signal(TOTAL, name=f"total_{number}")
            next_exponent = Signal(UFLOAT["exponent"].shape, name=f"exponent_{number}")
            m.d.sync += next_valid.eq(valid)
            with m.If(valid):
                m.d.sync += [
                    next_total.target.eq(total.target),
                    next_total.value.eq(Mux(empty, total.value << step, total.value)),
                    next_exponent.eq(exponent - Mux(empty, step, 0)),
                ]
            valid, total, exponent = next_valid, next_total, next_exponent
            busy.append(valid)
        result = self.output.payload
        m.d.comb += [
            self.output.valid.eq(valid),
            result.target.eq(total.target),
            result.value.mantissa.eq(total.value[-MANTISSA_BITS:]),
            result.value.exponent.eq(Mux(total.value[-1], exponent, 0)),
            self.busy.eq(Cat(busy).any()),
        ]
        return m
