"""Registers against abi.Register: identity, settings, commands and counters; and the counters' conditions."""

from __future__ import annotations

import itertools

import cocotb
import pytest
from amaranth import Module, Signal
from amaranth.lib import stream
from amaranth.sim import Simulator
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import ABI_VERSION, MAGIC, Counter, Register
from ternlight.geometry import Geometry
from ternlight_hw.registers import OFFSET_BITS, Registers, progress_counts, wait_causes
from ternlight_hw.sequencer import TOKEN_DONE
from ternlight_sim.bench import parameters, rng, simulate, start

BUILD_ID = 0xDEADBEEF
SETTINGS = {Register.IMAGE_ID: 32, Register.VOCABULARY: 17, Register.STATE_STRIDE: 16}
"""Bits of the words that the host writes."""

COUNTER_LOWS = [Register.COUNTERS + 2 * counter for counter in Counter]
COUNT_AGE = 4
"""A low word read counts the cycles up to that many before its acknowledgement."""


class Host:
    """Accesses to the registers; `count` (a callable) gives the counters' bits of each cycle."""

    def __init__(self, dut, count=lambda: 0):
        self.dut, self.count = dut, count
        self.counters = [0] * len(Counter)
        self.history = [self.counters] * COUNT_AGE  # after the latest cycles, the last one first
        self.commands = []
        self.command_delay = 0
        self.result = 0

    async def cycle(self):
        """One cycle; returns the acknowledgement as (data, error), or None."""
        dut = self.dut
        bits = self.count()
        dut.count.value = bits
        dut.command__ready.value = self.command_delay == 0
        dut.result.value = self.result
        await RisingEdge(dut.clk)
        answer = (int(dut.bus__read_data.value), int(dut.bus__error.value)) if dut.bus__ack.value else None
        if dut.command__valid.value:
            assert answer is None
            if self.command_delay == 0:
                self.commands.append(int(dut.command__payload.value))
            self.command_delay -= 1
        self.counters = [value + (bits >> index & 1) for index, value in enumerate(self.counters)]
        self.history = [self.counters, *self.history[:-1]]
        await FallingEdge(dut.clk)
        return answer

    async def access(self, offset, word=None, *, cycles=3):
        """Read, or write a word; asserts the cycles that it takes. Returns data, error, and the counts that are due."""
        dut = self.dut
        dut.bus__enable.value, dut.bus__offset.value = 1, offset
        dut.bus__write.value, dut.bus__write_data.value = word is not None, word or 0
        limits = (5, len(Counter) + 4) if word is None and offset in COUNTER_LOWS else (cycles, cycles)
        answer, taken = None, 0
        while answer is None:
            counted = self.history[-1]
            answer = await self.cycle()
            taken += 1
            assert taken <= limits[1]
        assert taken >= limits[0]
        dut.bus__enable.value = 0
        return *answer, counted

    async def read(self, offset):
        data, error, _ = await self.access(offset)
        assert not error
        return data


async def begin(dut):
    dut.bus__enable.value = dut.command__ready.value = dut.count.value = dut.result.value = 0
    await start(dut)


@cocotb.test()
async def bench_words(dut):
    """Every offset: identity, settings, and errors where there is nothing."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    await begin(dut)
    host = Host(dut)
    expected = {Register.MAGIC: MAGIC, Register.ABI_VERSION: ABI_VERSION, Register.BUILD_ID: BUILD_ID}
    expected |= {Register.GEOMETRY + index: word for index, word in enumerate(geometry.words())}
    expected |= dict.fromkeys([*SETTINGS, Register.COMMAND, Register.RESULT], 0)
    expected |= {Register.COUNTERS + index: 0 for index in range(2 * len(Counter))}
    for _ in range(3):
        for offset in random.permutation(1 << OFFSET_BITS):
            data, error, _ = await host.access(int(offset))
            assert error == (offset not in expected)
            if not error:
                assert data == expected[offset]
        for offset in random.permutation(1 << OFFSET_BITS):
            # What cannot be written is acknowledged and stays.
            word = int(random.integers(1 << 32))
            if offset != Register.COMMAND:
                _, error, _ = await host.access(int(offset), word)
                assert error == (offset not in expected)
            if offset in SETTINGS:
                expected[offset] = word & (1 << SETTINGS[offset]) - 1
        assert int(dut.image_id.value) == expected[Register.IMAGE_ID]
        assert int(dut.vocabulary.value) == expected[Register.VOCABULARY]
        assert int(dut.state_stride.value) == expected[Register.STATE_STRIDE]
    assert not host.commands


@cocotb.test()
async def bench_commands(dut):
    """A write of COMMAND waits until it is taken, and the result of that very command is read next."""
    random = rng()
    await begin(dut)
    host = Host(dut)
    sent = []
    for _ in range(100):
        delay = int(random.choice([0, 1, int(random.integers(2, 40))]))
        host.command_delay = delay
        sent.append(int(random.integers(1 << 16)))
        _, error, _ = await host.access(
            Register.COMMAND, sent[-1] | int(random.integers(1 << 16)) << 16, cycles=4 + delay
        )
        assert not error
        assert host.commands == sent
        host.command_delay = 0
        host.result = int(random.integers(256))
        assert await host.read(Register.RESULT) == host.result
        # Reading COMMAND gives none.
        assert await host.read(Register.COMMAND) == 0
    assert host.commands == sent


@cocotb.test()
async def bench_counters(dut):
    """All counters at random, read while they count and while they carry into the high word."""
    random = rng()
    await begin(dut)
    host = Host(dut, count=lambda: int(random.integers(1 << len(Counter))))
    for _ in range(20):
        await host.cycle()
    carries = 0
    for counter in [*Counter] * 8:
        # Shortly before a carry, where counting alone would not come; while the total is not on its way to the memory.
        while counter in (int(dut.counters.visited.value), int(dut.counters.updated.value)):
            await host.cycle()
        target = (int(random.integers(1, 1 << 32)) << 32) - int(random.integers(8))
        dut.counters.totals[counter].value = target
        low_part = getattr(dut.counters, f"low_{counter}")
        low_part.value = target % (1 << len(low_part))
        host.counters = [target if index == counter else value for index, value in enumerate(host.counters)]
        host.history = [host.counters] * COUNT_AGE
        for _ in range(COUNT_AGE + int(random.integers(3))):
            await host.cycle()
        low, error, counted = await host.access(Register.COUNTERS + 2 * counter)
        assert not error
        # The counter may pass the carry, and the host look elsewhere, before the high word is read.
        for _ in range(int(random.integers(20))):
            await host.cycle()
        assert await host.read(Register.MAGIC) == MAGIC
        high = await host.read(Register.COUNTERS + 2 * counter + 1)
        assert (high << 32 | low) == counted[counter]
        carries += counted[counter] >> 32 != host.counters[counter] >> 32
    assert carries > 5
    for counter in Counter:
        low, _, counted = await host.access(Register.COUNTERS + 2 * counter)
        assert (await host.read(Register.COUNTERS + 2 * counter + 1) << 32 | low) == counted[counter]


SIZES = [{}, {"inputs": 8, "rows": 16, "vector": 4, "slots": 3, "clock_hz": 123_456_789}]


@pytest.mark.parametrize("sizes", SIZES)
def test_registers_words(sizes):
    simulate(
        Registers(geometry=Geometry(**sizes), build_id=BUILD_ID),
        __file__,
        bench="bench_words",
        parameters={"geometry": sizes},
    )


@pytest.mark.parametrize("bench", ["bench_commands", "bench_counters"])
def test_registers(bench):
    simulate(Registers(geometry=Geometry(), build_id=BUILD_ID), __file__, bench=bench)


@pytest.mark.parametrize("build_id", [-1, 1 << 32])
def test_registers_refuse_build_id(build_id):
    with pytest.raises(ValueError, match=f"build_id must be a 32-bit integer, not {build_id}"):
        Registers(geometry=Geometry(), build_id=build_id)


def truth_table(expression, inputs):
    """The values of an expression for all values of its one-bit inputs, keyed by them."""
    m = Module()
    output = Signal(len(Counter))
    m.d.comb += output.eq(expression)
    table = {}

    async def bench(context):
        for values in itertools.product((0, 1), repeat=len(inputs)):
            for signal, value in zip(inputs, values, strict=True):
                context.set(signal, value)
            await context.delay(1e-9)
            table[values] = context.get(output)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()
    return table


def test_wait_causes():
    names = ("running", "in_token", "busy", "starved", "sampling", "waiting_scalar", "blocked")
    signals = {name: Signal(name=name) for name in names}
    table = truth_table(wait_causes(**signals), list(signals.values()))
    assert len(table) == 2 ** len(names)
    for values, bits in table.items():
        state = dict(zip(names, values, strict=True))
        if not state["running"]:
            assert bits == 0
            continue
        if state["busy"]:
            cause = Counter.BUSY
        elif state["starved"]:
            cause = Counter.WAIT_WEIGHTS
        elif not state["in_token"]:
            cause = Counter.WAIT_LINK if state["blocked"] else Counter.WAIT_CONTROL
        elif state["sampling"]:
            cause = Counter.WAIT_CONTROL
        else:
            cause = Counter.WAIT_SCALAR if state["waiting_scalar"] else Counter.WAIT_VECTOR
        assert bits == 1 << cause


def test_progress_counts():
    done = stream.Signature(TOKEN_DONE).create()
    sampled = done.payload.sampled
    for (valid, ready, is_sampled), bits in truth_table(
        progress_counts(done=done), [done.valid, done.ready, sampled]
    ).items():
        finished = valid and ready
        expected = 1 << Counter.CYCLES | finished << Counter.TOKENS | (finished and is_sampled) << Counter.GENERATED
        assert bits == expected
