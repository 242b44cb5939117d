"""The largest accumulators of a stream, in a sorted shift register."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry

from .pipeline import Flow
from .score import candidate_layout


def entry_layout(geometry: Geometry) -> data.StructLayout:
    """A place of the queue: a candidate, or nothing yet."""
    return data.StructLayout({"valid": 1, "candidate": candidate_layout(geometry)})


class TopQueue(wiring.Component):
    """The `keep` candidates of the largest accumulators since the last `clear`; the earlier of equals.

    The last `keep` places are in use, in descending order of the accumulators, so that the tail is always the
    threshold: a candidate enters if the tail is empty or has a smaller accumulator.

    Throughput: one candidate per cycle, and the tail shows it in the next cycle.

    Parameters:
        geometry: top_k places; the accumulator's width.

    Members:
        clear (in): empty the queue and take the number of places to use from `keep` (0 .. top_k).
        candidate (in, Flow of candidate_layout).
        shift (in): move everything by one place and drop the tail; not together with a candidate.
        tail (out, entry_layout): the last place.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.depth = geometry.top_k
        super().__init__(
            {
                "clear": In(1),
                "keep": In(range(self.depth + 1)),
                "candidate": In(Flow(candidate_layout(geometry))),
                "shift": In(1),
                "tail": Out(entry_layout(geometry)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = entry_layout(self.geometry)
        entries = [Signal(layout, name=f"entry_{place}") for place in range(self.depth)]
        in_use = Signal(self.depth)
        arriving = Signal(layout)
        m.d.comb += [
            arriving.valid.eq(1),
            arriving.candidate.eq(self.candidate.payload),
            self.tail.eq(entries[-1]),
        ]

        # From the candidate's place on to the tail, everything moves by one place.
        moves = Signal(self.depth)
        m.d.comb += moves.eq(
            Cat(
                used & (~entry.valid | (self.candidate.payload.acc > entry.candidate.acc))
                for used, entry in zip(in_use, entries, strict=True)
            )
        )
        for place, entry in enumerate(entries):
            # One select and one enable for all bits of a place: a look-up table a bit.
            follows = self.shift | moves[place - 1] if place else self.shift
            before = entries[place - 1] if place else layout.const({})
            with m.If(self.shift | (self.candidate.valid & moves[place])):
                m.d.sync += entry.eq(Mux(follows, before, arriving))
        with m.If(self.clear):
            for place, entry in enumerate(entries):
                m.d.sync += [entry.valid.eq(0), in_use[place].eq(self.keep >= self.depth - place)]
        return m
