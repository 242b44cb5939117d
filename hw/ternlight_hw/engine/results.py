"""The engine's way out: a queue of result beats."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry, ceil_div

from ..layouts import result_layout
from ..pipeline import Flow
from ..primitives import DISTRIBUTED_RAM, DISTRIBUTED_RAM_WORDS


def queue_depth(geometry: Geometry) -> int:
    """Beats that the queue holds: what is under way in the lanes while each is taken at once, and more."""
    return ceil_div(4 * geometry.group_beats, DISTRIBUTED_RAM_WORDS) * DISTRIBUTED_RAM_WORDS


class Results(wiring.Component):
    """Queues beats in the order in which they come. A beat is seen at `beats` in the cycle after it came.

    Whoever sends counts on `depth`: a beat that finds the queue full is lost.

    Parameters: geometry.
    Members: sums (In, Flow of result_layout); beats (Out, stream of result_layout); released: Out(1), a beat leaves.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.depth = queue_depth(geometry)
        super().__init__(
            {
                "sums": In(Flow(result_layout(geometry))),
                "beats": Out(stream.Signature(result_layout(geometry))),
                "released": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        layout = result_layout(self.geometry)
        m.submodules.memory = memory = Memory(
            shape=unsigned(layout.size), depth=self.depth, init=[], attrs=DISTRIBUTED_RAM
        )
        write, read = memory.write_port(), memory.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        m.d.comb += [
            write.en.eq(self.sums.valid),
            write.data.eq(self.sums.payload),
            self.beats.payload.eq(data.View(layout, read.data)),
            self.released.eq(self.beats.valid & self.beats.ready),
        ]
        # Whether a beat leaves is known late.
        m.d.sync += [
            level.eq(Mux(self.released, level - ~self.sums.valid, level + self.sums.valid)),
            self.beats.valid.eq(self.sums.valid | (level > 1) | (self.beats.valid & ~self.beats.ready)),
        ]
        for port, moves in ((write, self.sums.valid), (read, self.released)):
            with m.If(moves):
                m.d.sync += port.addr.eq(Mux(port.addr == self.depth - 1, 0, port.addr + 1))
        return m
