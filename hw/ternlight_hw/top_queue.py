"""The largest accumulators of a stream, in a sorted shift register."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry

from .gumbel import ID_BITS
from .pipeline import Flow
from .score import candidate_layout


def entry_layout(geometry: Geometry) -> data.StructLayout:
    """A place of the queue: a candidate, or nothing yet."""
    return data.StructLayout({"valid": 1, "candidate": candidate_layout(geometry)})


class TopQueue(wiring.Component):
    """The `keep` candidates of the largest accumulators since the last `clear`; the earlier of equals.

    The last `keep` places are in use, in descending order of the accumulators, so that the tail is always the
    threshold: a candidate enters if the tail is empty or has a smaller accumulator.

    A candidate is compared with all places at once, before the two ahead of it have entered: each of these that it
    does not beat will stand before it, and so it enters one place further on.

    What moves is an accumulator with a slot number. The token stays in a memory, at the slot that its candidate took
    over from the one that it drove out.

    Throughput: a candidate per cycle. Latency: 4 cycles from a candidate to the tail; 2 from `shift`.

    Parameters:
        geometry: top_k places; the accumulator's width.

    Members:
        clear (in): empty the queue and take the number of places to use from `keep` (0 .. top_k).
        candidate (in, Flow of candidate_layout).
        shift (in): move everything by one place and drop the tail: `keep` times it had something in use. Not within 3
            cycles after a candidate, and `clear` is next to come.
        tail (out, entry_layout): the last place. Without places in use it is larger than every candidate.
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
        # Orders are unsigned: {taken, accumulator + 2**(bits - 1)}. An empty place is below every candidate, and
        # a place that is not in use holds the largest order, so that one comparison decides.
        order_shape = unsigned(self.geometry.accumulator + 1)
        largest = (1 << order_shape.width) - 1
        layout = data.StructLayout({"slot": range(self.depth), "order": order_shape})
        # Set from the start, as `clear` sets them: a flip-flop of ECP5 cannot do one without the other.
        places = [
            Signal(layout, name=f"place_{place}", init={"slot": place, "order": largest}, reset_less=True)
            for place in range(self.depth)
        ]
        tail = places[-1]

        # A candidate is compared, then placed, then enters.
        acc = self.candidate.payload.acc
        stages = [
            Signal(data.StructLayout({"valid": 1, "token": ID_BITS, "order": order_shape}), name=name)
            for name in ("compared", "placed", "entering")
        ]
        compared, placed, entering = stages
        m.d.sync += [
            compared.valid.eq(self.candidate.valid),
            compared.token.eq(self.candidate.payload.token),
            compared.order.eq(Cat(acc[:-1], ~acc[-1], 1)),
            placed.eq(compared),
            entering.eq(placed),
        ]
        # Compared with `<`: Yosys makes two comparators of `>`.
        beaten = Signal(self.depth)
        behind = Signal(2)  # of those ahead, by which it must stand
        m.d.sync += [
            beaten.eq(Cat(compared.valid & (held.order < compared.order) for held in places)),
            behind.eq(Cat(ahead.valid & ~(ahead.order < compared.order) for ahead in (placed, entering))),
        ]
        moves = Signal(self.depth)
        with m.If(self.shift):
            m.d.sync += moves.eq(-1)
        with m.Else():
            m.d.sync += moves.eq(Mux(behind.all(), beaten << 2, Mux(behind.any(), beaten << 1, beaten)))

        # Of the places that a candidate beats it takes the first, and the others move by one place.
        unused = Const(-1, self.depth) << self.keep  # counted from the tail
        for place, held in enumerate(places):
            with m.If(moves[place]):
                m.d.sync += [held.slot.eq(tail.slot), held.order.eq(entering.order)]
                if place:
                    with m.If(moves[place - 1]):
                        m.d.sync += held.eq(places[place - 1])
            with m.If(self.clear):
                m.d.sync += [held.order.eq(largest), held.order[-1].eq(unused[self.depth - 1 - place])]

        m.submodules.tokens = tokens = Memory(shape=unsigned(ID_BITS), depth=self.depth, init=[])
        write, read = tokens.write_port(), tokens.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(tail.slot),
            write.data.eq(entering.token),
            write.en.eq(moves[-1]),
            read.addr.eq(tail.slot),
            self.tail.valid.eq(tail.order[-1]),
            self.tail.candidate.acc.eq(Cat(tail.order[:-2], ~tail.order[-2])),
            self.tail.candidate.token.eq(read.data),
        ]
        return m
