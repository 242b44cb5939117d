"""A wide on-chip memory that the host fills in 32-bit columns."""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import COLUMN_BITS, ceil_div

from .primitives import BlockRam, block_ram_width, is_ecp5


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
    """Synchronous read: `data` follows one cycle after `enable` and holds while `enable` is low.

    Of a registered memory `data` is what the last but one enabled cycle asked for: both stages advance with `enable`.
    """

    def __init__(self, *, address_bits: int, data_bits: int) -> None:
        super().__init__({"enable": Out(1), "address": Out(unsigned(address_bits)), "data": In(data_bits)})


class WritePort(wiring.Signature):
    """A write of a whole word when `enable` is set."""

    def __init__(self, *, address_bits: int, data_bits: int) -> None:
        super().__init__({"enable": Out(1), "address": Out(unsigned(address_bits)), "data": Out(data_bits)})


class ColumnMemory(wiring.Component):
    """Memory of `depth` words of 32 * `columns` bits: one read port, one write port for host and fabric.

    Reads: one per cycle, latency 1 cycle, or 2 if registered; a word that is written in the cycle in which it is
    asked for reads as undefined.
    Writes: one per cycle; when `write` and `load` are enabled together, `write` wins and the load is lost
    (the host loads only while the device is idle).

    On ECP5 a column lies in block RAMs of its own, as many as it has bits for: no multiplexer follows them.

    Parameters: depth, columns; registered, with the output register that the block RAMs of fast clocks need.
    Members: load (LoadPort), write (WritePort), read (ReadPort), all seen from outside.
    """

    def __init__(self, *, depth: int, columns: int, registered: bool = False) -> None:
        if depth < 2:
            raise ValueError(f"depth must be at least 2, not {depth}")
        if columns < 1:
            raise ValueError(f"columns must be positive, not {columns}")
        self.depth = depth
        self.columns = columns
        self.registered = registered
        self.latency = 2 if registered else 1
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
        enable, address, word = Signal(self.columns), Signal(self.address_bits), Signal(self.data_bits)
        with m.If(self.write.enable):
            m.d.comb += [enable.eq((1 << self.columns) - 1), address.eq(self.write.address), word.eq(self.write.data)]
        with m.Else():
            m.d.comb += [
                enable.eq(self.load.enable << self.load.column),
                address.eq(self.load.address),
                word.eq(self.load.data.replicate(self.columns)),
            ]
        width = block_ram_width(self.depth)
        if is_ecp5(platform) and width is not None:
            self._blocks(m, width, enable, address, word)
        else:
            self._plain(m, enable, address, word)
        return m

    def _plain(self, m, enable, address, word):
        m.submodules.memory = memory = Memory(shape=unsigned(self.data_bits), depth=self.depth, init=[])
        write = memory.write_port(granularity=COLUMN_BITS)
        read = memory.read_port()
        m.d.comb += [
            write.en.eq(enable),
            write.addr.eq(address),
            write.data.eq(word),
            read.en.eq(self.read.enable),
            read.addr.eq(self.read.address),
        ]
        if self.registered:
            with m.If(self.read.enable):
                m.d.sync += self.read.data.eq(read.data)
        else:
            m.d.comb += self.read.data.eq(read.data)

    def _blocks(self, m, width, enable, address, word):
        bits = width // 9 * 8 or width  # ninth bits stay unused: a column's share is a power of two
        for part in range(ceil_div(self.data_bits, bits)):
            m.submodules[f"block{part}"] = block = BlockRam(width=width, registered=self.registered)
            m.d.comb += [
                block.write_enable.eq(enable[part * bits // COLUMN_BITS]),
                block.write_address.eq(address),
                block.write_data.eq(word[part * bits :][:bits]),
                block.read_enable.eq(self.read.enable),
                block.read_address.eq(self.read.address),
                self.read.data[part * bits :][:bits].eq(block.read_data),
            ]
