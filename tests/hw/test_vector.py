"""The vector unit against the golden functions on a model of its memories, and against its stated latencies."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge, with_timeout

from ternlight.formats import COMPACT_BITS, ELEMENT_BITS
from ternlight.geometry import Geometry
from ternlight.isa import READS_RESULTS, WRITES_ENERGY, WRITES_PEAK, WRITES_POWER, VectorOp
from ternlight.sigmoid import INPUT_FRACTION
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX
from ternlight_hw.layouts import vector_command
from ternlight_hw.vector import VectorUnit
from ternlight_hw.vector.beat import LONG
from ternlight_hw.vector.lane import Lane
from ternlight_hw.vector.reduce import Reduce
from ternlight_sim.bench import StreamSink, StreamSource, pack, parameters, rng, simulate, start
from ternlight_sim.golden import scalar, vector
from ternlight_sim.golden.scalar import UFloat

READS_SOURCE = {VectorOp.STAT, VectorOp.GAIN, VectorOp.QUANT, VectorOp.STATE, VectorOp.RESID}
READS_STATE = {VectorOp.STATE, VectorOp.GATE}
GAIN_WORDS, VECTOR_WORDS, STATE_WORDS = 64, 96, 64
MAX_BEATS = 12


def geometry(lanes: int, accumulator: int) -> Geometry:
    """A small device with so many vector lanes."""
    return Geometry(
        inputs=8 * lanes,
        rows=lanes,
        vector=lanes,
        gain_words=GAIN_WORDS,
        vector_words=VECTOR_WORDS,
        state_words=STATE_WORDS,
        activations=8 * lanes,
        accumulator=accumulator,
    )


def ufloat(mantissa: int, exponent: int) -> UFloat:
    return UFloat(np.int64(mantissa), np.int64(exponent))


def encode(command: dict) -> int:
    """The payload of a command, whose scale is a UFloat."""
    word, layout = 0, vector_command()
    scale = command["scale"]
    fields = command | {"scale": int(scale.mantissa) | (int(scale.exponent) & 0x3FF) << 15}
    for name, field in layout:
        word |= (int(fields[name]) & (1 << field.width) - 1) << field.offset
    return word


class Model:
    """The memories as arrays of (words, lanes); `run` executes one command at once."""

    def __init__(self, random: np.random.Generator, lanes: int):
        self.lanes = lanes
        self.elements = np.zeros((VECTOR_WORDS, lanes), np.int64)
        self.gains = extremes(random, (GAIN_WORDS, lanes), COMPACT_BITS)
        self.states = extremes(random, (STATE_WORDS, lanes), COMPACT_BITS)

    def outputs(self, command: dict) -> int:
        """Words that the command writes (or quantises)."""
        beats = command["beats"]
        return {VectorOp.EMBED: beats - 1, VectorOp.MLP: beats // 2}.get(command["op"], beats)

    def words(self, command: dict, memory: str) -> slice:
        return slice(command[memory], command[memory] + self.outputs(command))

    def run(self, command: dict, results: np.ndarray) -> tuple[list[int], list[int]]:
        """Payloads that appear on `quantised` and `writeback`; results: (beats, lanes)."""
        op, scale, shift, fraction = (command[name] for name in ("op", "scale", "shift", "fraction"))
        source, target = self.words(command, "source"), self.words(command, "target")
        x, gains = self.elements[source], self.gains[self.words(command, "gain")]
        h = self.states[self.words(command, "state")]
        if command["fresh"] and command["op"] == VectorOp.STATE:
            h = np.zeros_like(h)
        quantised, sums, output = [], vector.Sums(), None
        flat = [values.reshape(-1) for values in (x, gains, results)]
        match op:
            case VectorOp.EMBED:
                output, sums = vector.embed(flat[2][self.lanes :], results[0, :1])
            case VectorOp.STAT:
                sums = vector.stat(flat[0], flat[1], scale)
            case VectorOp.GAIN:
                output, sums = vector.gain(flat[0], flat[1], scale)
            case VectorOp.QUANT:
                quantised = [command["buffer"] | pack(beat, 8) << 1 for beat in vector.quant(x, scale)]
            case VectorOp.FORGET:
                output = vector.forget(flat[2], flat[1], scale)
            case VectorOp.STATE:
                new = vector.state(results, x, h, scale, fraction)
                self.states[self.words(command, "state")] = new
            case VectorOp.GATE:
                output, sums = vector.gate(flat[2], h.reshape(-1), shift, fraction)
            case VectorOp.MLP:
                pairs = results.reshape(-1, 2, self.lanes).transpose(0, 2, 1).reshape(-1, 2)
                output, sums = vector.mlp(pairs, flat[1], scale, shift, fraction)
            case VectorOp.RESID:
                output, sums = vector.resid(flat[2], flat[0], scale, fraction)
        if output is not None:
            self.elements[target] = output.reshape(-1, self.lanes)
        writebacks = []
        for name in ("peak", "energy", "power"):
            total = getattr(sums, name)
            if total is not None:
                value = scalar.normalise(total)
                writebacks.append(command[name] | int(value.mantissa) << 4 | (int(value.exponent) & 0x3FF) << 19)
        return quantised, writebacks


def extremes(random: np.random.Generator, shape, bits: int) -> np.ndarray:
    """Signed values of so many bits: uniform, small, or one of the corners."""
    limit = 1 << bits - 1
    uniform = random.integers(-limit, limit, shape)
    magnitude = random.integers(0, bits, shape)
    corners = random.choice([-limit, -limit + 1, -1, 0, 1, limit - 1], shape)
    kind = random.random(shape)
    return np.where(kind < 0.2, corners, np.where(kind < 0.6, uniform >> magnitude, uniform))


class Program:
    """Random commands with their results and what must come out of them."""

    def __init__(self, random: np.random.Generator, lanes: int, accumulator: int):
        self.random, self.accumulator = random, accumulator
        self.model = Model(random, lanes)
        self.commands: list[int] = []
        self.results: list[int] = []
        self.quantised: list[int] = []
        self.writebacks: list[int] = []
        self.unsettled: set[tuple[str, int]] = set()  # words written since the last fence

    def append(self, results: np.ndarray, **values) -> None:
        """Add a command; a fence is set where it reads what earlier commands may not have written yet."""
        defaults = {field: 0 for field, _ in vector_command()} | {"scale": ufloat(0, 0)}
        command = defaults | {"beats": len(results)} | values
        op, model = command["op"], self.model

        def touched(memory: str, field: str) -> set[tuple[str, int]]:
            words = model.words(command, field)
            return {(memory, word) for word in range(words.start, words.stop)}

        reads = (touched("vector", "source") if op in READS_SOURCE else set()) | (
            touched("state", "state") if op in READS_STATE else set()
        )
        command["fence"] |= int(bool(reads & self.unsettled))
        if command["fence"]:
            self.unsettled.clear()
        if op == VectorOp.STATE:
            self.unsettled |= touched("state", "state")
        elif op not in (VectorOp.STAT, VectorOp.QUANT):
            self.unsettled |= touched("vector", "target")
        quantised, writebacks = model.run(command, results)
        self.commands.append(encode(command))
        if op in READS_RESULTS:
            self.results += [pack(beat, self.accumulator) for beat in results]
        self.quantised += quantised
        self.writebacks += writebacks

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

    def random_command(self, op: VectorOp) -> None:
        random, model = self.random, self.model
        beats = int(random.integers(1, MAX_BEATS + 1)) if random.random() < 0.7 else int(random.integers(1, 3))
        beats = {VectorOp.EMBED: beats + 1, VectorOp.MLP: 2 * beats}.get(op, beats)
        results = np.zeros((beats, model.lanes), np.int64)
        if op in READS_RESULTS and random.random() > 0.05:
            results = extremes(random, results.shape, self.accumulator)
        if op == VectorOp.EMBED:
            results[1:] = random.integers(-128, 128, results[1:].shape)
            results[0, 0] = random.choice([-1, 0, 16, 17, *range(1, 16)])
        outputs = model.outputs({"op": op, "beats": beats})
        source, target = (int(random.integers(VECTOR_WORDS - outputs + 1)) for _ in range(2))
        if abs(source - target) < outputs:
            target = source
        peak = scalar.normalise(np.abs(model.elements[source : source + outputs]).max())
        if op in (VectorOp.STAT, VectorOp.GAIN):
            scale = peak if random.random() < 0.8 else self.scale(-15, 16)
        elif op == VectorOp.QUANT:
            scale = scalar.qscale(peak) if random.random() < 0.8 else self.scale(-40, 8)
        else:
            scale = self.scale(-40, 2)
        self.append(
            results,
            op=op,
            fence=int(random.random() < 0.1),
            buffer=int(random.integers(2)),
            source=source,
            target=target,
            gain=int(random.integers(GAIN_WORDS - outputs + 1)),
            state=int(random.integers(STATE_WORDS - outputs + 1)),
            fresh=int(random.random() < 0.2),
            scale=scale,
            peak=int(random.integers(16)),
            energy=int(random.integers(16)),
            power=int(random.integers(16)),
            shift=int(random.choice([0, 8, 16, 24, 40, 47, 63, *range(1, 20)])),
            fraction=int(random.integers(24 if op == VectorOp.RESID else INPUT_FRACTION + 1)),
        )

    def check(self, word: int) -> None:
        """Subtract what a word should hold, to the bit: the peak of the difference is exact."""
        step = max(0, ELEMENT_BITS - self.accumulator)
        limit = 1 << self.accumulator - 1
        cancel = np.clip(-self.model.elements[word : word + 1] >> step, -limit, limit - 1)
        unit_step = ufloat(1 << 14, step - 14)
        self.append(cancel, op=VectorOp.RESID, source=word, target=word, scale=unit_step, peak=word % 16)


async def load(dut, port: str, words: np.ndarray) -> None:
    """Fill a 16-bit memory through its load port."""
    columns = words.shape[1] // 2
    for address, word in enumerate(words):
        packed = pack(word, 16)
        for column in range(columns):
            getattr(dut, f"{port}__enable").value = 1
            getattr(dut, f"{port}__address").value = address
            getattr(dut, f"{port}__column").value = column
            getattr(dut, f"{port}__data").value = packed >> 32 * column & 0xFFFFFFFF
            await FallingEdge(dut.clk)
    getattr(dut, f"{port}__enable").value = 0


async def read_states(dut) -> list[int]:
    words = []
    for address in range(STATE_WORDS):
        dut.state_read__enable.value = 1
        dut.state_read__address.value = address
        await FallingEdge(dut.clk)
        words.append(int(dut.state_read__data.value))
    dut.state_read__enable.value = 0
    return words


async def reset(dut, model: Model) -> None:
    for port in ("gain_load", "state_load", "state_read"):
        getattr(dut, f"{port}__enable").value = 0
    for name in ("command", "results"):
        getattr(dut, f"{name}__valid").value = 0
    dut.quantised__ready.value = 0
    dut.writeback__ready.value = 1
    await start(dut)
    await load(dut, "gain_load", model.gains)
    await load(dut, "state_load", model.states)


async def idle(dut) -> None:
    while not int(dut.idle.value):
        await FallingEdge(dut.clk)


@cocotb.test()
async def bench_program(dut):
    """Random operations back to back, with stalls; the memories are read back at the end, word by word."""
    lanes, accumulator, count, stall = (parameters()[name] for name in ("lanes", "accumulator", "count", "stall"))
    random = rng()
    program = Program(random, lanes, accumulator)
    await reset(dut, program.model)
    for _ in range(count):
        program.random_command(VectorOp(int(random.integers(len(VectorOp)))))
    for word in range(VECTOR_WORDS):
        program.check(word)

    command = StreamSource(dut, "command", stall=stall, seed=1)
    results = StreamSource(dut, "results", stall=stall, seed=2)
    quantised = StreamSink(dut, "quantised", stall=stall, seed=3)
    writeback = StreamSink(dut, "writeback", seed=4)
    drivers = [
        cocotb.start_soon(command.send(program.commands)),
        cocotb.start_soon(results.send(program.results)),
    ]
    activations = cocotb.start_soon(quantised.receive(len(program.quantised)))
    reductions = cocotb.start_soon(writeback.receive(len(program.writebacks)))
    for driver in drivers:
        await with_timeout(driver, 20, "ms")
    assert await with_timeout(activations, 1, "ms") == program.quantised
    assert await with_timeout(reductions, 1, "ms") == program.writebacks
    await with_timeout(cocotb.start_soon(idle(dut)), 1, "us")
    assert await read_states(dut) == [pack(word, 16) for word in program.model.states]


@pytest.mark.parametrize(
    ("lanes", "accumulator", "count", "stall"), [(2, 20, 1000, 0.0), (4, 24, 600, 0.3), (8, 18, 400, 0.1)]
)
def test_program(lanes, accumulator, count, stall):
    simulate(
        VectorUnit(geometry(lanes, accumulator)),
        __file__,
        bench="bench_program",
        parameters={"lanes": lanes, "accumulator": accumulator, "count": count, "stall": stall, "seed": lanes},
    )


class Monitor:
    """The cycles of all transfers on the unit's streams."""

    def __init__(self, dut):
        self.dut = dut
        self.cycle = 0
        self.cycles: dict[str, list[int]] = {name: [] for name in ("command", "results", "quantised", "writeback")}
        cocotb.start_soon(self._watch())

    async def _watch(self) -> None:
        while True:
            await RisingEdge(self.dut.clk)
            for name, cycles in self.cycles.items():
                if int(getattr(self.dut, f"{name}__valid").value) and int(getattr(self.dut, f"{name}__ready").value):
                    cycles.append(self.cycle)
            self.cycle += 1

    async def run(self, commands: list[int], results: int) -> dict[str, list[int]]:
        """The cycles of the transfers, while all streams are always ready and valid, until the unit is idle."""
        for cycles in self.cycles.values():
            cycles.clear()
        self.dut.quantised__ready.value = 1
        self.dut.results__payload.value = 0
        self.dut.results__valid.value = 1
        await StreamSource(self.dut, "command").send(commands)
        await with_timeout(cocotb.start_soon(idle(self.dut)), 10, "us")
        self.dut.results__valid.value = 0
        assert len(self.cycles["results"]) == results
        return {name: list(cycles) for name, cycles in self.cycles.items()}


def plain(op: VectorOp, beats: int, *, fence: bool = False) -> int:
    """A command at address 0."""
    return encode(
        {field: 0 for field, _ in vector_command()}
        | {"op": op, "beats": beats, "fence": fence, "scale": ufloat(1 << 14, 0)}
    )


@cocotb.test()
async def bench_timing(dut):
    """The latencies that VectorUnit states, and one beat per cycle over operations of all kinds."""
    lanes = parameters()["lanes"]
    await reset(dut, Model(rng(), lanes))
    monitor = Monitor(dut)
    reduce_latency = Reduce(lanes=lanes).latency
    beats = 6
    for op in VectorOp:
        results = beats if op in READS_RESULTS else 0
        # The second command's fence shows when the first one's writes are done.
        cycles = await monitor.run([plain(op, beats), plain(VectorOp.QUANT, 1, fence=True)], results)
        first = cycles["command"][0] + VectorUnit.fetch
        last = first + beats - 1
        if results:
            assert cycles["results"] == list(range(first, last + 1))
        done = last + (VectorUnit.long_latency if op in LONG else VectorUnit.short_latency)
        assert cycles["command"][1] == done
        count = sum(op in writes for writes in (WRITES_PEAK, WRITES_ENERGY, WRITES_POWER))
        assert cycles["writeback"] == [done + reduce_latency + index for index in range(count)]
        # The single beat of the second command comes a cycle later.
        quantised = [done + VectorUnit.fetch + 1 + VectorUnit.quant_latency]
        if op == VectorOp.QUANT:
            quantised = [first + VectorUnit.quant_latency + index for index in range(beats)] + quantised
        assert cycles["quantised"] == quantised

    # Results flow without a gap through short operations and then long ones.
    order = [VectorOp.RESID, VectorOp.EMBED, VectorOp.STATE, VectorOp.MLP, VectorOp.FORGET, VectorOp.GATE]
    cycles = await monitor.run([plain(op, beats) for op in order], beats * len(order))
    first = cycles["command"][0] + VectorUnit.fetch
    assert cycles["results"] == list(range(first, first + beats * len(order)))

    # A short operation behind a long one must not overtake it, nor leave in the next cycle.
    cycles = await monitor.run([plain(VectorOp.GATE, beats), plain(VectorOp.RESID, beats)], 2 * beats)
    gap = VectorUnit.long_latency - VectorUnit.short_latency + 2
    assert cycles["results"][beats] - cycles["results"][beats - 1] == gap

    # Operations of one beat come every second cycle, so that two reductions of each can leave.
    cycles = await monitor.run([plain(VectorOp.GATE, 1)] * 8, 8)
    first = cycles["results"][0]
    assert cycles["results"] == [first + 2 * index for index in range(8)]
    written = first + VectorUnit.long_latency + reduce_latency
    assert cycles["writeback"] == list(range(written, written + 16))


@pytest.mark.parametrize("lanes", [2, 8])
def test_timing(lanes):
    simulate(
        VectorUnit(geometry(lanes, {2: 20, 8: 18}[lanes])),
        __file__,
        bench="bench_timing",
        parameters={"lanes": lanes},
    )


def test_refuses():
    with pytest.raises(ValueError, match="lanes must be positive, not 0"):
        Reduce(lanes=0)
    with pytest.raises(ValueError, match="accumulator must be from 2 to 24 bits, not 25"):
        Lane(accumulator=25)
