"""The sigmoid, interpolated from ternlight.sigmoid's table; no block RAM."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, SEGMENTS, TABLE, Z_BITS

from .beat import Pulse

MAGNITUDE_BITS = Z_BITS - 1
ONE = 1 << OUTPUT_FRACTION

_STEPS = [right - left for left, right in pairwise(TABLE)]
STEP_BITS = max(_STEPS).bit_length()
SEGMENT = data.StructLayout({"left": unsigned(OUTPUT_FRACTION + 1), "step": unsigned(STEP_BITS)})

ARGUMENT = data.StructLayout({"z": signed(Z_BITS), "lift": unsigned(INPUT_FRACTION.bit_length())})
"""z with INPUT_FRACTION - lift fraction bits."""


class Sigmoid(wiring.Component):
    """sigmoid(saturate(z << lift, 18)) of Q4.13 as U0.15: ternlight_sim.golden.vector.sigmoid.

    Latency 5 cycles, one value per cycle; one multiplier of 10x10 bits.

    Attributes: latency.
    Members: input: ARGUMENT, in. output: U0.15 (15 bits), out. Both are pulses.
    """

    latency = 5

    def __init__(self) -> None:
        super().__init__(
            {
                "input": In(Pulse(ARGUMENT)),
                "output": Out(Pulse(unsigned(OUTPUT_FRACTION))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Looked up in LUTs: half of the entries are alike, and block RAM belongs to the weights.
        m.submodules.table = table = Memory(
            shape=SEGMENT,
            depth=SEGMENTS,
            init=[{"left": left, "step": step} for left, step in zip(TABLE[:-1], _STEPS, strict=True)],
            attrs={"rom_style": "logic"},
        )
        segment = table.read_port(domain="comb")

        valid = [self.input.valid, *(Signal(name=f"valid_{stage}") for stage in range(1, self.latency + 1))]
        negative = [self.input.payload.z[-1], *(Signal(name=f"negative_{stage}") for stage in range(1, self.latency))]
        for stage, (before, after) in enumerate(pairwise(valid)):
            m.d.sync += after.eq(before)
            if stage + 1 < self.latency:
                with m.If(before):
                    m.d.sync += negative[stage + 1].eq(negative[stage])

        # |z|, where its lowest value may count as the next: both saturate, or are the table's end.
        z = self.input.payload.z
        magnitude, lift = Signal(MAGNITUDE_BITS), Signal.like(self.input.payload.lift)
        with m.If(valid[0]):
            m.d.sync += [
                magnitude.eq(Mux(z[-1], Mux(z[:-1].any(), -z, (1 << MAGNITUDE_BITS) - 1), z)),
                lift.eq(self.input.payload.lift),
            ]

        lifted, argument = Signal(MAGNITUDE_BITS + INPUT_FRACTION), Signal(MAGNITUDE_BITS)
        m.d.comb += lifted.eq(magnitude << lift)
        with m.If(valid[1]):
            m.d.sync += argument.eq(lifted[:MAGNITUDE_BITS] | lifted[MAGNITUDE_BITS:].any().replicate(MAGNITUDE_BITS))

        entry, position = Signal(SEGMENT), Signal(SEGMENT_BITS)
        m.d.comb += segment.addr.eq(argument[SEGMENT_BITS:])
        with m.If(valid[2]):
            m.d.sync += [entry.eq(segment.data), position.eq(argument[:SEGMENT_BITS])]

        product, base = Signal(STEP_BITS + SEGMENT_BITS), Signal(OUTPUT_FRACTION + 1)
        with m.If(valid[3]):
            m.d.sync += [
                product.eq(entry.step * position),
                base.eq(Mux(negative[3], ONE - entry.left, entry.left)),
            ]

        # The bits below the base round the product half up; for negative z, its negative half down.
        half = 1 << (SEGMENT_BITS - 1)
        total = Signal(OUTPUT_FRACTION + 1 + SEGMENT_BITS)
        with m.If(negative[4]):
            m.d.comb += total.eq(Cat(Const(half - 1, SEGMENT_BITS), base) - product)
        with m.Else():
            m.d.comb += total.eq(Cat(Const(half, SEGMENT_BITS), base) + product)
        with m.If(valid[4]):
            m.d.sync += self.output.payload.eq(total[SEGMENT_BITS:-1] | total[-1].replicate(OUTPUT_FRACTION))
        m.d.comb += self.output.valid.eq(valid[5])
        return m
