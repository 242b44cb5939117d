"""What carries bytes to a device and back."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Transport(ABC):
    """A stream of bytes in both directions. Bytes may be damaged or lost: the protocol above repairs that.

    name: what messages call it. Every method raises LinkError when the wire itself is gone.
    """

    name: str

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send all the bytes."""

    @abstractmethod
    def read(self, maximum: int, timeout: float) -> bytes:
        """From 1 to `maximum` bytes as soon as there are any, or none after `timeout` seconds."""

    @abstractmethod
    def close(self) -> None:
        """Give the wire back; more than once does no harm."""
