"""The gate unit against the golden functions on a model of its memories, and against its stated latencies."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge, with_timeout

from ternlight import compact
from ternlight.formats import COMPACT_BITS, ELEMENT_BITS, LOWER_BOUND_FRACTION, STATE_BITS
from ternlight.geometry import Geometry
from ternlight.isa import REDUCES, GateOp, Unit
from ternlight.sigmoid import INPUT_FRACTION
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX
from ternlight_hw.gate import GateUnit
from ternlight_hw.gate.beat import second_bits
from ternlight_hw.gate.lane import Lane
from ternlight_hw.layouts import WRITEBACK, gate_command
from ternlight_sim.bench import ECP5, StreamSource, pack, parameters, rng, simulate, start
from ternlight_sim.golden import vector
from ternlight_sim.golden.scalar import UFloat

COMMAND = gate_command()
MAX_BEATS = 20
BOUND_WORDS = 64
STATE_WORDS = 50
"""States of a context, in words of H: not a power of two."""
GATED_WORDS = 4096


def geometry(half: int, accumulator: int, contexts: int) -> Geometry:
    """A small device with so many lanes of the gate unit."""
    return Geometry(
        inputs=16 * half,
        rows=2 * half,
        vector=2 * half,
        residual_words=MAX_BEATS,
        state_words=contexts * STATE_WORDS + BOUND_WORDS,
        activations=16 * half,
        accumulator=accumulator,
        contexts=contexts,
    )


def ufloat(mantissa: int, exponent: int) -> UFloat:
    return UFloat(np.int64(mantissa), np.int64(exponent))


def encode(command: dict) -> int:
    """The payload of a command, whose scale is a UFloat."""
    scale = command["scale"]
    fields = command | {"scale": {"mantissa": int(scale.mantissa), "exponent": int(scale.exponent)}}
    return COMMAND.const(fields).as_value().value


def extremes(random: np.random.Generator, shape, bits: int) -> np.ndarray:
    """Signed values of so many bits: uniform, small, or one of the corners."""
    limit = 1 << bits - 1
    uniform = random.integers(-limit, limit, shape)
    corners = random.choice([-limit, -limit + 1, -1, 0, 1, limit - 1], shape)
    kind = random.random(shape)
    return np.where(kind < 0.2, corners, np.where(kind < 0.6, uniform >> random.integers(0, bits, shape), uniform))


class Program:
    """Random commands with their results, what must come out of them, and the state memory as an array."""

    def __init__(self, random: np.random.Generator, half: int, accumulator: int, contexts: int):
        self.random, self.half, self.accumulator, self.contexts = random, half, accumulator, contexts
        words = contexts * STATE_WORDS
        states = compact.encode(extremes(random, (words, half), STATE_BITS))
        one = 1 << LOWER_BOUND_FRACTION
        bounds = random.choice([0, 1, one - 1, int(random.integers(one))], (BOUND_WORDS, half))
        bounds = np.where(random.random(bounds.shape) < 0.5, bounds, random.integers(0, one, bounds.shape))
        self.bounds_word = words
        self.states = np.concatenate([states, bounds])
        self.initial = self.states.copy()
        self.commands: list[int] = []
        self.results: list[int] = []
        self.starts: list[int] = []
        self.writes: list[tuple[int, ...]] = []
        self.writebacks: list[int] = []

    def interleaved(self, count: int) -> None:
        """So many commands: those of each context in their order, those of different contexts in any."""
        queues: list[list[dict]] = [[] for _ in range(self.contexts)]
        forgets: list[np.ndarray | None] = [None] * self.contexts
        while len(self.commands) < count or any(queues):
            context = int(self.random.integers(self.contexts))
            if not queues[context]:
                if len(self.commands) >= count:
                    continue
                queues[context] = self.layer(context)
            forgets[context] = self.run(queues[context].pop(0), forgets[context])

    def layer(self, context: int) -> list[dict]:
        """FORGET, STATE and GATE of a layer, or an MLP."""
        random = self.random
        beats = int(random.integers(1, MAX_BEATS + 1)) if random.random() < 0.5 else int(random.integers(1, 4))

        def command(op: GateOp, **fields) -> dict:
            return (
                {name: 0 for name, _ in COMMAND}
                | {
                    "op": op,
                    "beats": beats,
                    "context": context,
                    "target": int(random.integers(GATED_WORDS - beats)),
                    "fresh": int(random.random() < 0.2),
                    "scale": self.scale(-40, 2),
                    "reduction": int(random.integers(16)),
                    "shift": int(random.integers(1 << second_bits(self.accumulator))),
                    "fraction": int(random.integers(INPUT_FRACTION + 1)),
                }
                | fields
            )

        if random.random() < 0.25:
            return [command(GateOp.MLP)]
        state = context * STATE_WORDS + int(random.integers(STATE_WORDS - 2 * beats + 1))
        bound = self.bounds_word + int(random.integers(BOUND_WORDS - 2 * beats + 1))
        return [
            command(GateOp.FORGET, state=bound),
            command(GateOp.STATE, state=state),
            command(GateOp.GATE, state=state),
        ]

    def scale(self, low: int, high: int) -> UFloat:
        """Mostly a normalised scalar with an exponent in the range; sometimes zero, denormal or extreme."""
        random = self.random
        mantissa = random.choice([0, 1, MANTISSA_MAX, int(random.integers(1 << 15))])
        if random.random() < 0.8:
            mantissa = random.integers(1 << 14, 1 << 15)
        exponent = random.choice([EXPONENT_MIN, EXPONENT_MAX, int(random.integers(-64, 64))])
        if random.random() < 0.85:
            exponent = random.integers(low, high)
        return ufloat(mantissa, exponent)

    def run(self, command: dict, forget: np.ndarray | None) -> np.ndarray | None:
        """Append a command and what it does; takes and returns the context's forget gates."""
        random, half, op, scale = self.random, self.half, command["op"], command["scale"]
        beats, shift, fraction = command["beats"], command["shift"], command["fraction"]
        results = extremes(random, (beats, 2, half), self.accumulator)
        if random.random() < 0.05:
            results[:] = 0
        words = slice(command["state"], command["state"] + 2 * beats)
        old, acc = self.states[words], results.reshape(-1, half)
        output = power = None
        match op:
            case GateOp.FORGET:
                forget = vector.forget(acc, old, scale)
            case GateOp.STATE:
                self.states[words] = vector.state(acc, forget, old * (not command["fresh"]), scale, fraction)
            case GateOp.GATE:
                output, power = vector.gate(acc.reshape(-1), old.reshape(-1), shift, fraction)
            case GateOp.MLP:
                pairs = results.transpose(1, 0, 2).reshape(2, -1)
                output, power = vector.mlp(pairs, scale, shift, fraction)
        self.commands.append(encode(command))
        self.results += [pack(beat.reshape(-1), self.accumulator) for beat in results]
        if output is not None and power is not None:
            self.starts.append(command["context"])
            halves = output.reshape(-1, half)
            for index, values in enumerate(halves):
                last = int(index == len(halves) - 1)
                address, upper = command["target"] + index // 2, index % 2
                self.writes.append((command["context"], address, upper, last, pack(values, ELEMENT_BITS)))
            self.writebacks.append(writeback(command, power))
        return forget


def writeback(command: dict, value: UFloat) -> int:
    """The payload of the register write of a command."""
    target = {"number": command["reduction"], "context": command["context"]}
    fields = {"mantissa": int(value.mantissa), "exponent": int(value.exponent)}
    return WRITEBACK.const({"target": target, "value": fields}).as_value().value


class Monitor:
    """What the unit puts out, and the cycles of all that happens at its ports."""

    def __init__(self, dut):
        self.dut = dut
        self.cycle = 0
        self.starts: list[int] = []
        self.writes: list[tuple[int, ...]] = []
        self.writebacks: list[int] = []
        self.cycles: dict[str, list[int]] = {name: [] for name in ("command", "results", "start", "write", "writeback")}
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        dut = self.dut
        ports = [getattr(dut, f"gated__{name}") for name in ("context", "address", "upper", "last", "values")]
        while True:
            await RisingEdge(dut.clk)
            happened = [
                name
                for name in ("command", "results")
                if int(getattr(dut, f"{name}__valid").value) and int(getattr(dut, f"{name}__ready").value)
            ]
            if int(dut.gated__start.value):
                happened.append("start")
                self.starts.append(int(dut.gated__start_context.value))
            if int(dut.gated__enable.value):
                happened.append("write")
                self.writes.append(tuple(int(port.value) for port in ports))
            if int(dut.writeback__valid.value):
                happened.append("writeback")
                self.writebacks.append(int(dut.writeback__payload.value))
            for name in happened:
                self.cycles[name].append(self.cycle)
            self.cycle += 1


async def load(dut, words: np.ndarray) -> None:
    """Fill the state memory through its load port."""
    for address, word in enumerate(words):
        packed = pack(word, COMPACT_BITS)
        for column in range(len(word) // 2):
            dut.state_load__enable.value = 1
            dut.state_load__address.value = address
            dut.state_load__column.value = column
            dut.state_load__data.value = packed >> 32 * column & 0xFFFFFFFF
            await FallingEdge(dut.clk)
    dut.state_load__enable.value = 0


async def read_states(dut, words: int) -> list[int]:
    """The state memory, word by word: data follow two enabled cycles after the address."""
    found = []
    dut.state_read__enable.value = 1
    for address in range(words + 1):
        dut.state_read__address.value = address % words
        await FallingEdge(dut.clk)
        if address:
            found.append(int(dut.state_read__data.value))
    dut.state_read__enable.value = 0
    return found


async def reset(dut) -> None:
    for port in ("command__valid", "results__valid", "state_load__enable", "state_read__enable"):
        getattr(dut, port).value = 0
    await start(dut)
    assert int(dut.idle.value)


async def idle(dut) -> None:
    """Until the unit says so, from the falling edge on."""
    while not int(dut.idle.value):
        await FallingEdge(dut.clk)


@cocotb.test()
async def bench_program(dut):
    half, accumulator, contexts, count, stall = (
        parameters()[name] for name in ("half", "accumulator", "contexts", "count", "stall")
    )
    program = Program(rng(), half, accumulator, contexts)
    await reset(dut)
    await load(dut, program.initial)
    program.interleaved(count)
    monitor = Monitor(dut)
    command = StreamSource(dut, "command", stall=stall, seed=1)
    results = StreamSource(dut, "results", stall=stall, seed=2)
    drivers = [
        cocotb.start_soon(command.send(program.commands)),
        cocotb.start_soon(results.send(program.results)),
    ]
    for driver in drivers:
        await with_timeout(driver, 20, "ms")
    await with_timeout(cocotb.start_soon(idle(dut)), 1, "us")
    assert monitor.starts == program.starts
    assert monitor.writes == program.writes
    assert monitor.writebacks == program.writebacks
    assert await read_states(dut, len(program.states)) == [pack(word, COMPACT_BITS) for word in program.states]


@pytest.mark.parametrize(
    ("half", "accumulator", "contexts", "count", "stall", "platform"),
    [(2, 18, 2, 1200, 0.0, None), (2, 24, 4, 800, 0.3, None), (8, 18, 3, 300, 0.1, None), (2, 18, 2, 300, 0.1, ECP5)],
    ids=["2x18", "2x24", "8x18", "ecp5"],
)
def test_program(half, accumulator, contexts, count, stall, platform):
    simulate(
        GateUnit(geometry(half, accumulator, contexts)),
        __file__,
        bench="bench_program",
        parameters={
            "half": half,
            "accumulator": accumulator,
            "contexts": contexts,
            "count": count,
            "stall": stall,
            "seed": half,
        },
        platform=platform,
    )


def plain(op: GateOp, beats: int, context: int = 0) -> int:
    """A command at address 0."""
    fields = {name: 0 for name, _ in COMMAND} | {"op": op, "beats": beats, "context": context}
    return encode(fields | {"scale": ufloat(1 << 14, 0)})


async def timed(dut, monitor: Monitor, commands: list[int]) -> dict[str, list[int]]:
    """The cycles of all that happens while commands and results are always there, until the unit is idle."""
    for cycles in monitor.cycles.values():
        cycles.clear()
    dut.results__payload.value = 0
    dut.results__valid.value = 1
    await StreamSource(dut, "command").send(commands)
    await with_timeout(cocotb.start_soon(idle(dut)), 10, "us")
    dut.results__valid.value = 0
    await FallingEdge(dut.clk)
    return {name: list(cycles) for name, cycles in monitor.cycles.items()}


@cocotb.test()
async def bench_timing(dut):
    """The latencies that GateUnit states, and one beat per cycle over operations of all kinds."""
    await reset(dut)
    monitor = Monitor(dut)
    reduce_latency = parameters()["reduce_latency"]
    beats = 9
    for op in GateOp:
        cycles = await timed(dut, monitor, [plain(op, beats)])
        first = cycles["command"][0] + 1
        entries = list(range(first, first + (beats if op == GateOp.MLP else 2 * beats)))
        assert cycles["results"] == (entries if op == GateOp.MLP else entries[1::2])
        reduces = op in REDUCES[Unit.GATE]
        assert cycles["start"] == ([cycles["command"][0] + 1] if reduces else [])
        assert cycles["write"] == ([entry + GateUnit.gated_latency for entry in entries] if reduces else [])
        assert cycles["writeback"] == ([entries[-1] + reduce_latency] if reduces else [])

    # Results flow without a gap through operations of all kinds and contexts.
    order = [GateOp.FORGET, GateOp.STATE, GateOp.GATE, GateOp.MLP, GateOp.MLP, GateOp.FORGET]
    cycles = await timed(dut, monitor, [plain(op, beats, number % 2) for number, op in enumerate(order)])
    entries = [2] * 3 * beats + [1] * 2 * beats + [2] * beats
    assert np.diff(cycles["results"]).tolist() == entries[1:]
    cycles = await timed(dut, monitor, [plain(GateOp.MLP, 1)] * 8)
    assert np.diff(cycles["results"]).tolist() == [1] * 7
    assert np.diff(cycles["writeback"]).tolist() == [1] * 7

    # A GATE begins when the first state of the STATE before it is written, and then reads one per cycle.
    for beats in (1, 3, 7, 8):
        for between in ([], [plain(GateOp.MLP, 4, 1)]):
            cycles = await timed(dut, monitor, [plain(GateOp.STATE, beats), *between, plain(GateOp.GATE, beats)])
            begun, begins = cycles["results"][0], cycles["results"][-beats]
            assert begins - begun == max(GateUnit.state_lag, 2 * beats + 4 * len(between))
            assert np.diff(cycles["results"][-beats:]).tolist() == [2] * (beats - 1)


@pytest.mark.parametrize("half", [2, 8])
def test_timing(half):
    component = GateUnit(geometry(half, 18, 2))
    simulate(component, __file__, bench="bench_timing", parameters={"reduce_latency": component.reduce_latency})


def test_refuses():
    with pytest.raises(ValueError, match="accumulator must be from 2 to 24 bits, not 25"):
        Lane(accumulator=25)
