"""The engine's way out: finished row groups and embedding bytes become result beats of V."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry

from .layouts import result_beat
from .rows import sums_layout


class Results(wiring.Component):
    """Queues row groups, and hands them out as beats of V in the order of rows, each up to its beat `end`.

    A group is first seen at `beats` 2 cycles after it came, then one beat per cycle. Embedding beats go the same
    way, 1 cycle late, sign-extended; they are taken only while no group is queued.

    Parameters
    ----------
    geometry: sizes of groups and beats.
    depth: groups that the queue holds. Whoever sends counts on it: a group that finds it full is lost.

    Members
    -------
    sums: In(stream of sums_layout), always ready.
    embedding: In(stream of V signed bytes).
    released: Out(1), a group has left the queue.
    beats: Out(stream of result_beat).
    """

    def __init__(self, *, geometry: Geometry, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"depth must be positive, not {depth}")
        self.geometry = geometry
        self.depth = depth
        super().__init__(
            {
                "sums": In(stream.Signature(sums_layout(geometry))),
                "embedding": In(stream.Signature(unsigned(ACTIVATION_BITS * geometry.vector))),
                "released": Out(1),
                "beats": Out(stream.Signature(result_beat(geometry))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        layout = sums_layout(geometry)
        m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=self.depth)
        m.d.comb += [
            queue.w_data.eq(self.sums.payload),
            queue.w_en.eq(self.sums.valid),
            self.sums.ready.eq(1),
        ]

        group = data.View(layout, queue.r_data)
        beat = Signal(layout["end"].shape)
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.beats.valid | self.beats.ready),
            self.released.eq(queue.r_rdy & advance & (beat == group.end)),
            queue.r_en.eq(self.released),
            self.embedding.ready.eq(advance & ~queue.r_rdy),
        ]
        with m.If(advance):
            m.d.sync += self.beats.valid.eq(queue.r_rdy | self.embedding.valid)
        with m.If(advance & queue.r_rdy):
            m.d.sync += [
                beat.eq(Mux(beat == group.end, 0, beat + 1)),
                self.beats.payload.eq(group.values.as_value().word_select(beat, result_beat(geometry).size)),
            ]
        with m.Elif(advance & self.embedding.valid):
            m.d.sync += [
                target.eq(self.embedding.payload.word_select(index, ACTIVATION_BITS).as_signed())
                for index, target in enumerate(self.beats.payload)
            ]
        return m
