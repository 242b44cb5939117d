"""Bytes over TCP: a simulated device, or a serial port that another machine shares (ser2net)."""

from __future__ import annotations

import contextlib
import select
import socket
from urllib.parse import urlsplit

from ..errors import LinkError
from .base import Transport

CONNECT_SECONDS = 5.0
WRITE_SECONDS = 30.0
"""A peer that takes nothing for so long is stuck."""


class TcpTransport(Transport):
    """A connection to socket://HOST:PORT."""

    def __init__(self, url: str) -> None:
        self.name = url
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = None
        if not parts.hostname or port is None:
            raise LinkError(f"{url} is no address: write socket://HOST:PORT, as in socket://localhost:5000")
        try:
            self._socket = socket.create_connection((parts.hostname, port), CONNECT_SECONDS)
        except ConnectionRefusedError:
            raise LinkError(f"nothing listens at {url}: is the simulator or the server started?") from None
        except OSError as error:
            raise LinkError(f"{url} cannot be reached: {error}") from error
        # Requests are small and wait for answers: they must not be held back to fill a segment.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(WRITE_SECONDS)

    def write(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._gone(error) from error

    def read(self, maximum: int, timeout: float) -> bytes:
        try:
            if not select.select([self._socket], [], [], timeout)[0]:
                return b""
            data = self._socket.recv(maximum)
        except (OSError, ValueError) as error:
            raise self._gone(error) from error
        if not data:
            raise self._gone("the other side closed the connection")
        return data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def _gone(self, why: object) -> LinkError:
        return LinkError(f"the connection to {self.name} broke: {why}")
