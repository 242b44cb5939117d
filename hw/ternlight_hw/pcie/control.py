"""What the units of the endpoint are told of its registers."""

from __future__ import annotations

from amaranth.lib import wiring
from amaranth.lib.wiring import Out


class RingControl(wiring.Signature):
    """Seen from the registers.

    run: take requests (enabled, and no fault).
    dma: the rings are in the host's memory. master: the function may use that.
    resetting: begin nothing, and tell by `idle` that nothing is under way.
    clear: for the cycle that ends the reset, when all are idle: indices and state start anew.
    """

    def __init__(self) -> None:
        super().__init__({"run": Out(1), "dma": Out(1), "master": Out(1), "resetting": Out(1), "clear": Out(1)})
