"""A PCIe function as the driver sees it: words of its BAR 0, memory that it can reach, and its interrupts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

WORD_BYTES = 4


@dataclass(frozen=True)
class DmaMemory:
    """Memory of the host that the function reads and writes.

    address: of the first byte, as the function sees it. words: of 32 bits, as the host does.
    """

    address: int
    words: memoryview


class PcieFunction(ABC):
    """BAR 0 by words: each access is one of 32 bits on the link, in program order.

    name: what messages call it. memory: for DMA, or None if the function cannot reach any.
    Every method raises LinkError when the function cannot be reached.
    """

    name: str
    memory: DmaMemory | None = None

    @abstractmethod
    def read(self, offset: int, count: int = 1) -> list[int]:
        """Words from a byte offset of the BAR on."""

    @abstractmethod
    def write(self, offset: int, words: list[int]) -> None:
        """Write words from a byte offset of the BAR on."""

    @abstractmethod
    def wait(self, timeout: float) -> None:
        """Return at the next interrupt, after `timeout` seconds, or earlier for no reason."""

    @abstractmethod
    def close(self) -> None:
        """Give the function back; more than once does no harm."""


class MappedBar:
    """A BAR that is mapped into memory.

    A word is moved by one copy of four aligned bytes, which every compiler of Python's makes one access of 32 bits.
    """

    def __init__(self, mapping: memoryview) -> None:
        self._bytes = mapping
        self._words = mapping.cast("I")

    def read(self, offset: int, count: int) -> list[int]:
        """Words from a byte offset on."""
        first = offset // WORD_BYTES
        return [self._words[at] for at in range(first, first + count)]

    def write(self, offset: int, words: list[int]) -> None:
        """Write words from a byte offset on."""
        for at, word in enumerate(words, offset // WORD_BYTES):
            self._words[at] = word

    def release(self) -> None:
        """Let go of the mapping, so that it can be closed."""
        self._words.release()
        self._bytes.release()
