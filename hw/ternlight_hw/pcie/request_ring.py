"""The window of requests: words of the host, cut into packets for the command port."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.abi import MAX_DATA_WORDS, REQUEST_HEADER_WORDS, Op
from ternlight.pcie_map import INDEX_BITS, WINDOW_WORDS

from ..packets import HEADER, REQUEST_WORD, REQUEST_WORDS_MAX, WORD_BITS
from .control import RingControl

RING_WRITE = data.StructLayout({"enable": 1, "index": INDEX_BITS, "data": WORD_BITS})
"""A word for the ring's memory, for one cycle."""


class RequestRing(wiring.Component):
    """Holds words that came by writes to the BAR or were fetched, and offers them packet by packet.

    A packet begins only when all its words are there, so that a host that stops in the midst of one, or a fetch that
    fails, leaves the command port between packets. A WRITE of more than MAX_DATA_WORDS is `bad`, and not offered.

    Cycles: 4 per packet, and 2 per word. A word may be written in any cycle.
    Members: control (In, RingControl), idle (Out); write (In, RING_WRITE); head (In), the index up to which words are
    there, tail (Out), that of the next one; request (Out, stream of REQUEST_WORD); bad (Out, for a cycle).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": In(RingControl()),
                "idle": Out(1),
                "write": In(RING_WRITE),
                "head": In(INDEX_BITS),
                "tail": Out(INDEX_BITS),
                "request": Out(stream.Signature(REQUEST_WORD)),
                "bad": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(WORD_BITS), depth=WINDOW_WORDS, init=[])
        write, read = memory.write_port(), memory.read_port()
        header = data.View(HEADER, read.data)
        there = Signal(INDEX_BITS)  # words from the tail on, a cycle late
        left = Signal(range(REQUEST_WORDS_MAX + 1))  # words of the packet
        m.d.comb += [
            write.en.eq(self.write.enable),
            write.addr.eq(self.write.index),
            write.data.eq(self.write.data),
            read.addr.eq(self.tail),
            self.request.payload.word.eq(read.data),
            self.request.payload.last.eq(left == 1),
        ]
        m.d.sync += there.eq(self.head - self.tail)
        is_write = header.kind == Op.WRITE
        goes = self.control.run & ~self.control.resetting
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(self.control.clear):
                    m.d.sync += [self.tail.eq(0), there.eq(0)]
                with m.Elif(goes & (there != 0)):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.sync += left.eq(REQUEST_HEADER_WORDS + Mux(is_write, header.count[: len(left)], 0))
                m.next = "GATHER"
                with m.If(is_write & (header.count > MAX_DATA_WORDS)):
                    m.d.comb += self.bad.eq(1)
                    m.next = "IDLE"
            with m.State("GATHER"):
                with m.If(~goes):
                    m.next = "IDLE"
                with m.Elif(there >= left):
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.d.sync += [self.tail.eq(self.tail + 1), left.eq(left - 1)]
                    m.next = "FETCH"
                    with m.If(left == 1):
                        m.next = "SETTLE"
            with m.State("FETCH"):
                m.next = "OFFER"
            with m.State("SETTLE"):
                # Until the words that are there are known again.
                m.next = "IDLE"
        return m
