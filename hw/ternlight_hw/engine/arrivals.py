"""The activation buffers from outside: which are claimed, and which of their chunks have arrived."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.isa import NORM_FIELDS

from ..layouts import BUFFER_BITS, activation_beat
from ..shift_queue import ShiftQueue
from ..vector.arithmetic import named
from .ports import ActivationWrite, buffers, chunk_address_bits

CLAIM_LEAD = 6
"""Cycles from a claim to the first beat, at least: the last words of the vector before may still be on their way."""


class ClaimPort(wiring.Signature):
    """Claims `buffer`, which is free, for a vector of `beats` beats (at least 1) when `enable` is set."""

    def __init__(self) -> None:
        super().__init__({"enable": Out(1), "buffer": Out(BUFFER_BITS), "beats": Out(NORM_FIELDS["beats"])})


class Arrivals(wiring.Component):
    """Writes activations where they belong, and counts the chunks that are complete.

    A chunk is complete with its last beat, or with the last beat that was claimed; what a short last chunk has behind
    its beats is left from earlier vectors. `arrived` is set in the cycle after that beat, which is in
    the memory two cycles after it came.

    Parameters: geometry.

    Members
    -------
    claim: In(ClaimPort), CLAIM_LEAD cycles before the first beat; in the order of vectors, of at most a buffer each.
    free: Out(2 * contexts), bit k set while buffer k can be claimed.
    quantised: In(stream of activation_beat), always ready; a vector from element 0 up, one vector after the other.
    write: Out(ActivationWrite).
    open: In(1), from the next cycle on `arrived` tells of `open_buffer`, from its first chunk.
    arrived: Out(1), a chunk is complete that was not taken. take: In(1), takes it, and only if there is one.
    release: In(1), of the opened buffer: it is free from the next cycle.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "claim": In(ClaimPort()),
                "free": Out(buffers(geometry)),
                "quantised": In(stream.Signature(activation_beat(geometry))),
                "write": Out(ActivationWrite(geometry)),
                "open": In(1),
                "open_buffer": In(BUFFER_BITS),
                "arrived": Out(1),
                "take": In(1),
                "release": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry, count = self.geometry, buffers(self.geometry)
        parts = geometry.inputs // geometry.vector
        claimed = Signal(count)
        written = Signal(data.ArrayLayout(range(geometry.buffer_chunks + 1), count))
        begun = Signal(count)  # written != 0
        current = Signal(BUFFER_BITS)
        m.d.comb += [self.free.eq(~claimed), self.quantised.ready.eq(1)]

        # Vectors come in the order of their claims, and their beats follow each other: one place is counted for all.
        incoming = self.quantised.payload
        beat = Signal(range(geometry.buffer_chunks * parts + 1), init=1)
        part = Signal(range(parts))
        chunk = Signal(range(geometry.buffer_chunks))
        m.submodules.lengths = lengths = ShiftQueue(width=len(beat), depth=count)
        vector_ends, completes = Signal(), Signal()
        m.d.comb += [
            lengths.push.eq(Mux(self.claim.enable, self.claim.beats, 0)),
            lengths.pop.eq(self.quantised.valid & vector_ends),
            vector_ends.eq(beat == lengths.oldest),
            completes.eq(self.quantised.valid & ((part == parts - 1) | vector_ends)),
        ]
        with m.If(self.quantised.valid):
            m.d.sync += [
                beat.eq(Mux(vector_ends, 1, beat + 1)),
                self.write.address.eq(base_address(m, incoming.buffer, geometry) + chunk),
                self.write.values.eq(incoming.values),
            ]
        with m.If(completes):
            m.d.sync += [part.eq(0), chunk.eq(Mux(vector_ends, 0, chunk + 1))]
        with m.Elif(self.quantised.valid):
            m.d.sync += part.eq(part + 1)
        m.d.sync += self.write.parts.eq(self.quantised.valid << part)

        # A chunk is counted a cycle late, but seen by the product that waits for it at once. `open` and `take` come
        # late: what they choose from is there before.
        complete, complete_buffer = Signal(), Signal(BUFFER_BITS)
        awaited = Signal()
        m.d.sync += [
            complete.eq(completes),
            complete_buffer.eq(incoming.buffer),
            awaited.eq(completes & Mux(self.open, incoming.buffer == self.open_buffer, incoming.buffer == current)),
        ]
        with m.If(self.open):
            m.d.sync += current.eq(self.open_buffer)
        with m.If(complete):
            m.d.sync += [
                written[complete_buffer].eq(written[complete_buffer] + 1),
                begun.bit_select(complete_buffer, 1).eq(1),
            ]
        with m.If(self.claim.enable):
            m.d.sync += [written[self.claim.buffer].eq(0), begun.bit_select(self.claim.buffer, 1).eq(0)]
        m.d.sync += claimed.eq(
            claimed & ~(self.release << current)[:count] | (self.claim.enable << self.claim.buffer)[:count]
        )

        # What is taken is counted a cycle late, too.
        waiting, taken = Signal(range(geometry.buffer_chunks + 1)), Signal()
        some = Signal()  # waiting != taken
        completes_now = named(m, complete & (complete_buffer == self.open_buffer))
        others = Mux(taken, waiting > 2, waiting > 1)
        m.d.sync += [
            taken.eq(self.take & ~self.open),
            waiting.eq(Mux(self.open, written[self.open_buffer] + completes_now, waiting + awaited - taken)),
            some.eq(
                Mux(
                    self.open,
                    begun.bit_select(self.open_buffer, 1) | completes_now,
                    Mux(self.take, others | (some & awaited), some | awaited),
                )
            ),
        ]
        m.d.comb += self.arrived.eq(some | awaited)
        return m


def base_address(m, buffer, geometry: Geometry):
    """The address of a buffer's first chunk; no multiplier comes of it."""
    base = Signal(chunk_address_bits(geometry))
    with m.Switch(buffer):
        for index in range(buffers(geometry)):
            with m.Case(index):
                m.d.comb += base.eq(index * geometry.buffer_chunks)
    return base
