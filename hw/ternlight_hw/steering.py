"""Hands the engine's results to the vector unit, or to the sampler while it works."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry

from .layouts import result_beat


class ResultSteering(wiring.Component):
    """A stream switch without latency.

    Parameters: geometry.
    Members: results (In), vector, sampler (Out), streams of result_beat; sampling (In, 1): to the sampler.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        beats = stream.Signature(result_beat(geometry))
        super().__init__({"results": In(beats), "vector": Out(beats), "sampler": Out(beats), "sampling": In(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.vector.payload.eq(self.results.payload),
            self.sampler.payload.eq(self.results.payload),
        ]
        with m.If(self.sampling):
            m.d.comb += [self.sampler.valid.eq(self.results.valid), self.results.ready.eq(self.sampler.ready)]
        with m.Else():
            m.d.comb += [self.vector.valid.eq(self.results.valid), self.results.ready.eq(self.vector.ready)]
        return m
