"""Gumbel noise: a counter-based generator, one value per cycle."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight import gumbel as form
from ternlight.isa import CONTROL_FIELDS

from .pipeline import Flow, Pipeline

ID_BITS = CONTROL_FIELDS["vocabulary"]
"""A token id while candidates are counted: it may reach the vocabulary's size."""

BLOCK = data.StructLayout({"token": unsigned(ID_BITS), "position": unsigned(form.WORD_BITS)})
"""What the noise depends on besides the seed."""

_SEGMENT = data.StructLayout({"base": signed(form.NOISE_BITS), "slope": signed(form.SLOPE_BITS)})
_SEGMENTS = [{"base": base, "slope": slope} for base, slope in form.TABLE]


def _without_leading_zeros(value, steps):
    """The value shifted left by its leading zeros as far as the steps go, and their count."""
    zeros = []
    for step in steps:
        empty = value[-step:] == 0
        value = Mux(empty, value << step, value)[: len(value)]
        zeros.insert(0, empty)
    return value, Cat(*zeros)


class GumbelNoise(wiring.Component):
    """noise = -ln(-ln u), with u drawn from (seed, token, position): ternlight_sim.golden.sampling.gumbel.

    One round of the cipher per stage, then the leading zeros, the table (one block RAM) and the interpolation.

    Latency: `latency` cycles. Throughput: one per cycle; there is no back-pressure.

    Members:
        seed (in, 32): holds still while anything is in the pipeline.
        block (in, Flow of BLOCK).
        noise (out, Flow of signed NOISE_BITS with FRACTION fraction bits).
    """

    latency = form.ROUNDS + 6

    def __init__(self) -> None:
        super().__init__(
            {
                "seed": In(form.WORD_BITS),
                "block": In(Flow(BLOCK)),
                "noise": Out(Flow(signed(form.NOISE_BITS))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.block.valid)

        # The cipher's words keep 32 bits through all rounds.
        x = Cat(self.block.payload.token, Const(0, form.WORD_BITS - ID_BITS))
        y = self.block.payload.position
        for constant in form.CONSTANTS:
            mixed = (x.rotate_right(form.ROTATE_X) + y)[: form.WORD_BITS] ^ self.seed ^ constant
            x, y = pipe.stage(x=mixed, y=y.rotate_left(form.ROTATE_Y) ^ mixed)

        # w = 2r + 1, or 2**33 - (2r + 1) = 2 * ~r + 1 in the upper half, is shifted until its top bit is set.
        upper = x[-1]
        w = Cat(1, x[:-1] ^ upper.replicate(form.WORD_BITS - 1))
        fine = upper | w[-1]
        w, high_zeros = _without_leading_zeros(w, (16, 8))
        w, high_zeros, upper, fine = pipe.stage(w=w, high_zeros=high_zeros, upper=upper, fine=fine)
        w, low_zeros = _without_leading_zeros(w, (4, 2, 1))
        octave = Cat(low_zeros, high_zeros)
        row = Mux(upper, Mux(octave > form.TAIL, form.TAIL, octave), form.FIRST_LOWER)[: form.OCTAVE_BITS - 1]
        fine_at, coarse_at = (form.WORD_BITS - 1 - bits for bits in (form.FINE_BITS, form.COARSE_BITS))
        address, position, octave, upper = pipe.stage(
            address=Mux(fine, Cat(w[fine_at:-1], row, 1), Cat(w[coarse_at:-1], octave, 0)),
            position=Mux(fine, w[:fine_at][-form.POSITION_BITS :], w[:coarse_at][-form.POSITION_BITS :]),
            octave=octave,
            upper=upper,
        )

        m.submodules.table = table = Memory(shape=_SEGMENT, depth=len(form.TABLE), init=_SEGMENTS)
        lookup = table.read_port()
        m.d.comb += [lookup.en.eq(pipe.valid), lookup.addr.eq(address)]
        rise = Signal(range(form.RISES[-1] + 1))
        with m.If(upper), m.Switch(octave):
            for number, value in enumerate(form.RISES):
                with m.Case(number):
                    m.d.comb += rise.eq(value)
        position, rise = pipe.stage(position=position, rise=rise)
        # A second register behind the memory, whose output is late in its cycle.
        base, slope, position, rise = pipe.stage(
            base=lookup.data.base, slope=lookup.data.slope, position=position, rise=rise
        )
        base, product = pipe.stage(base=(base + rise)[: form.NOISE_BITS], product=slope * position)
        half = 1 << form.POSITION_BITS - 1
        (noise,) = pipe.stage(noise=(base + (product + half >> form.POSITION_BITS))[: form.NOISE_BITS])

        assert pipe.depth == self.latency
        m.d.comb += [self.noise.valid.eq(pipe.valid), self.noise.payload.eq(noise)]
        return m
