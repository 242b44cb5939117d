"""Between the controller and the memory's pins: registers, which on an FPGA lie in the cells of the pins."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import io, wiring
from amaranth.lib.wiring import In, Out

from ternlight.sdram import SdramPart

from .ports import SdramPins


class Registers(wiring.Component):
    """The registers alone, for the memory's model in a simulation: one for each direction.

    Parameters: part. Members: inner (In, SdramPins) of the controller; outer (Out, SdramPins) of the memory.
    """

    def __init__(self, *, part: SdramPart) -> None:
        self.part = part
        super().__init__({"inner": In(SdramPins(part)), "outer": Out(SdramPins(part))})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.inner.dq_i.eq(self.outer.dq_i)
        for name in ("command", "bank", "address", "mask", "dq_o", "dq_oe"):
            m.d.sync += getattr(self.outer, name).eq(getattr(self.inner, name))
        return m


class Pads(wiring.Component):
    """The same registers in the cells of the pins, and the memory's clock, forwarded through such a cell too.

    All outputs leave the chip with the same delay, the clock's edges among them: the phase of domain `clock_domain`
    behind this component's alone decides where in a command's cycle the memory's edge is, and where in a beat ours.
    See docs/memory.md for the choice.

    Parameters: part; port, the board's resource, as amaranth_boards' SDRAMResource makes it, requested with dir="-";
    clock_domain, of the forwarded clock.
    Members: inner (In, SdramPins) of the controller.
    """

    def __init__(self, *, part: SdramPart, port, clock_domain: str) -> None:
        self.part = part
        self.port = port
        self.clock_domain = clock_domain
        super().__init__({"inner": In(SdramPins(part))})

    def elaborate(self, platform):
        m = Module()
        port, pins = self.port, self.inner
        m.submodules.clock = clock = io.DDRBuffer("o", port.clk, o_domain=self.clock_domain)
        m.d.comb += [clock.o[0].eq(1), clock.o[1].eq(0)]
        # The resource's strobes are active when set, commands are levels.
        levels = {"ras": ~pins.command[2], "cas": ~pins.command[1], "we": ~pins.command[0]}
        outputs = {**levels, "ba": pins.bank, "a": pins.address, "dqm": pins.mask.replicate(len(port.dqm))}
        for name, value in {"cs": 1, "clk_en": 1, **outputs}.items():
            m.submodules[name] = buffer = io.FFBuffer("o", getattr(port, name))
            m.d.comb += buffer.o.eq(value)
        m.submodules.dq = dq = io.FFBuffer("io", port.dq)
        m.d.comb += [dq.o.eq(pins.dq_o), dq.oe.eq(pins.dq_oe), pins.dq_i.eq(dq.i)]
        return m
