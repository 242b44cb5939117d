"""The control of the stages from FACTORS to ROUNDED: what comes of an operation's scale on the way."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import BLOCK_SHIFT_MAX, QUANT_FRACTION, SQUARE_SHIFT

from ..pipeline import Flow
from .beat import HEAD, NARROWING_BITS, OPERAND_BEAT, SOURCE_BEAT
from .scaling import SHIFT, SHIFT_END, clip_negative, lifted, split

STAT_FACTOR = 1 << SQUARE_SHIFT
"""STAT goes the way of QUANT: narrowed to what is squared, and then multiplied by what squaring drops again."""
LESS_BITS = (SHIFT_END + BLOCK_SHIFT_MAX).bit_length()
"""For the largest shift that matters before v is narrowed, less one."""


class Head(wiring.Component):
    """Takes a beat from READ in every cycle; a cycle later it is in FACTORS.

    Members
    -------
    read: Flow of SOURCE_BEAT, in.
    lanes: the control of the lanes (HEAD), out.
    gained: Flow of SOURCE_BEAT, the beat in GAINED, out.
    narrowed: Flow of OPERAND_BEAT, the beat of STAT or QUANT in ROUNDED, out: in OPERANDS in the next cycle.
    busy: a beat is here, out.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "read": In(Flow(SOURCE_BEAT)),
                "lanes": Out(HEAD),
                "gained": Out(Flow(SOURCE_BEAT)),
                "narrowed": Out(Flow(OPERAND_BEAT)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        stages = [self.read]
        for name in ("factors", "products", "gained", "rounded"):
            stage = Flow(SOURCE_BEAT).create(path=(name,))
            m.d.sync += stage.valid.eq(stages[-1].valid)
            with m.If(stages[-1].valid):
                m.d.sync += stage.payload.eq(stages[-1].payload)
            stages.append(stage)
        _, factors, products, gained, rounded = stages

        # The whole shift of v, and what of it narrows v to BLOCK_BITS, with the half that rounds what that drops.
        beat = factors.payload
        narrowing = [Signal(NARROWING_BITS, name=f"narrowing_{stage}") for stage in ("products", "gained", "rounded")]
        exponent = beat.scale.exponent
        # What is left of the shift after narrowing is none, or one more than `less`: -n = ~n + 1. STAT has none.
        none = [Signal(name=f"none_{stage}") for stage in ("products", "gained")]
        less = [Signal(LESS_BITS, name=f"less_{stage}") for stage in ("products", "gained")]
        m.d.sync += [
            narrowing[0].eq(
                Mux(
                    beat.quant,
                    clip_negative(exponent, QUANT_FRACTION, BLOCK_SHIFT_MAX),
                    Mux(beat.peak, 0, SQUARE_SHIFT),
                )
            ),
            none[0].eq(~beat.quant | ~exponent[-1]),
            none[1].eq(none[0]),
            less[0].eq(~exponent[:LESS_BITS] | (~exponent[LESS_BITS:-1]).any().replicate(LESS_BITS)),
            less[1].eq(less[0] - narrowing[0]),
            narrowing[1].eq(narrowing[0]),
            narrowing[2].eq(narrowing[1]),
            self.lanes.half.eq((1 << narrowing[0])[1:]),
            self.lanes.above.eq(Cat(narrowing[1] <= bit for bit in range(BLOCK_SHIFT_MAX))),
        ]

        shift = Signal(SHIFT)
        m.d.sync += shift.eq(Mux(none[1], 0, split(m, less[1], offset=1)))

        # A register, as what holds the results is close to none.
        with m.If(gained.payload.peak):
            m.d.sync += rounded.valid.eq(0)
        beat, operand = rounded.payload, self.narrowed.payload
        m.d.comb += [
            self.lanes.factors.eq(factors.valid),
            self.lanes.lift.eq(factors.payload.lift),
            self.lanes.products.eq(products.valid),
            self.lanes.magnitude.eq(products.payload.peak),
            self.lanes.gained.eq(gained.valid),
            self.lanes.rounded.eq(self.narrowed.valid),
            self.lanes.narrowing.eq(narrowing[2]),
            self.gained.valid.eq(gained.valid),
            self.gained.payload.eq(gained.payload),
            self.narrowed.valid.eq(rounded.valid),
            operand.quant.eq(beat.quant),
            operand.buffer.eq(beat.buffer),
            operand.last.eq(beat.last),
            operand.target.eq(beat.target),
            operand.factor.eq(lifted(Mux(beat.quant, beat.scale.mantissa, STAT_FACTOR), shift)),
            operand.steps.eq(shift.steps),
            self.busy.eq(factors.valid | products.valid | gained.valid | rounded.valid),
        ]
        return m
