"""Takes received TLPs apart: writes to the BAR, requests to be answered, and completions of our own reads."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .tlp import (
    BAR_WORD_BITS,
    COMPLETION,
    COMPLETION_END,
    COMPLETION_HEADER,
    DWORD,
    DWORD_BITS,
    HEAD,
    LENGTH_BITS,
    LENGTH_MAX,
    READ_REQUEST,
    REQUEST,
    Kind,
    byte_swap,
)

HEADER_WORDS_MAX = 4
WHOLE = 0b1111
"""Byte enables of a whole word."""

BAR_WRITE = data.StructLayout({"enable": 1, "address": BAR_WORD_BITS, "data": DWORD_BITS})
"""A word that the host writes, for one cycle."""

COMPLETION_PART = data.StructLayout({"begins": 1, "enable": 1, "data": DWORD_BITS, "ends": 1, "broken": 1})
"""Of a completion: its header is valid, a word of its data is, it is over; one of the three per cycle."""

NEWS = data.StructLayout(
    {"received": 1, "partial": 1, "ignored": 1, "poisoned": 1, "broken": 1, "write_poisoned": 1, "write_broken": 1}
)
"""What has just happened, a cycle each."""


class TlpReceiver(wiring.Component):
    """Decodes TLPs with headers of three and four words, with and without digest.

    * Memory writes go to `write`, a word per cycle, with the bytes of a word in memory order. Words whose byte
      enables are not all set are left out, and counted unless none is. A poisoned write is left out as a whole.
    * Memory reads go to `request`, and so does every other request that must be answered, as not supported.
    * Completions go to `header` and `completion`, poisoned ones with their data.
    * Messages are ignored. A TLP that is shorter or longer than its header says, or has a prefix, is broken.

    Writes and completions never wait: only a request that finds `request` not ready stops the stream.
    Throughput: one word per cycle, and two cycles more per TLP. All outputs are from flip-flops.

    Members: dwords (In, stream of DWORD); write (Out, BAR_WRITE); request (Out, stream of READ_REQUEST); header (Out,
    COMPLETION_HEADER), completion (Out, COMPLETION_PART); news (Out, NEWS).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "dwords": In(stream.Signature(DWORD)),
                "write": Out(BAR_WRITE),
                "request": Out(stream.Signature(READ_REQUEST)),
                "header": Out(COMPLETION_HEADER),
                "completion": Out(COMPLETION_PART),
                "news": Out(NEWS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        dword, last = self.dwords.payload.dword, self.dwords.payload.last
        taken = Signal()
        m.d.comb += taken.eq(self.dwords.valid & self.dwords.ready)

        words = [Signal(DWORD_BITS, name=f"header_{place}") for place in range(HEADER_WORDS_MAX)]
        head, second, third = data.View(HEAD, words[0]), data.View(REQUEST, words[1]), words[2]
        completed, completed_end = data.View(COMPLETION, words[1]), data.View(COMPLETION_END, words[2])
        place = Signal(range(HEADER_WORDS_MAX))
        left = Signal(LENGTH_BITS + 1)  # words of data to come
        address = Signal(BAR_WORD_BITS)
        enables = Signal(4)
        first = Signal()
        broken = Signal()
        ended = Signal()  # with its header
        length = Mux(head.length == 0, LENGTH_MAX, head.length)
        low = Mux(head.wide, words[3], third)

        # Of the header, from the cycle after DECODE on.
        is_write, is_completion, is_message, is_answered = (Signal() for _ in range(4))
        memory = head.kind == Kind.MEMORY
        completes = (head.kind == Kind.COMPLETION) | (head.kind == Kind.COMPLETION_LOCKED)
        message = head.kind[3:] == Kind.MESSAGE >> 3
        m.d.comb += enables.eq(Mux(first, second.first_enable, Mux(left == 1, second.last_enable, WHOLE)))

        m.d.sync += [
            self.write.enable.eq(0),
            self.completion.begins.eq(0),
            self.completion.enable.eq(0),
            self.completion.ends.eq(0),
            self.news.as_value().eq(0),
        ]
        answer = self.request.payload
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += self.dwords.ready.eq(1)
                with m.If(taken):
                    with m.Switch(place):
                        for index, word in enumerate(words):
                            with m.Case(index):
                                m.d.sync += word.eq(dword)
                    m.d.sync += [place.eq(place + 1), ended.eq(last)]
                    # The first word says whether the fourth belongs to the header.
                    complete = (place == HEADER_WORDS_MAX - 1) | ((place == HEADER_WORDS_MAX - 2) & ~head.wide)
                    with m.If(complete):
                        m.next = "DECODE"
                    with m.Elif(last):
                        m.d.sync += [self.news.received.eq(1), self.news.broken.eq(1), place.eq(0)]
            with m.State("DECODE"):
                m.d.sync += [
                    place.eq(0),
                    first.eq(1),
                    left.eq(Mux(head.has_data, length, 0)),
                    address.eq(low[2:]),
                    broken.eq(head.prefix | (ended & head.has_data)),
                    is_write.eq(memory & head.has_data),
                    is_completion.eq(completes),
                    is_message.eq(message),
                    is_answered.eq(~(memory & head.has_data) & ~completes & ~message),
                    self.header.requester.eq(completed_end.requester),
                    self.header.tag.eq(completed_end.tag),
                    self.header.status.eq(completed.status),
                    self.header.byte_count.eq(completed.byte_count),
                    self.header.length.eq(head.length),
                    self.header.has_data.eq(head.has_data),
                    self.header.poisoned.eq(head.poisoned),
                    self.header.locked.eq(head.kind == Kind.COMPLETION_LOCKED),
                    self.completion.begins.eq(completes & ~head.prefix),
                ]
                m.next = "DATA"
                with m.If(ended):
                    m.next = "FINISH"
                with m.Elif(~head.has_data | head.prefix):
                    m.next = "REST"
            with m.State("DATA"):
                m.d.comb += self.dwords.ready.eq(1)
                m.d.sync += [
                    self.write.address.eq(address),
                    self.write.data.eq(byte_swap(dword)),
                    self.completion.data.eq(byte_swap(dword)),
                ]
                with m.If(taken):
                    m.d.sync += [first.eq(0), left.eq(left - 1), address.eq(address + 1)]
                    with m.If(is_write & ~head.poisoned):
                        m.d.sync += [
                            self.write.enable.eq(enables == WHOLE),
                            self.news.partial.eq((enables != WHOLE) & (enables != 0)),
                        ]
                    m.d.sync += self.completion.enable.eq(is_completion)
                    with m.If(last):
                        m.d.sync += broken.eq((left != 1) | head.digest)
                        m.next = "FINISH"
                    with m.Elif(left == 1):
                        m.next = "REST"
            with m.State("REST"):
                # A digest is one word; what else comes is too much.
                m.d.comb += self.dwords.ready.eq(1)
                with m.If(taken):
                    m.d.sync += first.eq(0)
                    with m.If(last):
                        m.d.sync += broken.eq(broken | ~head.digest)
                        m.next = "FINISH"
                    with m.Else():
                        m.d.sync += broken.eq(1)
            with m.State("FINISH"):
                m.d.sync += [
                    self.news.received.eq(1),
                    self.news.broken.eq(broken),
                    self.news.poisoned.eq(head.poisoned),
                    self.news.ignored.eq(is_message & ~broken),
                    self.news.write_poisoned.eq(is_write & head.poisoned),
                    self.news.write_broken.eq(is_write & broken),
                    self.completion.ends.eq(is_completion & ~head.prefix),
                    self.completion.broken.eq(broken),
                ]
                m.next = "HEADER"
                with m.If(is_answered & ~broken):
                    m.d.sync += [
                        self.request.valid.eq(1),
                        answer.requester.eq(second.requester),
                        answer.tag.eq(second.tag),
                        answer.traffic_class.eq(head.traffic_class),
                        answer.attributes.eq(head.attributes),
                        answer.ordering.eq(head.ordering),
                        answer.first_enable.eq(second.first_enable),
                        answer.last_enable.eq(second.last_enable),
                        answer.length.eq(head.length),
                        answer.address.eq(low[2:]),
                        answer.memory.eq(memory | (head.kind == Kind.LOCKED)),
                        answer.locked.eq(head.kind == Kind.LOCKED),
                        answer.supported.eq(memory),
                    ]
                    m.next = "REQUEST"
            with m.State("REQUEST"), m.If(self.request.ready):
                m.d.sync += self.request.valid.eq(0)
                m.next = "HEADER"
        return m
