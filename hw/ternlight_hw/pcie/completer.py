"""Answers the host's reads of the BAR, and what is not supported."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

from .tlp import (
    BAR_WORD_BITS,
    COMPLETION,
    COMPLETION_END,
    DWORD,
    DWORD_BITS,
    HEAD,
    ID_BITS,
    LENGTH_BITS,
    LENGTH_MAX,
    PAYLOAD_WORDS_MIN,
    READ_REQUEST,
    Completion,
    Kind,
    byte_swap,
)

DEPTH = 8
MARGIN = 3
"""Requests that may still come after `room` has gone: one under way in the hard block and two that it has promised."""
WORD_BYTES = 4


class Completer(wiring.Component):
    """Turns requests into completions, in order.

    A read is cut at multiples of 128 bytes, the boundary of every endpoint, so that no completion is longer than the
    least maximum payload. Byte count and lower address follow the byte enables; a read of no bytes is answered by one
    word and a count of 1. A request that is not supported gets one completion that says so, without data.

    Cycles per completion: 5, and 3 more per word. DEPTH requests wait; `room` goes when no more than MARGIN fit.

    Members:
        requests: In stream of READ_REQUEST; room: Out(1).
        address: Out, of a word in the BAR; data: In(32), the word at `address` of two cycles before.
        identity: In, the completer's bus, device and function.
        dwords: Out stream of DWORD; told: Out(1), unsupported: Out(1), a cycle per request that is answered.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "requests": In(stream.Signature(READ_REQUEST)),
                "room": Out(1),
                "address": Out(BAR_WORD_BITS),
                "data": In(DWORD_BITS),
                "identity": In(ID_BITS),
                "dwords": Out(stream.Signature(DWORD)),
                "told": Out(1),
                "unsupported": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = SyncFIFOBuffered(width=READ_REQUEST.size, depth=DEPTH)
        request = Signal(READ_REQUEST)
        m.d.comb += [
            queue.w_data.eq(self.requests.payload),
            queue.w_en.eq(self.requests.valid),
            self.requests.ready.eq(queue.w_rdy),
        ]
        m.d.sync += self.room.eq(queue.level < DEPTH - MARGIN)

        words = Signal(LENGTH_BITS + 1)  # that are still to be sent
        part = Signal(range(PAYLOAD_WORDS_MIN + 1))  # ... in this completion
        count = Signal(LENGTH_BITS + 3)  # bytes, from the first wanted one to the last one
        offset = Signal(2)  # of the first wanted byte in its word
        boundary = PAYLOAD_WORDS_MIN - self.address[: (PAYLOAD_WORDS_MIN - 1).bit_length()]

        # Of the request: bytes before the first wanted one and after the last one.
        single = request.length == 1
        before, after = (
            _zeros(request.first_enable),
            _zeros(Mux(single, request.first_enable, request.last_enable)[::-1]),
        )
        none = single & (request.first_enable == 0)
        length = Mux(request.length == 0, LENGTH_MAX, request.length)

        head, middle, end = Signal(HEAD), Signal(COMPLETION), Signal(COMPLETION_END)
        m.d.comb += [
            head.kind.eq(Mux(request.locked, Kind.COMPLETION_LOCKED, Kind.COMPLETION)),
            head.has_data.eq(request.supported),
            head.length.eq(Mux(request.supported, part, 0)),
            head.traffic_class.eq(request.traffic_class),
            head.attributes.eq(request.attributes),
            head.ordering.eq(request.ordering),
            middle.completer.eq(self.identity),
            middle.status.eq(Mux(request.supported, Completion.SUCCESS, Completion.UNSUPPORTED)),
            middle.byte_count.eq(count),
            end.requester.eq(request.requester),
            end.tag.eq(request.tag),
            end.lower_address.eq(Mux(request.memory, Cat(offset, self.address), 0)),
        ]
        out = self.dwords
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += queue.r_en.eq(1)
                m.d.sync += request.eq(queue.r_data)
                with m.If(queue.r_rdy):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [
                    words.eq(length),
                    self.address.eq(request.address),
                    offset.eq(before),
                    count.eq(Mux(none, 1, (length << 2) - before - after)),
                ]
                with m.If(~request.memory):
                    m.d.sync += count.eq(WORD_BYTES)
                m.next = "CUT"
            with m.State("CUT"):
                m.d.sync += part.eq(Mux(words < boundary, words, boundary))
                m.next = "HEAD"
            with m.State("HEAD"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(head)]
                with m.If(out.ready):
                    m.next = "MIDDLE"
            with m.State("MIDDLE"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(middle)]
                with m.If(out.ready):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(end), out.payload.last.eq(~request.supported)]
                with m.If(out.ready):
                    m.next = "ASK"
                    with m.If(~request.supported):
                        m.d.comb += self.unsupported.eq(1)
                        m.next = "IDLE"
            with m.State("ASK"):
                m.next = "WAIT"
            with m.State("WAIT"):
                m.next = "WORD"
            with m.State("WORD"):
                m.d.comb += [
                    out.valid.eq(1),
                    out.payload.dword.eq(byte_swap(self.data)),
                    out.payload.last.eq(part == 1),
                ]
                with m.If(out.ready):
                    m.d.sync += [
                        self.address.eq(self.address + 1),
                        words.eq(words - 1),
                        part.eq(part - 1),
                        count.eq(count - WORD_BYTES + offset),
                        offset.eq(0),
                    ]
                    m.next = "ASK"
                    with m.If(words == 1):
                        m.d.comb += self.told.eq(1)
                        m.next = "IDLE"
                    with m.Elif(part == 1):
                        m.next = "CUT"
        return m


def _zeros(bits):
    """How many of the low bits of four are zero; 0 for none set."""
    return Mux(bits[0], 0, Mux(bits[1], 1, Mux(bits[2], 2, Mux(bits[3], 3, 0))))
