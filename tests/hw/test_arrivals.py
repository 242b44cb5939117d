"""Arrivals against a list of vectors: writes, what has arrived when, claims and releases."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry, ceil_div
from ternlight_hw.engine.arrivals import CLAIM_LEAD, Arrivals
from ternlight_hw.layouts import BUFFER_BITS
from ternlight_sim.bench import parameters, rng, simulate, start


class Model:
    """The vectors, and how far each has come."""

    def __init__(self, geometry, random, count):
        self.geometry = geometry
        self.parts = geometry.inputs // geometry.vector
        buffers = 2 * geometry.contexts
        self.vectors = [
            (
                index % buffers if index < count // 2 else int(random.integers(buffers)),
                int(random.integers(1, geometry.buffer_chunks * self.parts + 1)),
            )
            for index in range(count)
        ]
        self.free = (1 << buffers) - 1
        self.claims = []  # cycles
        self.incoming, self.beat = 0, 0
        self.complete = [0] * count  # chunks of each vector
        self.opened = 0  # products
        self.product, self.taken = None, 0

    def chunks(self, vector):
        return ceil_div(self.vectors[vector][1], self.parts)

    def can_claim(self):
        return len(self.claims) < len(self.vectors) and self.free >> self.vectors[len(self.claims)][0] & 1

    def can_send(self, cycle):
        return self.incoming < len(self.claims) and cycle >= self.claims[self.incoming] + CLAIM_LEAD

    def send(self):
        """One beat: the part and the address that it is written to."""
        buffer, beats = self.vectors[self.incoming]
        chunk, part = divmod(self.beat, self.parts)
        self.beat += 1
        self.complete[self.incoming] += part == self.parts - 1 or self.beat == beats
        if self.beat == beats:
            self.incoming, self.beat = self.incoming + 1, 0
        return part, buffer * self.geometry.buffer_chunks + chunk


@cocotb.test()
async def bench_arrivals(dut):
    """Everything at random: claims, beats, products that open before or after their vectors come, takes, releases."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    pulses = ("claim__enable", "quantised__valid", "open", "take", "release")
    for name in pulses:
        getattr(dut, name).value = 0
    await start(dut)
    model = Model(geometry, random, 100)
    cycle = waits = 0
    while model.opened < len(model.vectors) or model.product is not None:
        cycle += 1
        seen_free, product, taken = model.free, model.product, model.taken
        arrived = product is not None and taken < model.complete[product]
        done = product is not None and taken == model.chunks(product)
        claim = model.can_claim() and random.random() < 0.4
        send = model.can_send(cycle) and random.random() < 0.7
        take = arrived and random.random() < 0.8
        release = done and random.random() < 0.5
        # The next product may open with the release of the one before, as soon as its buffer is claimed.
        opens = (product is None or release) and model.opened < len(model.claims) and random.random() < 0.6
        for name, value in zip(pulses, (claim, send, opens, take, release), strict=True):
            getattr(dut, name).value = int(value)
        values = int.from_bytes(random.bytes(geometry.vector), "little")
        written = None
        if claim:
            dut.claim__buffer.value, dut.claim__beats.value = model.vectors[len(model.claims)]
            model.free &= ~(1 << model.vectors[len(model.claims)][0])
            model.claims.append(cycle)
        if send:
            dut.quantised__payload.value = model.vectors[model.incoming][0] | values << BUFFER_BITS
            written = model.send()
        model.taken += take
        if release:
            model.free |= 1 << model.vectors[product][0]
            model.product = None
        if opens:
            dut.open_buffer.value = model.vectors[model.opened][0]
            model.product, model.taken = model.opened, 0
            model.opened += 1
        await RisingEdge(dut.clk)
        assert int(dut.free.value) == seen_free
        assert int(dut.quantised__ready.value)
        if product is not None:
            assert bool(dut.arrived.value) == arrived
            waits += not arrived and not done
        await FallingEdge(dut.clk)
        if written is None:
            assert not int(dut.write__parts.value)
        else:
            assert (int(dut.write__parts.value), int(dut.write__address.value)) == (1 << written[0], written[1])
            assert int(dut.write__values.value) == values
    assert waits > 50


SIZES = [
    {"inputs": 8, "rows": 8, "vector": 4, "activations": 40, "contexts": 1},
    {"inputs": 8, "rows": 8, "vector": 8, "activations": 64, "contexts": 3},
    {"inputs": 12, "rows": 8, "vector": 4, "activations": 12},
]


@pytest.mark.parametrize("sizes", SIZES)
def test_arrivals(sizes):
    simulate(Arrivals(geometry=Geometry(**sizes)), __file__, bench="bench_arrivals", parameters={"geometry": sizes})
