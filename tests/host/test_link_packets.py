"""Packets: what is encoded is decoded, and nothing else is."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from cobs import cobs

from ternlight.abi import EVENT_TOKENS, MAX_DATA_WORDS, Finish, Kind, Op
from ternlight.packets import (
    Event,
    FrameSplitter,
    Request,
    Response,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    seal,
    unseal,
)


def test_layout():
    """The bytes on the wire, written out once by hand."""
    packet = bytes.fromhex("02 07 0200 0c000030 04030201 ffffffff".replace(" ", ""))
    frame = encode_request(Request(Op.WRITE, 7, 0x3000000C, words=(0x01020304, 0xFFFFFFFF)))
    assert frame == cobs.encode(packet + zlib.crc32(packet).to_bytes(4, "little")) + b"\x00"
    packet = bytes.fromhex("03090000")
    assert (
        encode_response(Response(Kind.NAK, 9)) == cobs.encode(packet + struct.pack("<I", zlib.crc32(packet))) + b"\x00"
    )


@pytest.mark.parametrize("count", [0, 1, 2, MAX_DATA_WORDS])
def test_round_trip(count):
    source = random.Random(count)
    words = tuple(source.getrandbits(32) for _ in range(count))
    write = Request(Op.WRITE, 200, 0xFFFFFFFF, words=words)
    assert decode_request(encode_request(write)[:-1]) == Request(Op.WRITE, 200, 0xFFFFFFFF, count, words)
    for plain in (Request(Op.READ, 3, 17, count), Request(Op.SYNC, 4)):
        assert decode_request(encode_request(plain)[:-1]) == plain
    response = Response(Kind.DATA, 5, words)
    assert decode_response(encode_response(response)[:-1]) == response


def test_damage_is_seen():
    """Every single bit error, every cut and every added byte."""
    frame = encode_response(Response(Kind.DATA, 1, (0, 0x12345678, 7)))[:-1]
    for bit in range(8 * len(frame)):
        damaged = bytearray(frame)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_response(bytes(damaged)) is None
    for at in range(len(frame)):
        assert decode_response(frame[:at]) is None
        assert decode_response(frame[:at] + b"\x01" + frame[at:]) is None


@pytest.mark.parametrize(
    "words",
    [
        (Op.WRITE | 2 << 16, 0, 1),
        (Op.WRITE | 1 << 16, 0, 1, 2),
        (Op.READ | 1 << 16, 0, 1),
        (Op.SYNC,),
        (Op.WRITE | MAX_DATA_WORDS + 1 << 16, 0, *range(MAX_DATA_WORDS + 1)),
    ],
)
def test_wrong_length(words):
    frame = seal(struct.pack(f"<{len(words)}I", *words))[:-1]
    assert unseal(frame) is not None
    assert decode_request(frame) is None


@pytest.mark.parametrize("head", [Kind.DATA | 1 << 16, 9, 0])
def test_wrong_response(head):
    assert decode_response(seal(struct.pack("<I", head))[:-1]) is None


@pytest.mark.parametrize("count", [0, 1, 2, 31, EVENT_TOKENS])
def test_event(count):
    event = Event(3, 250, Finish.STOP, 0xFFFFFFF0, tuple(65535 - token for token in range(count)))
    words = event.words()
    assert len(words) == 2 + (count + 1) // 2
    assert words[0] == 3 | count << 8 | 250 << 16 | 2 << 24
    assert Event.from_words(words) == event


@pytest.mark.parametrize("words", [(), (1,), (1 << 8, 0), (0, 0, 0), (9 << 24, 0)])
def test_no_event(words):
    assert Event.from_words(words) is None


def test_splitter():
    source = random.Random(1)
    frames = [bytes(source.randrange(1, 256) for _ in range(source.randrange(1, 200))) for _ in range(50)]
    data = b"\x00\x00" + b"".join(frame + b"\x00" * source.randint(1, 3) for frame in frames)
    splitter, received = FrameSplitter(), []
    while data:
        size = source.randint(1, 60)
        received += splitter.feed(data[:size])
        data = data[size:]
    assert received == frames
    # Endless noise takes no endless memory.
    splitter = FrameSplitter(limit=10)
    assert list(splitter.feed(b"\x01" * 100)) == []
    assert list(splitter.feed(b"\x00\x05\x00")) == [b"\x01" * 10, b"\x05"]
