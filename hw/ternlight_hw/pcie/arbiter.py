"""Several sources of TLPs on one stream."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .tlp import DWORD


class TlpArbiter(wiring.Component):
    """Whole TLPs of `sources` in turn: whoever was served waits until the others that wait were.

    Latency 0 within a TLP, and one cycle before it.
    Parameters: sources, at least 2.
    Members: sources (In, an array of streams of DWORD); dwords (Out, stream of DWORD).
    """

    def __init__(self, *, sources: int) -> None:
        if sources < 2:
            raise ValueError(f"sources must be at least 2, not {sources}")
        self.count = sources
        words = stream.Signature(DWORD)
        super().__init__({"sources": In(words).array(sources), "dwords": Out(words)})

    def elaborate(self, platform):
        m = Module()
        turn, busy = Signal(range(self.count)), Signal()
        out = self.dwords
        with m.If(~busy), m.Switch(turn):
            for current in range(self.count):
                with m.Case(current):
                    # The last assignment wins: that of the source behind the current one.
                    for distance in range(self.count, 0, -1):
                        other = (current + distance) % self.count
                        with m.If(self.sources[other].valid):
                            m.d.sync += [turn.eq(other), busy.eq(1)]
        with m.Else():
            with m.Switch(turn):
                for current, source in enumerate(self.sources):
                    with m.Case(current):
                        m.d.comb += [
                            out.valid.eq(source.valid),
                            out.payload.eq(source.payload),
                            source.ready.eq(out.ready),
                        ]
            with m.If(out.valid & out.ready & out.payload.last):
                m.d.sync += busy.eq(0)
        return m
