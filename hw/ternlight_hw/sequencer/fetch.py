"""The program memory and the instructions that contexts will need next."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import Geometry
from ternlight.isa import INSTRUCTION_COLUMNS

from ..memory import ColumnMemory, LoadPort
from .arbiter import following
from .decode import DECODED, WORD_BITS, decode

AHEAD = 2
"""Instructions that wait for a context, decoded."""


class Fetch(wiring.Component):
    """Reads the program for every context, from its beginning after reset and after `restart`.

    Latency: the first instruction is offered 5 cycles after `restart`. Throughput: one instruction per cycle, of
    which one context takes every other one.

    Parameters: geometry.
    Members:
        load: In LoadPort of the program memory.
        restart: In, one bit per context: what was offered is taken back.
        instructions: Out streams of DECODED, one per context.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self._program = ColumnMemory(depth=geometry.program_words, columns=INSTRUCTION_COLUMNS, registered=True)
        self.address_bits = self._program.address_bits
        self.column_bits = self._program.column_bits
        super().__init__(
            {
                "load": In(LoadPort(address_bits=self.address_bits, column_bits=self.column_bits)),
                "restart": In(geometry.contexts),
                "instructions": Out(stream.Signature(DECODED)).array(geometry.contexts),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.program = program = self._program
        wiring.connect(m, wiring.flipped(self.load), program.load)
        contexts = self.geometry.contexts

        counters = [Signal(ceil_log2(self.geometry.program_words), name=f"counter_{c}") for c in range(contexts)]
        room = [Signal(range(AHEAD + 1), init=AHEAD, name=f"room_{c}") for c in range(contexts)]
        wanted = Signal(contexts)
        taken = [out.valid & out.ready for out in self.instructions]
        m.d.comb += wanted.eq(Cat(count.any() | leaves for count, leaves in zip(room, taken, strict=True)))
        latest, granted = Signal(contexts, init=1), Signal(contexts)
        m.d.comb += granted.eq(following(wanted, latest))
        with m.If(wanted.any()):
            m.d.sync += latest.eq(granted)

        # What is on its way: asked for, read, and decoded.
        asked, read, arrives = (Signal(contexts, name=name) for name in ("asked", "read", "arrives"))
        m.d.sync += [
            asked.eq(granted & ~self.restart),
            read.eq(asked & ~self.restart),
            arrives.eq(read & ~self.restart),
        ]
        m.d.comb += program.read.enable.eq(1)
        for context, counter in enumerate(counters):
            with m.If(granted[context]):
                m.d.comb += program.read.address.eq(counter)

        word, decoded = Signal(DECODED), Signal(DECODED)
        decode(m, program.read.data[:WORD_BITS], word)
        m.d.sync += decoded.eq(word)
        for context, (counter, count, out) in enumerate(zip(counters, room, self.instructions, strict=True)):
            first, second = (Signal(DECODED, name=f"{name}_{context}") for name in ("first", "second"))
            has_first, has_second = (Signal(name=f"has_{name}_{context}") for name in ("first", "second"))
            free = ~has_first | out.ready
            m.d.comb += [out.valid.eq(has_first), out.payload.eq(first)]
            # What is free loads whatever comes, so that its enable is a flip-flop.
            with m.If(free):
                m.d.sync += [first.eq(Mux(has_second, second, decoded)), has_first.eq(has_second | arrives[context])]
            with m.If(~has_second):
                m.d.sync += second.eq(decoded)
            m.d.sync += [
                has_second.eq(~free & (has_second | arrives[context])),
                count.eq(count + taken[context] - granted[context]),
            ]
            with m.If(granted[context]):
                m.d.sync += counter.eq(counter + 1)
            with m.If(self.restart[context]):
                m.d.sync += [counter.eq(0), count.eq(AHEAD), has_first.eq(0), has_second.eq(0)]
        return m
