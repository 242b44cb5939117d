"""Lanes, plain and of an ECP5, against golden products and embedding rows: the same beats in the same cycles."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight import trits, weights
from ternlight.formats import ACTIVATION_BITS, EMBEDDING_SCALE_BITS
from ternlight.geometry import STORE_BLOCK_BITS, Geometry
from ternlight.store_word import from_columns
from ternlight_hw.engine.lanes import Lanes
from ternlight_hw.engine.plain import PlainLanes, Row
from ternlight_sim.bench import ECP5, pack, parameters, rng, simulate, start, unpack
from ternlight_sim.golden.matvec import matvec

CASES = 24


class Driver:
    """Drives the ports cycle by cycle, and holds the beats of every cycle against those that are due."""

    def __init__(self, dut, geometry, latency, embed_gap):
        self.dut, self.geometry, self.latency, self.embed_gap = dut, geometry, latency, embed_gap
        self.cycle = 0
        self.due = {}
        self.seen = 0

    async def tick(self):
        dut, geometry = self.dut, self.geometry
        await FallingEdge(dut.clk)
        self.cycle += 1
        expected = self.due.pop(self.cycle, None)
        assert bool(dut.sums__valid.value) == (expected is not None), self.cycle
        if expected is not None:
            payload, bits = int(dut.sums__payload.value), geometry.accumulator * geometry.vector
            beat = unpack(payload, geometry.accumulator, geometry.vector), payload >> bits
            assert beat == expected, self.cycle
            self.seen += 1

    async def load(self, words):
        """words: (words, store_bits)"""
        dut, pairs = self.dut, -(-self.geometry.store_blocks // 2)
        for address, word in enumerate(words):
            value = int.from_bytes(np.packbits(word, bitorder="little").tobytes(), "little")
            for pair in range(pairs):
                dut.load__enable.value, dut.load__address.value, dut.load__pair.value = 1, address, pair
                dut.load__data.value = value >> 2 * STORE_BLOCK_BITS * pair & (1 << 2 * STORE_BLOCK_BITS) - 1
                await self.tick()
        dut.load__enable.value = 0
        for _ in range(40):
            await self.tick()

    async def write(self, address, chunk):
        """One chunk of activations, part by part."""
        dut, vector = self.dut, self.geometry.vector
        for part in range(self.geometry.inputs // vector):
            dut.write__parts.value, dut.write__address.value = 1 << part, address
            dut.write__values.value = pack(chunk[part * vector :][:vector], ACTIVATION_BITS)
            await self.tick()
        dut.write__parts.value = 0

    async def step(self, **fields):
        dut = self.dut
        names = ("address", "chunk", "first", "last", "end", "final", "embed", "cell", "header")
        dut.step__valid.value = 1
        for name in names:
            if hasattr(dut, f"step__{name}"):
                getattr(dut, f"step__{name}").value = fields.get(name, 0)
        await self.tick()
        dut.step__valid.value = 0

    def expect(self, after, values, final):
        self.due[self.cycle + after] = ([int(value) for value in values], int(final))


@cocotb.test()
async def bench_lanes(dut):
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    latency, embed_gap = parameters()["latency"], parameters()["embed_gap"]
    inputs, rows, vector, group_beats = geometry.inputs, geometry.rows, geometry.vector, geometry.group_beats
    for name in ("step__valid", "write__parts", "load__enable"):
        getattr(dut, name).value = 0
    await start(dut)
    driver = Driver(dut, geometry, latency, embed_gap)

    # What the store and the activation buffers hold.
    matrices, words = [], []
    for case in range(CASES):
        tiles = random.integers(-1, 2, (int(random.integers(1, 5)), rows, inputs)).astype(np.int8)
        if case % 4 == 0:
            tiles[:] = random.choice([-1, 1]) if case % 8 else random.choice(np.array([-1, 1], np.int8), tiles.shape)
        matrices.append((sum(map(len, words)), tiles))
        words.append(from_columns(trits.pack_store_words(tiles.reshape(len(tiles), -1), geometry), geometry))
    limit = 1 << geometry.embedding_bits - 1
    table = random.integers(-limit, limit, (3 * geometry.cells - 1, 2 * vector)).astype(np.int8)
    scales = random.integers(0, 1 << EMBEDDING_SCALE_BITS, len(table))
    table_address, stride = sum(map(len, words)), 3
    words.append(from_columns(weights.embedding_words(table, scales, geometry), geometry))
    await driver.load(np.concatenate(words))
    chunks = random.integers(-127, 128, (2 * geometry.contexts * geometry.buffer_chunks, inputs))
    chunks[:4] = random.choice([-127, 127], (4, inputs))
    for address, chunk in enumerate(chunks):
        await driver.write(address, chunk)

    clear = 0  # the next group's last step may come
    for turn in range(60):
        gap = 0.4 if turn % 3 == 0 else 0.0
        if random.random() < 0.3:
            token = int(random.integers(len(table)))
            place, cell = divmod(token, geometry.cells)
            while driver.cycle < clear:
                await driver.tick()
            for beat in range(3):
                row = table[token].astype(np.int64).reshape(2, vector) << ACTIVATION_BITS - geometry.embedding_bits
                values = row[beat - 1] if beat else [scales[token]] + [0] * (vector - 1)
                driver.expect(latency + embed_gap, values, beat == 2)
                address = table_address + place + max(0, beat - 1) * stride
                await driver.step(
                    address=address, embed=1, header=beat == 0, cell=cell, first=1, last=1, final=beat == 2
                )
                while random.random() < gap:
                    await driver.tick()
            for _ in range(embed_gap):
                await driver.tick()
            continue
        start_address, tiles = matrices[int(random.integers(CASES))]
        base = int(random.integers(len(chunks) - len(tiles) + 1))
        q = chunks[base : base + len(tiles)].reshape(-1)
        product = matvec(tiles.transpose(1, 0, 2).reshape(rows, -1), q).reshape(group_beats, vector)
        end, final = int(random.integers(group_beats)), bool(random.integers(2))
        for index in range(len(tiles)):
            if index == len(tiles) - 1:
                while driver.cycle < clear:
                    await driver.tick()
                for beat in range(end + 1):
                    driver.expect(latency + beat, product[beat], final and beat == end)
            await driver.step(
                address=start_address + index,
                chunk=base + index,
                first=index == 0,
                last=index == len(tiles) - 1,
                end=end,
                final=final,
            )
            while random.random() < gap:
                await driver.tick()
        clear = driver.cycle + group_beats - 1
    for _ in range(latency + embed_gap + group_beats):
        await driver.tick()
    assert not driver.due
    assert driver.seen > 60

    # A chunk that is written in the cycle of its step, and overwritten as early as it may be.
    address, tiles = matrices[1]
    for _ in range(4):
        fresh = random.integers(-127, 128, inputs)
        parts = inputs // vector
        if parts > 1:
            await driver.write(0, fresh)
            dut.write__parts.value = 0
        else:
            dut.write__parts.value, dut.write__address.value = 1, 0
            dut.write__values.value = pack(fresh, ACTIVATION_BITS)
        product = matvec(tiles[0], fresh).reshape(group_beats, vector)
        for beat in range(group_beats):
            driver.expect(latency + beat, product[beat], False)
        await driver.step(address=address, chunk=0, first=1, last=1, end=group_beats - 1)
        dut.write__parts.value = 0
        for _ in range(parameters()["lead"] - 1):
            await driver.tick()
        await driver.write(0, random.integers(-127, 128, inputs))
        for _ in range(latency + group_beats):
            await driver.tick()
    assert not driver.due


SIZES = [
    {"inputs": 8, "rows": 8, "vector": 4, "activations": 16, "store_words": 256, "embedding_bits": 5},
    {"inputs": 4, "rows": 24, "vector": 4, "activations": 40, "store_words": 256, "accumulator": 18, "contexts": 3},
    {"inputs": 24, "rows": 12, "vector": 12, "activations": 96, "store_words": 512, "embedding_bits": 6},
    # Cells whose upper bits are late, and more cells than a block has bits.
    {"inputs": 8, "rows": 32, "vector": 4, "activations": 64, "store_words": 256, "embedding_bits": 4},
    {"inputs": 16, "rows": 32, "vector": 4, "activations": 64, "store_words": 256, "embedding_bits": 4},
]


@pytest.mark.parametrize("platform", [None, ECP5])
@pytest.mark.parametrize("sizes", SIZES)
def test_lanes(sizes, platform):
    component = Lanes(geometry=Geometry(**sizes))
    values = {"latency": component.latency, "embed_gap": component.embed_gap, "lead": 6}
    simulate(
        component,
        __file__,
        bench="bench_lanes",
        parameters={"geometry": sizes, "seed": 5} | values,
        platform=platform,
    )


def test_row_refuses():
    with pytest.raises(ValueError, match="inputs must be at least 2, not 1"):
        Row(inputs=1)


def test_plain_lanes_refuse():
    with pytest.raises(ValueError, match="latency must be at least 6 cycles, not 5"):
        PlainLanes(geometry=Geometry(), latency=5)
