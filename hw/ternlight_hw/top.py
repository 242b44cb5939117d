"""The complete device on a serial line."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from ternlight.abi import window_columns
from ternlight.geometry import Geometry

from .command_port import HostLink
from .core import Core


class Top(wiring.Component):
    """Core and host link.

    Parameters: geometry; divisor, clock cycles per bit of the serial line; build_id (32 bits).
    Members: uart_rx (In), uart_tx (Out), the lines; active (Out, 1): a session runs or has something to tell,
    or the host is served.
    """

    def __init__(self, *, geometry: Geometry, divisor: int, build_id: int = 0) -> None:
        self.geometry = geometry
        self.divisor = divisor
        self.build_id = build_id
        self._core = Core(geometry=geometry, build_id=build_id)
        self._link = HostLink(divisor=divisor, columns=window_columns(geometry))
        super().__init__({"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "active": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self._core
        m.submodules.link = link = self._link
        connect(m, link.bus, core.bus)
        connect(m, core.events, link.events)
        m.d.comb += [link.rx.eq(self.uart_rx), self.uart_tx.eq(link.tx), self.active.eq(core.active | link.bus.enable)]
        return m
