"""A queue of bytes in block RAM."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out


class ByteBuffer(wiring.Component):
    """Bytes in the order in which they came.

    Throughput: one byte per cycle in, one per two cycles out. Latency: a byte that finds the buffer empty is offered 3
    cycles later.

    Parameters: depth, bytes that it holds at least, a power of two.
    Members: source (In), sink (Out), streams of bytes.
    """

    def __init__(self, *, depth: int) -> None:
        if depth < 2 or depth & depth - 1:
            raise ValueError(f"depth must be a power of two from 2, not {depth}")
        self.depth = depth
        super().__init__(
            {"source": In(stream.Signature(unsigned(8))), "sink": Out(stream.Signature(unsigned(8)))},
        )

    def elaborate(self, platform):
        m = Module()
        # Of twice as many rows half are in use, so that equal addresses mean nothing to read. Yosys sees that no row is
        # read while it is written, and adds nothing to the block RAM for that case.
        m.submodules.rows = rows = Memory(shape=unsigned(8), depth=2 * self.depth, init=[])
        write, row = rows.write_port(), rows.read_port(domain="comb")
        level = Signal.like(write.addr)
        m.d.comb += [
            level.eq(write.addr - row.addr),
            self.source.ready.eq(level < self.depth),
            write.data.eq(self.source.payload),
            write.en.eq(self.source.valid & self.source.ready),
        ]
        write_address, read_address = Signal.like(write.addr), Signal.like(row.addr)
        m.d.comb += [write.addr.eq(write_address), row.addr.eq(read_address)]
        with m.If(write.en):
            m.d.sync += write_address.eq(write_address + 1)
        # The way out of the block RAM is a stage of its own.
        fetched, byte = Signal(), Signal(8)
        with m.If(~fetched & (write_address != read_address)):
            m.d.sync += [fetched.eq(1), byte.eq(row.data)]
        with m.If(self.sink.valid):
            m.d.sync += self.sink.valid.eq(~self.sink.ready)
        with m.Elif(fetched):
            m.d.sync += [
                self.sink.valid.eq(1),
                self.sink.payload.eq(byte),
                fetched.eq(0),
                read_address.eq(read_address + 1),
            ]
        return m
