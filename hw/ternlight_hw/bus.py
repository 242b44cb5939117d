"""The host's bus inside the device: one 32-bit word at a time, whatever the link."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out


class HostBus(wiring.Signature):
    """From the command port (Out) to the registers and memories.

    The initiator holds `enable`, `write`, `address` and `write_data` until `ack`, which comes in any later or the same
    cycle, for one cycle per word. `read_data` and `error` (no such address) are valid with `ack`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "write": Out(1),
                "address": Out(unsigned(32)),
                "write_data": Out(unsigned(32)),
                "ack": In(1),
                "read_data": In(unsigned(32)),
                "error": In(1),
            }
        )
