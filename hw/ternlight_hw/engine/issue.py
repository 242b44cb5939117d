"""The issue of weight words: one per cycle while activations and room for results are there."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS, EngineOp

from ..layouts import BUFFER_BITS, engine_command
from .arrivals import base_address
from .ports import StepPort, chunk_address_bits


class Issue(wiring.Component):
    """Executes operations in order: turns each into steps of the lanes, without a gap between operations.

    A product's steps are its chunks, group by group. In the first group each waits for its chunk to arrive. The last
    step of a group waits until its beats have room among the results, and until group_beats cycles have passed since
    the last step of the group before: so beats never collide in the lanes.
    An embedding's steps are its header and its beats, each a group of its own.

    A step is seen one cycle after its operands were: after `arrived`, or two cycles after its operation was taken.

    Parameters: geometry; room, of the results, in beats; embed_gap, cycles between an embedding's last step and the
    next operation's first.

    Members
    -------
    operations: In(stream of engine_command).
    arrived, take: as of Arrivals. open, open_buffer: a product begins. release: its last step is issued.
    step: Out(StepPort).
    released: In(1), a beat has left the results.
    coming: Out(1), with the last step of a product's first group, or the first of an embedding.
    idle: Out(1), no operation waits or is in progress, and all beats have left.
    """

    def __init__(self, *, geometry: Geometry, room: int, embed_gap: int = 0) -> None:
        if room < 2 * geometry.group_beats:
            raise ValueError(f"room must be at least two groups of {geometry.group_beats} beats, not {room}")
        self.geometry = geometry
        self.room = room
        self.embed_gap = embed_gap
        super().__init__(
            {
                "operations": In(stream.Signature(engine_command())),
                "arrived": In(1),
                "take": Out(1),
                "open": Out(1),
                "open_buffer": Out(BUFFER_BITS),
                "release": Out(1),
                "step": Out(StepPort(geometry)),
                "released": In(1),
                "coming": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        operation, group_beats = self.operations.payload, self.geometry.group_beats
        is_embed = operation.op == EngineOp.EMBED

        # What the next step is; all in flip-flops, for the decision below is followed by wide registers.
        active, embed = Signal(), Signal()
        first, rest, chunks_rest = Signal(), Signal(ENGINE_FIELDS["chunks"]), Signal(ENGINE_FIELDS["chunks"])
        rest_ends, single = Signal(), Signal()  # rest == 0, chunks_rest == 0
        first_group, final_group = Signal(), Signal()
        waits, group_ends, ends = Signal(), Signal(), Signal()  # for a chunk; with this step the group, the operation
        beats, end = Signal(ENGINE_FIELDS["beats"]), Signal.like(self.step.end)
        address, chunk = Signal.like(self.step.address), Signal(chunk_address_bits(self.geometry))
        base, cell, stride = Signal.like(chunk), Signal.like(self.step.cell), Signal(ENGINE_FIELDS["groups"])

        # Beats lent to steps are counted a cycle late, and so are those that left: when one does is known late.
        room = Signal(range(self.room + 1), init=self.room)
        lent, lent_beats, returned = Signal(), Signal(range(group_beats + 1)), Signal()
        enough, more_than_enough = Signal(init=1), Signal(init=1)
        pace, paced = Signal(range(max(2, group_beats, self.embed_gap + 1))), Signal(init=1)
        hold = Signal()  # behind an embedding the pace holds up not only a group's end
        remaining = Signal.like(room)
        m.d.comb += remaining.eq(room + returned - Mux(lent, lent_beats, 0))
        m.d.sync += [
            returned.eq(self.released),
            room.eq(remaining),
            enough.eq(remaining >= group_beats),
            more_than_enough.eq(remaining > group_beats),
        ]

        go, done, free_to_end = Signal(), Signal(), Signal()
        m.d.comb += [
            # Behind a product's group the pace keeps a distance; behind a group of one beat, there is one beat less.
            free_to_end.eq(paced & (more_than_enough | (enough & ~lent))),
            go.eq(active & ~hold & (self.arrived | ~waits) & (free_to_end | ~group_ends)),
            done.eq(go & ends),
            self.take.eq(go & waits),
            self.release.eq(done & ~embed),
            self.operations.ready.eq(~active | done),
            self.open.eq(self.operations.ready & self.operations.valid & ~is_embed),
            self.open_buffer.eq(operation.buffer),
        ]
        m.d.sync += [
            self.step.valid.eq(go),
            lent.eq(go & group_ends),
            lent_beats.eq(Mux(embed, 1, end + 1)),
            self.coming.eq(go & Mux(embed, first, first_group & rest_ends)),
        ]
        m.d.comb += self.idle.eq(~active & ~self.operations.valid & ~lent & (room == self.room))
        with m.If(go):
            m.d.sync += [
                self.step.address.eq(address),
                self.step.chunk.eq(chunk),
                self.step.first.eq(first | embed),
                self.step.last.eq(group_ends),
                self.step.end.eq(Mux(embed, 0, end)),
                self.step.final.eq(ends),
                self.step.embed.eq(embed),
                self.step.cell.eq(cell),
                self.step.header.eq(first),
            ]

        with m.If(go & group_ends & (~embed | rest_ends)):
            gap = Mux(embed, self.embed_gap, group_beats - 1)
            m.d.sync += [pace.eq(gap), paced.eq(gap == 0)]
            if self.embed_gap:
                m.d.sync += hold.eq(embed)
        with m.Elif(~paced):
            m.d.sync += [pace.eq(pace - 1), paced.eq(pace == 1), hold.eq(hold & (pace != 1))]

        with m.If(go):
            m.d.sync += [
                first.eq(rest_ends & ~embed),
                rest.eq(rest - 1),
                rest_ends.eq(rest == 1),
                group_ends.eq((rest == 1) | embed),
                ends.eq((rest == 1) & (final_group | embed)),
                chunk.eq(chunk + 1),
                address.eq(address + Mux(embed, Mux(first, 0, stride), 1)),
            ]
            with m.If(rest_ends & ~embed):
                m.d.sync += [
                    rest.eq(chunks_rest),
                    rest_ends.eq(single),
                    group_ends.eq(single),
                    ends.eq(single & (beats <= 2 * group_beats)),
                    chunk.eq(base),
                    first_group.eq(0),
                    waits.eq(0),
                    beats.eq(beats - group_beats),
                    final_group.eq(beats <= 2 * group_beats),
                    end.eq(Mux(beats >= 2 * group_beats, group_beats, beats) - 1),
                ]
        with m.If(self.operations.ready):
            start = base_address(m, operation.buffer, self.geometry)
            one_chunk = operation.chunks == 1
            m.d.sync += active.eq(self.operations.valid)
            with m.If(self.operations.valid):
                m.d.sync += [
                    embed.eq(is_embed),
                    first.eq(1),
                    # An embedding has one step more than beats, its header.
                    rest.eq(Mux(is_embed, operation.chunks, operation.chunks - 1)),
                    rest_ends.eq(one_chunk & ~is_embed),
                    group_ends.eq(one_chunk | is_embed),
                    ends.eq(one_chunk & ~is_embed & (operation.beats <= group_beats)),
                    chunks_rest.eq(operation.chunks - 1),
                    single.eq(one_chunk),
                    first_group.eq(1),
                    waits.eq(~is_embed),
                    final_group.eq(operation.beats <= group_beats),
                    beats.eq(operation.beats),
                    end.eq(Mux(operation.beats >= group_beats, group_beats, operation.beats) - 1),
                    address.eq(operation.address),
                    chunk.eq(start),
                    base.eq(start),
                    cell.eq(operation.cell),
                    stride.eq(operation.groups),
                ]
        return m
