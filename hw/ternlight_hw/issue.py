"""The issue of weight words: joins words with activation chunks and room for results, and walks the blocks."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS, EngineOp

from .activations import chunk_layout
from .rows import StepPort

OPERATION = data.StructLayout(
    {"op": EngineOp} | {name: unsigned(ENGINE_FIELDS[name]) for name in ("chunks", "groups", "beats")}
)
"""What the issue of words needs of an engine command."""


class Issue(wiring.Component):
    """Executes operations in order, one store word per cycle where its operands are there.

    A product's word needs the word itself, the chunk for the first group of a block, and for a group's last chunk a
    place in the results' queue: `room` of them are lent out and come back with `released`, so that no group is
    lost however long results are refused.
    An embedding starts when all places are back, and is handed on straight from the word.

    Parameters
    ----------
    geometry: sizes of lanes and block.
    room: groups that the queue of results holds.

    Members
    -------
    operations: In(stream of OPERATION), the commands.
    words: In(stream of store words). chunks: In(stream of chunk_layout). Both in the order of operations.
    step: Out(StepPort), to the lanes.
    released: In(1), a group has left the queue of results.
    embedding: Out(stream of V signed bytes).
    starved: Out(1), an operation waits for a word and nothing else.
    idle: Out(1), no operation waits or is in progress, and no group is in the lanes or the queue of results.
    """

    def __init__(self, *, geometry: Geometry, room: int) -> None:
        if room < 1:
            raise ValueError(f"room must be positive, not {room}")
        self.geometry = geometry
        self.room = room
        super().__init__(
            {
                "operations": In(stream.Signature(OPERATION)),
                "words": In(stream.Signature(unsigned(geometry.store_bits))),
                "chunks": In(stream.Signature(chunk_layout(geometry))),
                "step": Out(StepPort(geometry)),
                "released": In(1),
                "embedding": Out(stream.Signature(unsigned(ACTIVATION_BITS * geometry.vector))),
                "starved": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        group_beats = geometry.rows // geometry.vector

        active = Signal()
        op = Signal(EngineOp)
        chunks_last = Signal(OPERATION["chunks"].shape)
        chunk = Signal.like(chunks_last)
        group = Signal(range(geometry.block))
        group_last = Signal.like(group)
        rest = Signal(OPERATION["groups"].shape)
        beats = Signal(OPERATION["beats"].shape)
        done = Signal()

        room = Signal(range(self.room + 1), init=self.room)
        drained = Signal()
        m.d.comb += drained.eq(room == self.room)

        first, last = Signal(), Signal()
        operands, block_ends = Signal(), Signal()
        m.d.comb += [first.eq(chunk == 0), last.eq(chunk == chunks_last)]

        part = Signal(range(geometry.embedding_beats))
        m.d.comb += self.embedding.payload.eq(self.words.payload.word_select(part, len(self.embedding.payload)))

        with m.If(active), m.Switch(op):
            with m.Case(EngineOp.MATVEC):
                m.d.comb += [
                    operands.eq((self.chunks.valid | (group != 0)) & ((room != 0) | ~last)),
                    self.step.valid.eq(operands & self.words.valid),
                    self.words.ready.eq(operands),
                    self.chunks.ready.eq(self.step.valid & (group == 0)),
                    block_ends.eq(self.step.valid & (group == group_last) & last),
                    done.eq(block_ends & (rest == 0)),
                ]
            with m.Case(EngineOp.EMBED):
                taken = self.embedding.valid & self.embedding.ready
                m.d.comb += [
                    operands.eq(drained & self.embedding.ready),
                    self.embedding.valid.eq(drained & self.words.valid),
                    done.eq(taken & (beats == 1)),
                    self.words.ready.eq(operands & ((part == geometry.embedding_beats - 1) | (beats == 1))),
                ]
                with m.If(taken):
                    m.d.sync += [part.eq(Mux(self.words.ready, 0, part + 1)), beats.eq(beats - 1)]
        m.d.comb += [
            self.step.weights.eq(self.words.payload),
            self.step.load.eq(group == 0),
            self.step.chunk.eq(self.chunks.payload),
            self.step.group.eq(group),
            self.step.first.eq(first),
            self.step.last.eq(last),
            self.step.end.eq(Mux(beats > group_beats, group_beats, beats) - 1),
            self.starved.eq(operands & ~self.words.valid),
            self.idle.eq(~active & ~self.operations.valid & drained),
        ]
        with m.If(self.step.valid):
            m.d.sync += group.eq(Mux(group == group_last, 0, group + 1))
            with m.If(group == group_last):
                m.d.sync += chunk.eq(Mux(last, 0, chunk + 1))
            with m.If(last):
                m.d.sync += beats.eq(beats - group_beats)
        with m.If(self.step.valid & last & ~self.released):
            m.d.sync += room.eq(room - 1)
        with m.Elif(~(self.step.valid & last) & self.released):
            m.d.sync += room.eq(room + 1)

        # The groups of the next block: of the next operation, when this one ends with the cycle.
        operation = self.operations.payload
        remaining = Mux(self.operations.ready, operation.groups, rest)
        larger = Signal()
        m.d.comb += [self.operations.ready.eq(~active | done), larger.eq(remaining > geometry.block)]
        with m.If(self.operations.ready | block_ends):
            m.d.sync += [
                group_last.eq(Mux(larger, geometry.block, remaining) - 1),
                rest.eq(Mux(larger, remaining - geometry.block, 0)),
            ]
        with m.If(self.operations.ready):
            m.d.sync += active.eq(self.operations.valid)
            with m.If(self.operations.valid):
                m.d.sync += [
                    op.eq(operation.op),
                    chunks_last.eq(operation.chunks - 1),
                    beats.eq(operation.beats),
                ]
        return m
