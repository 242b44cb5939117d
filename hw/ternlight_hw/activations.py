"""The two activation buffers: quantised vectors come in by V, and go out in chunks, once per block of row groups."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS, VECTOR_FIELDS

from .layouts import activation_beat

REQUEST = data.StructLayout({name: unsigned(ENGINE_FIELDS[name]) for name in ("buffer", "chunks", "groups")})
"""The chunks of a buffer, in order, as often as there are blocks of row groups."""


class ClaimPort(wiring.Signature):
    """Claims `buffer`, which is free, for a vector of `beats` beats (at least 1) when `enable` is set."""

    def __init__(self) -> None:
        super().__init__({"enable": Out(1), "buffer": Out(1), "beats": Out(VECTOR_FIELDS["beats"])})


def chunk_layout(geometry: Geometry) -> data.ArrayLayout:
    """The C activations that meet one store word."""
    return data.ArrayLayout(ACTIVATION_BITS, geometry.inputs)


class Activations(wiring.Component):
    """Two buffers of activations between the vector unit and the engine.

    A chunk is read as soon as it is complete: all its beats, or the last that were claimed, have been written; what
    a short last chunk has behind them is left from earlier vectors. It is valid 2 cycles after the last of its
    beats. Chunks come one per cycle while they are taken, also across passes and requests.

    Parameters
    ----------
    geometry: sizes of the buffers, chunks and blocks.

    Members
    -------
    claim: In(ClaimPort), at least one cycle before the first beat.
    free: Out(2), bit k set while buffer k can be claimed, so again once its last chunk was read in the last pass.
    quantised: In(stream of activation_beat), always ready, from element 0 up.
    requests: In(stream of REQUEST). A buffer must be claimed before it is requested again.
    chunks: Out(stream of chunk_layout).
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "claim": In(ClaimPort()),
                "free": Out(2),
                "quantised": In(stream.Signature(activation_beat(geometry))),
                "requests": In(stream.Signature(REQUEST)),
                "chunks": Out(stream.Signature(chunk_layout(geometry))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        depth = geometry.activations // geometry.inputs
        beats = geometry.inputs // geometry.vector
        index_bits = ceil_log2(depth)

        m.submodules.memory = memory = Memory(
            shape=unsigned(ACTIVATION_BITS * geometry.inputs), depth=2 << index_bits, init=[]
        )
        write = memory.write_port(granularity=ACTIVATION_BITS * geometry.vector)
        read = memory.read_port()

        claimed = Signal(2)
        complete = Signal(2)
        written = Signal(data.ArrayLayout(range(depth + 1), 2))
        beat = Signal(data.ArrayLayout(range(max(2, beats)), 2))
        missing = Signal(data.ArrayLayout(VECTOR_FIELDS["beats"], 2))
        m.d.comb += [self.free.eq(~claimed), self.quantised.ready.eq(1)]

        incoming = self.quantised.payload
        target = incoming.buffer
        m.d.comb += [
            write.addr.eq(Cat(written[target][:index_bits], target)),
            write.data.eq(incoming.values.as_value().replicate(beats)),
            write.en.eq(self.quantised.valid << beat[target]),
        ]
        with m.If(self.quantised.valid):
            m.d.sync += [
                beat[target].eq(beat[target] + 1),
                missing[target].eq(missing[target] - 1),
                complete.bit_select(target, 1).eq(missing[target] == 1),
            ]
            with m.If(beat[target] == beats - 1):
                m.d.sync += [beat[target].eq(0), written[target].eq(written[target] + 1)]
        # After the beats: a claim of one buffer may come with a beat for the other.
        with m.If(self.claim.enable):
            buffer = self.claim.buffer
            m.d.sync += [
                claimed.bit_select(buffer, 1).eq(1),
                complete.bit_select(buffer, 1).eq(0),
                written[buffer].eq(0),
                beat[buffer].eq(0),
                missing[buffer].eq(self.claim.beats),
            ]

        active = Signal()
        buffer = Signal()
        chunk = Signal(range(depth))
        chunks_last = Signal.like(chunk)
        groups = Signal(ENGINE_FIELDS["groups"])
        arrived = Signal()
        pass_ends = Signal()
        final = Signal()
        m.d.comb += [
            arrived.eq(claimed.bit_select(buffer, 1) & (complete.bit_select(buffer, 1) | (chunk < written[buffer]))),
            read.en.eq(active & arrived & (~self.chunks.valid | self.chunks.ready)),
            read.addr.eq(Cat(chunk[:index_bits], buffer)),
            self.chunks.payload.eq(read.data),
            pass_ends.eq(chunk == chunks_last),
            final.eq(pass_ends & (groups <= geometry.block)),
            self.requests.ready.eq(~active | (read.en & final)),
        ]
        with m.If(read.en):
            m.d.sync += [self.chunks.valid.eq(1), chunk.eq(Mux(pass_ends, 0, chunk + 1))]
            with m.If(pass_ends):
                m.d.sync += groups.eq(groups - geometry.block)
            with m.If(final):
                m.d.sync += claimed.bit_select(buffer, 1).eq(0)
        with m.Elif(self.chunks.ready):
            m.d.sync += self.chunks.valid.eq(0)
        with m.If(self.requests.ready):
            request = self.requests.payload
            m.d.sync += active.eq(self.requests.valid)
            with m.If(self.requests.valid):
                m.d.sync += [
                    buffer.eq(request.buffer),
                    chunk.eq(0),
                    chunks_last.eq(request.chunks - 1),
                    groups.eq(request.groups),
                ]
        return m
