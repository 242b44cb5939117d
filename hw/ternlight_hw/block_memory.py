"""A memory that becomes plain block RAM."""

from __future__ import annotations

from amaranth import Module, Shape
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2


class BlockMemory(wiring.Component):
    """A memory with a port to write and a port to read, of which one is used at a time.

    `read.data` follows one cycle after `read.en` and holds while that is low; in a cycle with a write it holds too.
    Said so, block RAM needs nothing beside it; for a read of the word that is being written, whose value the ports of
    ECP5 leave open, Yosys would add registers and comparators around every block.

    Parameters: shape, of a row; depth, rows, at least 2; granularity, of the write enable (default: the row).
    Members: write (In: en, one bit per granule; addr; data), read (In: en, set by default; addr; data).
    """

    def __init__(self, *, shape, depth: int, granularity: int | None = None) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        self.shape = shape
        self.depth = depth
        self.granularity = granularity
        address = Out(ceil_log2(depth))
        granules = 1 if granularity is None else Shape.cast(shape).width // granularity
        super().__init__(
            {
                "write": In(wiring.Signature({"en": Out(granules), "addr": address, "data": Out(shape)})),
                "read": In(wiring.Signature({"en": Out(1, init=1), "addr": address, "data": In(shape)})),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = Memory(shape=self.shape, depth=self.depth, init=[])
        write, row = rows.write_port(granularity=self.granularity), rows.read_port(domain="comb")
        m.d.comb += [
            write.addr.eq(self.write.addr),
            write.data.eq(self.write.data),
            write.en.eq(self.write.en),
            row.addr.eq(self.read.addr),
        ]
        # Read at the clock's edge, with the condition that Yosys looks for.
        with m.If(self.read.en & ~self.write.en.any()):
            m.d.sync += self.read.data.eq(row.data)
        return m
