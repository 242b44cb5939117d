"""How many words of a ring in the host's memory one TLP can take."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.pcie_map import INDEX_BITS

from .tlp import LENGTH_BITS, PAGE_WORDS

PLAN_CYCLES = 3


class BurstPlanner(wiring.Component):
    """Address and length of the next burst from `index` on:

        address = base + index % ring_words
        length  = min(available, limit, words up to the end of the page, words up to the end of the ring)

    with the base in words. The inputs must hold; the outputs are right PLAN_CYCLES cycles later.

    Parameters: ring_words, a power of two.
    Members: base, index, available, limit (In); address, length (Out).
    """

    def __init__(self, *, ring_words: int) -> None:
        if ring_words < 2 or ring_words & ring_words - 1 or ring_words >= 1 << INDEX_BITS:
            raise ValueError(f"ring_words must be a power of two below {1 << INDEX_BITS}, not {ring_words}")
        self.ring_words = ring_words
        super().__init__(
            {
                "base": In(62),
                "index": In(INDEX_BITS),
                "available": In(INDEX_BITS),
                "limit": In(LENGTH_BITS + 1),
                "address": Out(62),
                "length": Out(LENGTH_BITS + 1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        place = self.index[: (self.ring_words - 1).bit_length()]
        few, fewer = Signal.like(self.length), Signal.like(self.length)
        ring = Signal(range(self.ring_words + 1))
        page = Signal(range(PAGE_WORDS + 1))
        m.d.sync += [
            self.address.eq(self.base + place),
            ring.eq(self.ring_words - place),
            few.eq(_least(self.available, self.limit)),
            page.eq(PAGE_WORDS - self.address[: (PAGE_WORDS - 1).bit_length()]),
            fewer.eq(_least(few, ring)),
            self.length.eq(_least(fewer, page)),
        ]
        return m


def _least(first, second):
    return Mux(first < second, first, second)
