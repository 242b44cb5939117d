"""The complete device on PCIe."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.abi import window_columns
from ternlight.geometry import Geometry

from ..core import Core
from .endpoint import PcieEndpoint
from .tlp import BEAT, CONFIGURATION


class PcieTop(wiring.Component):
    """Core and PCIe endpoint.

    Parameters: geometry; build_id (32 bits).
    Members: receive, room, transmit, configuration, interrupt, interrupt_done, as of PcieEndpoint; active (Out, 1): a
    session runs or has something to tell, or the host is served.
    """

    def __init__(self, *, geometry: Geometry, build_id: int = 0) -> None:
        self.geometry = geometry
        self.build_id = build_id
        self._core = Core(geometry=geometry, build_id=build_id)
        self._endpoint = PcieEndpoint(columns=window_columns(geometry))
        super().__init__(
            {
                "receive": In(stream.Signature(BEAT)),
                "room": Out(1),
                "transmit": Out(stream.Signature(BEAT)),
                "configuration": In(CONFIGURATION),
                "interrupt": Out(1),
                "interrupt_done": In(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.core = core = self._core
        m.submodules.endpoint = endpoint = self._endpoint
        connect(m, endpoint.bus, core.bus)
        connect(m, core.events, endpoint.events)
        connect(m, flipped(self.receive), endpoint.receive)
        connect(m, endpoint.transmit, flipped(self.transmit))
        m.d.comb += [
            endpoint.configuration.eq(self.configuration),
            endpoint.interrupt_done.eq(self.interrupt_done),
            self.room.eq(endpoint.room),
            self.interrupt.eq(endpoint.interrupt),
            self.active.eq(core.active | endpoint.bus.enable),
        ]
        return m
