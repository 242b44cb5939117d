"""The rings of ternlight.pcie_map as a Transport: frames of the host become packets in a ring, and back."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable

from ...errors import DeviceError, LinkError
from ...packets import FrameSplitter, seal, unseal
from ...pcie_map import (
    ANSWER_WINDOW,
    FAULT_TEXT,
    INDEX_BITS,
    MAGIC,
    MAP_VERSION,
    REQUEST_WINDOW,
    RING_WORDS,
    STATUS_WORDS,
    WINDOW_WORDS,
    Control,
    Fault,
    Link,
    PcieRegister,
)
from ..base import Transport
from .base import WORD_BYTES, PcieFunction

INDICES = 1 << INDEX_BITS
COUNT_SHIFT = 16
"""Above it the header of a packet says how many words follow it."""
GONE = 0xFFFFFFFF
"""What a processor reads of a function that is no longer there."""
RESET_SECONDS = 5.0
WRITE_SECONDS = 30.0
"""A device that takes nothing for so long is stuck."""
POLL_SECONDS = 0.05
"""Between looks at a ring that no interrupt told of."""

MEMORY_WORDS = 2 * RING_WORDS + STATUS_WORDS
"""Memory for DMA: the requests, the answers, the status block."""


class PcieTransport(Transport):
    """Both rings of a function: in its memory windows, or, if it can reach memory of the host, in that.

    The link guards its packets itself: COBS and CRC of the frames are taken off here, and put on for the answers. What
    the device reports as a fault is a LinkError with its reason.

    function: it is closed with the transport. clock: the time in seconds, for tests.
    Raises LinkError for a function that is no ternlight device, DeviceError for one of another version.
    """

    def __init__(self, function: PcieFunction, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = function.name
        self._function = function
        self._clock = clock
        self._dma = function.memory
        self._splitter = FrameSplitter()
        self._received = bytearray()
        self._words: list[int] = []  # of a packet that is not complete
        self._request_head = self._request_tail = self._answer_tail = 0
        try:
            self._identify()
            self._reset()
            self._set_up()
        except BaseException:
            function.close()
            raise

    def write(self, data: bytes) -> None:
        packets = (unseal(frame) for frame in self._splitter.feed(data))
        for packet in packets:
            if packet is not None:
                self._put(list(struct.unpack(f"<{len(packet) // WORD_BYTES}I", packet)))
        self._register(PcieRegister.REQUEST_HEAD, self._request_head)

    def read(self, maximum: int, timeout: float) -> bytes:
        end = self._clock() + timeout
        self._collect()
        while not self._received and (left := end - self._clock()) > 0:
            self._function.wait(min(left, POLL_SECONDS))
            self._collect()
        if not self._received:
            self._check()
        data = bytes(self._received[:maximum])
        del self._received[:maximum]
        return data

    def close(self) -> None:
        # The device must not write to memory that is given back.
        with contextlib.suppress(LinkError):
            self._reset()
        self._function.close()

    @property
    def _ring_words(self) -> int:
        return WINDOW_WORDS if self._dma is None else RING_WORDS

    def _identify(self) -> None:
        magic, version = self._function.read(PcieRegister.MAGIC, 2)
        if magic == GONE:
            raise LinkError(f"{self.name} does not answer: is its memory enabled, and its bitstream loaded?")
        if magic != MAGIC:
            raise LinkError(
                f"{self.name} is no ternlight device: its BAR 0 begins with {magic:#010x}, not {MAGIC:#010x}"
            )
        if version != MAP_VERSION:
            raise DeviceError(
                f"{self.name} has version {version} of the PCIe registers, this host {MAP_VERSION}: "
                "build the bitstream and install the host from the same release"
            )

    def _reset(self) -> None:
        self._register(PcieRegister.CONTROL, Control.RESET)
        end = self._clock() + RESET_SECONDS
        while control := self._look(PcieRegister.CONTROL):
            if control == GONE:
                raise self._gone()
            if self._clock() > end:
                raise LinkError(f"{self.name} does not come out of its reset: load the bitstream again")
            self._function.wait(0.0)
        self._request_head = self._request_tail = self._answer_tail = 0

    def _set_up(self) -> None:
        control = Control.ENABLE | Control.INTERRUPT
        if self._dma is not None:
            control |= Control.DMA
            status = 2 * RING_WORDS
            self._dma.words[status : status + STATUS_WORDS] = memoryview(bytes(STATUS_WORDS * WORD_BYTES)).cast("I")
            for register, word in (
                (PcieRegister.REQUEST_BASE, 0),
                (PcieRegister.ANSWER_BASE, RING_WORDS),
                (PcieRegister.STATUS_BASE, status),
            ):
                address = self._dma.address + word * WORD_BYTES
                self._function.write(register * WORD_BYTES, [address & 0xFFFFFFFF, address >> 32])
        self._register(PcieRegister.CONTROL, control)

    def _put(self, words: list[int]) -> None:
        """Write a packet to the ring of requests, as soon as it has room."""
        if not self._has_room(len(words)):
            # The device cannot take more while its answers have no room: they are collected meanwhile.
            self._register(PcieRegister.REQUEST_HEAD, self._request_head)
            end = self._clock() + WRITE_SECONDS
            while not self._has_room(len(words)):
                self._request_tail = self._look(PcieRegister.REQUEST_TAIL)
                self._collect()
                self._check()
                if self._clock() > end:
                    raise LinkError(
                        f"{self.name} has taken no request for {WRITE_SECONDS:g} s: load its bitstream again"
                    )
                self._function.wait(POLL_SECONDS)
        place = self._request_head % self._ring_words
        split = min(len(words), self._ring_words - place)
        for at, part in ((place, words[:split]), (0, words[split:])):
            if part and self._dma is None:
                self._function.write(REQUEST_WINDOW + at * WORD_BYTES, part)
            elif part and self._dma is not None:
                self._dma.words[at : at + len(part)] = _packed(part)
        self._request_head = (self._request_head + len(words)) % INDICES

    def _has_room(self, count: int) -> bool:
        return (self._request_head - self._request_tail) % INDICES + count <= self._ring_words

    def _collect(self) -> None:
        """Take the packets that are in the ring of answers, as frames."""
        if self._dma is None:
            head, fault = self._look(PcieRegister.ANSWER_HEAD), 0
        else:
            block = self._dma.words[2 * RING_WORDS : 2 * RING_WORDS + STATUS_WORDS]
            head, fault = block[0] % INDICES, block[1]
        if head == GONE:
            raise self._gone()
        if fault:
            raise self._faulty(fault)
        count = (head - self._answer_tail) % INDICES
        if count == 0:
            return
        if count > self._ring_words:
            raise LinkError(f"{self.name} tells of {count} words of answers, but its ring has {self._ring_words}")
        self._words += self._take(self._answer_tail % self._ring_words, count)
        while self._words and len(self._words) >= (size := 1 + (self._words[0] >> COUNT_SHIFT)):
            self._received += seal(struct.pack(f"<{size}I", *self._words[:size]))
            del self._words[:size]
        self._answer_tail = head
        self._register(PcieRegister.ANSWER_TAIL, head)

    def _take(self, place: int, count: int) -> list[int]:
        """Words of the ring of answers."""
        split = min(count, self._ring_words - place)
        if self._dma is None:
            words = self._function.read(ANSWER_WINDOW + place * WORD_BYTES, split)
            return words + self._function.read(ANSWER_WINDOW, count - split) if split < count else words
        ring = self._dma.words[RING_WORDS : 2 * RING_WORDS]
        return [*ring[place : place + split], *ring[: count - split]]

    def _check(self) -> None:
        """Raise LinkError if the device has stopped."""
        status, link = self._look(PcieRegister.STATUS), self._look(PcieRegister.LINK)
        if status == GONE:
            raise self._gone()
        if status:
            raise self._faulty(status)
        if self._dma is not None and not link >> Link.MASTER & 1:
            raise LinkError(f"{self.name} may not use the host's memory: something has switched bus mastering off")

    def _look(self, register: PcieRegister) -> int:
        return self._function.read(register * WORD_BYTES)[0]

    def _register(self, register: PcieRegister, word: int) -> None:
        self._function.write(register * WORD_BYTES, [word])

    def _faulty(self, status: int) -> LinkError:
        reasons = "; ".join(FAULT_TEXT[fault] for fault in Fault if fault & status) or f"fault {status:#x}"
        return LinkError(f"{self.name} has stopped: {reasons}. Open the device again")

    def _gone(self) -> LinkError:
        return LinkError(f"{self.name} is gone: it was switched off, or its bitstream was loaded anew. Rescan the bus")


def _packed(words: list[int]) -> memoryview:
    return memoryview(struct.pack(f"={len(words)}I", *words)).cast("I")
