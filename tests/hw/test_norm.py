"""The norm unit against the golden functions on a model of its memories, and against its stated latencies."""

from __future__ import annotations

from typing import ClassVar

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge, with_timeout

from ternlight.formats import (
    ACTIVATION_BITS,
    COMPACT_BITS,
    COMPACT_EXPONENT_MAX,
    COMPACT_MANTISSA_BITS,
    ELEMENT_BITS,
    EMBEDDING_SCALE_BITS,
    LIFT_MAX,
)
from ternlight.geometry import COLUMN_BITS, Geometry
from ternlight.isa import NormOp
from ternlight.ufloat import EXPONENT_BITS, EXPONENT_MAX, EXPONENT_MIN, MANTISSA_BITS, MANTISSA_MAX
from ternlight_hw.layouts import BUFFER_BITS, WRITEBACK, norm_command
from ternlight_hw.norm import NormUnit
from ternlight_hw.norm.lane import Lane
from ternlight_sim.bench import ECP5, StreamSource, pack, parameters, rng, simulate, start
from ternlight_sim.golden import scalar, vector
from ternlight_sim.golden.scalar import UFloat

UPDATES = (NormOp.EMBED, NormOp.RESID)
GAIN_WORDS = 64


def geometry(lanes: int, accumulator: int, contexts: int, residual_words: int, gated_words: int) -> Geometry:
    """A small device with so many lanes."""
    return Geometry(
        inputs=8 * lanes,
        rows=lanes,
        vector=lanes,
        gain_words=GAIN_WORDS,
        residual_words=residual_words,
        gated_words=gated_words,
        activations=8 * lanes,
        accumulator=accumulator,
        contexts=contexts,
    )


def ufloat(mantissa: int, exponent: int) -> UFloat:
    return UFloat(np.array([mantissa]), np.array([exponent]))


def extremes(random: np.random.Generator, shape, bits: int) -> np.ndarray:
    """Signed values of so many bits: uniform, small, or one of the corners."""
    limit = 1 << bits - 1
    uniform = random.integers(-limit, limit, shape)
    magnitude = random.integers(0, bits, shape)
    corners = random.choice([-limit, -limit + 1, -1, 0, 1, limit - 1], shape)
    kind = random.random(shape)
    return np.where(kind < 0.2, corners, np.where(kind < 0.6, uniform >> magnitude, uniform))


def encode(command: dict) -> int:
    """The payload of a command, whose scale is a UFloat."""
    word = 0
    scale = (
        int(command["scale"].mantissa[0])
        | (int(command["scale"].exponent[0]) & (1 << EXPONENT_BITS) - 1) << MANTISSA_BITS
    )
    for name, field in norm_command():
        word |= (int(command.get(name, 0) if name != "scale" else scale) & (1 << field.width) - 1) << field.offset
    return word


def writeback(command: dict, value: UFloat) -> int:
    """The payload of the reduction of a command."""
    target = {"number": command["reduction"], "context": command["context"]}
    scalars = {"mantissa": int(value.mantissa), "exponent": int(value.exponent)}
    return WRITEBACK.const({"target": target, "value": scalars}).as_value().value


def negating(lanes: int) -> np.ndarray:
    """A word of gains with which v is exactly -source."""
    lowest = 1 << COMPACT_MANTISSA_BITS - 1 | COMPACT_EXPONENT_MAX << COMPACT_MANTISSA_BITS
    return np.full(lanes, lowest - (1 << COMPACT_BITS))


class Program:
    """Random commands on a model of the memories, and what must come of them.

    steps: payloads of commands, and vectors of the gate unit as (context, base, halves), in order. Registers tell the
    writebacks apart: those of one kind of operation come in order.
    """

    REGISTERS: ClassVar = {NormOp.PEAK: 0, NormOp.STAT: 5, NormOp.EMBED: 10, NormOp.RESID: 10}

    def __init__(self, random: np.random.Generator, sizes: Geometry):
        self.random, self.sizes = random, sizes
        lanes = sizes.vector
        self.gains = extremes(random, (GAIN_WORDS, lanes), COMPACT_BITS)
        self.gains[0] = negating(lanes)
        words = (sizes.residual_words, sizes.gated_words)
        self.memories = [np.zeros((sizes.contexts, count, lanes), np.int64) for count in words]
        # Base and length of the vector that was written last, in each memory and context.
        self.vectors = [[(0, 1)] * sizes.contexts for _ in words]
        self.steps: list[int | tuple[int, int, np.ndarray]] = []
        self.results: list[int] = []
        self.quantised: list[int] = []
        self.writebacks: dict[int, list[int]] = {0: [], 5: [], 10: []}

    def scale(self, low: int, high: int) -> UFloat:
        """Mostly a normalised scalar with an exponent in the range; sometimes zero, denormal or extreme."""
        random = self.random
        mantissa = random.choice([0, 1, MANTISSA_MAX, int(random.integers(1 << MANTISSA_BITS))])
        if random.random() < 0.8:
            mantissa = random.integers(1 << MANTISSA_BITS - 1, 1 << MANTISSA_BITS)
        exponent = random.choice([EXPONENT_MIN, EXPONENT_MAX, int(random.integers(-64, 64))])
        if random.random() < 0.85:
            exponent = random.integers(low, high)
        return ufloat(mantissa, exponent)

    def place(self, memory: int) -> tuple[int, int]:
        """Base and length of a vector: long, short, or all there is."""
        words = self.memories[memory].shape[1]
        length = int(self.random.choice([1, 2, words, int(self.random.integers(1, words + 1))]))
        return int(self.random.integers(words - length + 1)), length

    def gate(self, context: int) -> None:
        """A vector of the gate unit, by halves; the last half may be a lower one."""
        base, length = self.vectors[1][context] = self.place(1)
        count = 2 * length - int(self.random.random() < 0.3)
        halves = extremes(self.random, (count, self.sizes.half), ELEMENT_BITS)
        target = self.memories[1][context, base : base + length].reshape(-1, self.sizes.half)
        target[:count] = halves
        self.steps.append((context, base, halves))

    def update(self, op: NormOp, context: int, **values) -> None:
        """EMBED or RESID."""
        random, lanes = self.random, self.sizes.vector
        base, length = values.pop("place", None) or self.place(0)
        self.vectors[0][context] = base, length
        x = self.memories[0][context, base : base + length]
        command = {"scale": self.scale(-40, 2), "fraction": int(random.integers(24))} | values
        if op == NormOp.EMBED:
            header = random.integers(0, 1 << EMBEDDING_SCALE_BITS, lanes)
            beats = extremes(random, (length, lanes), ACTIVATION_BITS)
            written, total = vector.embed(beats.reshape(-1), header[:1])
            self.results.append(pack(header, self.sizes.accumulator))
        else:
            beats = values.pop("beats", None)
            if beats is None:
                beats = extremes(random, (length, lanes), self.sizes.accumulator)
            written, total = vector.resid(beats.reshape(-1), x.reshape(-1), command["scale"], command["fraction"])
        x[:] = written.reshape(x.shape)
        self.results += [pack(beat, self.sizes.accumulator) for beat in beats]
        self.append(command | {"op": op, "context": context, "source": base, "beats": length}, total)

    def read(self, op: NormOp, context: int, gated: int, **values) -> None:
        """PEAK, STAT or QUANT of a vector or its first words."""
        random = self.random
        base, length = self.vectors[gated][context]
        if random.random() < 0.3:
            length = int(random.integers(1, length + 1))
        gain = int(random.integers(GAIN_WORDS - length + 1))
        command = {"scale": self.scale(-64, 64), "fraction": int(random.integers(32)), "gain": gain}
        command |= {"lift": int(random.integers(LIFT_MAX + 1))} | values
        lift = command["lift"]
        source = self.memories[gated][context, base : base + length].reshape(-1)
        gains = self.gains[command["gain"] : command["gain"] + length].reshape(-1)
        total = None
        if op == NormOp.PEAK:
            total = vector.peak(source, gains, lift)
        elif op == NormOp.STAT:
            total = vector.stat(source, gains, lift)
        else:
            if random.random() < 0.8:
                command["scale"] = UFloat(
                    *(value.reshape(1) for value in scalar.qscale(vector.peak(source, gains, lift)))
                )
            command["buffer"] = int(random.integers(1 << BUFFER_BITS))
            activations = vector.quant(source, gains, command["scale"], lift).reshape(length, -1)
            self.quantised += [command["buffer"] | pack(beat, ACTIVATION_BITS) << BUFFER_BITS for beat in activations]
        self.append(command | {"op": op, "context": context, "gated": gated, "source": base, "beats": length}, total)

    def append(self, command: dict, total: UFloat | None) -> None:
        if total is not None:
            kind = self.REGISTERS[command["op"]]
            command["reduction"] = kind + int(self.random.integers(5))
            self.writebacks[kind].append(writeback(command, total))
        self.steps.append(encode(command))

    def step(self) -> None:
        """One more command, or a vector of the gate unit."""
        random = self.random
        context, choice = int(random.integers(self.sizes.contexts)), random.random()
        if choice < 0.15:
            self.gate(context)
        elif choice < 0.35:
            self.update(UPDATES[int(random.random() < 0.7)], context)
        else:
            op = NormOp(random.choice([NormOp.PEAK, NormOp.STAT, NormOp.QUANT]))
            self.read(op, context, int(random.random() < 0.5))

    def check(self, context: int, word: int) -> None:
        """Subtract what a word of the residual should hold; the peak of what is left is exact."""
        step = max(0, ELEMENT_BITS - self.sizes.accumulator)
        limit = 1 << self.sizes.accumulator - 1
        held = self.memories[0][context, word : word + 1]
        cancel = np.clip(-held >> step, -limit, limit - 1)
        self.update(NormOp.RESID, context, place=(word, 1), beats=cancel, scale=ufloat(1 << 14, step - 14), fraction=0)
        self.read(NormOp.PEAK, context, 0, gain=0)


class GateModel:
    """The gate unit's end of the port: a vector begins, and is written when its turn comes, with pauses at random."""

    def __init__(self, dut, sizes: Geometry, random: np.random.Generator, stall: float):
        self.dut, self.sizes, self.random, self.stall = dut, sizes, random, stall
        self.queue: list[tuple[int, int, np.ndarray]] = []
        self.pending = [0] * sizes.contexts
        dut.gated__start.value = dut.gated__enable.value = 0
        cocotb.start_soon(self._write())

    async def begin(self, context: int, base: int, halves: np.ndarray) -> None:
        """Returns in the cycle after `start`."""
        while self.pending[context] or int(self.dut.reading.value) >> context & 1:
            await FallingEdge(self.dut.clk)
        self.pending[context] += 1
        self.dut.gated__start.value, self.dut.gated__start_context.value = 1, context
        await FallingEdge(self.dut.clk)
        self.dut.gated__start.value = 0
        self.queue.append((context, base, halves))

    async def _write(self) -> None:
        dut = self.dut
        while True:
            if not self.queue:
                await FallingEdge(dut.clk)
                continue
            context, base, halves = self.queue.pop(0)
            for index, half in enumerate(halves):
                while self.random.random() < self.stall:
                    await FallingEdge(dut.clk)
                dut.gated__enable.value, dut.gated__context.value = 1, context
                dut.gated__address.value, dut.gated__upper.value = base + index // 2, index % 2
                dut.gated__last.value, dut.gated__values.value = index == len(halves) - 1, pack(half, ELEMENT_BITS)
                await FallingEdge(dut.clk)
                dut.gated__enable.value = 0
            self.pending[context] -= 1


class Monitor:
    """What leaves the unit, and the cycles of all transfers."""

    def __init__(self, dut):
        self.dut = dut
        self.cycle = 0
        self.cycles: dict[str, list[int]] = {}
        self.payloads: dict[str, list[int]] = {}
        self.clear()
        cocotb.start_soon(self._watch())

    def clear(self) -> None:
        names = ("command", "results", "quantised", "writeback", "gated")
        self.cycles, self.payloads = ({name: [] for name in names} for _ in range(2))

    async def _watch(self) -> None:
        dut = self.dut
        transfers = {
            "command": (dut.command__valid, dut.command__ready, dut.command__payload),
            "results": (dut.results__valid, dut.results__ready, dut.results__payload),
            "quantised": (dut.quantised__valid, dut.quantised__valid, dut.quantised__payload),
            "writeback": (dut.writeback__valid, dut.writeback__valid, dut.writeback__payload),
            "gated": (dut.gated__enable, dut.gated__enable, dut.gated__values),
        }
        while True:
            await RisingEdge(dut.clk)
            for name, (valid, ready, payload) in transfers.items():
                if int(valid.value) and int(ready.value):
                    self.cycles[name].append(self.cycle)
                    self.payloads[name].append(int(payload.value))
            self.cycle += 1

    async def idle(self) -> None:
        """Until the unit is idle."""
        for _ in range(3):
            await FallingEdge(self.dut.clk)
        while not int(self.dut.idle.value):
            await FallingEdge(self.dut.clk)


async def reset(dut, gains: np.ndarray) -> None:
    """Start, and fill the gain memory."""
    dut.gain_load__enable.value = dut.gated__start.value = dut.gated__enable.value = 0
    dut.command__valid.value = dut.results__valid.value = 0
    dut.quantised__ready.value = 1
    await start(dut)
    for address, word in enumerate(gains):
        packed = pack(word, COMPACT_BITS)
        for column in range(gains.shape[1] * COMPACT_BITS // COLUMN_BITS):
            dut.gain_load__enable.value, dut.gain_load__address.value = 1, address
            dut.gain_load__column.value = column
            dut.gain_load__data.value = packed >> COLUMN_BITS * column & (1 << COLUMN_BITS) - 1
            await FallingEdge(dut.clk)
    dut.gain_load__enable.value = 0


@cocotb.test()
async def bench_program(dut):
    """Random commands of all contexts, with results and gated vectors that lag; all that leaves, to the bit."""
    random, stall = rng(), parameters()["stall"]
    sizes = Geometry.from_words(parameters()["geometry"])
    program = Program(random, sizes)
    for _ in range(parameters()["count"]):
        program.step()
    for context in range(sizes.contexts):
        for word in range(sizes.residual_words):
            program.check(context, word)
    await reset(dut, program.gains)
    gate, monitor = GateModel(dut, sizes, random, 2 * stall), Monitor(dut)
    command = StreamSource(dut, "command", stall=stall, seed=1)
    results = cocotb.start_soon(StreamSource(dut, "results", stall=stall, seed=2).send(program.results))

    async def run():
        for step in program.steps:
            await (command.send([step]) if isinstance(step, int) else gate.begin(*step))
        await results
        await monitor.idle()

    await with_timeout(cocotb.start_soon(run()), 10, "ms")
    assert monitor.payloads["quantised"] == program.quantised
    for kind, expected in program.writebacks.items():
        written = [word for word in monitor.payloads["writeback"] if word % 16 in range(kind, kind + 5)]
        assert written == expected, kind


PROGRAMS = [
    # lanes, accumulator, contexts, residual_words, gated_words, commands, share of stalls, platform
    (4, 18, 2, 10, 24, 1000, 0.0, None),
    (4, 24, 3, 5, 7, 600, 0.3, None),
    (16, 18, 4, 9, 16, 250, 0.1, None),
    (4, 18, 2, 10, 24, 300, 0.1, ECP5),
]


@pytest.mark.parametrize(
    ("lanes", "accumulator", "contexts", "residual_words", "gated_words", "count", "stall", "platform"), PROGRAMS
)
def test_program(lanes, accumulator, contexts, residual_words, gated_words, count, stall, platform):
    sizes = geometry(lanes, accumulator, contexts, residual_words, gated_words)
    simulate(
        NormUnit(sizes),
        __file__,
        bench="bench_program",
        parameters={"geometry": sizes.words(), "count": count, "stall": stall, "seed": lanes + accumulator},
        platform=platform,
    )


class Timing:
    """Runs commands as fast as the unit takes them, with results always valid, and tells the cycles of transfers."""

    def __init__(self, dut, sizes: Geometry):
        self.dut, self.sizes = dut, sizes
        self.monitor = Monitor(dut)

    async def run(self, *commands: dict) -> dict[str, list[int]]:
        self.monitor.clear()
        self.dut.results__payload.value = 0
        self.dut.results__valid.value = 1
        defaults = {"scale": ufloat(1 << 14, 0), "beats": self.sizes.residual_words}
        await StreamSource(self.dut, "command").send(encode(defaults | command) for command in commands)
        await with_timeout(cocotb.start_soon(self.monitor.idle()), 10, "us")
        self.dut.results__valid.value = 0
        return self.monitor.cycles


def consecutive(first: int, count: int) -> list[int]:
    return list(range(first, first + count))


@cocotb.test()
async def bench_timing(dut):
    """The latencies that NormUnit states, how closely a reader follows a writer, and commands without a gap."""
    sizes = Geometry.from_words(parameters()["geometry"])
    unit, beats = NormUnit(sizes), sizes.residual_words
    await reset(dut, np.zeros((1, sizes.vector), np.int64))
    timing = Timing(dut, sizes)

    cycles = await timing.run({"op": NormOp.QUANT})
    assert cycles["quantised"] == consecutive(cycles["command"][0] + unit.quant_latency, beats)
    for op, latency in ((NormOp.PEAK, unit.peak_latency), (NormOp.STAT, unit.stat_latency)):
        cycles = await timing.run({"op": op})
        assert cycles["writeback"] == [cycles["command"][0] + unit.fetch + beats - 1 + latency]
    for op, headers in ((NormOp.RESID, 0), (NormOp.EMBED, 1)):
        cycles = await timing.run({"op": op})
        assert cycles["results"] == consecutive(cycles["command"][0] + unit.update_latency, beats + headers)
        assert cycles["writeback"] == [cycles["results"][-1] + unit.power_latency]

    # A reader of the residual trails its writer by the write's latency alone.
    cycles = await timing.run({"op": NormOp.RESID}, {"op": NormOp.PEAK})
    readable = cycles["results"][-1] + unit.write_latency + 1
    assert cycles["results"] == consecutive(cycles["command"][0] + unit.update_latency, beats)
    assert cycles["writeback"] == sorted((readable + unit.peak_latency, cycles["results"][-1] + unit.power_latency))
    cycles = await timing.run({"op": NormOp.RESID}, {"op": NormOp.QUANT})
    readable = cycles["results"][0] + unit.write_latency + 1
    assert cycles["quantised"][0] == readable + unit.quant_latency - unit.fetch

    # A reader of the gated memory reads a word in the cycle after its second half is written.
    gate = GateModel(dut, sizes, rng(), stall=0.0)
    await gate.begin(0, 0, np.zeros((2 * sizes.gated_words, sizes.half), np.int64))
    cycles = await timing.run({"op": NormOp.PEAK, "gated": 1, "beats": sizes.gated_words})
    assert len(cycles["gated"]) in (2 * sizes.gated_words - 1, 2 * sizes.gated_words)
    assert cycles["writeback"] == [cycles["gated"][-1] + 1 + unit.peak_latency]

    # Operations follow each other without a gap; those of a single beat in every second cycle.
    contexts = range(sizes.contexts)
    cycles = await timing.run(*({"op": NormOp.QUANT, "context": context} for context in contexts))
    assert cycles["quantised"] == consecutive(cycles["quantised"][0], beats * sizes.contexts)
    cycles = await timing.run(*({"op": NormOp.RESID, "context": context} for context in contexts))
    assert cycles["results"] == consecutive(cycles["results"][0], beats * sizes.contexts)
    cycles = await timing.run(*({"op": NormOp.PEAK, "beats": 1} for _ in range(8)))
    first = cycles["command"][0] + unit.fetch + unit.peak_latency
    assert cycles["writeback"] == list(range(first, first + 16, 2))

    # Results yield to STAT and QUANT where both need the multiplier, and to nothing else.
    cycles = await timing.run({"op": NormOp.QUANT}, {"op": NormOp.RESID, "context": 1}, {"op": NormOp.PEAK})
    taken = {cycle - unit.write_latency for cycle in cycles["quantised"]}
    free = [cycle for cycle in consecutive(cycles["command"][1] + unit.update_latency, 4 * beats) if cycle not in taken]
    assert cycles["results"] == free[:beats]


@pytest.mark.parametrize(("lanes", "accumulator"), [(4, 18), (4, 24)])
def test_timing(lanes, accumulator):
    sizes = geometry(lanes, accumulator, contexts=2, residual_words=10, gated_words=24)
    simulate(NormUnit(sizes), __file__, bench="bench_timing", parameters={"geometry": sizes.words(), "seed": 1})


def test_refuses():
    with pytest.raises(ValueError, match="accumulator must be from 2 to 24 bits, not 25"):
        Lane(accumulator=25)
