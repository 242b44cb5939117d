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

    Throughput: one candidate per cycle. Latency: 2 cycles from a candidate to the tail; 1 from `shift`.

    Parameters:
        geometry: top_k places; the accumulator's width.

    Members:
        clear (in): empty the queue and take the number of places to use from `keep` (0 .. top_k).
        candidate (in, Flow of candidate_layout).
        shift (in): move everything by one place and drop the tail; not within 2 cycles after a candidate, and
            neither is `clear`.
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
        layout = candidate_layout(self.geometry)
        kept = [Signal(layout, name=f"kept_{place}", reset_less=True) for place in range(self.depth)]
        valid = Signal(self.depth)
        in_use = Signal(self.depth)
        m.d.comb += [self.tail.valid.eq(valid[-1]), self.tail.candidate.eq(kept[-1])]

        # First cycle: the places from which a candidate beats what they hold, once its predecessor has moved in.
        arriving = Signal(layout, reset_less=True)
        moves = Signal(self.depth)
        acc = self.candidate.payload.acc
        beats_kept = [~valid[place] | (acc > entry.acc) for place, entry in enumerate(kept)]
        beats_arriving = acc > arriving.acc
        beats = [
            Mux(moves[place], Mux(moves[place - 1], beats_kept[place - 1], beats_arriving), beats_kept[place])
            if place
            else Mux(moves[0], beats_arriving, beats_kept[0])
            for place in range(self.depth)
        ]
        with m.If(self.candidate.valid):
            m.d.sync += [arriving.eq(self.candidate.payload), moves.eq(in_use & Cat(beats))]
        with m.Else():
            m.d.sync += moves.eq(0)

        # Second cycle: from the candidate's place on to the tail, everything moves by one place.
        for place, entry in enumerate(kept):
            with m.If(self.shift | moves[place]):
                if place == 0:
                    m.d.sync += [entry.eq(arriving), valid[0].eq(~self.shift)]
                else:
                    follows = self.shift | moves[place - 1]
                    m.d.sync += [
                        entry.eq(Mux(follows, kept[place - 1], arriving)),
                        valid[place].eq(Mux(follows, valid[place - 1], 1)),
                    ]
        with m.If(self.clear):
            m.d.sync += valid.eq(0)
            for place in range(self.depth):
                m.d.sync += in_use[place].eq(self.keep >= self.depth - place)
        return m
