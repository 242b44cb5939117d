"""Packet units against ternlight.packets."""

from __future__ import annotations

import struct
import zlib
from functools import partial

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import MAX_DATA_WORDS, Kind, Op
from ternlight_hw.packets import (
    EVENT_WORDS_MAX,
    PACKET_WORD,
    EventBuffer,
    PacketMultiplexer,
    PacketTransmitter,
    RequestReceiver,
)
from ternlight_hw.stream_register import StreamRegister
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start

END, ERROR = 1 << 8, 1 << 9
LAST, CORRUPT = 1 << 32, 1 << 33


def sealed(*words: int) -> bytes:
    packet = struct.pack(f"<{len(words)}I", *words)
    return packet + struct.pack("<I", zlib.crc32(packet))


def request(random, count: int | None = None) -> list[int]:
    op = int(random.choice([Op.READ, Op.WRITE, Op.WRITE, Op.SYNC, 200]))
    count = int(random.integers(MAX_DATA_WORDS + 1)) if count is None else count
    words = random.integers(1 << 32, size=1 + (count if op == Op.WRITE else 0))
    return [op | int(random.integers(256)) << 8 | count << 16, *map(int, words)]


def marked(words: list[int]) -> list[int]:
    return [*words[:-1], words[-1] | LAST]


@cocotb.test()
async def bench_receiver(dut):
    """Good frames come out word by word, every other frame as one corrupt word."""
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    items: list[int] = []
    expected: list[int] = []

    def add(packet: bytes, words: list[int] | None, end: int = END) -> None:
        items.extend([*packet, end])
        expected.extend([CORRUPT | LAST] if words is None else marked(words))

    add(b"", None)
    for count in (0, 1, MAX_DATA_WORDS):
        words = [Op.WRITE | count << 16, 5, *range(count)]
        add(sealed(*words), words)
    add(sealed(Op.WRITE | MAX_DATA_WORDS + 1 << 16, *range(MAX_DATA_WORDS + 2)), None)
    add(sealed(Op.WRITE | 400 << 16, *range(401)), None)
    add(sealed(Op.READ | 3 << 16), None)
    for _ in range(120):
        words = request(random)
        packet = bytearray(sealed(*words))
        match int(random.integers(9)):
            case 0:
                packet[int(random.integers(len(packet)))] ^= 1 << int(random.integers(8))
                add(packet, None)
            case 1:
                add(packet, None, END | ERROR)
            case 2:  # a byte less or more
                add(packet[:-1] if random.integers(2) else packet + b"\x00", None)
            case 3:  # a header that promises another length, with a right CRC
                add(sealed(Op.WRITE | len(words) - 1 << 16, *words[1:]), None)
            case 4:
                add(sealed(Op.READ | 2 << 16, *words[1:], 1), None)
            case _:
                add(packet, words)
    source = StreamSource(dut, "frame", stall=stall)
    sink = StreamSink(dut, "request", stall=stall, convert=known)
    cocotb.start_soon(source.send(items))
    assert await sink.receive(len(expected)) == expected
    if not stall:
        words = [Op.WRITE | 10 << 16, *range(11)]
        dut.request__ready.value = 1
        await source.send([*sealed(*words), END])
        cycles, taken = 1, []
        while len(taken) < len(words):
            await RisingEdge(dut.clk)
            if int(dut.request__valid.value):
                taken.append((cycles, int(dut.request__payload.value)))
            await FallingEdge(dut.clk)
            cycles += 1
        assert taken == [(5 + 2 * at, word) for at, word in enumerate(marked(words))]


def known(payload) -> int:
    """A corrupt item has no word."""
    value = int(payload)
    return value & ~0xFFFFFFFF if value & CORRUPT else value


@cocotb.test()
async def bench_transmitter(dut):
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    packets = [list(map(int, random.integers(1 << 32, size=size))) for size in (1, 1, 61, *random.integers(1, 20, 20))]
    expected = [
        byte | (END if at == 4 * len(words) + 3 else 0) for words in packets for at, byte in enumerate(sealed(*words))
    ]
    source, sink = StreamSource(dut, "packet", stall=stall), StreamSink(dut, "data", stall=stall)
    sending = cocotb.start_soon(source.send(word for words in packets for word in marked(words)))
    begin = cocotb.utils.get_sim_time("ns")
    assert await sink.receive(len(expected)) == expected
    await sending
    if not stall:
        cycles = (cocotb.utils.get_sim_time("ns") - begin) // 10
        assert cycles == 2 * len(expected) + len(packets) - 1


@cocotb.test()
async def bench_event_buffer(dut):
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    events = [
        list(map(int, random.integers(1 << 32, size=size)))
        for size in (1, EVENT_WORDS_MAX, *random.integers(1, EVENT_WORDS_MAX + 1, 40))
    ]
    expected = [word for words in events for word in marked([Kind.EVENT | len(words) << 16, *words])]
    source, sink = StreamSource(dut, "event", stall=stall), StreamSink(dut, "packet", stall=stall)
    cocotb.start_soon(source.send(word for words in events for word in marked(words)))
    assert await sink.receive(len(expected)) == expected
    # An event that has begun is never made to wait, whatever the wire does; the next one is.
    dut.packet__ready.value = 0
    for at in range(EVENT_WORDS_MAX):
        assert int(dut.event__ready.value)
        dut.event__valid.value, dut.event__payload.value = 1, at | (LAST if at == EVENT_WORDS_MAX - 1 else 0)
        await FallingEdge(dut.clk)
    dut.event__valid.value = 0
    for _ in range(50):
        assert not int(dut.event__ready.value)
        await FallingEdge(dut.clk)
    assert await sink.receive(EVENT_WORDS_MAX + 1) == marked([Kind.EVENT | 18 << 16, *range(EVENT_WORDS_MAX)])


@cocotb.test()
async def bench_multiplexer(dut):
    random = rng()
    await start(dut)
    stall = parameters()["stall"]
    sizes = random.integers(1, 9, size=(2, 40))
    streams = [
        [marked([side << 31 | number << 8 | at for at in range(size)]) for number, size in enumerate(sizes[side])]
        for side in range(2)
    ]
    total = int(sizes.sum())
    for side, name in enumerate(("first", "second")):
        words = [word for packet in streams[side] for word in packet]
        cocotb.start_soon(StreamSource(dut, name, stall=stall, seed=side).send(words))
    received = await StreamSink(dut, "packet", stall=stall).receive(total)
    packets: list[list[int]] = [[]]
    for word in received:
        packets[-1].append(word)
        if word & LAST:
            packets.append([])
    assert packets.pop() == []
    sides = [packet[0] >> 31 & 1 for packet in packets]
    for side in range(2):
        assert [packet for packet, of in zip(packets, sides, strict=True) if of == side] == streams[side]
    if not stall:
        assert sides == [0, 1] * 40


@cocotb.test()
async def bench_register(dut):
    """Everything passes in order, one cycle late; what is offered stays until it is taken."""
    random = rng()
    stall = parameters()["stall"]
    payloads = [int(word) | LAST * int(random.integers(2)) for word in random.integers(1 << 32, size=300)]
    source, sink = StreamSource(dut, "source", stall=stall, seed=1), StreamSink(dut, "sink", stall=stall, seed=2)
    await start(dut)

    async def watch():
        offered = None
        while True:
            await RisingEdge(dut.clk)
            valid, payload = int(dut.sink__valid.value), int(dut.sink__payload.value)
            assert offered is None or (valid and payload == offered)
            offered = payload if valid and not int(dut.sink__ready.value) else None

    cocotb.start_soon(watch())
    begin = cocotb.utils.get_sim_time("ns")
    cocotb.start_soon(source.send(payloads))
    assert await sink.receive(len(payloads)) == payloads
    if not stall:
        assert (cocotb.utils.get_sim_time("ns") - begin) // 10 == 2 * len(payloads)
    # While it is refused it holds one payload.
    dut.sink__ready.value = 0
    dut.source__valid.value, dut.source__payload.value = 1, 7
    await RisingEdge(dut.clk)
    assert int(dut.source__ready.value)
    await FallingEdge(dut.clk)
    dut.source__payload.value = 8
    for _ in range(5):
        await RisingEdge(dut.clk)
        assert not int(dut.source__ready.value)
        await FallingEdge(dut.clk)
    dut.source__valid.value = 0
    assert await sink.receive(1) == [7]


COMPONENTS = {
    "bench_receiver": RequestReceiver,
    "bench_transmitter": PacketTransmitter,
    "bench_event_buffer": EventBuffer,
    "bench_multiplexer": PacketMultiplexer,
    "bench_register": partial(StreamRegister, shape=PACKET_WORD),
}


@pytest.mark.parametrize("bench", COMPONENTS)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_packets(bench, stall):
    simulate(COMPONENTS[bench](), __file__, bench=bench, parameters={"stall": stall, "seed": 6})
