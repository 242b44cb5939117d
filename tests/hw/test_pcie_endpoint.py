"""PcieEndpoint on cocotbext-pcie's root complex: enumeration, packets against DevicePort, and what may go wrong."""

from __future__ import annotations

import random as python_random
import struct
from functools import partial

import cocotb
import pytest
from cocotb.task import bridge
from cocotb.triggers import ClockCycles, FallingEdge, RisingEdge, Timer

from ternlight.abi import MAX_DATA_WORDS, Finish, Kind, Op, Window, address, column_bits
from ternlight.errors import LinkError
from ternlight.link.pcie import PcieTransport
from ternlight.packets import (
    SEQUENCES,
    Event,
    FrameSplitter,
    Request,
    Response,
    decode_response,
    encode_request,
    unseal,
)
from ternlight.pcie_map import (
    BAR_BYTES,
    CLASS_CODE,
    DEVICE_ID,
    FAULT_TEXT,
    MAGIC,
    MAP_VERSION,
    REQUEST_WINDOW,
    RING_WORDS,
    VENDOR_ID,
    WINDOW_WORDS,
    Control,
    Fault,
    PcieCounter,
    PcieRegister,
)
from ternlight_hw.pcie import PcieEndpoint
from ternlight_sim.bench import StreamSource, parameters, rng, simulate, start
from ternlight_sim.link_model import DevicePort, DictBus
from ternlight_sim.pcie_bus import Bus, BusFunction, CplStatus, Tlp, TlpType, dwords_of

COLUMNS = {Window.REGISTERS: 1, Window.PROGRAM: 5, Window.GAINS: 4, Window.STORE: 27}
ROWS = 20
LAST = 1 << 32


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


async def serve_bus(dut, bus: DictBus) -> None:
    """Acknowledge each access after a random time."""
    delays = python_random.Random(5)
    while True:
        await FallingEdge(dut.clk)
        dut.bus__ack.value = 0
        if not int(dut.bus__enable.value):
            await RisingEdge(dut.bus__enable)
            await FallingEdge(dut.clk)
        for _ in range(delays.choice([0, 0, 1, 2, 9])):
            await FallingEdge(dut.clk)
        at, word = int(dut.bus__address.value), int(dut.bus__write_data.value)
        answer = (0 if bus.write(at, word) else None) if int(dut.bus__write.value) else bus.read(at)
        dut.bus__error.value = int(answer is None)
        dut.bus__read_data.value = answer or 0
        dut.bus__ack.value = 1


async def prepare(dut, **options) -> Bus:
    bus = Bus(dut, **options)
    dut.bus__ack.value = 0
    dut.events__valid.value = 0
    await start(dut)
    await bus.enumerate()
    return bus


async def counter(bus: Bus, which: PcieCounter) -> int:
    return (await bus.read(4 * (PcieRegister.COUNTERS + which)))[0]


@cocotb.test()
async def bench_enumeration(dut):
    """What the root complex finds, and what the design is told of it."""
    bus = await prepare(dut)
    function = bus.function
    assert (function.vendor_id, function.device_id, function.class_code) == (VENDOR_ID, DEVICE_ID, CLASS_CODE)
    assert function.bar_size[0] == BAR_BYTES
    assert bus.bar % BAR_BYTES == 0
    assert await bus.read(0, 2) == [MAGIC, MAP_VERSION]
    link = (await bus.read(4 * PcieRegister.LINK))[0]
    assert link == int(bus.block.pcie_id) | 0 << 16 | 2 << 19 | 3 << 22
    # What is written is read again, and a reset clears it.
    words = {PcieRegister.REQUEST_BASE: 0x8000_0004, PcieRegister.REQUEST_BASE + 1: 0x12, PcieRegister.TIMEOUT: 77}
    for register, word in words.items():
        await bus.write(4 * register, [word])
    for register, word in words.items():
        assert await bus.read(4 * register) == [word]
    await bus.write(4 * PcieRegister.CONTROL, [Control.RESET])
    assert await bus.read(4 * PcieRegister.CONTROL) == [0]
    assert await bus.read(4 * PcieRegister.REQUEST_BASE, 2) == [0, 0]
    for unnamed in (BAR_BYTES - 4, REQUEST_WINDOW, 4 * 20):
        assert await bus.read(unnamed) == [0]


def conversation(random, steps: int) -> list[Request]:
    """Requests in order, repeated, ahead of the expected one, beyond the memory, and of no known op."""
    sequence = 0
    sent = [Request(Op.READ, 9, 0, 1), Request(Op.SYNC, SEQUENCES - 1)]
    for _ in range(steps):
        window = Window(int(random.choice(list(COLUMNS))))
        row = int(random.integers(ROWS + 1)) if random.integers(4) == 0 else int(random.integers(3))
        at = address(window, row << column_bits(COLUMNS[window]) | int(random.integers(COLUMNS[window])))
        count = int(random.choice([0, 1, 2, 16, MAX_DATA_WORDS]))
        op = int(random.choice([Op.READ, Op.WRITE, Op.WRITE]))
        if random.integers(20) == 0:
            op = 77
        words = tuple(map(int, random.integers(0, 1 << 32, size=count))) if op == Op.WRITE else ()
        sent.append(Request(op, sequence, at, count, words))
        match int(random.integers(12)):
            case 0:
                sent.append(sent[-1])
            case 1:
                sent.append(Request(Op.READ, (sequence + 5) % SEQUENCES, at, 1))
        sequence = (sequence + 1) % SEQUENCES
    return sent


def some_events(random, count: int) -> list[tuple[int, ...]]:
    return [
        Event(1, 1, Finish.NONE, number, tuple(map(int, random.integers(0, 32000, size=size)))).words()
        for number, size in enumerate(random.integers(0, 33, size=count))
    ]


def converse(function: BusFunction, frames: list[bytes], count: int, seed: int) -> list[Response]:
    """Send frames in groups, as far ahead of the answers as a host may be, and take `count` responses."""
    random = python_random.Random(seed)
    transport = PcieTransport(function, clock=function.clock)
    splitter, responses = FrameSplitter(), []
    sent = 0
    while len(responses) < count:
        group = frames[sent : sent + random.randrange(1, 8)] if sent - len(responses) < 8 else []
        sent += len(group)
        if group:
            transport.write(b"".join(group))
        data = transport.read(random.choice([1, 50, 4096]), 0.02)
        responses += [decode_response(frame) for frame in splitter.feed(data)]
    assert transport.read(4096, 1.0) == b""
    transport.close()
    return responses


@cocotb.test()
async def bench_packets(dut):
    values, random = parameters(), rng()
    bus = await prepare(dut, stall=values["stall"], seed=values["seed"], cuts=values["cuts"])
    await bus.limit(payload=values["payload"], read=values["read"])
    served, twin_bus = memory(), memory()
    cocotb.start_soon(serve_bus(dut, served))
    twin = DevicePort(COLUMNS, twin_bus)
    frames = [encode_request(request) for request in conversation(random, values["steps"])]
    expected = twin.receive(b"".join(frames))
    events = some_events(random, values["steps"] // 8)
    words = [word | (LAST if at == len(words) - 1 else 0) for words in events for at, word in enumerate(words)]

    async def tell() -> None:
        while not bus.block.interrupts:  # what comes before the host's reset is over would be lost
            await Timer(1, "us")
        await StreamSource(dut, "events", stall=0.9).send(words)

    cocotb.start_soon(tell())
    function = BusFunction(bus, dma=values["dma"], high=values["high"], offset=values["offset"])
    before = await counter(bus, PcieCounter.UNEXPECTED)
    responses = await bridge(converse)(function, frames, len(expected) + len(events), values["seed"])
    assert [response for response in responses if response.kind != Kind.EVENT] == expected
    assert [response.words for response in responses if response.kind == Kind.EVENT] == events
    assert served.writes == twin_bus.writes
    assert served.words == twin_bus.words
    assert bus.block.interrupts > 10
    counts = {which: await counter(bus, which) for which in PcieCounter}
    for clean in (PcieCounter.UNSUPPORTED, PcieCounter.POISONED, PcieCounter.BROKEN, PcieCounter.FAILED):
        assert counts[clean] == 0
    assert counts[PcieCounter.UNEXPECTED] == before == 0
    assert counts[PcieCounter.INTERRUPTS] == bus.block.interrupts
    asked = sum(len(frame_words(frame)) for frame in frames)
    told = sum(1 + len(response.words) for response in responses)
    assert asked > (RING_WORDS if values["dma"] else WINDOW_WORDS) or values["steps"] < 100
    if values["dma"]:
        assert (counts[PcieCounter.FETCHED_WORDS], counts[PcieCounter.SENT_WORDS]) == (asked, told)
        reads = [tlp for tlp in bus.block.sent if tlp.fmt_type in (TlpType.MEM_READ, TlpType.MEM_READ_64)]
        assert len(reads) == counts[PcieCounter.FETCHES]
        # Limits and boundaries were met, not only respected.
        if values["offset"]:
            assert any((tlp.address + 4 * tlp.length) % 4096 == 0 for tlp in reads)
    else:
        assert counts[PcieCounter.FETCHES] == counts[PcieCounter.BURSTS] == counts[PcieCounter.REPORTS] == 0


def flood(function: BusFunction, count: int) -> list[Response]:
    """More answers than all rings hold, before the first one is taken."""
    transport = PcieTransport(function, clock=function.clock)
    frames = [encode_request(Request(Op.SYNC, SEQUENCES - 1))]
    frames += [encode_request(Request(Op.READ, at % SEQUENCES, 0, MAX_DATA_WORDS)) for at in range(count - 1)]
    transport.write(b"".join(frames))
    while function.clock() < 1.0:
        function.wait(0.1)
    splitter, responses = FrameSplitter(), []
    while len(responses) < count:
        responses += [decode_response(frame) for frame in splitter.feed(transport.read(4096, 1.0))]
    return responses


@cocotb.test()
async def bench_full(dut):
    """A host that does not take its answers stops the device, and loses none."""
    values = parameters()
    bus = await prepare(dut)
    cocotb.start_soon(serve_bus(dut, DictBus({at: at * 0x0101_0101 for at in range(MAX_DATA_WORDS)})))
    await bus.limit(payload=values["payload"], read=0)
    function = BusFunction(bus, dma=values["dma"])
    responses = await bridge(flood)(function, values["count"])
    data = tuple(at * 0x0101_0101 for at in range(MAX_DATA_WORDS))
    if values["dma"]:  # as much as a TLP may hold
        writes = [tlp.length for tlp in bus.block.sent if tlp.fmt_type == TlpType.MEM_WRITE]
        assert max(writes) == 32 << values["payload"]
    assert responses[0] == Response(Kind.ACK, SEQUENCES - 1)
    assert responses[1:] == [Response(Kind.DATA, at % SEQUENCES, data) for at in range(values["count"] - 1)]


def frame_words(frame: bytes) -> tuple[int, ...]:
    packet = unseal(frame[:-1])
    assert packet is not None
    return struct.unpack(f"<{len(packet) // 4}I", packet)


def ask(function: BusFunction, **changes) -> Response:
    """One request of a fresh host, and its answer."""
    transport = PcieTransport(function, clock=function.clock)
    for register, word in changes.items():
        function.write(4 * PcieRegister[register], [word])
    transport.write(encode_request(Request(Op.SYNC, 3)))
    splitter = FrameSplitter()
    for _ in range(4):
        for frame in splitter.feed(transport.read(4096, 0.5)):
            return decode_response(frame)
    raise AssertionError("neither an answer nor an error")


ANSWER = Response(Kind.ACK, 3)


def with_status(status, _tlp, _completions):
    return [Tlp.create_completion_for_tlp(_tlp, _completions[0].completer_id, status=status)]


def poisoned(_, completions):
    completions[-1].ep = True
    return completions


def dropped(_, _completions):
    return []


def shortened(_, completions):
    """Fewer bytes than were asked for, and no more to come."""
    completions[0].byte_count -= 4
    completions[0].set_data(completions[0].data[:-4])
    return completions


def doubled(_, completions):
    return [*completions, *completions]


@cocotb.test()
async def bench_failing_reads(dut):
    """What the host's memory may do wrong is told as an error; after it, a new start works."""
    bus = await prepare(dut, stall=0.1)
    cocotb.start_soon(serve_bus(dut, memory()))
    function = BusFunction(bus, dma=True)
    legal = bus.root.answer
    cases = {
        Fault.READ_REFUSED: [partial(with_status, CplStatus.UR), partial(with_status, CplStatus.CA)],
        Fault.READ_POISONED: [poisoned],
        Fault.READ_BROKEN: [shortened, partial(with_status, CplStatus.SC)],
        Fault.READ_TIMEOUT: [dropped],
    }
    for fault, answers in cases.items():
        for answer in answers:
            bus.root.answer = answer
            with pytest.raises(LinkError, match=FAULT_TEXT[fault]):
                await bridge(ask)(function, TIMEOUT=3)
            assert (await bus.read(4 * PcieRegister.STATUS)) == [fault]
            bus.root.answer = legal
            assert await bridge(ask)(function) == ANSWER
    # Completions that are longer or shorter than their header says.
    whole = bus.block.change
    for damage in (lambda dwords: [*dwords, 7], lambda dwords: dwords[:-1]):
        bus.block.change = lambda dwords, damage=damage: damage(dwords) if dwords[0] >> 24 == 0x4A else dwords
        with pytest.raises(LinkError, match=FAULT_TEXT[Fault.READ_BROKEN]):
            await bridge(ask)(function)
        bus.block.change = whole
        assert await bridge(ask)(function) == ANSWER
    assert await counter(bus, PcieCounter.FAILED) == 7
    assert await counter(bus, PcieCounter.TIMEOUTS) == 1
    # An answer that comes twice, or after its read was given up, is left alone.
    assert await counter(bus, PcieCounter.UNEXPECTED) == 0
    bus.root.answer = doubled
    assert await bridge(ask)(function) == ANSWER
    assert await counter(bus, PcieCounter.UNEXPECTED) == 1
    late = []
    bus.root.answer = lambda tlp, completions: late.extend(completions) or []
    with pytest.raises(LinkError, match=FAULT_TEXT[Fault.READ_TIMEOUT]):
        await bridge(ask)(function, TIMEOUT=1)
    for completion in late:
        completion.set_data(bytes(len(completion.data)))  # what must not be taken for the next read's
    bus.root.answer = lambda tlp, completions: [*late, *completions]
    assert await bridge(ask)(function) == ANSWER
    assert await counter(bus, PcieCounter.UNEXPECTED) == 2
    # Without bus mastering nothing is sent, and the host learns why.
    await bus.function.clear_master()
    sent = await counter(bus, PcieCounter.FETCHES)
    with pytest.raises(LinkError, match="something has switched bus mastering off"):
        await bridge(ask)(function)
    assert await counter(bus, PcieCounter.FETCHES) == sent
    await bus.function.set_master()
    assert await bridge(ask)(function) == ANSWER


def write_tlp(bus: Bus, offset: int, words: list[int]) -> Tlp:
    tlp = Tlp()
    tlp.fmt_type = TlpType.MEM_WRITE
    tlp.set_addr_be_data(bus.bar + offset, struct.pack(f"<{len(words)}I", *words))
    return tlp


@cocotb.test()
async def bench_failing_writes(dut):
    """What the host may do wrong, in the BAR and in the ring."""
    bus = await prepare(dut)
    cocotb.start_soon(serve_bus(dut, memory()))
    function = BusFunction(bus, dma=False)
    inject = bus.block.streams.put

    def poison() -> None:
        tlp = write_tlp(bus, REQUEST_WINDOW, [1, 2, 3])
        tlp.ep = True
        inject(dwords_of(tlp))

    def cut_short() -> None:
        inject(dwords_of(write_tlp(bus, REQUEST_WINDOW, [1, 2, 3]))[:-1])

    def prolong() -> None:
        inject([*dwords_of(write_tlp(bus, REQUEST_WINDOW, [1, 2, 3])), 4])

    def nonsense() -> None:
        head = Op.WRITE | MAX_DATA_WORDS + 1 << 16
        inject(dwords_of(write_tlp(bus, REQUEST_WINDOW, [head])))
        inject(dwords_of(write_tlp(bus, 4 * PcieRegister.REQUEST_HEAD, [1])))

    def run(action) -> None:
        transport = PcieTransport(function, clock=function.clock)
        action()
        while True:
            transport.read(1, 0.01)

    for fault, action in (
        (Fault.WRITE_POISONED, poison),
        (Fault.WRITE_BROKEN, cut_short),
        (Fault.WRITE_BROKEN, prolong),
        (Fault.BAD_REQUEST, nonsense),
    ):
        with pytest.raises(LinkError, match=FAULT_TEXT[fault]):
            await bridge(run)(action)
        assert await bridge(ask)(function) == ANSWER
    assert await counter(bus, PcieCounter.POISONED) == 1
    assert await counter(bus, PcieCounter.BROKEN) == 2
    # A packet that is not complete waits, and does not keep a reset from its end.
    await bus.write(4 * PcieRegister.CONTROL, [Control.ENABLE])
    await bus.write(REQUEST_WINDOW, [Op.WRITE | 4 << 16, 0, 1])
    await bus.write(4 * PcieRegister.REQUEST_HEAD, [3])
    await ClockCycles(dut.clk, 50)
    assert await bridge(ask)(function) == ANSWER


@cocotb.test()
async def bench_requests(dut):
    """Every kind of request gets its answer, or none, as the specification has it."""
    bus = await prepare(dut, stall=0.2)
    root, block = bus.root, bus.block

    async def complete(kind: TlpType, *, be=(15, 0), length=1, offset=0, attr=0, tc=0) -> list[Tlp]:
        request = Tlp()
        request.fmt_type, request.length, request.address = kind, length, bus.bar + offset
        request.first_be, request.last_be = be
        request.attr, request.tc = attr, tc
        request.requester_id, request.tag = root.pcie_id, 0x5A
        if request.has_data():
            request.data = bytearray(4 * length)
        before = len(block.sent)
        block.delivers = False  # the root complex has not asked
        block.streams.put(dwords_of(request))
        await ClockCycles(dut.clk, 60 + 8 * length)
        block.delivers = True
        answers = block.sent[before:]
        for answer in answers:
            assert (answer.tag, answer.requester_id, answer.attr, answer.tc) == (0x5A, root.pcie_id, attr, tc)
        return answers

    # The first two registers are known.
    content = struct.pack("<2I", MAGIC, MAP_VERSION)
    enables = [(first, 0) for first in range(16)]
    enables += [(first, last) for first in (15, 8, 12, 14) for last in (1, 3, 7, 15)]
    for first, last in enables:
        length = 2 if last else 1
        (answer,) = await complete(TlpType.MEM_READ, be=(first, last), length=length, attr=3, tc=5)
        whole = 32 * [0] if not first else [at for at in range(8) if (first | last << 4) >> at & 1]
        begin, end = (0, 1) if not first else (whole[0], whole[-1] + 1)
        assert (answer.status, answer.byte_count, answer.lower_address) == (CplStatus.SC, end - begin, begin)
        assert bytes(answer.data) == content[: 4 * length]
    # A long read from an odd place is cut at multiples of 128 bytes, and its parts tell what is left.
    answers = await complete(TlpType.MEM_READ, be=(12, 7), length=70, offset=0x1000 - 0x98)
    sizes = [answer.length for answer in answers]
    assert sizes == [6, 32, 32]
    left = 70 * 4 - 2 - 1
    for answer, size in zip(answers, sizes, strict=True):
        skipped = 2 if answer is answers[0] else 0
        assert answer.byte_count == left
        assert answer.lower_address == (0x68 + 2 if answer is answers[0] else 0)
        left -= 4 * size - skipped
    (first, *_) = answers = await complete(TlpType.MEM_READ, be=(15, 15), length=1024)
    assert (first.byte_count, len(answers)) == (4096, 32)
    assert bytes(first.data[:8]) == content

    reads = await counter(bus, PcieCounter.READS)
    unsupported = [
        *(TlpType.IO_READ, TlpType.IO_WRITE, TlpType.MEM_READ_LOCKED, TlpType.MEM_READ_LOCKED_64),
        *(TlpType.FETCH_ADD, TlpType.SWAP_64, TlpType.CAS, TlpType.CFG_READ_1),
    ]
    for kind in unsupported:
        (answer,) = await complete(kind)
        locked = kind in (TlpType.MEM_READ_LOCKED, TlpType.MEM_READ_LOCKED_64)
        assert answer.fmt_type == (TlpType.CPL_LOCKED if locked else TlpType.CPL)
        assert (answer.status, answer.length, answer.byte_count) == (CplStatus.UR, 0, 4)
    assert await counter(bus, PcieCounter.UNSUPPORTED) == len(unsupported)
    assert await counter(bus, PcieCounter.READS) == reads + 2  # of the counters

    # Messages, without data and with it.
    seen = len(block.sent)
    for message in ([0x3300_0000, 0x50, 0, 0], [0x7400_0001, 0x7F, 0, 0, 1]):
        block.streams.put(message)
    assert await counter(bus, PcieCounter.IGNORED) == 2
    assert len(block.sent) == seen + 1  # the counter
    # A prefix, a header that ends early, a completion for nobody.
    block.streams.put([0x8000_0000, 0, 0])
    block.streams.put([0x0000_0001, 0])
    block.streams.put(dwords_of(Tlp.create_completion_data_for_tlp(Tlp(), root.pcie_id)))
    await ClockCycles(dut.clk, 50)
    assert await counter(bus, PcieCounter.BROKEN) >= 2
    assert await counter(bus, PcieCounter.UNEXPECTED) == 1

    # Some bytes of a word are not written; a word without bytes is not even counted.
    written = await counter(bus, PcieCounter.WORDS_WRITTEN)
    for bytes_written in (b"\1", b"\1\2\3"):
        await root.mem_write(bus.bar + 4 * PcieRegister.TIMEOUT, bytes_written)
    await root.mem_write(bus.bar + 4 * PcieRegister.TIMEOUT, b"")
    assert await counter(bus, PcieCounter.PARTIAL) == 2
    assert await counter(bus, PcieCounter.WORDS_WRITTEN) == written
    # Long writes, also with a header of four words.
    for high in (False, True):
        request = write_tlp(bus, 4 * PcieRegister.REQUEST_BASE, [8, 1, 12, 2, 16, 3 + high])
        request.fmt_type = TlpType.MEM_WRITE_64 if high else TlpType.MEM_WRITE
        block.streams.put(dwords_of(request))
        assert await bus.read(4 * PcieRegister.REQUEST_BASE, 6) == [8, 1, 12, 2, 16, 3 + high]
    # More reads at once than wait in the endpoint: `room` says so, and all are answered.
    seen, block.delivers = len(block.sent), False
    request = Tlp()
    request.fmt_type, request.length, request.first_be, request.address = TlpType.MEM_READ, 1, 15, bus.bar
    for tag in range(20):
        request.tag = tag
        block.streams.put(dwords_of(request))
    await FallingEdge(dut.room)
    await Timer(20, "us")
    assert int(dut.room.value)
    assert [tlp.tag for tlp in block.sent[seen:]] == list(range(20))


@pytest.mark.parametrize(
    "bench", ["bench_enumeration", "bench_requests", "bench_failing_reads", "bench_failing_writes"]
)
def test_endpoint(bench):
    simulate(PcieEndpoint(columns=COLUMNS), __file__, bench=bench)


DMA = {"dma": True, "high": False, "offset": 0, "payload": 0, "read": 0, "stall": 0.0, "cuts": False}
PACKETS = {
    "windows": DMA | {"dma": False, "steps": 150, "stall": 0.3},
    "dma": DMA | {"steps": 600, "cuts": True, "stall": 0.2, "high": True, "offset": 0x7F8, "read": 2, "payload": 1},
    "short": DMA | {"steps": 60, "cuts": True, "stall": 0.5},
}


@pytest.mark.parametrize("name", PACKETS)
def test_packets(name):
    values = PACKETS[name] | {"seed": 11}
    simulate(PcieEndpoint(columns=COLUMNS), __file__, bench="bench_packets", parameters=values)


@pytest.mark.parametrize(("dma", "count"), [(False, 60), (True, 200)], ids=["windows", "dma"])
def test_full_rings(dma, count):
    values = {"dma": dma, "count": count, "payload": 2}
    simulate(PcieEndpoint(columns=COLUMNS), __file__, bench="bench_full", parameters=values)
