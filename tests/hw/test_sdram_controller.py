"""The SDRAM's controller by itself: to the cycle, on the memory's model."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import cocotb
from amaranth import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.sdram import IS42S16160G, MT48LC16M16A2, Command, either
from ternlight_hw.pipeline import Flow
from ternlight_hw.sdram import Controller, Registers
from ternlight_hw.sdram.ports import run_layout
from ternlight_sim.bench import StreamSource, simulate, start
from ternlight_sim.sdram_model import ARRAY, Rule, SdramModel, rules

CLOCK_HZ = 133_333_333
BURST = 8
PART = either(IS42S16160G, MT48LC16M16A2)
CONTROLLER = Controller(part=PART, clock_hz=CLOCK_HZ, burst=BURST)
ADDRESS, TIMING = CONTROLLER.address, CONTROLLER.timing


class Bench(wiring.Component):
    """The controller, its registers and the memory."""

    def __init__(self):
        self.controller = Controller(part=PART, clock_hz=CLOCK_HZ, burst=BURST)
        super().__init__(
            {
                "runs": In(stream.Signature(run_layout(ADDRESS))),
                "word": In(ADDRESS.word_bits),
                "taken": Out(1),
                "words": Out(Flow(ADDRESS.word_bits)),
                "command": Out(3),
                "violations": Out(len(Rule)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.controller = controller = self.controller
        m.submodules.registers = registers = Registers(part=PART)
        m.submodules.model = model = SdramModel(part=PART, clock_hz=CLOCK_HZ, burst=BURST)
        wiring.connect(m, wiring.flipped(self.runs), controller.runs)
        wiring.connect(m, controller.words, wiring.flipped(self.words))
        wiring.connect(m, controller.pins, registers.inner)
        wiring.connect(m, registers.outer, model.pins)
        m.d.comb += [
            controller.word.eq(self.word),
            self.taken.eq(controller.taken),
            self.command.eq(controller.pins.command),
            self.violations.eq(model.violations),
        ]
        return m


def run(row, bank, words, *, column=0, write=False):
    """A run as its stream has it."""
    value, position = 0, 0
    for part, bits in (
        (write, 1),
        (column, ADDRESS.column_bits),
        (bank, ADDRESS.bank_bits),
        (row, ADDRESS.row_bits),
        (words - 1, ADDRESS.column_bits),
    ):
        value |= part << position
        position += bits
    return value


class Watch:
    """The cycles of commands, of runs taken and of words."""

    def __init__(self, dut):
        self.dut = dut
        self.now = 0
        self.commands, self.taken, self.words = [], [], []
        cocotb.start_soon(self._watch())

    async def _watch(self):
        dut = self.dut
        while True:
            await RisingEdge(dut.clk)
            self.now += 1
            if int(dut.command.value) != Command.NOP:
                self.commands.append((self.now, Command(int(dut.command.value))))
            if int(dut.runs__valid.value) and int(dut.runs__ready.value):
                self.taken.append(self.now)
            if int(dut.words__valid.value):
                self.words.append((self.now, int(dut.words__payload.value)))

    def forget(self):
        self.commands, self.taken, self.words = [], [], []

    async def settle(self, words):
        """Until so many words have come, and everything is quiet."""
        while len(self.words) < words:
            await FallingEdge(self.dut.clk)
        for _ in range(60):
            await FallingEdge(self.dut.clk)
        assert rules(int(self.dut.violations.value)) == []

    def gaps(self):
        """How often a word follows the one before after so many cycles."""
        cycles = [cycle for cycle, _ in self.words]
        return Counter(after - before for before, after in pairwise(cycles))


@cocotb.test()
async def bench_cycles(dut):
    """What the docstring says about latencies and gaps, exactly."""
    dut.word.value = 0
    source = StreamSource(dut, "runs")
    await start(dut)
    watch = Watch(dut)

    # Power-up: the order of commands, and the first run behind them. Its time is the part's.
    await source.send([run(5, 1, 2)])
    await watch.settle(2)
    names = [command for _, command in watch.commands]
    refreshes = PART.power_up_refreshes
    assert names[: refreshes + 3] == [Command.PRECHARGE, *[Command.REFRESH] * refreshes, Command.MODE, Command.ACTIVATE]
    assert watch.commands[0][0] >= TIMING.power_up
    owed = TIMING.power_up // TIMING.refresh
    assert owed > 8

    async def refreshed():
        """To the end of a refresh, so that none comes in what follows: 16 intervals would take longer."""
        watch.forget()
        while not watch.commands:
            await FallingEdge(dut.clk)
        await watch.settle(0)
        watch.forget()

    # A lone run.
    await refreshed()
    await source.send([run(3, 0, 1)])
    await watch.settle(1)
    assert watch.words[0][0] - watch.taken[0] == CONTROLLER.read_latency + CONTROLLER.opening + 2

    # No gap: runs of a row's words and of single ones in the banks by turns, and of one row.
    for runs in (
        [run(7, bank % 4, 9) for bank in range(8)],
        [run(index, index % 4, 1) for index in range(12)],
        [run(9, 2, 2, column=2 * index) for index in range(12)],
    ):
        await refreshed()
        words = sum((value >> ADDRESS.bits + 1) + 1 for value in runs)
        await source.send(runs)
        await watch.settle(words)
        assert watch.gaps() == {BURST: words - 1}
    assert [command for _, command in watch.commands].count(Command.ACTIVATE) == 1

    # The next row is opened at once, behind the first burst.
    await refreshed()
    await source.send([run(7, 0, 3), run(7, 1, 1)])
    await watch.settle(4)
    open_first, *rest = watch.commands
    assert [command for _, command in rest] == [Command.READ, Command.ACTIVATE, *[Command.READ] * 3]
    begin = open_first[0] + CONTROLLER.opening
    assert [cycle - begin for cycle, _ in rest] == [0, 2, 8, 16, 24]

    # Another row of the same bank.
    await refreshed()
    await source.send([run(1, 3, 4), run(2, 3, 4)])
    await watch.settle(8)
    assert watch.gaps() == {BURST: 6, CONTROLLER.closing_read + CONTROLLER.opening: 1}

    # A write, and a read of it.
    await refreshed()
    word = 0x0123_4567_89AB_CDEF_FEDC_BA98_7654_3210
    dut.word.value = word
    await source.send([run(8000, 1, 1, column=63, write=True)])
    while not int(dut.taken.value):
        await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.word.value = 0
    await source.send([run(8000, 1, 2, column=62)])
    await watch.settle(2)
    assert watch.words[1][1] == word

    # A long read: all that comes between words is refreshes, as many as are due, several at a time.
    watch.forget()
    rows = 120
    await source.send(run(100 + index // 4, index % 4, ADDRESS.row_words) for index in range(rows))
    await watch.settle(rows * ADDRESS.row_words)
    gaps = watch.gaps()
    done = [command for _, command in watch.commands].count(Command.REFRESH)
    cycles = watch.words[-1][0] - watch.words[0][0]
    assert abs(done - cycles / TIMING.refresh) <= 8
    batches = sum(gaps.values()) - gaps[BURST]
    lost = cycles - (len(watch.words) - 1) * BURST
    around = CONTROLLER.closing_read - BURST + CONTROLLER.opening
    reads = [cycle for cycle, command in watch.commands if command == Command.READ]
    within = sum(reads[0] < cycle < reads[-1] for cycle, command in watch.commands if command == Command.REFRESH)
    cocotb.log.info(
        "%d refreshes in %d batches cost %d cycles of %d: %.2f %%", within, batches, lost, cycles, 100 * lost / cycles
    )
    assert lost == batches * around + within * TIMING.t_rfc


def test_cycles():
    simulate(Bench(), __file__, bench="bench_cycles", sources=[ARRAY])
