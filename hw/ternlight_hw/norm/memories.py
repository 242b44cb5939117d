"""The vector memories, in distributed RAM: a word is read in the cycle that shows its address."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry, ceil_div

from ..gated import GatedPort
from ..layouts import element_beat
from ..primitives import DISTRIBUTED_RAM, DISTRIBUTED_RAM_WORDS
from .beat import WORD_BITS


def word_of(context: Value, address: Value, words: int) -> Value:
    """Where a context's word lies in a memory of so many words per context; without a multiplier."""
    base = Const(0)
    for bit in range(len(context)):
        base = base + Mux(context[bit], words << bit, 0)
    return base + address


class WordMemory(wiring.Component):
    """A distributed RAM of `depth` words of `bits` bits; a write can be read in the next cycle.

    Members: address, in; data, out. write, write_address, write_data, in.
    """

    def __init__(self, *, depth: int, bits: int) -> None:
        self.depth = ceil_div(depth, DISTRIBUTED_RAM_WORDS) * DISTRIBUTED_RAM_WORDS
        self.bits = bits
        super().__init__(
            {
                "address": In(range(self.depth)),
                "data": Out(bits),
                "write": In(1),
                "write_address": In(range(self.depth)),
                "write_data": In(bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        memory = Memory(shape=unsigned(self.bits), depth=self.depth, init=[], attrs=DISTRIBUTED_RAM)
        m.submodules.memory = memory
        read, write = memory.read_port(domain="comb"), memory.write_port()
        m.d.comb += [
            read.addr.eq(self.address),
            self.data.eq(read.data),
            write.en.eq(self.write),
            write.addr.eq(self.write_address),
            write.data.eq(self.write_data),
        ]
        return m


class ResidualMemory(wiring.Component):
    """The residuals of all contexts, even and odd words in banks of their own, so that two readers rarely meet.

    Parameters
    ----------
    geometry: vector, contexts and residual_words are used.

    Members
    -------
    next_word: what the first reader reads in the next cycle, in. source: what it reads in this one, out.
    next_adds, next_old: the second reader reads in the next cycle, this word, in. old: what it reads in this one, out.
    taken, taken_bank: the second reader has this bank in the next cycle, and `source` is invalid if it lies there, out.
    write, word, written: this word is written; it can be read in the next cycle, in.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        beat = element_beat(geometry)
        super().__init__(
            {
                "next_word": In(WORD_BITS),
                "source": Out(beat),
                "next_adds": In(1),
                "next_old": In(WORD_BITS),
                "old": Out(beat),
                "taken": Out(1),
                "taken_bank": Out(1),
                "write": In(1),
                "word": In(WORD_BITS),
                "written": In(beat),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        source_bank, old_bank = Signal(), Signal()
        m.d.comb += [self.taken.eq(self.next_adds), self.taken_bank.eq(self.next_old[0])]
        m.d.sync += [source_bank.eq(self.next_word[0]), old_bank.eq(self.next_old[0])]
        words = []
        for number in range(2):
            bank = WordMemory(
                depth=ceil_div(geometry.contexts * geometry.residual_words, 2), bits=element_beat(geometry).size
            )
            m.submodules[f"bank_{number}"] = bank
            address = Signal.like(bank.address, name=f"address_{number}")
            takes = self.next_adds & (self.next_old[0] == number)
            m.d.sync += address.eq(Mux(takes, self.next_old[1:], self.next_word[1:]))
            m.d.comb += [
                bank.address.eq(address),
                bank.write.eq(self.write & (self.word[0] == number)),
                bank.write_address.eq(self.word[1:]),
                bank.write_data.eq(self.written),
            ]
            words.append(bank.data)
        m.d.comb += [
            self.source.eq(Mux(source_bank, words[1], words[0])),
            self.old.eq(Mux(old_bank, words[1], words[0])),
        ]
        return m


class GatedMemory(wiring.Component):
    """The gate unit's outputs of all contexts; the halves of a word are written one by one.

    Parameters
    ----------
    geometry: vector, contexts and gated_words are used.

    Members
    -------
    gated: the gate unit's writes (GatedPort), in.
    word: what is read in this cycle, in. source: the word, out.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "gated": In(GatedPort(geometry)),
                "word": In(WORD_BITS),
                "source": Out(element_beat(geometry)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry, port = self.geometry, self.gated
        words = []
        for upper in range(2):
            half = WordMemory(depth=geometry.contexts * geometry.gated_words, bits=port.values.shape().size)
            m.submodules["upper" if upper else "lower"] = half
            m.d.comb += [
                half.address.eq(self.word),
                half.write.eq(port.enable & (port.upper == upper)),
                half.write_address.eq(word_of(port.context, port.address, geometry.gated_words)),
                half.write_data.eq(port.values),
            ]
            words.append(half.data)
        m.d.comb += self.source.eq(Cat(words))
        return m
