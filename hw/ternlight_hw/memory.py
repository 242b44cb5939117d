"""A wide on-chip memory that the host fills in 32-bit columns."""

from __future__ import annotations

from amaranth import Module, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import COLUMN_BITS


class LoadPort(wiring.Signature):
    """The host's write of one column: data goes to bits 32 * column of word `address` when `enable` is set."""

    def __init__(self, *, address_bits: int, column_bits: int) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "address": Out(unsigned(address_bits)),
                "column": Out(unsigned(column_bits)),
                "data": Out(COLUMN_BITS),
            }
        )


class ReadPort(wiring.Signature):
    """Synchronous read: `data` follows one cycle after `enable` and holds while `enable` is low."""

    def __init__(self, *, address_bits: int, data_bits: int) -> None:
        super().__init__({"enable": Out(1), "address": Out(unsigned(address_bits)), "data": In(data_bits)})


class WritePort(wiring.Signature):
    """A write of a whole word when `enable` is set."""

    def __init__(self, *, address_bits: int, data_bits: int) -> None:
        super().__init__({"enable": Out(1), "address": Out(unsigned(address_bits)), "data": Out(data_bits)})


class ColumnMemory(wiring.Component):
    """Memory of `depth` words of 32 * `columns` bits: one read port, one write port for host and fabric.

    Reads: latency 1 cycle, one per cycle; a word that is written in the same cycle reads as undefined.
    Writes: one per cycle; when `write` and `load` are enabled together, `write` wins and the load is lost
    (the host loads only while the device is idle).

    Members: load (LoadPort), write (WritePort), read (ReadPort), all seen from outside.
    """

    def __init__(self, *, depth: int, columns: int) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        if columns < 1:
            raise ValueError(f"columns must be positive, not {columns}")
        self.depth = depth
        self.columns = columns
        self.data_bits = columns * COLUMN_BITS
        self.address_bits = ceil_log2(depth)
        self.column_bits = max(1, ceil_log2(columns))
        super().__init__(
            {
                "load": In(LoadPort(address_bits=self.address_bits, column_bits=self.column_bits)),
                "write": In(WritePort(address_bits=self.address_bits, data_bits=self.data_bits)),
                "read": In(ReadPort(address_bits=self.address_bits, data_bits=self.data_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(shape=unsigned(self.data_bits), depth=self.depth, init=[])
        write = memory.write_port(granularity=COLUMN_BITS)
        read = memory.read_port()
        m.d.comb += [
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.address),
            self.read.data.eq(read.data),
        ]
        with m.If(self.write.enable):
            m.d.comb += [
                write.en.eq((1 << self.columns) - 1),
                write.addr.eq(self.write.address),
                write.data.eq(self.write.data),
            ]
        with m.Else():
            m.d.comb += [
                write.en.eq(self.load.enable << self.load.column),
                write.addr.eq(self.load.address),
                write.data.eq(self.load.data.replicate(self.columns)),
            ]
        return m
