"""Fetches requests from the ring in the host's memory."""

from __future__ import annotations

from amaranth import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.pcie_map import INDEX_BITS, RING_WORDS, TIMEOUT_UNIT, WINDOW_WORDS

from .burst import PLAN_CYCLES, BurstPlanner
from .control import RingControl
from .receiver import COMPLETION_PART
from .request_ring import RING_WRITE
from .tlp import COMPLETION_HEADER, ID_BITS, MEMORY_COMMAND, PAYLOAD_WORDS_MIN, Completion

READS = 4
"""Reads under way, a power of two."""
READ_WORDS = 64
"""Words of a read at most: the maximum read request may be less."""
GENERATION_BITS = 3
"""With the number of the read, the five bits of a tag that every root complex takes."""

FETCH_NEWS = data.StructLayout(
    {"refused": 1, "poisoned": 1, "broken": 1, "timeout": 1, "unexpected": 1, "issued": 1, "word": 1}
)
"""What has just happened, a cycle each; the first four are faults."""


class RequestFetcher(wiring.Component):
    """Reads the host's ring up to `head`, as far as the window has room, and passes its words in order.

    Up to READS reads are under way. Their completions may come in any order, and each in as many parts as the host
    likes; every word goes to its own place of the window, and `fetched` follows the oldest read that is complete. A
    completion counts only if its tag is under way, and must have just the bytes that are still missing. With any fault
    nothing more is read. If nothing completes for `timeout` steps the reads are given up: the oldest one blocks the
    others soon, so that this finds a single lost one too. Tags change with every reset: what comes too late for that
    is `unexpected`, and taken for no other read's.

    Cycles from one read to the next: 6, and those of its TLP.
    Members:
        control: In RingControl; idle: Out.
        base: In, the ring's address in words; head: In; tail: In, up to which the window was read; fetched: Out.
        max_read: In, its code; timeout: In(16), steps of TIMEOUT_UNIT cycles; identity: In.
        command: Out stream of MEMORY_COMMAND; header: In COMPLETION_HEADER; completion: In COMPLETION_PART.
        write: Out RING_WRITE; news: Out FETCH_NEWS.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": In(RingControl()),
                "idle": Out(1),
                "base": In(62),
                "head": In(INDEX_BITS),
                "tail": In(INDEX_BITS),
                "fetched": Out(INDEX_BITS),
                "max_read": In(3),
                "timeout": In(16),
                "identity": In(ID_BITS),
                "command": Out(stream.Signature(MEMORY_COMMAND)),
                "header": In(COMPLETION_HEADER),
                "completion": In(COMPLETION_PART),
                "write": Out(RING_WRITE),
                "news": Out(FETCH_NEWS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.planner = planner = BurstPlanner(ring_words=RING_WORDS)
        slot_bits = ceil_log2(READS)
        generation = Signal(GENERATION_BITS)
        busy = Signal(READS)
        places = Array(Signal(INDEX_BITS, name=f"place_{slot}") for slot in range(READS))  # of the next word
        missing = Array(Signal(range(READ_WORDS + 1), name=f"missing_{slot}") for slot in range(READS))
        oldest, newest = Signal(slot_bits), Signal(slot_bits)
        issued = Signal(INDEX_BITS)

        # What can be asked for: words that the host has written, and that the window has room for.
        waiting, room = Signal(INDEX_BITS), Signal(INDEX_BITS)
        step = Signal(range(PLAN_CYCLES + 2))
        m.d.sync += [waiting.eq(self.head - issued), room.eq(WINDOW_WORDS - (issued - self.tail))]
        most = Signal(range(READ_WORDS + 1))
        length = Signal.like(most)  # of the read, whatever the host adds meanwhile
        m.d.sync += most.eq(Mux(self.max_read == 0, PAYLOAD_WORDS_MIN, READ_WORDS))
        m.d.comb += [
            planner.base.eq(self.base),
            planner.index.eq(issued),
            planner.available.eq(Mux(waiting < room, waiting, room)),
            planner.limit.eq(most),
        ]
        command = self.command.payload
        m.d.comb += [
            command.address.eq(planner.address),
            command.length.eq(length),
            command.tag.eq(Cat(newest, generation)),
        ]
        open_ = Signal()  # a completion has begun and not ended
        rests = Signal()
        m.d.comb += self.idle.eq(rests & ~open_ & ~self.completion.begins)
        goes = self.control.run & self.control.dma & self.control.master & ~self.control.resetting
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += rests.eq(1)
                m.d.sync += step.eq(0)
                with m.If(goes & ~busy.bit_select(newest, 1) & (self.head != issued)):
                    m.next = "PLAN"
            with m.State("PLAN"):
                # One cycle for `waiting` and `room`, then the planner's.
                m.d.sync += [step.eq(step + 1), length.eq(planner.length)]
                with m.If(step == PLAN_CYCLES + 1):
                    m.next = "READ"
                    with m.If((planner.length == 0) | ~goes):
                        m.next = "IDLE"
            with m.State("READ"):
                m.d.comb += self.command.valid.eq(1)
                with m.If(self.command.ready):
                    m.d.comb += self.news.issued.eq(1)
                    m.d.sync += [
                        busy.bit_select(newest, 1).eq(1),
                        places[newest].eq(issued),
                        missing[newest].eq(length),
                        issued.eq(issued + length),
                        newest.eq(newest + 1),
                    ]
                    m.next = "IDLE"

        # Completions.
        header, part = self.header, self.completion
        slot, current = header.tag[:slot_bits], Signal(slot_bits)
        left = missing[slot]
        accepting = Signal()
        awaited = Signal()
        m.d.comb += awaited.eq(
            busy.bit_select(slot, 1)
            & (left != 0)
            & (header.tag[slot_bits:] == generation)
            & (header.requester == self.identity)
            & ~header.locked
            & self.control.run
        )
        fits = header.has_data & (header.byte_count == left << 2) & (header.length != 0) & (header.length <= left)
        with m.If(part.begins):
            m.d.sync += [open_.eq(1), current.eq(slot), accepting.eq(0)]
            with m.If(~awaited):
                m.d.comb += self.news.unexpected.eq(1)
            with m.Elif(header.status != Completion.SUCCESS):
                m.d.comb += self.news.refused.eq(1)
            with m.Elif(header.poisoned):
                m.d.comb += self.news.poisoned.eq(1)
            with m.Elif(~fits):
                m.d.comb += self.news.broken.eq(1)
            with m.Else():
                m.d.sync += accepting.eq(1)
        with m.If(part.ends):
            m.d.sync += [open_.eq(0), accepting.eq(0)]
            m.d.comb += self.news.broken.eq(accepting & part.broken)
        m.d.comb += [
            self.write.enable.eq(part.enable & accepting),
            self.write.index.eq(places[current]),
            self.write.data.eq(part.data),
            self.news.word.eq(self.write.enable),
        ]
        with m.If(self.write.enable):
            m.d.sync += [places[current].eq(places[current] + 1), missing[current].eq(missing[current] - 1)]
        with m.If(busy.bit_select(oldest, 1) & (missing[oldest] == 0) & self.control.run):
            m.d.sync += [
                self.fetched.eq(places[oldest]),
                busy.bit_select(oldest, 1).eq(0),
                oldest.eq(oldest + 1),
            ]

        # Time without a completion while reads are under way.
        cycles, steps = Signal(range(TIMEOUT_UNIT)), Signal.like(self.timeout)
        with m.If((busy == Const(0, READS)) | part.ends | ~self.control.run):
            m.d.sync += [cycles.eq(0), steps.eq(0)]
        with m.Else():
            m.d.sync += cycles.eq(cycles + 1)
            with m.If(cycles == TIMEOUT_UNIT - 1):
                m.d.sync += steps.eq(steps + 1)
                m.d.comb += self.news.timeout.eq(steps + 1 >= self.timeout)
        with m.If(self.control.clear):
            m.d.sync += [
                *(signal.eq(0) for signal in (busy, oldest, newest, issued, self.fetched)),
                generation.eq(generation + 1),
            ]
        return m
