"""A register in a stream."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out


class StreamRegister(wiring.Component):
    """One payload between two units whose paths it parts both ways: `valid`, payload and `ready` are flip-flops.

    Latency 1 cycle; throughput one payload per two cycles.
    Parameters: shape, of the payload. Members: source (In), sink (Out), streams of it.
    """

    def __init__(self, *, shape) -> None:
        self.shape = shape
        super().__init__({"source": In(stream.Signature(shape)), "sink": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.source.ready.eq(~self.sink.valid)
        with m.If(self.sink.valid):
            m.d.sync += self.sink.valid.eq(~self.sink.ready)
        with m.Elif(self.source.valid):
            m.d.sync += [self.sink.valid.eq(1), self.sink.payload.eq(self.source.payload)]
        return m
