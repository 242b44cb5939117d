"""What a bitstream holds: the device, its clock and the pins."""

from __future__ import annotations

from amaranth import ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer

from ternlight_hw.top import Top

from .board import Board
from .pll import Ecp5Pll, GowinPll, Pll


class BoardDevice(Elaboratable):
    """The device on a board: serial line at the resource `uart`, and the board's LED shines while it works.

    The PLL makes the geometry's clock from the platform's default clock. Configuration is the reset: every register
    has its initial value, and the clock stands until two cycles after the PLL has locked. A reset net would reach
    10,000 registers over the wires that the logic needs, for the same effect; the simulated device has none either.

    Parameters: board; pll, the settings of the generator (its class decides the primitive); build_id (32 bits).
    """

    def __init__(self, *, board: Board, pll: Pll, build_id: int) -> None:
        self.board = board
        self.pll = pll
        self.build_id = build_id

    def elaborate(self, platform):
        m = Module()
        m.domains.pll = ClockDomain(reset_less=True)
        m.domains.sync = ClockDomain(reset_less=True)
        m.submodules.clock_pin = clock = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        locked = Signal()
        running = Signal()
        m.submodules.pll = _generator(self.pll, platform, clock.i, ClockSignal("pll"), locked)
        m.submodules.locked = FFSynchronizer(locked, running, o_domain="pll")
        m.submodules.gate = _gate(self.pll, ClockSignal("pll"), running, ClockSignal("sync"))

        uart = platform.request("uart", 0, dir="-")
        m.submodules.rx_pin = rx = io.Buffer("i", uart.rx)
        m.submodules.tx_pin = tx = io.Buffer("o", uart.tx)
        resource, number, *parts = self.board.led
        led_port = platform.request(resource, number, dir="-")
        for part in parts:
            led_port = getattr(led_port, part)
        m.submodules.led_pin = led = io.Buffer("o", led_port)
        m.submodules.top = top = Top(geometry=self.board.geometry, divisor=self.board.divisor, build_id=self.build_id)
        m.d.comb += [top.uart_rx.eq(rx.i), tx.o.eq(top.uart_tx), led.o.eq(top.active)]
        return m


def _generator(pll: Pll, platform, clock, output, locked) -> Instance:
    match pll:
        case Ecp5Pll():
            return Instance(
                "EHXPLLL",
                # Of the analogue loop, as Lattice's and Trellis's tools set them.
                a_ICP_CURRENT="12",
                a_LPF_RESISTOR="8",
                a_MFG_ENABLE_FILTEROPAMP="1",
                a_MFG_GMCREF_SEL="2",
                p_CLKI_DIV=pll.reference,
                p_CLKFB_DIV=pll.feedback,
                p_CLKOP_DIV=pll.divider,
                # No shift: the edges of the output and of its oscillator's period are the same.
                p_CLKOP_CPHASE=pll.divider - 1,
                p_CLKOP_FPHASE=0,
                p_CLKOP_ENABLE="ENABLED",
                p_FEEDBK_PATH="CLKOP",
                i_CLKI=clock,
                i_CLKFB=output,
                i_RST=0,
                i_STDBY=0,
                i_ENCLKOP=0,
                i_PHASESEL0=0,
                i_PHASESEL1=0,
                i_PHASEDIR=0,
                i_PHASESTEP=0,
                i_PHASELOADREG=0,
                i_PLLWAKESYNC=0,
                o_CLKOP=output,
                o_LOCK=locked,
            )
        case GowinPll():
            return Instance(
                "rPLL",
                p_DEVICE=platform.family,
                p_FCLKIN=f"{pll.input_hz / 1e6:g}",
                p_IDIV_SEL=pll.reference - 1,
                p_FBDIV_SEL=pll.feedback - 1,
                p_ODIV_SEL=pll.divider,
                p_CLKFB_SEL="internal",
                i_CLKIN=clock,
                i_CLKFB=0,
                i_RESET=0,
                i_RESET_P=0,
                i_FBDSEL=0,
                i_IDSEL=0,
                i_ODSEL=0,
                i_PSDA=0,
                i_DUTYDA=0,
                i_FDLY=0,
                o_CLKOUT=output,
                o_LOCK=locked,
            )
    raise TypeError(f"no primitive for {type(pll).__name__}")


def _gate(pll: Pll, clock, enable, output) -> Instance:
    """A switch in the clock network, which opens and closes without short pulses."""
    match pll:
        case Ecp5Pll():
            return Instance("DCCA", i_CLKI=clock, i_CE=enable, o_CLKO=output)
        case GowinPll():
            return Instance("DQCE", i_CLKIN=clock, i_CE=enable, o_CLKOUT=output)
    raise TypeError(f"no clock switch for {type(pll).__name__}")
