"""Sampler against the golden sampler."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry, ceil_div
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX, MANTISSA_MIN
from ternlight_hw.layouts import sample_command
from ternlight_hw.sampler import Sampler
from ternlight_sim.bench import StreamSink, StreamSource, pack, parameters, rng, simulate, start
from ternlight_sim.golden.sampling import sample
from ternlight_sim.golden.scalar import UFloat

GEOMETRIES = [
    {"inputs": 8, "rows": 8, "vector": 4, "top_k": 8, "accumulator": 20},
    {"inputs": 12, "rows": 12, "vector": 12, "activations": 96, "top_k": 5, "accumulator": 24},
    {"inputs": 8, "rows": 8, "vector": 8, "top_k": 1, "accumulator": 12},
]


class Request:
    """One SAMPLE with its accumulators; what lies beyond the vocabulary is as large as can be."""

    def __init__(self, geometry, acc, *, top_k, scale=(MANTISSA_MIN, -24), seed=0, position=0, spare_beats=0):
        self.acc, self.top_k, self.scale = np.asarray(acc, np.int64), top_k, scale
        self.seed, self.position = seed, position
        lanes = geometry.vector
        count = ceil_div(len(acc), lanes) + spare_beats
        padding = [(1 << geometry.accumulator - 1) - 1] * (count * lanes - len(acc))
        rows = np.reshape([*acc, *padding], (count, lanes))
        self.beats = [pack(row, geometry.accumulator) for row in rows]

    @property
    def command(self):
        fields = {
            "beats": len(self.beats),
            "vocabulary": len(self.acc),
            "scale": {"mantissa": self.scale[0], "exponent": self.scale[1]},
            "top_k": self.top_k,
            "seed": self.seed,
            "position": self.position,
        }
        return sample_command().const(fields).as_value().value

    @property
    def token(self):
        scale = UFloat(*(np.int64(part) for part in self.scale))
        return int(sample(self.acc, scale, self.top_k, self.seed, self.position))


def random_request(random, geometry):
    size = int(random.integers(1, 80))
    limit = 1 << geometry.accumulator - 1
    # Few different values make ties; the full range makes saturated sums.
    reach = int(random.choice([2, 30, limit]))
    acc = random.integers(-reach, reach, size)
    if random.random() < 0.2:
        acc.sort()
    mantissa = int(random.integers(MANTISSA_MIN, MANTISSA_MAX + 1))
    near = -14 - reach.bit_length()
    scale = [
        (mantissa, near + int(random.integers(-3, 4))),
        (mantissa, int(random.integers(-65, -10))),
        (mantissa, int(random.choice([EXPONENT_MIN, -64, -63, -62, -17, -16, -15, EXPONENT_MAX]))),
        (0, 0),
    ][random.choice(4, p=[0.6, 0.2, 0.15, 0.05])]
    return Request(
        geometry,
        acc,
        top_k=int(random.choice([0, 1, int(random.integers(0, geometry.top_k + 1)), geometry.top_k])),
        scale=scale,
        seed=int(random.integers(1 << 32)),
        position=int(random.choice([0, 1, int(random.integers(1 << 32))])),
        spare_beats=int(random.integers(3)) if random.random() < 0.2 else 0,
    )


@cocotb.test()
async def bench_tokens(dut):
    geometry, stall = Geometry(**parameters()["geometry"]), parameters()["stall"]
    random = rng()
    requests = [random_request(random, geometry) for _ in range(parameters()["count"])]
    commands = StreamSource(dut, "command", stall=stall, seed=1)
    logits = StreamSource(dut, "logits", stall=stall, seed=2)
    tokens = StreamSink(dut, "token", stall=stall, seed=3)
    await start(dut)
    assert int(dut.idle.value) == 1
    cocotb.start_soon(commands.send([request.command for request in requests]))
    cocotb.start_soon(logits.send([beat for request in requests for beat in request.beats]))
    received = await tokens.receive(len(requests))
    for request, token in zip(requests, received, strict=True):
        assert token == request.token, (request.acc, request.top_k, request.scale, request.seed, request.position)
    assert int(dut.idle.value) == 1


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("sizes", GEOMETRIES, ids=lambda sizes: f"v{sizes['vector']}")
def test_tokens(sizes, stall):
    simulate(
        Sampler(Geometry(**sizes)),
        __file__,
        bench="bench_tokens",
        parameters={"geometry": sizes, "stall": stall, "count": 400 if stall == 0 else 150, "seed": 1},
    )


async def cycles(dut, request):
    """Cycles from the command's transfer to the token, which must be right; the unit is busy in all of them."""
    dut.command__payload.value = request.command
    dut.command__valid.value = 1
    dut.logits__valid.value = 1
    beats = list(request.beats)
    count = 0
    while True:
        dut.logits__payload.value = beats[0] if beats else 0
        await RisingEdge(dut.clk)
        if int(dut.token__valid.value):
            assert int(dut.token__payload.value) == request.token
            assert not beats
            await FallingEdge(dut.clk)
            return count
        assert int(dut.idle.value) == (count == 0)
        if int(dut.logits__ready.value):
            beats.pop(0)
        await FallingEdge(dut.clk)
        dut.command__valid.value = 0
        count += 1


@cocotb.test()
async def bench_cycles(dut):
    geometry = Geometry(**parameters()["geometry"])
    lanes = geometry.vector
    await start(dut)
    dut.token__ready.value = 1
    dut.logits__valid.value = 0
    dut.command__valid.value = 0
    await FallingEdge(dut.clk)
    for size in (1, lanes, lanes + 1, 10 * lanes, 13 * lanes - 1):
        rising, falling = np.arange(size), np.arange(size)[::-1]
        beats = ceil_div(size, lanes)
        first = min(size, lanes)
        for top_k in range(geometry.top_k + 1):
            # Every token enters.
            collect = size + beats
            assert await cycles(dut, Request(geometry, rising, top_k=top_k)) == collect + Sampler.overhead(top_k), (
                size,
                top_k,
            )
        # All tokens are scored, in whatever order they come.
        assert await cycles(dut, Request(geometry, falling, top_k=0)) == size + beats + Sampler.overhead(0), size
        # The first beat holds the largest. The second passes in vain, before that is known; of the others there is one
        # per cycle, and the last one has no cost of its own.
        second = min(size - first, lanes)
        collect = first + 1 + (second + 1 if second else 0) + max(beats - 3, 0)
        assert await cycles(dut, Request(geometry, falling, top_k=1)) == collect + Sampler.overhead(1)


def test_cycles():
    assert Sampler.overhead(1) == 6
    simulate(
        Sampler(Geometry(**GEOMETRIES[0])),
        __file__,
        bench="bench_cycles",
        parameters={"geometry": GEOMETRIES[0]},
    )
