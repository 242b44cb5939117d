"""Rows against the golden product: interleaved groups, extremes, and the declared latency."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight import trits
from ternlight.geometry import Geometry
from ternlight_hw.rows import Row, Rows
from ternlight_sim.bench import pack, parameters, rng, simulate, start, unpack
from ternlight_sim.golden.matvec import matvec


@cocotb.test()
async def bench_rows(dut):
    latency, geometry, random = parameters()["latency"], Geometry(**parameters()["geometry"]), rng()
    inputs, rows = geometry.inputs, geometry.rows
    await start(dut)
    expected = []

    async def check():
        """The sums of a step come exactly `latency` cycles after it."""
        cycle = 0
        while True:
            await FallingEdge(dut.clk)
            cycle += 1
            due = expected and expected[0][0] == cycle
            assert bool(dut.sums__valid.value) == bool(due)
            if due:
                payload = int(dut.sums__payload.value)
                _, sums, end = expected.pop(0)
                assert unpack(payload, geometry.accumulator, rows) == sums
                assert payload >> geometry.accumulator * rows == end

    checker = cocotb.start_soon(check())
    cycle = 0
    for block in range(30):
        gap = 0.4 if block % 2 else 0.0
        chunks, groups = int(random.integers(1, 5)), int(random.integers(1, geometry.block + 1))
        style = block % 5
        if style == 0:
            weights = np.full((groups * rows, chunks * inputs), -1, np.int8)
            q = np.full(chunks * inputs, -128)
        elif style == 1:
            weights = random.choice(np.array([-1, 1], np.int8), (groups * rows, chunks * inputs))
            q = random.choice([-128, -127, 127], chunks * inputs)
        else:
            weights = random.integers(-1, 2, (groups * rows, chunks * inputs)).astype(np.int8)
            q = random.integers(-128, 128, chunks * inputs)
        product = matvec(weights, q).reshape(groups, rows)
        for chunk in range(chunks):
            columns = slice(chunk * inputs, (chunk + 1) * inputs)
            for group in range(groups):
                lanes = weights[group * rows : (group + 1) * rows, columns].reshape(1, -1)
                end = int(random.integers(rows // geometry.vector))
                dut.step__valid.value = 1
                dut.step__weights.value = int.from_bytes(trits.pack_store_words(lanes, geometry).tobytes(), "little")
                dut.step__load.value = group == 0
                # A chunk is only there when it is loaded.
                dut.step__chunk.value = pack(q[columns] if group == 0 else random.integers(-128, 128, inputs), 8)
                dut.step__group.value = group
                dut.step__first.value = chunk == 0
                dut.step__last.value = chunk == chunks - 1
                dut.step__end.value = end
                if chunk == chunks - 1:
                    expected.append((cycle + latency, product[group].tolist(), end))
                await FallingEdge(dut.clk)
                cycle += 1
                while random.random() < gap:
                    dut.step__valid.value = 0
                    dut.step__load.value = 1
                    await FallingEdge(dut.clk)
                    cycle += 1
    dut.step__valid.value = 0
    for _ in range(latency + 2):
        await FallingEdge(dut.clk)
    assert not expected
    assert not checker.done()


@pytest.mark.parametrize(
    "sizes",
    [
        {"inputs": 8, "rows": 8, "vector": 4, "block": 2},
        {"inputs": 12, "rows": 6, "vector": 2, "block": 5, "activations": 120},
        {"inputs": 32, "rows": 4, "vector": 4, "block": 16, "accumulator": 16},
        {"inputs": 2, "rows": 28, "vector": 2, "block": 3},
    ],
)
def test_rows(sizes):
    component = Rows(geometry=Geometry(**sizes))
    simulate(
        component,
        __file__,
        bench="bench_rows",
        parameters={"geometry": sizes, "latency": component.latency, "seed": 5},
    )


def test_rows_of_the_default_geometry_have_three_adder_stages():
    assert Row(inputs=32).stages == 3
    assert Rows(geometry=Geometry()).latency == 4


def test_row_refuses():
    with pytest.raises(ValueError, match="inputs must be at least 2, not 1"):
        Row(inputs=1)
