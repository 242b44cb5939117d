"""The scalar registers of a context: their values, and which of them are awaited."""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import Module, Mux, Value
from amaranth.lib import enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.isa import SCALAR_FIELDS, SCALAR_REGISTERS

from ..layouts import UFLOAT, WRITEBACK
from ..pipeline import Flow
from ..primitives import DISTRIBUTED_RAM


class Source(enum.Enum):
    """Where an operand is: in the bank of the unit that wrote it, or in the instruction itself."""

    NORM = 0
    GATE = 1
    SCALAR = 2
    IMMEDIATE = 3


BANKS = (Source.NORM, Source.GATE, Source.SCALAR)


class OperandBanks(wiring.Component):
    """Three banks of SCALAR_REGISTERS values, one for each unit, so that all units may return a value in one cycle.

    Reads are combinational: distributed RAM. A value can be read from the cycle after its write.

    Members:
        writes: In Flows of WRITEBACK, one per bank; its context does not count.
        registers: In, two register numbers; selects: In, one bit per Source of each, none for a value of zero;
        immediate: In(UFLOAT).
        values: Out, the two operands.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "writes": In(Flow(WRITEBACK)).array(len(BANKS)),
                "registers": In(SCALAR_FIELDS["a"]).array(2),
                "selects": In(len(Source)).array(2),
                "immediate": In(UFLOAT),
                "values": Out(UFLOAT).array(2),
            }
        )

    def elaborate(self, platform):
        m = Module()
        found = [[], []]
        for bank, write in zip(BANKS, self.writes, strict=True):
            memory = Memory(shape=UFLOAT, depth=SCALAR_REGISTERS, init=[], attrs=DISTRIBUTED_RAM)
            m.submodules[bank.name.lower()] = memory
            port = memory.write_port()
            m.d.comb += [
                port.en.eq(write.valid),
                port.addr.eq(write.payload.target.number),
                port.data.eq(write.payload.value),
            ]
            for register, values in zip(self.registers, found, strict=True):
                read = memory.read_port(domain="comb")
                m.d.comb += read.addr.eq(register)
                values.append(read.data)
        for selects, values, value in zip(self.selects, found, self.values, strict=True):
            choices = zip(selects, [*values, self.immediate], strict=True)
            gated = [Mux(select, Value.cast(choice), 0) for select, choice in choices]
            m.d.comb += value.eq(reduce(or_, gated))
        return m
