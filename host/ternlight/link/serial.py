"""Bytes over a serial port."""

from __future__ import annotations

import contextlib
import errno
import os
import time

import serial
from serial.tools import list_ports

from ..errors import LinkError
from .base import Transport

POLL_SECONDS = 0.05
WRITE_SECONDS = 30.0
"""A port that takes nothing for so long is stuck."""


class SerialTransport(Transport):
    """A serial port of this machine, or any other URL that pyserial knows (rfc2217://, loop://).

    url: a device (/dev/ttyUSB0, COM3) or a URL; baud: bits per second.
    """

    def __init__(self, url: str, *, baud: int) -> None:
        self.name = url
        self.baud = baud
        try:
            self._port = serial.serial_for_url(
                url,
                baudrate=baud,
                # Fixed, for a change would set up the port anew; read() waits in steps of it.
                timeout=POLL_SECONDS,
                write_timeout=WRITE_SECONDS,
                # Two hosts on one device would answer each other's requests.
                exclusive=True if os.name == "posix" else None,
            )
        except serial.SerialException as error:
            raise LinkError(_advice(url, error)) from error
        except (OSError, ValueError) as error:
            raise LinkError(f"{url} cannot be opened at {baud} baud: {error}") from error
        # An FTDI bridge otherwise keeps short answers for 16 ms. Others refuse, and do not need it.
        with contextlib.suppress(AttributeError, NotImplementedError, OSError, ValueError):
            self._port.set_low_latency_mode(True)

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
        except (serial.SerialException, OSError) as error:
            raise self._gone(error) from error

    def read(self, maximum: int, timeout: float) -> bytes:
        end = time.monotonic() + timeout
        try:
            while True:
                waiting = self._port.in_waiting
                left = end - time.monotonic()
                if waiting or left > 0:
                    data: bytes = self._port.read(max(1, min(waiting, maximum)))
                    if data:
                        return data
                if left <= 0:
                    return b""
        except (serial.SerialException, OSError, TypeError) as error:
            # TypeError: what pyserial makes of a port that is closed while it reads.
            raise self._gone(error) from error

    def close(self) -> None:
        with contextlib.suppress(serial.SerialException, OSError):
            self._port.close()

    def _gone(self, error: Exception) -> LinkError:
        return LinkError(
            f"the port {self.name} broke: {error}. Is the cable in, and does no other program use the port?"
        )


def _advice(url: str, error: serial.SerialException) -> str:
    """What to do about a port that does not open."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                f"no permission to open {url}: add yourself to its group (sudo usermod -aG dialout $USER), log in again"
            )
        case errno.ENOENT:
            ports = ", ".join(port.device for port in list_ports.comports()) or "none"
            return f"there is no port {url}; ports of this machine: {ports}. Is the board plugged in and powered?"
        case errno.EBUSY | errno.EAGAIN:
            return f"{url} is in use by another program: close it first"
    return f"{url} cannot be opened: {error}"
