"""Scores of candidate tokens: tempered logit plus noise."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import SHIFT_MAX
from ternlight.geometry import Geometry
from ternlight.gumbel import FRACTION, SCORE_BITS, WORD_BITS
from ternlight.ufloat import MANTISSA_MAX

from .gumbel import ID_BITS, GumbelNoise
from .layouts import UFLOAT
from .pipeline import Flow, Pipeline

SCORED = data.StructLayout({"token": unsigned(ID_BITS), "score": signed(SCORE_BITS)})

SPLIT = 11
"""Low bits of an accumulator that are multiplied on their own: a product of 18 bits by 18 holds either part."""


def candidate_layout(geometry: Geometry) -> data.StructLayout:
    """A token and its accumulator."""
    return data.StructLayout({"token": unsigned(ID_BITS), "acc": signed(geometry.accumulator)})


class Scorer(wiring.Component):
    """score = temper(acc, scale) + gumbel(seed, position, token), both of ternlight_sim.golden.sampling.

    The accumulator waits while the noise is made, and is multiplied and shifted during the last stages.

    Latency: `latency` cycles. Throughput: one per cycle; there is no back-pressure.

    Parameters:
        geometry: gives the accumulator's width.

    Members:
        seed, position (in, 32), scale (in, UFLOAT): hold still while anything is in the pipeline.
        candidate (in, Flow of candidate_layout).
        scored (out, Flow of SCORED).
    """

    temper_latency = 4
    latency = GumbelNoise.latency + 1

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "seed": In(WORD_BITS),
                "position": In(WORD_BITS),
                "scale": In(UFLOAT),
                "candidate": In(Flow(candidate_layout(geometry))),
                "scored": Out(Flow(SCORED)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.noise = noise = GumbelNoise()
        m.d.comb += [
            noise.seed.eq(self.seed),
            noise.block.valid.eq(self.candidate.valid),
            noise.block.payload.token.eq(self.candidate.payload.token),
            noise.block.payload.position.eq(self.position),
        ]

        # Registered: the scale is there long before the first accumulator has waited for its noise.
        clipped = (self.scale.exponent > -FRACTION) & (self.scale.mantissa != 0)
        distance = -FRACTION - self.scale.exponent
        mantissa = Signal.like(self.scale.mantissa)
        shift = Signal(range(SHIFT_MAX + 1))
        m.d.sync += [
            mantissa.eq(Mux(clipped, MANTISSA_MAX, self.scale.mantissa)),
            shift.eq(Mux(distance < 0, 0, Mux(distance > SHIFT_MAX, SHIFT_MAX, distance))),
        ]

        pipe = Pipeline(m, self.candidate.valid)
        token, acc = self.candidate.payload.token, self.candidate.payload.acc
        while pipe.depth < noise.latency - self.temper_latency:
            token, acc = pipe.stage(token=token, acc=acc)
        token, low, high = pipe.stage(token=token, low=acc[:SPLIT] * mantissa, high=acc[SPLIT:].as_signed() * mantissa)
        # One bit below the fixed point stays, for the rounding.
        token, doubled = pipe.stage(token=token, doubled=((high << SPLIT) + low) << 1)
        token, doubled = pipe.stage(token=token, doubled=doubled >> (shift[4:] << 4))
        token, doubled = pipe.stage(token=token, doubled=doubled >> shift[:4])
        score = ((doubled >> 1) + doubled[0] + noise.noise.payload)[:SCORE_BITS].as_signed()
        token, score = pipe.stage(token=token, score=score)

        assert pipe.depth == self.latency
        m.d.comb += [
            self.scored.valid.eq(pipe.valid),
            self.scored.payload.token.eq(token),
            self.scored.payload.score.eq(score),
        ]
        return m
