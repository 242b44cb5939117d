"""Hands the engine's results to the units that consume them, command by command."""

from __future__ import annotations

from amaranth import Cat, Module
from amaranth.lib import enum, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry

from .layouts import result_beat, result_layout
from .shift_queue import ShiftQueue


class Consumer(enum.Enum):
    """The units that take results."""

    NORM = 0
    GATE = 1
    SAMPLER = 2


class ResultSteering(wiring.Component):
    """A stream switch without latency; it turns behind the last beat of a command.

    A consumer gets beats from the cycle after its entry in `order` was taken. Commands follow each other without a gap.

    Parameters: geometry; depth, of the queue of consumers.
    Members: order (In, stream of Consumer), one entry per command of the engine; results (In, stream of result_layout);
    norm, gate, sampler (Out), streams of result_beat.
    """

    def __init__(self, *, geometry: Geometry, depth: int = 4) -> None:
        self.geometry = geometry
        self.depth = depth
        self._queue = ShiftQueue(width=len(Consumer), depth=depth)
        beats = stream.Signature(result_beat(geometry))
        super().__init__(
            {
                "order": In(stream.Signature(Consumer)),
                "results": In(stream.Signature(result_layout(geometry))),
                "norm": Out(beats),
                "gate": Out(beats),
                "sampler": Out(beats),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sides = {Consumer.NORM: self.norm, Consumer.GATE: self.gate, Consumer.SAMPLER: self.sampler}
        m.submodules.queue = queue = self._queue
        m.d.comb += [
            queue.push.eq(Cat(self.order.valid & ~queue.full & (self.order.payload == side) for side in sides)),
            queue.pop.eq(self.results.valid & self.results.ready & self.results.payload.last),
            self.order.ready.eq(~queue.full),
        ]
        taken = []
        for side, chosen in zip(sides.values(), queue.oldest, strict=True):
            m.d.comb += [side.payload.eq(self.results.payload.values), side.valid.eq(chosen & self.results.valid)]
            taken.append(chosen & side.ready)
        m.d.comb += self.results.ready.eq(Cat(taken).any())
        return m
