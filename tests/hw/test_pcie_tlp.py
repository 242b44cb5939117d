"""The parts that take TLPs apart and put them together, against cocotbext-pcie's packing and unpacking."""

from __future__ import annotations

import struct
from itertools import pairwise

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.pcie.arbiter import TlpArbiter
from ternlight_hw.pcie.burst import PLAN_CYCLES, BurstPlanner
from ternlight_hw.pcie.completer import Completer
from ternlight_hw.pcie.gearbox import TlpPacker, TlpUnpacker
from ternlight_hw.pcie.receiver import BAR_WRITE, COMPLETION_PART, NEWS, TlpReceiver
from ternlight_hw.pcie.requester import TlpRequester
from ternlight_hw.pcie.tlp import COMPLETION_HEADER, MEMORY_COMMAND, READ_REQUEST
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start
from ternlight_sim.pcie_bus import CplStatus, PcieId, Tlp, TlpType, dwords_of, tlp_of

LAST = 1 << 32
IDENTITY = PcieId(bus=1)


def split(layout, word: int) -> dict[str, int]:
    """The fields of a payload."""
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in layout}


def join(layout, **fields: int) -> int:
    """A payload of its fields; the others are zero."""
    return sum(value << layout[name].offset for name, value in fields.items())


def some_packets(random, count: int) -> list[list[int]]:
    sizes = random.integers(1, 9, size=count)
    return [list(map(int, random.integers(0, 1 << 32, size=size))) for size in sizes]


def dwords_payload(packets: list[list[int]]) -> list[int]:
    return [word | (LAST if at == len(packet) - 1 else 0) for packet in packets for at, word in enumerate(packet)]


def beats_payload(packets: list[list[int]]) -> list[int]:
    beats = []
    for packet in packets:
        for at in range(0, len(packet), 2):
            pair = packet[at : at + 2]
            last = at + 2 >= len(packet)
            beats.append(sum(word << 32 * place for place, word in enumerate(pair)) | [1, 3][len(pair) - 1] << 64)
            beats[-1] |= last << 66
    return beats


class Packets:
    """Collects a stream of DWORD as packets."""

    def __init__(self, dut, name: str = "dwords", *, stall: float) -> None:
        self.sink = StreamSink(dut, name, stall=stall)

    async def receive(self, count: int) -> list[list[int]]:
        packets: list[list[int]] = [[]]
        while len(packets) <= count:
            (word,) = await self.sink.receive(1)
            packets[-1].append(word & LAST - 1)
            if word & LAST:
                packets.append([])
        return packets[:-1]


async def cycles_between(dut, name: str, transfers: int) -> int:
    """Cycles from one transfer of a stream to the last of so many, with its consumer ready."""
    at = []
    cycle = 0
    getattr(dut, f"{name}__ready").value = 1
    while len(at) < transfers:
        await RisingEdge(dut.clk)
        if int(getattr(dut, f"{name}__valid").value):
            at.append(cycle)
        cycle += 1
        await FallingEdge(dut.clk)
    return at[-1] - at[0]


@cocotb.test()
async def bench_unpacker(dut):
    random, stall = rng(), parameters()["stall"]
    packets = some_packets(random, 200)
    await start(dut)
    cocotb.start_soon(StreamSource(dut, "beats", stall=stall).send(beats_payload(packets)))
    if not stall:  # one word per cycle
        words = sum(map(len, packets))
        assert await cycles_between(dut, "dwords", words) == words - 1
    else:
        assert await Packets(dut, stall=stall).receive(200) == packets


@cocotb.test()
async def bench_packer(dut):
    random, stall = rng(), parameters()["stall"]
    packets = some_packets(random, 200)
    beats = beats_payload(packets)
    await start(dut)
    cocotb.start_soon(StreamSource(dut, "dwords", stall=stall).send(dwords_payload(packets)))
    if not stall:
        assert await cycles_between(dut, "beats", len(beats)) == sum(map(len, packets)) - min(2, len(packets[0]))
        return
    # The upper half of a last beat with one word is free.
    received = await StreamSink(dut, "beats", stall=stall).receive(len(beats))
    masks = [LAST - 1 | 7 << 64 if beat >> 64 & 3 == 1 else -1 for beat in beats]
    assert [beat & mask for beat, mask in zip(received, masks, strict=True)] == beats


@cocotb.test()
async def bench_arbiter(dut):
    """Whole packets from each source in its order; all that wait are served in turn."""
    random = rng()
    stall = parameters()["stall"]
    sent = [some_packets(random, 60) for _ in range(3)]
    for source, packets in enumerate(sent):  # the source is told by the upper bits
        packets[:] = [[word >> 2 | source << 30 for word in packet] for packet in packets]
    await start(dut)
    for source, packets in enumerate(sent):
        driver = StreamSource(dut, f"sources__{source}", stall=stall, seed=source)
        cocotb.start_soon(driver.send(dwords_payload(packets)))
    received = await Packets(dut, stall=stall).receive(180)
    origins = [packet[0] >> 30 for packet in received]
    for source, packets in enumerate(sent):
        assert [packet for packet, origin in zip(received, origins, strict=True) if origin == source] == packets
    if not stall:
        assert all((after - before) % 3 == 1 for before, after in pairwise(origins))


@cocotb.test()
async def bench_planner(dut):
    random, ring = rng(), parameters()["ring"]
    await start(dut)
    seen = set()
    for _ in range(2000):
        base = int(random.choice([0, 1023, 512, int(random.integers(1 << 61))])) + int(random.integers(3))
        index = int(random.choice([int(random.integers(1 << 16)), ring - 1, 2 * ring - 2]))
        available, limit = (int(random.choice([0, 1, 31, 64, 1000, 1024])) for _ in range(2))
        dut.base.value, dut.index.value, dut.available.value, dut.limit.value = base, index, available, limit
        for _ in range(PLAN_CYCLES):
            await FallingEdge(dut.clk)
        address = base + index % ring
        bounds = {"available": available, "limit": limit, "page": 1024 - address % 1024, "ring": ring - index % ring}
        assert int(dut.address.value) == address
        assert int(dut.length.value) == min(bounds.values())
        seen |= {
            name
            for name, bound in bounds.items()
            if list(bounds.values()).count(bound) == 1 == (bound == min(bounds.values()))
        }
    assert seen == {"available", "limit", "page", "ring"}


@cocotb.test()
async def bench_requester(dut):
    random, stall = rng(), parameters()["stall"]
    commands, expected, data = [], [], []
    for _ in range(150):
        write = int(random.integers(2))
        high = int(random.choice([0, 0, 1, 0x8000_0000]))
        length = int(random.choice([1, 2, 31, 32, 128] + [1024] * (not write)))
        address = high << 32 | int(random.integers(1 << 20)) << 12
        tlp = Tlp()
        words = list(map(int, random.integers(0, 1 << 32, size=length if write else 0)))
        tlp.fmt_type = [
            [TlpType.MEM_READ, TlpType.MEM_READ_64],
            [TlpType.MEM_WRITE, TlpType.MEM_WRITE_64],
        ][write][high != 0]
        tlp.address, tlp.length, tlp.tag, tlp.requester_id = address, length, int(random.integers(256)), IDENTITY
        tlp.first_be, tlp.last_be = 15, 15 if length > 1 else 0
        tlp.data = bytearray(struct.pack(f"<{len(words)}I", *words))
        commands.append(join(MEMORY_COMMAND, write=write, address=address >> 2, length=length, tag=tlp.tag))
        expected.append(dwords_of(tlp))
        data += words
    dut.identity.value = int(IDENTITY)
    await start(dut)
    cocotb.start_soon(StreamSource(dut, "command", stall=stall).send(commands))
    cocotb.start_soon(StreamSource(dut, "data", stall=stall, seed=2).send(data))
    if stall:
        assert await Packets(dut, stall=stall).receive(150) == expected
    else:
        words = sum(map(len, expected))
        assert await cycles_between(dut, "dwords", words) == words - 1


@cocotb.test()
async def bench_completer(dut):
    """Random reads of a memory whose words tell their address."""
    random, stall = rng(), parameters()["stall"]
    requests, expected = [], []
    for number in range(150):
        supported = int(random.integers(5) > 0)
        memory = supported or int(random.integers(2))
        length = int(random.choice([1, 1, 2, 3, 33, 70, 1024 if number < 3 else 5]))
        first = int(random.integers(16)) if length == 1 else int(random.choice([8, 12, 14, 15]))
        last = 0 if length == 1 else int(random.choice([1, 3, 7, 15]))
        address = int(random.integers(1 << 12))
        asked = Tlp()
        asked.fmt_type = TlpType.MEM_READ
        asked.length, asked.first_be, asked.last_be, asked.address = length, first, last, 4 * address
        asked.tag, asked.requester_id = int(random.integers(256)), PcieId.from_int(int(random.integers(1 << 16)))
        asked.tc, asked.attr = int(random.integers(8)), int(random.integers(8))
        requests.append(
            join(
                READ_REQUEST,
                requester=int(asked.requester_id),
                tag=asked.tag,
                traffic_class=asked.tc,
                attributes=asked.attr & 3,
                ordering=asked.attr >> 2,
                first_enable=first,
                last_enable=last,
                length=length % 1024,
                address=address,
                memory=memory,
                supported=supported,
            )
        )
        expected += completions_of(asked, bool(supported), bool(memory))
    dut.identity.value = int(IDENTITY)
    cocotb.start_soon(serve_reads(dut))
    await start(dut)
    cocotb.start_soon(StreamSource(dut, "requests", stall=stall).send(requests))
    received = await Packets(dut, stall=stall).receive(len(expected))
    for got, wanted in zip(received, expected, strict=True):
        assert tlp_of(got) == wanted, (tlp_of(got), wanted)


async def serve_reads(dut) -> None:
    """The word at an address, two cycles later."""
    pipeline = [0, 0]
    while True:
        await RisingEdge(dut.clk)
        pipeline = [*pipeline[1:], int(dut.address.value) if dut.address.value.is_resolvable else 0]
        await FallingEdge(dut.clk)
        dut.data.value = pipeline[0] * 0x0001_0003


def completions_of(asked: Tlp, supported: bool, memory: bool) -> list[Tlp]:
    """What the specification has for a read (2.2.9 and 2.3.1.1), cut at multiples of 128 bytes."""
    skipped = asked.get_first_be_offset() if asked.first_be else 0
    left = asked.get_be_byte_count() if asked.first_be else 1
    completions = []
    address, end = asked.address, asked.address + 4 * asked.length
    while address < end:
        completion = Tlp.create_completion_for_tlp(
            asked, IDENTITY, supported, CplStatus.SC if supported else CplStatus.UR
        )
        completion.byte_count = left if memory else 4
        completion.lower_address = (address + skipped) & 0x7F if memory else 0
        if not supported:
            return [completion]
        cut = min(end, (address // 128 + 1) * 128)
        words = [at // 4 % (1 << 12) * 0x0001_0003 for at in range(address, cut, 4)]
        completion.set_data(struct.pack(f"<{len(words)}I", *words))
        completions.append(completion)
        left -= cut - address - skipped
        address, skipped = cut, 0
    return completions


@cocotb.test()
async def bench_receiver(dut):
    """A random mix of everything, some of it damaged, between words that stall."""
    random, stall = rng(), parameters()["stall"]
    sent, writes, requests, completions = [], [], [], []
    news = dict.fromkeys(dict(iter(NEWS)), 0)
    for _ in range(400):
        length = int(random.choice([1, 2, 5, 32]))
        words = list(map(int, random.integers(0, 1 << 32, size=length)))
        data = bytearray(struct.pack(f"<{length}I", *words))
        tlp = Tlp()
        tlp.tag, tlp.requester_id = int(random.integers(256)), PcieId.from_int(int(random.integers(1 << 16)))
        tlp.length, tlp.address = length, int(random.integers(1 << 12)) << 2 | 0x1234 << 16
        tlp.first_be, tlp.last_be = 15, 15 if length > 1 else 0
        tlp.tc, tlp.attr = int(random.integers(8)), int(random.integers(8))
        tlp.ep = int(random.integers(10)) == 0
        digest = int(random.integers(5)) == 0
        tlp.td = digest
        kind = random.choice(["write", "read", "completion", "io", "message"])
        damage = int(random.integers(8)) == 0
        match kind:
            case "write":
                tlp.fmt_type = [TlpType.MEM_WRITE, TlpType.MEM_WRITE_64][int(random.integers(2))]
                tlp.data = data
                tlp.first_be = int(random.choice([15, 15, 15, 0, 1, 12]))
            case "read":
                tlp.fmt_type = [TlpType.MEM_READ, TlpType.MEM_READ_64][int(random.integers(2))]
            case "completion":
                tlp.fmt_type, tlp.byte_count, tlp.lower_address = TlpType.CPL_DATA, 4 * length, 4
                tlp.data = data
            case "io":
                tlp.fmt_type, tlp.length, tlp.data = TlpType.IO_WRITE, 1, data[:4]
                tlp.last_be = 0
        dwords = [0x3300_0000, 0x50, 0, 0] if kind == "message" else dwords_of(tlp)
        header = 4 if kind == "message" or tlp.fmt & 1 else 3
        poisoned = tlp.ep and kind != "message"
        if digest and kind != "message":
            dwords.append(0x1357_9BDF)
        if damage:  # cut short, or prolonged
            if len(dwords) > header + 1 and random.integers(2):
                del dwords[-1]
            else:
                dwords.append(99)
        sent.append(dwords)
        given = min(len(dwords) - header, tlp.length)
        news["received"] += 1
        news["poisoned"] += poisoned
        news["broken"] += damage
        news["ignored"] += kind == "message" and not damage
        match kind:
            case "write":
                news["write_poisoned"] += poisoned
                news["write_broken"] += damage
                for at in range(0 if poisoned else given):
                    enables = tlp.first_be if at == 0 else 15
                    if enables == 15:
                        writes.append(((tlp.address // 4 + at) % (1 << 12), words[at]))
                    news["partial"] += enables not in (0, 15)
            case "completion":
                completions.append(
                    (tlp.tag, int(tlp.requester_id), 4 * length, length, poisoned, words[:given], damage)
                )
            case "read" | "io" if not damage:
                low = tlp.address // 4 % (1 << 12)
                requests.append((tlp.tag, int(tlp.requester_id), low, tlp.length, kind == "read", tlp.tc, tlp.attr))
    await start(dut)
    heard = Heard(dut)
    cocotb.start_soon(heard.listen())
    requested = []

    async def take() -> None:
        sink = StreamSink(dut, "request", stall=stall)
        while True:
            (word,) = await sink.receive(1)
            fields = split(READ_REQUEST, word)
            assert fields["memory"] == fields["supported"]
            attributes = fields["attributes"] | fields["ordering"] << 2
            names = ("tag", "requester", "address", "length", "supported", "traffic_class")
            requested.append((*(fields[name] for name in names), attributes))

    cocotb.start_soon(take())
    await StreamSource(dut, "dwords", stall=stall).send(dwords_payload(sent))
    for _ in range(20):
        await FallingEdge(dut.clk)
    assert heard.writes == writes
    assert requested == requests
    assert heard.completions == completions
    assert heard.news == news
    assert all(news.values())


class Heard:
    """What the receiver tells."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.writes: list[tuple[int, int]] = []
        self.completions: list[tuple] = []
        self.news = dict.fromkeys(dict(iter(NEWS)), 0)

    async def listen(self) -> None:
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            write, part = split(BAR_WRITE, int(dut.write.value)), split(COMPLETION_PART, int(dut.completion.value))
            for name, happened in split(NEWS, int(dut.news.value)).items():
                self.news[name] += happened
            if write["enable"]:
                self.writes.append((write["address"], write["data"]))
            assert part["begins"] + part["enable"] + part["ends"] <= 1
            if part["begins"]:
                header, words = split(COMPLETION_HEADER, int(dut.header.value)), []
            if part["enable"]:
                words.append(part["data"])
            if part["ends"]:
                names = ("tag", "requester", "byte_count", "length", "poisoned")
                self.completions.append((*(header[name] for name in names), words, part["broken"]))


UNITS = {
    "unpacker": TlpUnpacker,
    "packer": TlpPacker,
    "requester": TlpRequester,
    "arbiter": lambda: TlpArbiter(sources=3),
    "completer": Completer,
    "receiver": TlpReceiver,
}


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("unit", UNITS)
def test_unit(unit, stall):
    simulate(UNITS[unit](), __file__, bench=f"bench_{unit}", parameters={"stall": stall, "seed": 12})


@pytest.mark.parametrize("ring", [512, 4096])
def test_planner(ring):
    simulate(BurstPlanner(ring_words=ring), __file__, bench="bench_planner", parameters={"ring": ring, "seed": 4})


def test_refusals():
    with pytest.raises(ValueError, match=r"^sources must be at least 2, not 1$"):
        TlpArbiter(sources=1)
    with pytest.raises(ValueError, match=r"^ring_words must be a power of two below 65536, not 100$"):
        BurstPlanner(ring_words=100)
