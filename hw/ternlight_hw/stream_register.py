"""A register in a stream."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class StreamRegister(wiring.Component):
    """One payload between two units, so that the way out of a block RAM and the logic after it are two stages.

    Latency 1 cycle; throughput one payload per cycle.
    Parameters: shape, of the payload. Members: source (In), sink (Out), streams.
    """

    def __init__(self, *, shape) -> None:
        self.shape = shape
        super().__init__({"source": In(stream.Signature(shape)), "sink": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.source.ready.eq(self.sink.ready | ~self.sink.valid)
        with m.If(self.source.ready):
            m.d.sync += self.sink.valid.eq(self.source.valid)
            with m.If(self.source.valid):
                m.d.sync += self.sink.payload.eq(self.source.payload)
        return m
