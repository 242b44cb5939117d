"""Packets between host and device as values and as bytes: pure functions, both directions (formats: ternlight.abi).

A frame is the COBS code of a packet and the delimiter after it. Decoding never guesses: bytes that are no packet of
the right length with the right CRC are None.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cobs import cobs

from .abi import EVENT_HEADER_WORDS, MAX_DATA_WORDS, TOKENS_PER_WORD, Finish, Kind, Op, pack_tokens, unpack_tokens
from .geometry import ceil_div

DELIMITER = b"\x00"
SEQUENCES = 256
WORD_BYTES = 4
RESPONSE_BYTES = 8
"""The shortest packet: header and CRC."""


@dataclass(frozen=True)
class Request:
    """What the host asks: `count` words from `address` (READ), or `words` to there (WRITE)."""

    op: int
    sequence: int
    address: int = 0
    count: int = 0
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Response:
    """What the device says; for EVENT the sequence means nothing, for NAK it is the one that the device expects."""

    kind: int
    sequence: int
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Event:
    """News of a session: tokens from number `first` of the request with this tag, and why it ended, if it did.

    Events can be lost or repeated on a bad line: `first` shows it, and the device keeps its tokens until they are
    credited.
    """

    slot: int
    tag: int
    finish: Finish
    first: int
    tokens: tuple[int, ...]

    def words(self) -> tuple[int, ...]:
        """The words of the EVENT packet."""
        head = self.slot | len(self.tokens) << 8 | self.tag << 16 | self.finish << 24
        return (head, self.first, *pack_tokens(self.tokens))

    @classmethod
    def from_words(cls, words: Sequence[int]) -> Event | None:
        """The event that an EVENT packet tells, or None if it is none."""
        if len(words) < EVENT_HEADER_WORDS:
            return None
        head, first, *packed = words
        slot, count, tag, finish = head.to_bytes(WORD_BYTES, "little")
        if len(packed) != ceil_div(count, TOKENS_PER_WORD) or finish not in Finish.__members__.values():
            return None
        return cls(slot, tag, Finish(finish), first, tuple(unpack_tokens(packed)[:count]))


def seal(packet: bytes) -> bytes:
    """The frame of a packet: CRC, COBS and delimiter added."""
    coded: bytes = cobs.encode(packet + struct.pack("<I", zlib.crc32(packet)))
    return coded + DELIMITER


def unseal(frame: bytes) -> bytes | None:
    """The packet of a frame (without its delimiter), or None if it is damaged."""
    try:
        packet: bytes = cobs.decode(frame)
    except cobs.DecodeError:
        return None
    if len(packet) < RESPONSE_BYTES or len(packet) % WORD_BYTES:
        return None
    (crc,) = struct.unpack_from("<I", packet, len(packet) - WORD_BYTES)
    return packet[:-WORD_BYTES] if crc == zlib.crc32(packet[:-WORD_BYTES]) else None


def encode_request(request: Request) -> bytes:
    """The frame of a request."""
    count = len(request.words) if request.op == Op.WRITE else request.count
    head = (request.op | request.sequence << 8 | count << 16, request.address)
    return seal(struct.pack(f"<{2 + len(request.words)}I", *head, *request.words))


def decode_request(frame: bytes) -> Request | None:
    """The request in a frame, or None if a device must take it for corrupt."""
    packet = unseal(frame)
    if packet is None or len(packet) < 2 * WORD_BYTES:
        return None
    head, address, *words = struct.unpack(f"<{len(packet) // WORD_BYTES}I", packet)
    op, sequence, count = head & 0xFF, head >> 8 & 0xFF, head >> 16
    if len(words) != (count if op == Op.WRITE else 0) or len(words) > MAX_DATA_WORDS:
        return None
    return Request(op, sequence, address, count, tuple(words))


def encode_response(response: Response) -> bytes:
    """The frame of a response or an event."""
    head = response.kind | response.sequence << 8 | len(response.words) << 16
    return seal(struct.pack(f"<{1 + len(response.words)}I", head, *response.words))


def decode_response(frame: bytes) -> Response | None:
    """The response in a frame, or None if it is damaged or unknown."""
    packet = unseal(frame)
    if packet is None:
        return None
    head, *words = struct.unpack(f"<{len(packet) // WORD_BYTES}I", packet)
    kind, sequence, count = head & 0xFF, head >> 8 & 0xFF, head >> 16
    if count != len(words) or kind not in Kind.__members__.values():
        return None
    return Response(kind, sequence, tuple(words))


class FrameSplitter:
    """Cuts received bytes into frames, whatever pieces they come in; empty frames are left out."""

    def __init__(self, limit: int = 1024) -> None:
        self.limit = limit
        self._partial = bytearray()

    def feed(self, received: bytes) -> Iterator[bytes]:
        """The frames that are complete with these bytes, without their delimiters."""
        self._partial += received
        *frames, rest = self._partial.split(DELIMITER)
        # Without a delimiter for so long it is noise: no frame is that long.
        self._partial = rest if len(rest) <= self.limit else rest[-self.limit :]
        return (bytes(frame) for frame in frames if frame)
