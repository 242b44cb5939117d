"""The whole device on a simulated PCIe bus, behind the driver that opens a board, against the golden machine."""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.task import bridge

from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.geometry import Geometry
from ternlight.image import Image
from ternlight.link.pcie import PcieTransport
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight_boards.simulator import GEOMETRY
from ternlight_hw.pcie import PcieTop
from ternlight_sim.bench import parameters, simulate, start
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.pcie_bus import Bus, BusFunction
from ternlight_sim.random_model import random_config, random_image

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=4096,
    gain_words=1024,
    residual_words=32,
    gated_words=64,
    state_words=512,
    program_words=512,
    activations=128,
    accumulator=16,
    slots=4,
    prompt=16,
    ring=16,
    top_k=8,
)


def model_of(shipped: bool):
    if shipped:
        return compile_image(Image.default(), GEOMETRY)
    return compile_image(random_image(random_config(hidden=13, intermediate=20, layers=2, vocabulary=61), 5), SMALL)


def write_story(function: BusFunction, shipped: bool) -> list[str]:
    """What a host does: load, generate in two sessions, save a state. Returns how the device differs from golden."""
    model = model_of(shipped)
    port = Port(PcieTransport(function, clock=function.clock), clock=function.clock, seed=1)
    with Device(port) as device:
        assert device.load(model)
        for slot, sampling in enumerate((Sampling(temperature=0), Sampling(seed=3, top_k=5))):
            golden = GoldenSession(Machine(model))
            prompt = [5, 17, 3, 44, 8]
            session = device.session(slot)
            assert list(session.generate(prompt, 24, sampling)) == list(golden.generate(prompt, 24, sampling))
            np.testing.assert_array_equal(session.save().states, golden.states)
        statistics = port.statistics
        assert (statistics.retransmissions, statistics.timeouts, statistics.corrupt, statistics.refused) == (0, 0, 0, 0)
        assert statistics.events > 1


@cocotb.test()
async def bench_story(dut):
    values = parameters()
    bus = Bus(dut, cuts=values["dma"], stall=values["stall"])
    await start(dut)
    await bus.enumerate()
    await bridge(write_story)(BusFunction(bus, dma=values["dma"]), values["shipped"])
    cocotb.log.info("%d interrupts, %d TLPs sent", bus.block.interrupts, len(bus.block.sent))
    assert bus.block.interrupts > 1


@pytest.mark.parametrize("dma", [False, True], ids=["windows", "dma"])
def test_a_small_model(dma):
    values = {"dma": dma, "shipped": False, "stall": 0.1}
    simulate(PcieTop(geometry=SMALL), __file__, bench="bench_story", parameters=values)


@pytest.mark.on_demand
@pytest.mark.parametrize("dma", [False, True], ids=["windows", "dma"])
def test_the_shipped_model(dma):
    values = {"dma": dma, "shipped": True, "stall": 0.0}
    simulate(PcieTop(geometry=GEOMETRY), __file__, bench="bench_story", parameters=values)
