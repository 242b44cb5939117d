"""The SDRAM's stream on the memory's model: every word right, no rule broken, and how long it all takes."""

from __future__ import annotations

import re
from dataclasses import replace

import cocotb
import pytest
from amaranth import DomainRenamer, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge
from cocotb.utils import get_sim_time

from ternlight.sdram import GW2AR_18, IS42S16160G, MT48LC16M16A2, PARTS, W9825G6KH, Time, either
from ternlight_hw.sdram import Controller, Registers, SdramStream
from ternlight_hw.sdram.ports import WordAddress, request_layout, write_layout
from ternlight_hw.sdram.refresher import Refresher
from ternlight_hw.sdram.runs import Runs
from ternlight_hw.sdram.self_test import SelfTest
from ternlight_sim.bench import StreamSink, StreamSource, parameters, rng, simulate, start
from ternlight_sim.sdram_model import ARRAY, Rule, SdramModel, rules

CLOCK_HZ = 133_333_333
ULX3S = either(IS42S16160G, MT48LC16M16A2)
PARTS_BY_NAME = {part.name: part for part in (*PARTS, ULX3S)}


class Bench(wiring.Component):
    """The stream, its registers and the memory."""

    def __init__(self, *, part, burst, clock_hz=CLOCK_HZ):
        self.stream = SdramStream(part=part, clock_hz=clock_hz, burst=burst)
        self.model = SdramModel(part=part, clock_hz=clock_hz, burst=burst)
        address = self.stream.address
        super().__init__(
            {
                "requests": In(stream.Signature(request_layout(address))),
                "writes": In(stream.Signature(write_layout(address))),
                "words": Out(stream.Signature(address.word_bits)),
                "violations": Out(len(Rule)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        in_memory = DomainRenamer("sdram")
        m.submodules.stream = self.stream
        m.submodules.registers = registers = in_memory(Registers(part=self.stream.part))
        m.submodules.model = model = in_memory(self.model)
        wiring.connect(m, self.stream.pins, registers.inner)
        wiring.connect(m, registers.outer, model.pins)
        for name in ("requests", "writes"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.stream, name))
        wiring.connect(m, self.stream.words, wiring.flipped(self.words))
        m.d.comb += self.violations.eq(model.violations)
        return m


class Memory:
    """The bench's view of the device: what was written, and clocks of its own for both sides."""

    def __init__(self, dut, *, period_ns):
        self.dut = dut
        self.part = PARTS_BY_NAME[parameters()["part"]]
        self.address = WordAddress(part=self.part, burst=parameters()["burst"])
        self.burst = parameters()["burst"]
        self.depth = 512
        self.content = {}
        cocotb.start_soon(Clock(dut.sdram_clk, round(period_ns * 1000 / 2) * 2, "ps").start())
        self.period_ns = period_ns

    async def start(self):
        self.dut.requests__valid.value = 0
        self.dut.words__ready.value = 0
        self.dut.sdram_rst.value = 1
        await start(self.dut)
        self.dut.sdram_rst.value = 0

    def request(self, first, words):
        return first | words << self.address.bits

    async def write(self, pairs):
        """Words at addresses, as fast as they are taken."""
        source = StreamSource(self.dut, "writes")
        self.content.update(pairs)
        await source.send(address | word << self.address.bits for address, word in pairs)

    async def read(self, requests, *, stall=0.0, request_stall=0.0, wait=0):
        """Send requests, check every word, and return the memory's cycles from the first word to the last.

        wait: cycles before the first word is taken.
        """
        source = StreamSource(self.dut, "requests", stall=request_stall, seed=1)
        sink = StreamSink(self.dut, "words", stall=stall, seed=2)
        sending = cocotb.start_soon(source.send(self.request(*request) for request in requests))
        if wait:
            await ClockCycles(self.dut.clk, wait)
            await FallingEdge(self.dut.clk)
        wanted = [address for first, words in requests for address in range(first, first + words)]
        received = await sink.receive(1)
        begin = get_sim_time("ns")
        received += await sink.receive(len(wanted) - 1)
        cycles = (get_sim_time("ns") - begin) / self.period_ns
        await sending
        for index, (address, word) in enumerate(zip(wanted, received, strict=True)):
            if address in self.content:
                assert word == self.content[address], f"word {index}, at {address:#x}"
        self.check()
        return cycles

    def check(self):
        assert rules(int(self.dut.violations.value)) == []


@cocotb.test()
async def bench_random(dut):
    """Writes anywhere, reads of any length across rows and banks, stalls on all sides, clocks in any ratio."""
    random = rng()
    memory = Memory(dut, period_ns=parameters()["period_ns"])
    await memory.start()
    address = memory.address
    row, word_bytes = address.row_words, address.word_bits // 8
    for round_ in range(8):
        stall, request_stall = [(0.0, 0.0), (0.6, 0.0), (0.0, 0.9), (0.9, 0.5)][round_ % 4]
        # Rows of different banks and of the same, some words of them twice.
        bases = [int(base) * row for base in random.integers(address.words // row - 4, size=4)]
        bases.append((bases[0] + 4 * row) % (address.words - row))
        places = [base + int(random.integers(row)) + index for base in bases for index in range(20)]
        places += [places[int(index)] for index in random.integers(len(places), size=8)]
        await memory.write([(place, int.from_bytes(random.bytes(word_bytes), "little")) for place in places])
        starts = list(memory.content)
        requests = []
        for _ in range(40):
            first = max(0, starts[int(random.integers(len(starts)))] - int(random.integers(3)))
            words = int(random.choice([1, 2, 3, 7, 15, row, 2 * row + 1], p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.05, 0.05]))
            requests.append((first, min(words, address.words - first)))
        await memory.read(requests, stall=stall, request_stall=request_stall)
    # A consumer that takes nothing for longer than refreshes can wait, in the middle of a row.
    await memory.read([(starts[0], 3 * memory.depth)], wait=30_000)
    # The last word of the memory, and the first.
    ends = [(address.words - 1, 1), (0, (1 << address.word_bits) - 1)]
    await memory.write(ends)
    await memory.read([(address.words - 2, 2), (0, 1)])


@pytest.mark.parametrize(
    ("part", "burst", "clock_hz", "period_ns"),
    [(ULX3S, 8, CLOCK_HZ, 7), (GW2AR_18, 4, CLOCK_HZ, 12), (W9825G6KH, 8, 100_000_000, 10)],
    ids=["ULX3S", "GW2AR-18", "latency of 2"],
)
def test_random(part, burst, clock_hz, period_ns):
    simulate(
        Bench(part=part, burst=burst, clock_hz=clock_hz),
        __file__,
        bench="bench_random",
        parameters={"part": part.name, "burst": burst, "period_ns": period_ns, "seed": burst + period_ns},
        sources=[ARRAY],
    )


@cocotb.test()
async def bench_bandwidth(dut):
    """Shares of the peak, with the queue of requests full."""
    random = rng()
    memory = Memory(dut, period_ns=1e9 / CLOCK_HZ)
    await memory.start()
    address, burst = memory.address, memory.burst
    word_bytes, row = address.word_bits // 8, address.row_words
    rows = [int(number) * row for number in random.integers(address.words // row, size=100)]
    loads = {
        "one long read": [(5, 8000)],
        "long read in requests of 7 words": [(5 + 7 * number, 7) for number in range(1000)],
        "rows in order": [(number * row, row) for number in range(100)],
        "rows anywhere": [(base, row) for base in rows],
        "one row again and again": [(3 * row, 16)] * 500,
    }
    for size in (128, 256, 512):
        words = size // word_bytes
        starts = random.integers(address.words - words, size=300)
        loads[f"{size} bytes anywhere"] = [(int(first), words) for first in starts]
    sizes = [int(size) for size in random.integers(100, 701, size=300)]
    firsts = [int(first) for first in random.integers(0, memory.part.size - 800, size=300)]
    loads["100 to 700 bytes at any byte"] = [
        (first // word_bytes, (first + size - 1) // word_bytes - first // word_bytes + 1)
        for first, size in zip(firsts, sizes, strict=True)
    ]
    shares = {}
    for name, requests in loads.items():
        words = sum(count for _, count in requests)
        shares[name] = (words - 1) * burst / await memory.read(requests)
        cocotb.log.info("%s: %.2f %%", name, 100 * shares[name])
    assert {name: share for name, share in shares.items() if share < LEAST[name]} == {}


LEAST = {
    "one long read": 0.985,
    "long read in requests of 7 words": 0.985,
    "rows in order": 0.985,
    "rows anywhere": 0.98,
    "one row again and again": 0.985,
    "128 bytes anywhere": 0.95,
    "256 bytes anywhere": 0.965,
    "512 bytes anywhere": 0.975,
    "100 to 700 bytes at any byte": 0.975,
}


@pytest.mark.parametrize(("part", "burst"), [(ULX3S, 8), (GW2AR_18, 4)], ids=["x16", "x32"])
def test_bandwidth(part, burst):
    simulate(
        Bench(part=part, burst=burst),
        __file__,
        bench="bench_bandwidth",
        parameters={"part": part.name, "burst": burst, "seed": burst},
        sources=[ARRAY],
    )


class SelfTestBench(wiring.Component):
    """The self-test on a memory of which the bench inverts lines."""

    def __init__(self, *, part, burst, words):
        self.bench = Bench(part=part, burst=burst)
        self.test = SelfTest(address=self.bench.stream.address, words=words, chunk=words // 4)
        super().__init__(
            {"flip": In(part.width * burst), "done": Out(1), "failed": Out(1), "violations": Out(len(Rule))}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.bench, m.submodules.test = bench, test = self.bench, self.test
        wiring.connect(m, test.requests, bench.requests)
        wiring.connect(m, test.writes, bench.writes)
        m.d.comb += [
            test.words.valid.eq(bench.words.valid),
            test.words.payload.eq(bench.words.payload ^ self.flip),
            bench.words.ready.eq(test.words.ready),
            self.done.eq(test.done),
            self.failed.eq(test.failed),
            self.violations.eq(bench.violations),
        ]
        return m


@cocotb.test()
async def bench_self_test(dut):
    """It passes, and fails for a single wrong bit of any line."""
    cocotb.start_soon(Clock(dut.sdram_clk, 7, "ns").start())
    for flip in (0, 1, 1 << 127):
        dut.flip.value = flip
        dut.sdram_rst.value = 1
        await start(dut)
        dut.sdram_rst.value = 0
        while not int(dut.done.value):
            await FallingEdge(dut.clk)
        await ClockCycles(dut.clk, 3)
        assert rules(int(dut.violations.value)) == []
        assert int(dut.failed.value) == bool(flip)


def test_self_test():
    simulate(SelfTestBench(part=ULX3S, burst=8, words=256), __file__, bench="bench_self_test", sources=[ARRAY])


ADDRESS = WordAddress(part=ULX3S, burst=8)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WordAddress(part=ULX3S, burst=2), "burst must be 4 or 8 beats"),
        (lambda: Runs(address=ADDRESS, depth=128), "depth must be at least 4 rows of 64 words, not 128"),
        (lambda: SdramStream(part=ULX3S, clock_hz=CLOCK_HZ, depth=300), "depth must be a power of two, not 300"),
        (
            lambda: Controller(part=replace(ULX3S, t_rrd=Time(45)), clock_hz=CLOCK_HZ, burst=8),
            "t_rrd of 6 cycles is longer than opening a row takes: 3",
        ),
        (
            lambda: Refresher(part=ULX3S, timing=ULX3S.timing(CLOCK_HZ), wait=8 * 1040),
            "refreshes of every 1040 cycles cannot wait for 8320",
        ),
        (
            lambda: SelfTest(address=ADDRESS, words=100, chunk=64),
            "words must be a multiple of a chunk of 64, up to 2097152, not 100",
        ),
    ],
)
def test_refuse(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
