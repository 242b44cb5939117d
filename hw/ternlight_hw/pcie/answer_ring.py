"""The window of answers: packets of the command port, for the host to read or for us to write to its memory."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.pcie_map import INDEX_BITS, WINDOW_WORDS

from ..packets import PACKET_WORD, WORD_BITS
from .control import RingControl


class AnswerRing(wiring.Component):
    """Holds WINDOW_WORDS of packets; `head` moves when one is complete.

    Throughput: one word per cycle, as long as there is room. During a reset packets are taken and dropped, so that
    whoever sends them comes to an end.

    Members: control (In, RingControl), idle (Out), between packets; packets (In, stream of PACKET_WORD); head (Out),
    tail (In), up to which words are no longer needed; address (In, of a word), data (Out, a cycle later).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "control": In(RingControl()),
                "idle": Out(1),
                "packets": In(stream.Signature(PACKET_WORD)),
                "head": Out(INDEX_BITS),
                "tail": In(INDEX_BITS),
                "address": In(range(WINDOW_WORDS)),
                "data": Out(WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(WORD_BITS), depth=WINDOW_WORDS, init=[])
        write, read = memory.write_port(), memory.read_port()
        index, inside = Signal(INDEX_BITS), Signal()
        word = self.packets.payload
        full = (index - self.tail)[:INDEX_BITS] == WINDOW_WORDS
        taken = self.packets.valid & self.packets.ready
        m.d.comb += [
            self.idle.eq(~inside),
            self.packets.ready.eq(~self.control.clear & (self.control.resetting | ~full)),
            write.addr.eq(index),
            write.data.eq(word.word),
            write.en.eq(taken & ~self.control.resetting),
            read.addr.eq(self.address),
            self.data.eq(read.data),
        ]
        with m.If(taken):
            m.d.sync += inside.eq(~word.last)
        with m.If(self.control.clear):
            m.d.sync += [index.eq(0), self.head.eq(0)]
        with m.Elif(write.en):
            m.d.sync += index.eq(index + 1)
            with m.If(word.last):
                m.d.sync += self.head.eq(index + 1)
        return m
