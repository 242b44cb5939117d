"""PcieEndpoint on cocotbext-pcie's root complex."""

from __future__ import annotations

import cocotb

from ternlight.abi import Window
from ternlight.pcie_map import MAGIC, MAP_VERSION, PcieRegister
from ternlight_hw.pcie import PcieEndpoint
from ternlight_sim.bench import simulate, start
from ternlight_sim.pcie_bus import Bus

COLUMNS = {Window.REGISTERS: 1, Window.PROGRAM: 5, Window.GAINS: 4, Window.STORE: 27}


@cocotb.test()
async def bench_enumeration(dut):
    bus = Bus(dut)
    await start(dut)
    await bus.enumerate()
    assert await bus.read(0, 2) == [MAGIC, MAP_VERSION]
    cocotb.log.info("link %x", (await bus.read(4 * PcieRegister.LINK))[0])


def test_enumeration():
    simulate(PcieEndpoint(columns=COLUMNS, ring_words=256), __file__, bench="bench_enumeration")
