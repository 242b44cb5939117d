"""A whole device in silicon's terms: placed and routed for an ECP5, and its netlist against the golden model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ternlight.abi import Counter
from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.geometry import Geometry
from ternlight.link import open_transport
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight_boards.board import Board, find_board
from ternlight_boards.build import build_board
from ternlight_boards.families import TOP
from ternlight_sim.build import build
from ternlight_sim.cells import simulated_ecp5
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image
from ternlight_sim.simulator import Simulator

GEOMETRY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=512,
    gain_words=256,
    residual_words=8,
    gated_words=8,
    state_words=64,
    program_words=256,
    activations=32,
    accumulator=14,
    slots=2,
    prompt=16,
    ring=16,
    top_k=4,
    clock_hz=25_000_000,
)
BOARD = Board(
    name="netlist",
    title="the smallest device in a roomy chip",
    platform=find_board("ulx3s-45f").platform,
    geometry=GEOMETRY,
    loader="",
    # As few cycles per bit as the receiver takes, for the simulation's sake.
    baud=GEOMETRY.clock_hz // 3,
)
FOLDER = Path("build/netlist")
ADAPTER = f"""
module netlist(input clk, rst, uart_rx, output uart_tx, active);
  {TOP} board(.clk25_0__io(clk), .uart_0__rx__io(uart_rx), .uart_0__tx__io(uart_tx), .led_0__io(active));
endmodule
"""
CONFIG = random_config(hidden=7, intermediate=9, layers=2, vocabulary=19)


@pytest.fixture(scope="module")
def built():
    """Minutes of work, done once for the same gateware and tools."""
    return build_board(BOARD, FOLDER)


def test_it_places_and_routes(built):
    report = built.report
    assert report.meets_timing
    assert built.bitstream.stat().st_size > 100_000
    assert 1_000 < report.resources["lut4"].used < report.resources["lut4"].available
    assert 1_000 < report.resources["ff"].used < report.resources["ff"].available
    assert report.resources["dsp"].used > 0


def test_the_netlist_equals_the_golden_model(built, tmp_path):
    verilog = simulated_ecp5(FOLDER / f"{TOP}.json", TOP, tmp_path) + ADAPTER
    executable = build(verilog, divisor=BOARD.divisor, top="netlist", optimise=False)
    image = random_image(CONFIG, 1)
    machine = Machine(compile_image(image, GEOMETRY))
    with (
        Simulator.start(executable) as simulator,
        # At some thousand cycles a second, what takes seconds is not lost.
        Device(Port(open_transport(simulator.url), timeout=10)) as device,
    ):
        assert device.geometry == GEOMETRY
        assert f"{device.build_id:08x}" == built.report.build_id
        assert device.load(image)
        for slot, sampling in enumerate((Sampling(temperature=0), Sampling(temperature=1.5, top_k=4, seed=3))):
            golden = GoldenSession(machine)
            expected = list(golden.generate([5, 6, 7], 24, sampling))
            session = device.session(slot)
            assert list(session.generate([5, 6, 7], 24, sampling)) == expected
            np.testing.assert_array_equal(session.save().states, golden.states)
        assert len(set(expected)) > 3
        assert device.counters()[Counter.GENERATED] == 48
