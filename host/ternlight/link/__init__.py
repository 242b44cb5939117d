"""Links to a device: the same protocol over every wire."""

from __future__ import annotations

from .base import Transport

DEFAULT_BAUD = 1_000_000
SOCKET_SCHEME = "socket://"
PCIE_SCHEME = "pcie:"
SIMULATOR = "sim"
"""The URL of the simulated device that is built and started on demand."""


def open_transport(url: str, *, baud: int = DEFAULT_BAUD) -> Transport:
    """The wire that a URL names: socket://HOST:PORT, pcie:DOMAIN:BUS:DEVICE.FUNCTION, or a serial port (a device, or
    any URL that pyserial knows).

    baud: bits per second of a serial port. Raises LinkError.
    """
    # Imported where they are needed: a socket does without pyserial, and `--help` without both.
    if url.startswith(SOCKET_SCHEME):
        from .tcp import TcpTransport

        return TcpTransport(url)
    if url.startswith(PCIE_SCHEME):
        from .pcie import PcieTransport, open_function

        return PcieTransport(open_function(url))
    from .serial import SerialTransport

    return SerialTransport(url, baud=baud)
