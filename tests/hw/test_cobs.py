"""CobsDecoder and CobsEncoder against the Python package cobs."""

from __future__ import annotations

import cocotb
import pytest
from cobs import cobs
from cocotb.triggers import FallingEdge

from ternlight_hw.cobs import CobsDecoder, CobsEncoder
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start

END, ERROR = 1 << 8, 1 << 9
LAST = 1 << 8
PACKET_BYTES = 600
SHORT_BYTES = 128
"""Of packets that always fit in one block."""


def packets(random, longest: int) -> list[bytes]:
    """Corners around the block of 254 bytes and the longest packet, and random packets with few and many zeros."""
    corners = [
        b"\x00",
        b"\x00\x00",
        b"\x01",
        b"\x01\x00",
        b"\xff" * 253,
        b"\xff" * 254,
        b"\xff" * 255,
        b"\x01" * 254 + b"\x00",
        b"\x00" + b"\x02" * 254,
        b"\x03" * 508,
        b"\x03" * 509,
        bytes(range(256)),
        b"\xff" * longest,
        b"\xff" * (longest - 1) + b"\x00",
        b"\x00" * longest,
    ]
    drawn = [
        bytes(random.integers(0, int(random.choice([2, 4, 256])), size=size, dtype="uint8"))
        for size in random.integers(1, longest + 1, size=30)
    ]
    return [packet for packet in corners + drawn if len(packet) <= longest]


@cocotb.test()
async def bench_encoder(dut):
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    data = packets(random, parameters()["longest"])
    expected = [byte for packet in data for byte in cobs.encode(packet) + b"\x00"]
    source, sink = StreamSource(dut, "packet", stall=stall), StreamSink(dut, "frame", stall=stall)
    cocotb.start_soon(
        source.send(byte | (LAST if at == len(packet) - 1 else 0) for packet in data for at, byte in enumerate(packet))
    )
    assert await sink.receive(len(expected)) == expected
    if not stall:
        # A block of n bytes: n cycles to gather, the code and 2 n more to send, one to end; then the delimiter.
        cocotb.start_soon(source.send([7] * 99 + [7 | LAST]))
        cycles = 0
        dut.frame__ready.value = 1
        for sent in range(102):
            while not int(dut.frame__valid.value):
                await FallingEdge(dut.clk)
                cycles += 1
            assert int(dut.frame__payload.value) == (101, *[7] * 100, 0)[sent]
            await FallingEdge(dut.clk)
            cycles += 1
        assert cycles == 100 + 1 + 2 * 100 + 1 + 1


@cocotb.test()
async def bench_decoder(dut):
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    frames, expected = bytearray(b"\x00\x00"), []
    for packet in packets(random, PACKET_BYTES):
        coded = cobs.encode(packet)
        fault = random.integers(4)
        if fault == 0 and (cut := [at for at in range(1, len(coded)) if broken(coded[:at])]):
            at = int(random.choice(cut))
            frames += coded[:at] + b"\x00"
            expected += [*partial(coded[:at]), END | ERROR]
        if fault == 1:
            frames += b"\x00" * int(random.integers(1, 4))
        frames += coded + b"\x00"
        expected += [*packet, END]
    frames += b"\x01\x00"
    expected += [END]
    source, sink = StreamSource(dut, "frame", stall=stall), StreamSink(dut, "packet", stall=stall, convert=item)
    cocotb.start_soon(source.send(frames))
    assert await sink.receive(len(expected)) == expected


def broken(coded: bytes) -> bool:
    try:
        cobs.decode(coded)
    except cobs.DecodeError:
        return True
    return False


def partial(coded: bytes) -> list[int]:
    """What the beginning of a frame decodes to: its missing bytes are added, decoded, and taken away again."""
    for missing in range(1, 255):
        if not broken(coded + b"\x01" * missing):
            return list(cobs.decode(coded + b"\x01" * missing))[:-missing]
    raise AssertionError("a block is never so long")


def item(payload) -> int:
    """The end of a frame has no data."""
    value = int(payload)
    return value & ~0xFF if value & END else value & 0xFF


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("longest", [SHORT_BYTES, PACKET_BYTES])
def test_encoder(longest, stall):
    simulate(
        CobsEncoder(packet_bytes=longest),
        __file__,
        bench="bench_encoder",
        parameters={"stall": stall, "longest": longest, "seed": 5},
    )


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_decoder(stall):
    simulate(CobsDecoder(), __file__, bench="bench_decoder", parameters={"stall": stall, "seed": 5})


def test_encoder_refuses():
    with pytest.raises(ValueError, match="packet_bytes must be at least 2, not 1"):
        CobsEncoder(packet_bytes=1)
