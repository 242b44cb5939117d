"""The host's way into the weight store: columns of 32 bits become blocks of 18."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import BLOCK_LOW_BITS, COLUMN_BITS, SET_BLOCKS, STORE_BLOCK_BITS, Geometry

from ..memory import LoadPort
from .ports import PairWrite

_UPPER_BITS = STORE_BLOCK_BITS - BLOCK_LOW_BITS
_SET_COLUMN_BITS = ceil_log2(1 + SET_BLOCKS // 2)


class Loader(wiring.Component):
    """Writes a pair of blocks for each column with lower bits, whose upper bits came in the set's first column.

    So the columns of a word are written in order; see ternlight.store_word. Latency 1 cycle, one column per cycle.

    Parameters: geometry.
    Members: load (In, LoadPort); write (Out, PairWrite).
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__({"load": In(store_load_port(geometry)), "write": Out(PairWrite(geometry))})

    def elaborate(self, platform):
        m = Module()
        upper = Signal(COLUMN_BITS)
        place = self.load.column[:_SET_COLUMN_BITS]
        number = self.load.column[_SET_COLUMN_BITS:]
        m.d.sync += self.write.enable.eq(self.load.enable & place.any())
        with m.If(self.load.enable):
            with m.If(place == 0):
                m.d.sync += upper.eq(self.load.data)
            both = upper.word_select((place - 1)[:_SET_COLUMN_BITS], 2 * _UPPER_BITS)
            low, high = self.load.data[:BLOCK_LOW_BITS], self.load.data[BLOCK_LOW_BITS:]
            m.d.sync += [
                self.write.address.eq(self.load.address),
                # Every set has one column without a pair.
                self.write.pair.eq(self.load.column - number - 1),
                self.write.data.eq(Cat(low, both[:_UPPER_BITS], high, both[_UPPER_BITS:])),
            ]
        return m


def store_load_port(geometry: Geometry) -> LoadPort:
    """The host's port to the weight store."""
    return LoadPort(address_bits=ceil_log2(geometry.store_words), column_bits=max(1, ceil_log2(geometry.store_columns)))
