"""CommandPort and HostLink against DevicePort, over bytes, with a bus that a bench answers."""

from __future__ import annotations

import random as python_random

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import MAX_DATA_WORDS, Finish, Kind, Op, Window, address, column_bits
from ternlight.packets import (
    SEQUENCES,
    Event,
    FrameSplitter,
    Request,
    Response,
    decode_response,
    encode_request,
)
from ternlight_hw.command_port import CommandPort, HostLink, NextAddress
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start
from ternlight_sim.fuzz import fuzz
from ternlight_sim.link_model import DevicePort, DictBus

COLUMNS = {Window.REGISTERS: 1, Window.PROGRAM: 5, Window.GAINS: 4, Window.STORE: 27}
ROWS = 20
LAST = 1 << 32
SYNC = encode_request(Request(Op.SYNC, SEQUENCES - 1))
"""Makes sequence 0 the next one."""


def memory() -> DictBus:
    """Rows of each window, and nothing in the gaps between them."""
    return DictBus(
        {
            address(window, row << column_bits(columns) | column): int(window) << 16 | row << 8 | column
            for window, columns in COLUMNS.items()
            for row in range(ROWS)
            for column in range(columns)
        }
    )


async def serve_bus(dut, bus: DictBus, delays: python_random.Random | None) -> None:
    """Acknowledge each access at once, or after a random time; the request must hold until then."""
    while True:
        # The falling edge is the middle of a cycle: an acknowledgement given here is in the same cycle.
        await FallingEdge(dut.clk)
        dut.bus__ack.value = 0
        if not int(dut.bus__enable.value):
            continue
        access = (int(dut.bus__write.value), int(dut.bus__address.value), int(dut.bus__write_data.value))
        for _ in range(0 if delays is None else delays.choice([0, 0, 1, 2, 9])):
            await FallingEdge(dut.clk)
            assert int(dut.bus__enable.value)
            assert access[:2] == (int(dut.bus__write.value), int(dut.bus__address.value))
            assert not access[0] or access[2] == int(dut.bus__write_data.value)
        write, at, word = access
        if write:
            dut.bus__error.value = int(not bus.write(at, word))
            dut.bus__read_data.value = 0
        else:
            answer = bus.read(at)
            dut.bus__error.value = int(answer is None)
            dut.bus__read_data.value = answer or 0
        dut.bus__ack.value = 1


def conversation(random: np.random.Generator, steps: int) -> list[bytes]:
    """What a host might send over a bad line: requests in order, repeated, lost, damaged, cut short, and noise."""
    sequence = 0
    history: list[bytes] = []
    sent: list[bytes] = [b"\x12\x34 noise before the first delimiter", b"\x00"]
    # Not executed: neither as the first request nor as a repeated one, for the device was just reset.
    sent += [encode_request(Request(Op.WRITE, number, 0, words=(1, 2))) for number in (0, 200)]
    sent.append(SYNC)
    for _ in range(steps):
        window = Window(int(random.choice(list(COLUMNS))))
        bits = column_bits(COLUMNS[window])
        row = int(random.integers(ROWS + 1)) if random.integers(4) == 0 else int(random.integers(3))
        at = address(window, row << bits | int(random.integers(COLUMNS[window])))
        count = int(random.choice([0, 1, 2, 16, MAX_DATA_WORDS]))
        op = int(random.choice([Op.READ, Op.WRITE, Op.WRITE, Op.WRITE]))
        match int(random.integers(24)):
            case 0:
                op = 77
            case 1:
                op, count = Op.READ, MAX_DATA_WORDS + 1
            case 2:
                op, sequence = Op.SYNC, int(random.integers(SEQUENCES))
            case 3:
                at = 0x8000_0000 | at
        if op == Op.WRITE:
            words = random.integers(0, 1 << 32, size=count) * random.integers(0, 2, size=count)
            request = Request(op, sequence, at, words=tuple(map(int, words)))
        else:
            request = Request(op, sequence, at, 0 if op == Op.SYNC else count)
        frame = encode_request(request)
        damaged = bytearray(frame)
        fault = int(random.integers(16))
        if fault == 0:
            damaged[int(random.integers(len(frame) - 1))] ^= 1 << int(random.integers(8))
        elif fault == 1:
            del damaged[int(random.integers(len(frame)))]
        elif fault == 2:
            damaged = bytearray(bytes(map(int, random.integers(256, size=10))) + b"\x00\x00")
        elif fault == 3:
            # The last ones that are ahead, and the first that is 127 behind.
            far = (sequence + int(random.choice([1, 127, 128, 129]))) % SEQUENCES
            damaged = bytearray(encode_request(Request(Op.WRITE, far, at, words=(9,))))
        if fault < 4:
            sent.append(bytes(damaged))
            if fault == 1 and damaged[-1:] != b"\x00":
                sent.append(b"\x00")
        if fault < 3 and random.integers(2):
            continue  # the host gives this request up
        sent.append(frame)
        history.append(frame)
        if fault in (4, 5):
            sent.append(history[-1 - int(random.integers(min(len(history), 4)))])
        sequence = (sequence + 1) % SEQUENCES
    return sent


async def exchange(dut, frames: list[bytes], events: list[tuple[int, ...]], *, send, receive, delays) -> None:
    """Send bytes and events; compare the answers, the order of writes and the events with the model's."""
    bus, twin_bus = memory(), memory()
    cocotb.start_soon(serve_bus(dut, bus, delays))
    twin = DevicePort(COLUMNS, twin_bus)
    expected = twin.receive(b"".join(frames))
    told = [Response(Kind.EVENT, 0, words) for words in events]
    cocotb.start_soon(send(b"".join(frames)))
    event_words = [word | (LAST if at == len(words) - 1 else 0) for words in events for at, word in enumerate(words)]
    cocotb.start_soon(StreamSource(dut, "events", stall=0.3).send(event_words))
    splitter, received = FrameSplitter(), []
    while len(received) < len(expected) + len(told):
        for frame in splitter.feed(await receive()):
            response = decode_response(frame)
            assert response is not None
            received.append(response)
    answers = [response for response in received if response.kind != Kind.EVENT]
    for number, (got, wanted) in enumerate(zip(answers, expected, strict=True)):
        assert got == wanted, f"answer {number}"
    assert [response for response in received if response.kind == Kind.EVENT] == told
    assert bus.writes == twin_bus.writes
    assert bus.words == twin_bus.words
    kinds = {response.kind for response in expected}
    assert kinds == {Kind.ACK, Kind.DATA, Kind.NAK, Kind.ERROR}


def some_events(random: np.random.Generator, count: int) -> list[tuple[int, ...]]:
    return [
        Event(
            int(random.integers(4)), 1, Finish.NONE, number, tuple(map(int, random.integers(0, 32000, size=size)))
        ).words()
        for number, size in enumerate(random.integers(0, 33, size=count))
    ]


@cocotb.test()
async def bench_port(dut):
    random = rng()
    stall = parameters()["stall"]
    await start(dut)
    source, sink = StreamSource(dut, "rx", stall=stall), StreamSink(dut, "tx", stall=stall)

    async def receive() -> bytes:
        return bytes(await sink.receive(1))

    await exchange(
        dut,
        conversation(random, 250),
        some_events(random, 60),
        send=source.send,
        receive=receive,
        delays=python_random.Random(3) if stall else None,
    )


@cocotb.test()
async def bench_fuzz(dut):
    """The same answers and the same writes as the twin, to input of every kind, and right ones to what follows it."""
    await start(dut)
    random = python_random.Random(11)
    inputs = [SYNC]
    for number, data in enumerate(fuzz(random, 300, range(2 * ROWS))):
        inputs.append(data)
        if number % 10 == 9:
            sync = encode_request(Request(Op.SYNC, number % SEQUENCES))
            inputs += [b"\0", sync, encode_request(Request(Op.READ, (number + 1) % SEQUENCES, 3, 4))]
    data = b"".join(inputs)
    bus, twin_bus = memory(), memory()
    cocotb.start_soon(serve_bus(dut, bus, None))
    expected = DevicePort(COLUMNS, twin_bus).receive(data)
    assert [response.kind for response in expected][-2:] == [Kind.ACK, Kind.DATA]
    cocotb.start_soon(StreamSource(dut, "rx").send(data))
    sink, splitter, received = StreamSink(dut, "tx"), FrameSplitter(), []
    while len(received) < len(expected):
        received += [decode_response(frame) for frame in splitter.feed(bytes(await sink.receive(1)))]
    for number, (got, wanted) in enumerate(zip(received, expected, strict=True)):
        assert got == wanted, f"answer {number}"
    assert bus.writes == twin_bus.writes


@cocotb.test()
async def bench_fairness(dut):
    """While both wait for the wire, an answer follows each event and an event each answer."""
    await start(dut)
    cocotb.start_soon(serve_bus(dut, memory(), None))
    event = Event(1, 1, Finish.NONE, 0, tuple(range(32))).words()
    requests = SYNC + b"".join(encode_request(Request(Op.READ, at, 0, 4)) for at in range(30))
    cocotb.start_soon(StreamSource(dut, "rx").send(requests))
    words = [*event[:-1], event[-1] | LAST]
    cocotb.start_soon(StreamSource(dut, "events").send(words * 30))
    sink, splitter, told = StreamSink(dut, "tx", stall=0.5), FrameSplitter(), []
    while len(told) < 58:
        told += [decode_response(frame).kind == Kind.EVENT for frame in splitter.feed(bytes(await sink.receive(1)))]
    # The answer to SYNC is short: it may have left before the second event is whole.
    assert told[2:] in ([True, False] * 28, [False, True] * 28)


@cocotb.test()
async def bench_burst(dut):
    """A WRITE puts a word on a bus that acknowledges at once in every fourth cycle: its receiver takes two of them."""
    await start(dut)
    cocotb.start_soon(
        StreamSource(dut, "rx").send(SYNC + encode_request(Request(Op.WRITE, 0, 0, words=tuple(range(MAX_DATA_WORDS)))))
    )
    dut.bus__ack.value = 1
    dut.tx__ready.value = 1
    busy = []
    for cycle in range(800):
        await RisingEdge(dut.clk)
        if int(dut.bus__enable.value):
            busy.append(cycle)
        await FallingEdge(dut.clk)
    assert busy == list(range(busy[0], busy[0] + 4 * MAX_DATA_WORDS, 4))


@cocotb.test()
async def bench_serial(dut):
    """The whole link on its lines: the bench is the serial port of the host."""
    random = rng()
    divisor = parameters()["divisor"]
    dut.rx.value = 1
    await start(dut)
    received = bytearray()

    async def listen() -> None:
        while True:
            await FallingEdge(dut.clk)
            if int(dut.tx.value):
                continue
            for _ in range(divisor // 2):
                await FallingEdge(dut.clk)
            byte = 0
            for bit in range(8):
                for _ in range(divisor):
                    await FallingEdge(dut.clk)
                byte |= int(dut.tx.value) << bit
            for _ in range(divisor):
                await FallingEdge(dut.clk)
            assert int(dut.tx.value) == 1
            received.append(byte)

    async def send(data: bytes) -> None:
        for byte in data:
            for bit in (0, *(byte >> place & 1 for place in range(8)), 1):
                dut.rx.value = bit
                for _ in range(divisor):
                    await FallingEdge(dut.clk)
            # Reads have answers longer than themselves: a host waits for them before the buffer is full.
            if byte == 0:
                for _ in range(int(random.integers(12000))):
                    await FallingEdge(dut.clk)

    async def receive() -> bytes:
        while not received:
            await FallingEdge(dut.clk)
        taken = bytes(received)
        received.clear()
        return taken

    cocotb.start_soon(listen())
    await exchange(
        dut,
        conversation(random, 60),
        some_events(random, 12),
        send=send,
        receive=receive,
        delays=python_random.Random(4),
    )


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_port(stall):
    simulate(CommandPort(columns=COLUMNS), __file__, bench="bench_port", parameters={"stall": stall, "seed": 7})


@pytest.mark.parametrize("bench", ["bench_fairness", "bench_burst", "bench_fuzz"])
def test_port_pace(bench):
    simulate(CommandPort(columns=COLUMNS), __file__, bench=bench)


def test_serial():
    simulate(HostLink(divisor=4, columns=COLUMNS), __file__, bench="bench_serial", parameters={"divisor": 4, "seed": 8})


def test_next_address_refuses():
    with pytest.raises(ValueError, match="columns of GAINS must be positive, not 0"):
        NextAddress(columns={Window.GAINS: 0})
