"""Tells the host of new tokens, one event at a time."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.abi import EVENT_TOKENS, TOKEN_BITS

from .packets import PACKET_WORD

EVENT = data.StructLayout({"slot": 8, "count": range(EVENT_TOKENS + 1), "tag": 8, "finish": 8, "first": 32})
"""Tokens first..first + count - 1 of a request of `slot`."""

_HEADER = data.StructLayout({"slot": 8, "count": 8, "tag": 8, "finish": 8})


class EventTeller(wiring.Component):
    """Writes the words of an event: header, index of the first token, then two tokens a word (ternlight.abi).

    Cycles, with `words` always ready: 4, and 3 more per token. The event must stand still until it is taken, in the
    cycle after its last word.

    Members:
        event: In stream of EVENT; words: Out stream of PACKET_WORD.
        index: Out(32), the token to read; token: In(TOKEN_BITS), the token at `index` of two cycles before.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "event": In(stream.Signature(EVENT)),
                "words": Out(stream.Signature(PACKET_WORD)),
                "index": Out(32),
                "token": In(unsigned(TOKEN_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        event = self.event.payload
        header = Signal(_HEADER)
        told = Signal(range(EVENT_TOKENS + 1))  # tokens of this event so far
        low = Signal(TOKEN_BITS)  # the first token of a word
        # From flip-flops, since there is time before a word: it has no tokens, ends the event, is complete.
        empty, last, whole = Signal(), Signal(), Signal()
        is_last = told + 1 == event.count
        m.d.sync += [empty.eq(event.count == 0), last.eq(is_last), whole.eq(told[0] | is_last)]
        m.d.comb += [
            header.slot.eq(event.slot),
            header.count.eq(event.count),
            header.tag.eq(event.tag),
            header.finish.eq(event.finish),
            self.words.payload.word.eq(Mux(told[0], Cat(low, self.token), self.token)),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(self.event.valid):
                m.d.sync += [told.eq(0), self.index.eq(event.first)]
                m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [self.words.valid.eq(1), self.words.payload.word.eq(header)]
                with m.If(self.words.ready):
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.comb += [
                    self.words.valid.eq(1),
                    self.words.payload.word.eq(event.first),
                    self.words.payload.last.eq(empty),
                ]
                with m.If(self.words.ready):
                    m.next = "READ"
                    with m.If(empty):
                        m.next = "TOLD"
            with m.State("READ"):
                m.next = "WAIT"
            with m.State("WAIT"):
                m.next = "TOKEN"
            with m.State("TOKEN"):
                m.d.comb += [self.words.valid.eq(whole), self.words.payload.last.eq(last)]
                with m.If(~whole | self.words.ready):
                    m.d.sync += [low.eq(self.token), told.eq(told + 1), self.index.eq(self.index + 1)]
                    m.next = "READ"
                    with m.If(last):
                        m.next = "TOLD"
            with m.State("TOLD"):
                m.d.comb += self.event.ready.eq(1)
                m.next = "IDLE"
        return m
