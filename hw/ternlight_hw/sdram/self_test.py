"""A test of a board's memory: everything is written, and read back as one stream."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .ports import WordAddress, request_layout, write_layout

STATE_BITS = 32
SEED = 0x2545_F491
SHIFTS = (13, -17, 5)
"""Marsaglia's xorshift of 32 bits: its state repeats after 2^32 - 1 words, more than any part has."""


def advance(state):
    """The state after another."""
    for shift in SHIFTS:
        state = state ^ (state << shift if shift > 0 else state >> -shift)[:STATE_BITS]
    return state


def pattern(state, bits: int):
    """The word of a state. Every other copy is inverted, so that all lines of the bus switch from beat to beat."""
    copies = bits // STATE_BITS
    return Cat(~state if copy % 2 else state for copy in range(copies))


class SelfTest(wiring.Component):
    """Writes every word of the memory, then reads them all, and compares.

    Parameters
    ----------
    address: the memory's words. words: how many are tested, from 0 on; by default all. chunk: words of a request.

    Members
    -------
    requests, writes: Out(streams of request_layout and write_layout); words: In(stream of words); to an SdramStream.
    done: Out(1), all words were read. failed: Out(1), one was not what was written.
    """

    def __init__(self, *, address: WordAddress, words: int | None = None, chunk: int = 4096) -> None:
        self.address = address
        self.count = address.words if words is None else words
        self.chunk = min(chunk, self.count)
        if not 0 < self.count <= address.words or self.count % self.chunk:
            raise ValueError(
                f"words must be a multiple of a chunk of {self.chunk}, up to {address.words}, not {self.count}"
            )
        super().__init__(
            {
                "requests": Out(stream.Signature(request_layout(address))),
                "writes": Out(stream.Signature(write_layout(address))),
                "words": In(stream.Signature(unsigned(address.word_bits))),
                "done": Out(1),
                "failed": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self.address.word_bits
        written, asked, checked = (Signal(range(self.count), name=name) for name in ("written", "asked", "checked"))
        state, expected = (Signal(STATE_BITS, init=SEED, name=name) for name in ("state", "expected"))
        writing, asking = Signal(init=1), Signal()
        word = Signal(bits)
        arrived = Signal()
        m.d.comb += [
            self.writes.valid.eq(writing),
            self.writes.payload.address.eq(written),
            self.writes.payload.word.eq(pattern(state, bits)),
            self.requests.valid.eq(asking),
            self.requests.payload.first.eq(asked),
            self.requests.payload.words.eq(self.chunk),
            self.words.ready.eq(1),
        ]
        with m.If(self.writes.valid & self.writes.ready):
            m.d.sync += [written.eq(written + 1), state.eq(advance(state))]
            with m.If(written == self.count - 1):
                m.d.sync += [writing.eq(0), asking.eq(1)]
        with m.If(self.requests.valid & self.requests.ready):
            m.d.sync += asked.eq(asked + self.chunk)
            with m.If(asked == self.count - self.chunk):
                m.d.sync += asking.eq(0)
        m.d.sync += arrived.eq(self.words.valid)
        with m.If(self.words.valid):
            m.d.sync += word.eq(self.words.payload)
        differs = Signal(bits // STATE_BITS)
        compared = Signal()
        m.d.sync += compared.eq(arrived)
        for copy in range(bits // STATE_BITS):
            part = word.word_select(copy, STATE_BITS)
            m.d.sync += differs[copy].eq(part != pattern(expected, bits).word_select(copy, STATE_BITS))
        with m.If(arrived):
            m.d.sync += [checked.eq(checked + 1), expected.eq(advance(expected))]
            with m.If(checked == self.count - 1):
                m.d.sync += self.done.eq(1)
        with m.If(compared & differs.any()):
            m.d.sync += self.failed.eq(1)
        return m
