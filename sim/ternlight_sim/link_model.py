"""Model of the device's end of the link: the twin of the gateware's CommandPort, and a device for tests of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ternlight.abi import AHEAD_MAX, MAX_DATA_WORDS, WINDOW_SHIFT, Kind, Op, Window, column_bits
from ternlight.packets import (
    SEQUENCES,
    FrameSplitter,
    Request,
    Response,
    decode_request,
    encode_response,
)


class Bus(Protocol):
    """What the port drives: registers and memories."""

    def read(self, address: int) -> int | None:
        """The word at an address, or None if there is none."""

    def write(self, address: int, word: int) -> bool:
        """Write a word; False if the address does not exist."""


class DictBus:
    """A memory of the words at certain addresses, zero at first."""

    def __init__(self, addresses: Mapping[int, int] | range) -> None:
        self.words = dict(addresses) if isinstance(addresses, Mapping) else dict.fromkeys(addresses, 0)
        self.writes: list[tuple[int, int]] = []

    def read(self, address: int) -> int | None:
        """The word at an address, or None if there is none."""
        return self.words.get(address)

    def write(self, address: int, word: int) -> bool:
        """Write a word; False if the address does not exist."""
        self.writes.append((address, word))
        if address not in self.words:
            return False
        self.words[address] = word
        return True


class DevicePort:
    """Executes requests on a bus as the gateware does: the same answers to the same bytes, in no time.

    columns: words per row of each window; a window that is not named has rows of one word.
    Until the first SYNC everything is answered by NAK.
    """

    def __init__(self, columns: Mapping[Window, int], bus: Bus) -> None:
        self.columns = dict(columns)
        self.bus = bus
        self.expected = 0
        self.synchronised = False
        self._splitter = FrameSplitter()
        self._refused: dict[int, int | None] = {}  # of the WRITE with a sequence: the word that was refused

    def receive(self, data: bytes) -> list[Response]:
        """The answers to bytes from the host."""
        return [self.answer(frame) for frame in self._splitter.feed(data)]

    def answer(self, frame: bytes) -> Response:
        """The answer to one frame, without its delimiter."""
        request = decode_request(frame)
        if request is None:
            return Response(Kind.NAK, self.expected)
        if request.op == Op.SYNC:
            self.expected = (request.sequence + 1) % SEQUENCES
            self.synchronised = True
            return Response(Kind.ACK, request.sequence)
        ahead = (request.sequence - self.expected) % SEQUENCES
        if 0 < ahead <= AHEAD_MAX or not self.synchronised:
            return Response(Kind.NAK, self.expected)
        fresh = ahead == 0
        if fresh:
            self.expected = (self.expected + 1) % SEQUENCES
        if request.op == Op.WRITE:
            return self._write(request, fresh)
        if request.op == Op.READ and request.count <= MAX_DATA_WORDS:
            return self._read(request)
        return Response(Kind.ERROR, request.sequence, (request.address,))

    def event(self, words: tuple[int, ...]) -> bytes:
        """The frame of an event."""
        return encode_response(Response(Kind.EVENT, 0, words))

    def following(self, address: int) -> int:
        """The address of the next word of a burst."""
        window, offset = address >> WINDOW_SHIFT, address & (1 << WINDOW_SHIFT) - 1
        columns = self.columns.get(Window(window), 1) if window in Window.__members__.values() else 1
        bits = column_bits(columns)
        last = offset & (1 << bits) - 1 == columns - 1
        step = (1 << bits) - columns + 1 if last else 1
        return window << WINDOW_SHIFT | (offset + step) & (1 << WINDOW_SHIFT) - 1

    def _write(self, request: Request, fresh: bool) -> Response:
        slot = request.sequence % (SEQUENCES - AHEAD_MAX)
        refused = None if fresh else self._refused.get(slot)
        address = request.address
        for index, word in enumerate(request.words):
            if fresh and not self.bus.write(address, word):
                refused = index
            if refused == index:
                break
            address = self.following(address)
        else:
            refused = None
        self._refused[slot] = refused
        if refused is None:
            return Response(Kind.ACK, request.sequence)
        return Response(Kind.ERROR, request.sequence, (address,))

    def _read(self, request: Request) -> Response:
        words = []
        address = request.address
        for _ in range(request.count):
            word = self.bus.read(address)
            if word is None:
                return Response(Kind.ERROR, request.sequence, (address,))
            words.append(word)
            address = self.following(address)
        return Response(Kind.DATA, request.sequence, tuple(words))
