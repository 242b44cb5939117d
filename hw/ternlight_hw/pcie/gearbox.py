"""Between the hard block's stream of two words per beat and single words."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .tlp import BEAT, DWORD, DWORD_BITS


class TlpUnpacker(wiring.Component):
    """Beats to words.

    Throughput: one word per cycle, a beat per two cycles. Latency 0; a beat is taken with its last word.
    Members: beats (In, stream of BEAT), dwords (Out, stream of DWORD).
    """

    def __init__(self) -> None:
        super().__init__({"beats": In(stream.Signature(BEAT)), "dwords": Out(stream.Signature(DWORD))})

    def elaborate(self, platform):
        m = Module()
        second = Signal()
        beat, final = self.beats.payload, Signal()
        m.d.comb += [
            final.eq(second | ~beat.keep[1]),
            self.dwords.valid.eq(self.beats.valid),
            self.dwords.payload.dword.eq(beat.data.word_select(second, DWORD_BITS)),
            self.dwords.payload.last.eq(final & beat.last),
            self.beats.ready.eq(self.dwords.ready & final),
        ]
        with m.If(self.dwords.valid & self.dwords.ready):
            m.d.sync += second.eq(~final)
        return m


class TlpPacker(wiring.Component):
    """Words to beats.

    Throughput: one word per cycle, except in the cycle in which a beat waits. Latency 1 cycle after the word that
    completes a beat; the beat is from flip-flops.
    Members: dwords (In, stream of DWORD), beats (Out, stream of BEAT).
    """

    def __init__(self) -> None:
        super().__init__({"dwords": In(stream.Signature(DWORD)), "beats": Out(stream.Signature(BEAT))})

    def elaborate(self, platform):
        m = Module()
        beat, word = self.beats.payload, self.dwords.payload
        half = Signal()  # the first word is there
        m.d.comb += self.dwords.ready.eq(~self.beats.valid | self.beats.ready)
        with m.If(self.beats.valid & self.beats.ready):
            m.d.sync += self.beats.valid.eq(0)
        with m.If(self.dwords.valid & self.dwords.ready):
            m.d.sync += beat.last.eq(word.last)
            with m.If(half):
                m.d.sync += [beat.data[DWORD_BITS:].eq(word.dword), beat.keep.eq(3), half.eq(0)]
                m.d.sync += self.beats.valid.eq(1)
            with m.Else():
                m.d.sync += [
                    beat.data.eq(Cat(word.dword, beat.data[DWORD_BITS:])),
                    beat.keep.eq(1),
                    half.eq(~word.last),
                ]
                m.d.sync += self.beats.valid.eq(word.last)
        return m
