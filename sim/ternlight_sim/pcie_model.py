"""Model of the PCIe function at its registers and rings, in front of any device: the gateware's twin for tests of the
host, without TLPs and without time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from ternlight.abi import MAX_DATA_WORDS, REQUEST_HEADER_WORDS, Op
from ternlight.link.base import Transport
from ternlight.packets import FrameSplitter, seal, unseal
from ternlight.pcie_map import (
    ANSWER_WINDOW,
    INDEX_BITS,
    MAGIC,
    MAP_VERSION,
    REQUEST_WINDOW,
    RING_WORDS,
    STATUS_WORDS,
    TIMEOUT_DEFAULT,
    WINDOW_WORDS,
    Control,
    Fault,
    Link,
    PcieRegister,
)

WORD_BYTES = 4
INDICES = 1 << INDEX_BITS
READ_BYTES = 4096
IDLE_SECONDS = 1e-4

Reach = Callable[[int, int], memoryview]
"""The words of the host's memory at an address that the function sees, so many of them."""


class PcieModel:
    """Serves the BAR from a thread, as long as its context lasts.

    device: what executes the packets. bar: words of the BAR, which the host maps too. reach: the host's memory.
    interrupt: called for an MSI. fault: set by a test, told as the device's.
    """

    def __init__(
        self,
        device: Transport,
        bar: memoryview,
        *,
        reach: Reach | None = None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = device
        self.bar = bar
        self.reach = reach
        self.interrupt = interrupt
        self.fault = Fault(0)
        self._splitter = FrameSplitter()
        self._answers: list[int] = []  # that have not found room in the ring
        self._stop = Event()
        self._thread = Thread(target=self._serve)
        bar[PcieRegister.MAGIC], bar[PcieRegister.VERSION] = MAGIC, MAP_VERSION
        bar[PcieRegister.LINK] = 1 << Link.MASTER | 1 << Link.INTERRUPT

    def __enter__(self) -> PcieModel:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """No longer look at the BAR."""
        self._stop.set()
        self._thread.join()

    def step(self) -> None:
        """Do what the registers ask for."""
        bar = self.bar
        control = bar[PcieRegister.CONTROL]
        if control & Control.RESET:
            self._reset()
            return
        bar[PcieRegister.STATUS] |= self.fault
        if control & Control.ENABLE and not bar[PcieRegister.STATUS]:
            self._take_requests(bool(control & Control.DMA))
        for frame in self._splitter.feed(self.device.read(READ_BYTES, 0.0)):
            packet = unseal(frame)
            assert packet is not None
            self._answers += struct.unpack(f"<{len(packet) // WORD_BYTES}I", packet)
        before = bar[PcieRegister.ANSWER_HEAD]
        self._give_answers(bool(control & Control.DMA))
        if control & Control.DMA:
            self._report()
        if control & Control.INTERRUPT and (before != bar[PcieRegister.ANSWER_HEAD] or self.fault):
            self.interrupt()

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.step()
            self._stop.wait(IDLE_SECONDS)

    def _reset(self) -> None:
        # CONTROL is the last: the host looks at nothing else until then.
        for register in range(PcieRegister.TIMEOUT, PcieRegister.CONTROL, -1):
            self.bar[register] = 0
        self.bar[PcieRegister.TIMEOUT] = TIMEOUT_DEFAULT
        self.fault = Fault(0)
        self._answers.clear()
        self.bar[PcieRegister.CONTROL] = 0

    def _take_requests(self, dma: bool) -> None:
        head, tail = self.bar[PcieRegister.REQUEST_HEAD], self.bar[PcieRegister.REQUEST_TAIL]
        ring, size = self._ring(PcieRegister.REQUEST_BASE, REQUEST_WINDOW, dma)
        while there := (head - tail) % INDICES:
            header = ring[tail % size]
            words = REQUEST_HEADER_WORDS
            if header & 0xFF == Op.WRITE:
                words += header >> 16
            if words > REQUEST_HEADER_WORDS + MAX_DATA_WORDS:
                self.bar[PcieRegister.STATUS] = Fault.BAD_REQUEST
                break
            if words > there:
                break
            packet = [ring[(tail + at) % size] for at in range(words)]
            self.device.write(seal(struct.pack(f"<{words}I", *packet)))
            tail = (tail + words) % INDICES
            self.bar[PcieRegister.REQUEST_TAIL] = tail

    def _give_answers(self, dma: bool) -> None:
        head, tail = self.bar[PcieRegister.ANSWER_HEAD], self.bar[PcieRegister.ANSWER_TAIL]
        ring, size = self._ring(PcieRegister.ANSWER_BASE, ANSWER_WINDOW, dma)
        room = size - (head - tail) % INDICES
        for at, word in enumerate(self._answers[:room]):
            ring[(head + at) % size] = word
        self.bar[PcieRegister.ANSWER_HEAD] = (head + len(self._answers[:room])) % INDICES
        del self._answers[:room]

    def _report(self) -> None:
        block = self._reached(PcieRegister.STATUS_BASE, STATUS_WORDS)
        block[1] = self.bar[PcieRegister.STATUS]
        block[0] = self.bar[PcieRegister.ANSWER_HEAD] | self.bar[PcieRegister.REQUEST_TAIL] << 16

    def _ring(self, base: PcieRegister, window: int, dma: bool) -> tuple[memoryview, int]:
        if dma:
            return self._reached(base, RING_WORDS), RING_WORDS
        first = window // WORD_BYTES
        return self.bar[first : first + WINDOW_WORDS], WINDOW_WORDS

    def _reached(self, base: PcieRegister, words: int) -> memoryview:
        assert self.reach is not None
        return self.reach(self.bar[base] | self.bar[base + 1] << 32, words)
