"""The weight store: block RAM that the host fills, read as a stream of words."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS

from .memory import ColumnMemory, LoadPort

REQUEST = data.StructLayout({name: unsigned(ENGINE_FIELDS[name]) for name in ("address", "chunks", "groups")})
"""A run of chunks * groups consecutive words from `address`; both factors are at least 1."""


class Store(wiring.Component):
    """Weight words in the order of requests.

    Words come one per cycle while they are taken, also across requests; the reader runs ahead by two words.
    The first word is valid 3 cycles after its request was taken. A request is two factors, not a product,
    so that the count needs no multiplier.

    Parameters
    ----------
    geometry: sizes of the store.

    Members
    -------
    load: In(LoadPort), the host's writes; only while no request is being served.
    requests: In(stream of REQUEST).
    words: Out(stream of store words). Any other source of words in the same order, such as an external memory's,
        can take this component's place.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.memory = ColumnMemory(depth=geometry.store_words, columns=geometry.store_columns)
        load = LoadPort(address_bits=self.memory.address_bits, column_bits=self.memory.column_bits)
        super().__init__(
            {
                "load": In(load),
                "requests": In(stream.Signature(REQUEST)),
                "words": Out(stream.Signature(unsigned(geometry.store_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = self.memory
        wiring.connect(m, wiring.flipped(self.load), memory.load)

        active = Signal()
        address = Signal(memory.address_bits)
        chunks_last = Signal(REQUEST["chunks"].shape)
        chunk = Signal.like(chunks_last)
        group = Signal(REQUEST["groups"].shape)
        final = Signal()
        fetched = Signal()
        refill = Signal()
        m.d.comb += [
            # The output register behind the memory's own keeps the decoder off the block RAM's slow output.
            refill.eq(~self.words.valid | self.words.ready),
            memory.read.enable.eq(active & (~fetched | refill)),
            memory.read.address.eq(address),
            final.eq((chunk == 0) & (group == 0)),
            self.requests.ready.eq(~active | (memory.read.enable & final)),
        ]
        with m.If(memory.read.enable):
            m.d.sync += [fetched.eq(1), address.eq(address + 1), chunk.eq(chunk - 1)]
            with m.If(chunk == 0):
                m.d.sync += [chunk.eq(chunks_last), group.eq(group - 1)]
        with m.Elif(refill):
            m.d.sync += fetched.eq(0)
        with m.If(self.requests.ready):
            request = self.requests.payload
            m.d.sync += active.eq(self.requests.valid)
            with m.If(self.requests.valid):
                m.d.sync += [
                    address.eq(request.address),
                    chunks_last.eq(request.chunks - 1),
                    chunk.eq(request.chunks - 1),
                    group.eq(request.groups - 1),
                ]
        with m.If(refill):
            m.d.sync += self.words.valid.eq(fetched)
            with m.If(fetched):
                m.d.sync += self.words.payload.eq(memory.read.data)
        return m
