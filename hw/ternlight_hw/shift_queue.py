"""A short queue whose oldest entry is always in flip-flops."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class ShiftQueue(wiring.Component):
    """Entries that are not zero, the oldest in front; pushed ones show in the next cycle.

    Parameters: width of an entry; depth.
    Members: push (In), zero for none, and only while not `full`, Out(1); pop (In, 1), only while there is an `oldest`
    (Out), which is zero if there is none.
    """

    def __init__(self, *, width: int, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth must be positive, not {depth}")
        self.width = width
        self.depth = depth
        super().__init__({"push": In(width), "pop": In(1), "oldest": Out(width), "full": Out(1)})

    def elaborate(self, platform):
        m = Module()
        entries = [Signal(self.width, name=f"entry_{place}") for place in range(self.depth)]
        occupied = [Const(1), *(entry.any() for entry in entries), Const(0)]
        for place, (entry, behind) in enumerate(zip(entries, [*entries[1:], Const(0, self.width)], strict=True)):
            before, here, after = occupied[place : place + 3]
            with m.If(self.pop):
                m.d.sync += entry.eq(Mux(after, behind, Mux(here, self.push, 0)))
            with m.Elif(before & ~here):
                m.d.sync += entry.eq(self.push)
        m.d.comb += [self.oldest.eq(entries[0]), self.full.eq(entries[-1].any())]
        return m
