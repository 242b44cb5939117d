"""Engine against the golden product and embedding rows: mixed commands, late activations, refusals, cycle counts."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight import trits, weights
from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS, EngineOp
from ternlight_hw.engine import Engine
from ternlight_hw.issue import Issue
from ternlight_hw.results import Results
from ternlight_sim.bench import StreamSink, StreamSource, pack, parameters, rng, simulate, start, unpack
from ternlight_sim.golden.matvec import matvec

ISSUE_LATENCY = 4
"""From a command to its first word."""
CHUNK_LATENCY = 2
"""From the last beat of a chunk to its first word."""


class Program:
    """Commands, what the store and the buffers must hold for them, and the results they give."""

    def __init__(self, geometry):
        self.geometry = geometry
        self.columns = []
        self.address = 0
        self.commands = []
        self.vectors = []
        self.results = []
        self.words = []

    def _store(self, columns):
        address, self.address = self.address, self.address + len(columns)
        assert self.address <= self.geometry.store_words
        self.columns.append(columns)
        return address

    def _command(self, op, words, results, **fields):
        position, word = 1, int(op)
        for name in ("buffer", "chunks", "groups", "beats", "address"):
            word |= fields.get(name, 0) << position
            position += ENGINE_FIELDS[name]
        self.commands.append(word)
        self.results.append([row.tolist() for row in results])
        self.words.append(words)

    def matvec(self, matrix, q, buffer):
        geometry = self.geometry
        rows, length = matrix.shape
        shape = weights.matvec_shape(rows, length, geometry)
        address = self._store(trits.pack_store_words(weights.matvec_words(matrix, geometry), geometry))
        beats = np.zeros(-(-length // geometry.vector) * geometry.vector, np.int64)
        beats[:length] = q
        # Behind the vector's end comes what a vector unit may send there; the padding weights are zero.
        beats[length:] = -77
        self.vectors.append((buffer, beats.reshape(-1, geometry.vector)))
        product = np.zeros(shape.beats * geometry.vector, np.int64)
        product[:rows] = matvec(matrix, q, bits=geometry.accumulator)
        self._command(
            EngineOp.MATVEC,
            shape.words,
            product.reshape(-1, geometry.vector),
            buffer=buffer,
            chunks=shape.chunks,
            groups=shape.groups,
            beats=shape.beats,
            address=address,
        )

    def embed(self, table, exponents, token):
        geometry = self.geometry
        _, width = table.shape
        words = weights.row_words(width, geometry)
        address = self._store(weights.embedding_words(table, exponents, geometry))
        beats = np.zeros((1 + -(-width // geometry.vector), geometry.vector), np.int64)
        beats[0, 0] = exponents[token]
        beats[1:].flat[:width] = table[token]
        self.vectors.append(None)
        address += token * words
        self._command(EngineOp.EMBED, 0, beats, chunks=words, beats=len(beats), address=address)


async def load(dut, program):
    dut.load__enable.value = 1
    for address, columns in enumerate(np.concatenate(program.columns)):
        for column, value in enumerate(columns):
            dut.load__address.value, dut.load__column.value, dut.load__data.value = address, column, int(value)
            await FallingEdge(dut.clk)
    dut.load__enable.value = 0


async def claim(dut, buffer, beats):
    while not int(dut.free.value) >> buffer & 1:
        await FallingEdge(dut.clk)
    dut.claim__enable.value, dut.claim__buffer.value, dut.claim__beats.value = 1, buffer, beats
    await FallingEdge(dut.clk)
    dut.claim__enable.value = 0


def quantised(vector):
    buffer, beats = vector
    return [buffer | pack(beat, 8) << 1 for beat in beats]


def result_sink(dut, geometry):
    return StreamSink(dut, "results", convert=lambda value: unpack(int(value), geometry.accumulator, geometry.vector))


def random_program(geometry, random, count):
    program = Program(geometry)
    for index in range(count):
        if random.random() < 0.2:
            width = int(random.integers(1, 5 * geometry.vector))
            table = random.integers(-128, 128, (3, width)).astype(np.int8)
            program.embed(table, random.integers(0, 17, 3), int(random.integers(3)))
            continue
        rows = int(random.choice([1, geometry.rows, geometry.rows * geometry.block, 0]))
        rows = rows or int(random.integers(1, geometry.rows * (2 * geometry.block + 1)))
        length = int(random.choice([1, geometry.inputs, geometry.activations, 0]))
        length = length or int(random.integers(1, geometry.activations + 1))
        matrix = random.integers(-1, 2, (rows, length)).astype(np.int8)
        q = random.integers(-127, 128, length)
        if index % 5 == 0:
            matrix[:] = random.choice([-1, 1])
            q[:] = random.choice([-128, -127, 127])
        program.matvec(matrix, q, int(random.integers(2)) if index > count // 2 else index % 2)
    return program


@cocotb.test()
async def bench_random(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    stall = parameters()["stall"]
    program = random_program(geometry, random, 40)
    await start(dut)
    await load(dut, program)
    assert dut.idle.value
    claimed = promised = received = busy = idle_checks = 0

    async def claims():
        nonlocal claimed
        for vector in program.vectors:
            if vector is not None:
                await claim(dut, vector[0], len(vector[1]))
            claimed += 1

    async def send_vectors():
        source = StreamSource(dut, "quantised", stall=stall[0], seed=1)
        for index, vector in enumerate(program.vectors):
            while claimed <= index:
                await FallingEdge(dut.clk)
            if vector is not None:
                await source.send(quantised(vector))

    async def send_commands():
        nonlocal promised
        source = StreamSource(dut, "command", stall=stall[1], seed=2)
        for index, command in enumerate(program.commands):
            while claimed <= index:
                await FallingEdge(dut.clk)
            await source.send([command])
            promised += len(program.results[index])

    async def watch():
        nonlocal busy, idle_checks
        while True:
            await FallingEdge(dut.clk)
            busy += int(dut.busy.value)
            assert not (dut.busy.value and dut.starved.value)
            if dut.idle.value:
                idle_checks += 1
                assert received == promised

    tasks = [cocotb.start_soon(task()) for task in (claims, send_vectors, send_commands)]
    watcher = cocotb.start_soon(watch())

    def convert(value):
        nonlocal received
        received += 1
        return unpack(int(value), geometry.accumulator, geometry.vector)

    sink = StreamSink(dut, "results", stall=stall[2], seed=3, convert=convert)
    for results in program.results:
        assert await sink.receive(len(results)) == results
    for task in tasks:
        await task
    assert dut.idle.value
    for _ in range(10):
        await FallingEdge(dut.clk)
        assert dut.idle.value
        assert not dut.results__valid.value
    assert int(dut.free.value) == 3
    assert busy == sum(program.words)
    assert idle_checks >= 10
    assert not watcher.done()


@cocotb.test()
async def bench_cycles(dut):
    """One word per cycle without a gap from the first product to the second; then a product whose chunks are late."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    latency = parameters()["latency"]
    beats_per_group = geometry.rows // geometry.vector
    program = Program(geometry)

    def random_product(groups, chunks, buffer):
        rows, length = groups * geometry.rows, chunks * geometry.inputs
        program.matvec(
            random.integers(-1, 2, (rows, length)).astype(np.int8), random.integers(-127, 128, length), buffer
        )

    # As many chunks as a group has result beats: the results then just keep up.
    chunks = max(beats_per_group, 2)
    random_product(2 * geometry.block + 1, chunks, 0)
    random_product(1, chunks, 1)
    random_product(1, chunks, 0)
    program.embed(random.integers(-128, 128, (2, 3 * geometry.vector)).astype(np.int8), np.array([3, 16]), 1)
    await start(dut)
    await load(dut, program)
    commands, vectors = StreamSource(dut, "command"), StreamSource(dut, "quantised")
    for vector in program.vectors[:2]:
        await claim(dut, vector[0], len(vector[1]))
        await vectors.send(quantised(vector))

    trace = []

    async def record():
        while True:
            trace.append(tuple(int(signal.value) for signal in (dut.busy, dut.starved, dut.results__valid)))
            await FallingEdge(dut.clk)

    recorder = cocotb.start_soon(record())
    sink = result_sink(dut, geometry)
    sending = cocotb.start_soon(commands.send(program.commands[:2]))
    for results in program.results[:2]:
        assert await sink.receive(len(results)) == results
    await sending
    words = sum(program.words[:2])
    busy, starved, valid = (list(column) for column in zip(*trace, strict=True))
    assert busy[: ISSUE_LATENCY + words + 1] == [0] * ISSUE_LATENCY + [1] * words + [0]
    # Weights are awaited only while the first word is on its way.
    assert [cycle for cycle, waits in enumerate(starved) if waits] == [ISSUE_LATENCY - 1]
    first_result = ISSUE_LATENCY + (chunks - 1) * geometry.block + latency
    assert valid.index(1) == first_result
    # The last result: all beats one by one behind the first, or the last word's own.
    result_beats = sum(len(results) for results in program.results[:2])
    assert len(trace) - 1 == max(first_result + result_beats, ISSUE_LATENCY + words - 1 + latency + beats_per_group)
    recorder.cancel()

    # Late chunks: each is multiplied as soon as its last beat is there.
    buffer, beats = program.vectors[2]
    chunk_beats = geometry.inputs // geometry.vector
    await claim(dut, buffer, len(beats))
    await commands.send(program.commands[2:3])
    for chunk in range(chunks):
        for _ in range(int(random.integers(6, 12))):
            assert not dut.busy.value
            assert not dut.starved.value
            await FallingEdge(dut.clk)
        await vectors.send(quantised((buffer, beats[chunk * chunk_beats : (chunk + 1) * chunk_beats])))
        for _ in range(CHUNK_LATENCY - 1):
            assert not dut.busy.value
            await FallingEdge(dut.clk)
        assert dut.busy.value
        await FallingEdge(dut.clk)
    assert await sink.receive(len(program.results[2])) == program.results[2]

    # An embedding row: one beat per cycle.
    await commands.send(program.commands[3:])
    for _ in range(ISSUE_LATENCY):
        assert not dut.results__valid.value
        await FallingEdge(dut.clk)
    dut.results__ready.value = 1
    for beat in program.results[3]:
        assert dut.results__valid.value
        assert unpack(int(dut.results__payload.value), geometry.accumulator, geometry.vector) == beat
        await FallingEdge(dut.clk)
    assert not dut.results__valid.value


@cocotb.test()
async def bench_refused(dut):
    """Results that nobody takes stop the engine after it filled its queue, and none is lost."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    program = Program(geometry)
    rows = geometry.rows * 4 * geometry.block
    for buffer in (0, 1):
        matrix = random.integers(-1, 2, (rows, geometry.inputs)).astype(np.int8)
        program.matvec(matrix, random.integers(-127, 128, geometry.inputs), buffer)
    await start(dut)
    await load(dut, program)
    for vector in program.vectors:
        await claim(dut, vector[0], len(vector[1]))
        await StreamSource(dut, "quantised").send(quantised(vector))
    await StreamSource(dut, "command").send(program.commands)
    busy = 0
    for _ in range(20 * geometry.block):
        busy += int(dut.busy.value)
        await FallingEdge(dut.clk)
    assert geometry.block <= busy < 4 * geometry.block
    assert not dut.busy.value
    assert not dut.starved.value
    assert not dut.idle.value
    sink = result_sink(dut, geometry)
    for results in program.results:
        assert await sink.receive(len(results)) == results
    assert dut.idle.value


SIZES = [
    {"inputs": 4, "rows": 4, "vector": 4, "block": 3, "activations": 20, "store_words": 2048, "accumulator": 16},
    {"inputs": 8, "rows": 16, "vector": 4, "block": 5, "activations": 32, "store_words": 1024},
    {"inputs": 6, "rows": 12, "vector": 2, "block": 16, "activations": 36, "store_words": 4096},
]
STALLS = [(0.0, 0.0, 0.0), (0.5, 0.2, 0.3), (0.1, 0.5, 0.8)]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_engine(sizes, stall):
    simulate(
        Engine(geometry=Geometry(**sizes)),
        __file__,
        bench="bench_random",
        parameters={"geometry": sizes, "stall": stall, "seed": 6},
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_engine_cycles(sizes):
    component = Engine(geometry=Geometry(**sizes))
    simulate(
        component,
        __file__,
        bench="bench_cycles",
        parameters={"geometry": sizes, "latency": component.latency, "seed": 7},
    )


def test_engine_loses_no_results():
    simulate(Engine(geometry=Geometry(**SIZES[1])), __file__, bench="bench_refused", parameters={"geometry": SIZES[1]})


def test_issue_refuses():
    with pytest.raises(ValueError, match="room must be positive, not 0"):
        Issue(geometry=Geometry(), room=0)


def test_results_refuse():
    with pytest.raises(ValueError, match="depth must be positive, not 0"):
        Results(geometry=Geometry(), depth=0)
