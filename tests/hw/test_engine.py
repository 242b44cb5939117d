"""Engine against the golden product and embedding rows: mixed commands, late activations, refusals, cycle counts."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge
from cocotb.utils import get_sim_time

from ternlight import trits, weights
from ternlight.formats import ACTIVATION_BITS, EMBEDDING_SCALE_BITS
from ternlight.geometry import Geometry, ceil_div
from ternlight.isa import EngineOp
from ternlight_hw.engine import Engine
from ternlight_hw.engine.arrivals import CLAIM_LEAD
from ternlight_hw.engine.block_store import BlockStore
from ternlight_hw.layouts import BUFFER_BITS, engine_command
from ternlight_sim.bench import CLOCK_NS, ECP5, StreamSink, StreamSource, pack, parameters, rng, simulate, start, unpack
from ternlight_sim.golden.matvec import matvec

ISSUE_LATENCY = 3
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

    def _command(self, words, results, **fields):
        self.commands.append(engine_command().const(fields).as_value().value)
        self.results.append([(row.tolist(), index == len(results) - 1) for index, row in enumerate(results)])
        self.words.append(words)

    def matvec(self, matrix, q, buffer):
        geometry = self.geometry
        rows, length = matrix.shape
        shape = weights.matvec_shape(rows, length, geometry)
        address = self._store(trits.pack_store_words(weights.matvec_words(matrix, geometry), geometry))
        beats = np.zeros(ceil_div(length, geometry.vector) * geometry.vector, np.int64)
        beats[:length] = q
        # Behind the vector's end comes what a norm unit may send there; the padding weights are zero.
        beats[length:] = -77
        self.vectors.append((buffer, beats.reshape(-1, geometry.vector)))
        product = np.zeros(shape.beats * geometry.vector, np.int64)
        product[:rows] = matvec(matrix, q, bits=geometry.accumulator)
        self._command(
            shape.words,
            product.reshape(-1, geometry.vector),
            op=EngineOp.MATVEC,
            buffer=buffer,
            chunks=shape.chunks,
            groups=shape.groups,
            beats=shape.beats,
            address=address,
        )

    def embed(self, table, scales, token):
        geometry = self.geometry
        tokens, width = table.shape
        address = self._store(weights.embedding_words(table, scales, geometry))
        chunks = ceil_div(width, geometry.vector)
        beats = np.zeros((1 + chunks, geometry.vector), np.int64)
        beats[0, 0] = scales[token]
        beats[1:].flat[:width] = table[token].astype(np.int64) << ACTIVATION_BITS - geometry.embedding_bits
        self.vectors.append(None)
        place, cell = divmod(token, geometry.cells)
        self._command(
            0,
            beats,
            op=EngineOp.EMBED,
            chunks=chunks,
            groups=ceil_div(tokens, geometry.cells),
            address=address + place,
            cell=cell,
        )


async def load(dut, program):
    dut.load__enable.value = 1
    for address, columns in enumerate(np.concatenate(program.columns)):
        for column, value in enumerate(columns):
            dut.load__address.value, dut.load__column.value, dut.load__data.value = address, column, int(value)
            await FallingEdge(dut.clk)
    dut.load__enable.value = 0
    # The last column may still be on its way.
    for _ in range(30):
        await FallingEdge(dut.clk)


async def claim(dut, buffer, beats):
    while not int(dut.free.value) >> buffer & 1:
        await FallingEdge(dut.clk)
    dut.claim__enable.value, dut.claim__buffer.value, dut.claim__beats.value = 1, buffer, beats
    await FallingEdge(dut.clk)
    dut.claim__enable.value = 0


async def cycles(dut, count):
    for _ in range(count):
        await FallingEdge(dut.clk)


def quantised(vector):
    buffer, beats = vector
    return [buffer | pack(beat, ACTIVATION_BITS) << BUFFER_BITS for beat in beats]


def beat_of(value, geometry):
    """The values of a result beat, and whether it is the last of its command."""
    bits = geometry.accumulator * geometry.vector
    return unpack(int(value), geometry.accumulator, geometry.vector), bool(int(value) >> bits)


def result_sink(dut, geometry):
    return StreamSink(dut, "results", convert=lambda value: beat_of(value, geometry))


def random_table(geometry, random, width):
    limit = 1 << geometry.embedding_bits - 1
    tokens = int(random.integers(1, 2 * geometry.cells + 2))
    table = random.integers(-limit, limit, (tokens, width)).astype(np.int8)
    return table, random.integers(0, 1 << EMBEDDING_SCALE_BITS, tokens), int(random.integers(tokens))


def random_program(geometry, random, count):
    program = Program(geometry)
    for index in range(count):
        if random.random() < 0.25:
            program.embed(*random_table(geometry, random, int(random.integers(1, 4 * geometry.vector))))
            continue
        rows = int(random.choice([1, geometry.rows, geometry.rows * 3, 0]))
        rows = rows or int(random.integers(1, geometry.rows * 6))
        length = int(random.choice([1, geometry.inputs, geometry.activations, 0]))
        length = length or int(random.integers(1, geometry.activations + 1))
        matrix = random.integers(-1, 2, (rows, length)).astype(np.int8)
        q = random.integers(-127, 128, length)
        if index % 5 == 0:
            matrix[:] = random.choice([-1, 1])
            q[:] = random.choice([-127, 127])
        buffers = 2 * geometry.contexts
        program.matvec(matrix, q, int(random.integers(buffers)) if index > count // 2 else index % buffers)
    return program


@cocotb.test()
async def bench_random(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    stall = parameters()["stall"]
    program = random_program(geometry, random, parameters()["count"])
    dut.command__valid.value = dut.quantised__valid.value = dut.claim__enable.value = dut.results__ready.value = 0
    await start(dut)
    await load(dut, program)
    assert dut.idle.value
    claimed = promised = received = busy = idle_checks = announced = 0
    due = []  # when the beats of each vector may come

    async def claims():
        nonlocal claimed
        for vector in program.vectors:
            if vector is not None:
                await claim(dut, vector[0], len(vector[1]))
                due.append(get_sim_time("ns") + (CLAIM_LEAD - 1) * CLOCK_NS)
            claimed += 1

    async def send_vectors():
        source = StreamSource(dut, "quantised", stall=stall[0], seed=1)
        for number, vector in enumerate(vector for vector in program.vectors if vector is not None):
            while len(due) <= number or get_sim_time("ns") < due[number]:
                await FallingEdge(dut.clk)
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
        nonlocal busy, idle_checks, announced
        while True:
            await FallingEdge(dut.clk)
            busy += int(dut.busy.value)
            announced += int(dut.coming.value)
            assert not dut.starved.value
            if dut.idle.value:
                idle_checks += 1
                assert received == promised

    tasks = [cocotb.start_soon(task()) for task in (claims, send_vectors, send_commands)]
    watcher = cocotb.start_soon(watch())

    def convert(value):
        nonlocal received
        received += 1
        return beat_of(value, geometry)

    sink = StreamSink(dut, "results", stall=stall[2], seed=3, convert=convert)
    for index, results in enumerate(program.results):
        for number, beat in enumerate(results):
            assert await sink.receive(1) == [beat], (index, number)
        assert announced > index
    for task in tasks:
        await task
    await FallingEdge(dut.clk)
    for _ in range(10):
        await FallingEdge(dut.clk)
        assert dut.idle.value
        assert not dut.results__valid.value
    assert int(dut.free.value) == (1 << 2 * geometry.contexts) - 1
    assert busy == sum(program.words)
    assert announced == len(program.commands)
    assert idle_checks >= 10
    assert not watcher.done()


@cocotb.test()
async def bench_cycles(dut):
    """One word per cycle from product to product; then a product whose chunks are late, and an embedding."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    latency, notice = parameters()["latency"], parameters()["notice"]
    group_beats = geometry.rows // geometry.vector
    program = Program(geometry)

    def random_product(groups, chunks, buffer):
        rows, length = groups * geometry.rows, chunks * geometry.inputs
        program.matvec(
            random.integers(-1, 2, (rows, length)).astype(np.int8), random.integers(-127, 128, length), buffer
        )

    full = geometry.activations // geometry.inputs
    chunks = max(2, group_beats)
    assert chunks <= full
    random_product(3, chunks, 0)
    random_product(2, full, 1)
    random_product(4, 1, 2)
    random_product(1, chunks, 0)
    program.embed(*random_table(geometry, random, 3 * geometry.vector))
    dut.command__valid.value = dut.quantised__valid.value = dut.claim__enable.value = dut.results__ready.value = 0
    await start(dut)
    await load(dut, program)
    commands, vectors = StreamSource(dut, "command"), StreamSource(dut, "quantised")
    for vector in program.vectors[:3]:
        await claim(dut, vector[0], len(vector[1]))
        await cycles(dut, CLAIM_LEAD)
        await vectors.send(quantised(vector))

    trace = []
    names = ("busy", "coming", "results__valid")

    async def record():
        while True:
            trace.append(tuple(int(getattr(dut, name).value) for name in names))
            await FallingEdge(dut.clk)

    recorder = cocotb.start_soon(record())
    sink = result_sink(dut, geometry)
    sending = cocotb.start_soon(commands.send(program.commands[:3]))
    for results in program.results[:3]:
        assert await sink.receive(len(results)) == results
    await sending
    busy, coming, valid = ([cycle for cycle, on in enumerate(column) if on] for column in zip(*trace, strict=True))
    words = program.words[0] + program.words[1]
    # Groups of one chunk keep a distance, in which their beats leave.
    expected = list(range(ISSUE_LATENCY, ISSUE_LATENCY + words))
    spaced = [expected[-1] + (index + 1) * group_beats for index in range(4)]
    assert busy == expected + spaced
    assert coming == [expected[chunks - 1], expected[program.words[0] + full - 1], spaced[0]]
    ends = [expected[chunks * (group + 1) - 1] for group in range(3)]
    ends += [expected[program.words[0] + full * (group + 1) - 1] for group in range(2)]
    assert valid == [end + latency + beat for end in ends + spaced for beat in range(group_beats)]
    assert {valid[0] - coming[0], valid[3 * group_beats] - coming[1], valid[5 * group_beats] - coming[2]} == {latency}
    recorder.cancel()

    # Late chunks: each is multiplied as soon as its last beat is there.
    buffer, beats = program.vectors[3]
    chunk_beats = geometry.inputs // geometry.vector
    await claim(dut, buffer, len(beats))
    await commands.send(program.commands[3:4])
    for chunk in range(chunks):
        for _ in range(int(random.integers(CLAIM_LEAD, 12))):
            assert not dut.busy.value
            await FallingEdge(dut.clk)
        await vectors.send(quantised((buffer, beats[chunk * chunk_beats : (chunk + 1) * chunk_beats])))
        for _ in range(CHUNK_LATENCY - 1):
            assert not dut.busy.value
            await FallingEdge(dut.clk)
        assert dut.busy.value
        await FallingEdge(dut.clk)
    assert await sink.receive(len(program.results[3])) == program.results[3]

    # An embedding row: one beat per cycle.
    dut.results__ready.value = 1
    await commands.send(program.commands[4:])
    assert not dut.coming.value
    await cycles(dut, ISSUE_LATENCY - 1)
    assert dut.coming.value
    for _ in range(notice):
        assert not dut.results__valid.value
        await FallingEdge(dut.clk)
    for beat in program.results[4]:
        assert dut.results__valid.value
        assert beat_of(dut.results__payload.value, geometry) == beat
        await FallingEdge(dut.clk)
    assert not dut.results__valid.value


@cocotb.test()
async def bench_refused(dut):
    """Results that nobody takes stop the engine after it filled its queue, and none is lost."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    program = Program(geometry)
    rows = geometry.rows * 40
    for buffer in (0, 1):
        matrix = random.integers(-1, 2, (rows, geometry.inputs)).astype(np.int8)
        program.matvec(matrix, random.integers(-127, 128, geometry.inputs), buffer)
    dut.command__valid.value = dut.quantised__valid.value = dut.claim__enable.value = dut.results__ready.value = 0
    await start(dut)
    await load(dut, program)
    for vector in program.vectors:
        await claim(dut, vector[0], len(vector[1]))
        await cycles(dut, CLAIM_LEAD)
        await StreamSource(dut, "quantised").send(quantised(vector))
    await StreamSource(dut, "command").send(program.commands)
    busy = 0
    for _ in range(200):
        busy += int(dut.busy.value)
        await FallingEdge(dut.clk)
    assert 4 <= busy < 40
    assert not dut.busy.value
    assert not dut.idle.value
    sink = result_sink(dut, geometry)
    for results in program.results:
        assert await sink.receive(len(results)) == results
    await cycles(dut, 2)
    assert dut.idle.value


SIZES = [
    {"inputs": 4, "rows": 4, "vector": 4, "activations": 20, "store_words": 2048, "accumulator": 16, "contexts": 3}
    | {"embedding_bits": 6},
    {"inputs": 8, "rows": 16, "vector": 4, "activations": 32, "store_words": 1024, "embedding_bits": 5},
    {"inputs": 12, "rows": 24, "vector": 12, "activations": 60, "store_words": 1024, "embedding_bits": 6},
    {"inputs": 8, "rows": 32, "vector": 4, "activations": 64, "store_words": 2048, "embedding_bits": 4},
]
STALLS = [(0.0, 0.0, 0.0), (0.5, 0.2, 0.3), (0.1, 0.5, 0.8)]


@pytest.mark.parametrize("stall", STALLS)
@pytest.mark.parametrize("sizes", SIZES)
def test_engine(sizes, stall):
    simulate(
        Engine(geometry=Geometry(**sizes)),
        __file__,
        bench="bench_random",
        parameters={"geometry": sizes, "stall": stall, "count": 40, "seed": 6},
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_engine_cycles(sizes):
    component = Engine(geometry=Geometry(**sizes))
    simulate(
        component,
        __file__,
        bench="bench_cycles",
        parameters={"geometry": sizes, "latency": component.latency, "notice": component.notice, "seed": 7},
    )


def test_engine_of_an_ecp5():
    sizes = SIZES[0]
    simulate(
        Engine(geometry=Geometry(**sizes | {"store_words": 1024})),
        __file__,
        bench="bench_random",
        parameters={"geometry": sizes | {"store_words": 1024}, "stall": STALLS[1], "count": 40, "seed": 8},
        platform=ECP5,
    )


def test_store_of_an_ecp5_is_as_deep_as_its_block_rams():
    with pytest.raises(ValueError, match="store_words must be at most 1024 on an ECP5, not 1025"):
        BlockStore(geometry=Geometry(store_words=1025), product_cycle=9, embed_gap=0)


def test_engine_loses_no_results():
    simulate(Engine(geometry=Geometry(**SIZES[1])), __file__, bench="bench_refused", parameters={"geometry": SIZES[1]})


def test_latency_of_the_large_geometry():
    geometry = Geometry(inputs=32, rows=64, vector=16, activations=384, embedding_bits=6)
    assert Engine(geometry=geometry).latency == 11
