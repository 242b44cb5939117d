"""Writes answers and the status block to the host's memory."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.pcie_map import INDEX_BITS, RING_WORDS, STATUS_WORDS, WINDOW_WORDS

from .burst import PLAN_CYCLES, BurstPlanner
from .control import RingControl
from .tlp import DWORD_BITS, MEMORY_COMMAND, PAYLOAD_WORDS_MIN

STATUS_BITS = 16

SEND_NEWS = data.StructLayout({"burst": 1, "word": 1, "report": 1})
"""What has just been written, a cycle each."""


class AnswerSender(wiring.Component):
    """Copies the window of answers to the ring in the host's memory, and tells how far it is.

    A burst takes what is there, up to the maximum payload, the end of a page, the end of the ring, and the words that
    the host has not yet taken. The status block follows it, and is written as well when the status changes. Writes
    reach the host in order: what the status block tells of is there.

    Cycles per burst: 6, its TLP's header, and 2 per word.
    Members:
        control: In RingControl; idle: Out.
        base, status_base: In, addresses in words; max_payload: In, its code.
        head: In, of the window; sent: Out, up to where the host's ring is written; host_tail: In.
        request_tail, status: In, as the status block tells them.
        address: Out, of a word in the window; data: In, a cycle later.
        command: Out stream of MEMORY_COMMAND; words: Out stream of what it writes; news: Out SEND_NEWS.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": In(RingControl()),
                "idle": Out(1),
                "base": In(62),
                "status_base": In(62),
                "max_payload": In(3),
                "head": In(INDEX_BITS),
                "sent": Out(INDEX_BITS),
                "host_tail": In(INDEX_BITS),
                "request_tail": In(INDEX_BITS),
                "status": In(STATUS_BITS),
                "address": Out(range(WINDOW_WORDS)),
                "data": In(DWORD_BITS),
                "command": Out(stream.Signature(MEMORY_COMMAND)),
                "words": Out(stream.Signature(DWORD_BITS)),
                "news": Out(SEND_NEWS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.planner = planner = BurstPlanner(ring_words=RING_WORDS)
        waiting, room = Signal(INDEX_BITS), Signal(INDEX_BITS)
        m.d.sync += [
            waiting.eq(self.head - self.sent),
            room.eq(RING_WORDS - (self.sent - self.host_tail)),
            planner.limit.eq(PAYLOAD_WORDS_MIN << self.max_payload),
        ]
        m.d.comb += [
            planner.base.eq(self.base),
            planner.index.eq(self.sent),
            planner.available.eq(Mux(waiting < room, waiting, room)),
            self.address.eq(self.sent),
        ]
        step = Signal(range(PLAN_CYCLES + 2))
        reports = Signal()  # the TLP is the status block's
        told_sent, told_status = Signal.like(self.sent), Signal.like(self.status)
        block = [Signal(DWORD_BITS, name=f"block_{place}") for place in range(STATUS_WORDS)]
        second = Signal()
        length = Signal.like(planner.length)
        left = Signal.like(length)
        command = self.command.payload
        m.d.comb += [
            command.write.eq(1),
            command.address.eq(Mux(reports, self.status_base, planner.address)),
            command.length.eq(length),
            self.words.payload.eq(Mux(reports, Mux(second, block[1], block[0]), self.data)),
        ]
        goes = self.control.dma & self.control.master & ~self.control.resetting
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                m.d.sync += [step.eq(0), second.eq(0)]
                with m.If(self.control.clear):
                    m.d.sync += [self.sent.eq(0), told_sent.eq(0), told_status.eq(0)]
                with m.Elif(goes & ((told_sent != self.sent) | (told_status != self.status))):
                    m.d.sync += [
                        block[0].eq(Cat(self.sent, self.request_tail)),
                        block[1].eq(self.status),
                        told_sent.eq(self.sent),
                        told_status.eq(self.status),
                        reports.eq(1),
                        length.eq(STATUS_WORDS),
                        left.eq(STATUS_WORDS),
                    ]
                    m.next = "OFFER"
                with m.Elif(goes & (self.head != self.sent)):
                    m.d.sync += reports.eq(0)
                    m.next = "PLAN"
            with m.State("PLAN"):
                # One cycle for `waiting` and `room`, then the planner's.
                m.d.sync += [step.eq(step + 1), length.eq(planner.length), left.eq(planner.length)]
                with m.If(step == PLAN_CYCLES + 1):
                    m.next = "OFFER"
                    with m.If(planner.length == 0):
                        m.next = "IDLE"
            with m.State("FETCH"):
                # The planner's address moves with `sent`, but only the header has it, and that has gone.
                m.d.comb += self.command.valid.eq(1)
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += [self.command.valid.eq(1), self.words.valid.eq(1)]
                with m.If(self.words.ready):
                    m.d.sync += [left.eq(left - 1), second.eq(1)]
                    with m.If(~reports):
                        m.d.comb += self.news.word.eq(1)
                        m.d.sync += self.sent.eq(self.sent + 1)
                        m.next = "FETCH"
                    with m.If(left == 1):
                        m.d.comb += [self.news.burst.eq(~reports), self.news.report.eq(reports)]
                        m.next = "IDLE"
        return m
