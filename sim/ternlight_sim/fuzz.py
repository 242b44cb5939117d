"""Bytes that no host would send: for the decoders of a device, which nothing may wedge."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from ternlight.abi import MAX_DATA_WORDS, Op
from ternlight.packets import DELIMITER, SEQUENCES, Request, encode_request, seal


def fuzz(source: random.Random, count: int, addresses: range) -> Iterator[bytes]:
    """So many inputs: noise, endless frames, damaged frames, and whole packets of nonsense."""
    for _ in range(count):
        yield source.choice((_noise, _delimiters, _endless, _damaged, _nonsense, _nonsense))(source, addresses)


def _noise(source: random.Random, _: range) -> bytes:
    return source.randbytes(source.randrange(200)) + DELIMITER * source.randrange(2)


def _delimiters(source: random.Random, _: range) -> bytes:
    return DELIMITER * source.randrange(20)


def _endless(source: random.Random, _: range) -> bytes:
    """A frame longer than any, and than the device's buffer."""
    size = source.choice((130, 260, 1100, 2500))
    return bytes(source.choices(range(1, 256), k=size)) + DELIMITER


def _damaged(source: random.Random, addresses: range) -> bytes:
    frame = bytearray(encode_request(_request(source, addresses)))
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(frame))
        match source.randrange(3):
            case 0:
                frame[at] ^= 1 << source.randrange(8)
            case 1:
                del frame[at:]
                frame += DELIMITER
            case _:
                frame[at:at] = source.randbytes(source.randint(1, 9))
    return bytes(frame)


def _nonsense(source: random.Random, addresses: range) -> bytes:
    """Words with a right CRC: a header that belongs to other words, of unknown ops, of no words at all."""
    head = source.choice((*Op, 0, source.randrange(256))) | source.randrange(SEQUENCES) << 8
    head |= source.choice((0, 1, MAX_DATA_WORDS, MAX_DATA_WORDS + 1, source.randrange(1 << 16))) << 16
    words = [head, source.choice(addresses), *(source.getrandbits(32) for _ in range(source.randrange(36)))]
    return seal(struct.pack(f"<{len(words)}I", *words)[: source.choice((None, None, 0, 4, 5, 8, 13))])


def _request(source: random.Random, addresses: range) -> Request:
    words = tuple(source.getrandbits(32) for _ in range(source.randrange(MAX_DATA_WORDS + 1)))
    return Request(Op.WRITE, source.randrange(SEQUENCES), source.choice(addresses), words=words)
