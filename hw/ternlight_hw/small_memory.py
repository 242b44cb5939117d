"""A memory too small for a block RAM."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .primitives import DISTRIBUTED_RAM


class SmallMemory(wiring.Component):
    """A memory of few rows in distributed RAM, with a port to write and a port to read.

    `read.data` follows one cycle after `read.en` and holds while that is low; of a row that is written in the cycle in
    which it is asked for it is the old value.

    A LUT holds 16 bits of a column, and multiplexers follow from the 17th row on: depths just above a multiple of 16
    are dear.

    Parameters: shape, of a row; depth, rows, at least 2.
    Members: write (In: en; addr; data), read (In: en, set by default; addr; data).
    """

    def __init__(self, *, shape, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        self.shape = shape
        self.depth = depth
        address = Out(ceil_log2(depth))
        super().__init__(
            {
                "write": In(wiring.Signature({"en": Out(1), "addr": address, "data": Out(shape)})),
                "read": In(wiring.Signature({"en": Out(1, init=1), "addr": address, "data": In(shape)})),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = Memory(shape=self.shape, depth=self.depth, init=[], attrs=DISTRIBUTED_RAM)
        write, row = rows.write_port(), rows.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.write.addr),
            write.data.eq(self.write.data),
            write.en.eq(self.write.en),
            row.addr.eq(self.read.addr),
        ]
        with m.If(self.read.en):
            m.d.sync += self.read.data.eq(row.data)
        return m
