"""The bitstream that tests a memory: its clocks, its pins and its cells; and the flow, with a stand-in for nextpnr."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ternlight.errors import BuildError
from ternlight_boards import memory_test, tools
from ternlight_boards.board import find_board
from ternlight_boards.families import TOP
from ternlight_boards.memory_clock import MemoryClock
from ternlight_boards.memory_test import PARTS, MemoryTest
from ternlight_boards.pll import MHZ, Ecp5Pll

PAGE = Path(__file__).parents[2] / "docs/memory.md"
REPORTS = PAGE.parent / "reports/memory"
PINS = {
    "ulx3s-85f": {"clk": "F19", "ras": "R20", "cas": "T19", "we": "T20", "ba0": "P19", "a10": "N19", "dq15": "J17"},
    "icepi-zero": {"clk": "A3", "ras": "A12", "cas": "B13", "we": "A13", "ba0": "A11", "a10": "A10", "dq15": "B1"},
}


@pytest.mark.parametrize("input_mhz", [25, 50, 100])
def test_the_clocks(input_mhz):
    clock = MemoryClock(input_hz=input_mhz * MHZ)
    values = clock.parameters()
    assert clock.device_hz == input_mhz * MHZ * values["CLKFB_DIV"] / values["CLKI_DIV"]
    assert clock.oscillator_hz == clock.device_hz * values["CLKOP_DIV"]
    assert clock.memory_hz == clock.oscillator_hz // values["CLKOS_DIV"] == 133_333_333
    assert clock.oscillator_hz in Ecp5Pll.OSCILLATOR
    # Behind the memory's edge, in eighths of the oscillator's period.
    phases = [8 * values[f"{output}_CPHASE"] + values[f"{output}_FPHASE"] for output in ("CLKOS", "CLKOS2")]
    assert phases[1] - phases[0] == clock.shift
    assert clock.shift_ns == clock.shift * 1000 / (8 * 800)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift": 48}, "shift must be from 0 to 47 eighths of the oscillator's period, not 48"),
        ({"oscillator_hz": 900 * MHZ}, "the PLL cannot run at 900 MHz from 25 MHz"),
        ({"device_divider": 7}, "the PLL cannot run at 800 MHz from 25 MHz"),
    ],
)
def test_clocks_that_cannot_be(change, message):
    with pytest.raises(BuildError, match=re.escape(message)):
        replace(MemoryClock(input_hz=25 * MHZ), **change)


@pytest.mark.parametrize("name", PINS)
def test_the_design(name):
    """Every pin of the memory has its register in the pin's cell."""
    platform = find_board(name).platform()
    clock = MemoryClock(input_hz=int(platform.default_clk_frequency))
    part = PARTS[name]
    files = platform.prepare(MemoryTest(part=part, clock=clock), TOP, emit_src=False).files
    constraints, design = (
        content if isinstance(content, str) else content.decode()
        for content in (files[f"{TOP}.lpf"], files[f"{TOP}.il"])
    )
    sites = {
        signal + index: site
        for signal, index, site in re.findall(
            r'LOCATE COMP "sdram_0__(\w+)__io(?:\[(\d+)\])?" SITE "(\w+)";', constraints
        )
    }
    assert {signal: sites[signal] for signal in PINS[name]} == PINS[name]
    cells = {cell: len(re.findall(rf"cell \\{cell} ", design)) for cell in ("OFS1P3DX", "IFS1P3DX", "ODDRX1F")}
    address, bank, masks = 13, 2, 2
    pins = 3 + address + bank + masks + 2 + part.width  # with CS# and CKE
    # One for the value and one for the tristate of each, and the forwarded clock's tristate.
    assert cells == {"OFS1P3DX": 2 * pins + 1, "IFS1P3DX": part.width, "ODDRX1F": 1}


def test_a_board_without():
    with pytest.raises(BuildError, match="no SDRAM of ecpix5-85f is known: choose from ulx3s-12f"):
        memory_test.synthesise(find_board("ecpix5-85f"), Path("unused"))


@pytest.fixture
def flow(monkeypatch):
    """Stand-ins for the programs: nextpnr reaches what `reached` says of its seed. What was packed is in `packed`."""

    class Flow:
        reached: dict[int, float]
        packed = None

        def run(self, name, arguments, *, folder, log):
            if name == "yosys":
                (folder / f"{TOP}.json").write_text(json.dumps({"modules": {}}))
            elif name == "yowasp-ecppack":
                self.packed = (folder / f"{TOP}.config").read_text()
            else:
                seed = arguments[arguments.index("--seed") + 1]
                (folder / f"{TOP}.config").write_text(seed)
                report = {
                    "utilization": {
                        cell: {"used": 1, "available": 2}
                        for cell in ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D")
                    },
                    "fmax": {
                        "$glbnet$sdram_clk": {"constraint": 133.333, "achieved": self.reached[int(seed)]},
                        "$glbnet$clk": {"constraint": 100, "achieved": 110},
                    },
                    "critical_paths": [],
                }
                (folder / "nextpnr.json").write_text(json.dumps(report))

    stand_in = Flow()
    monkeypatch.setattr(tools, "run", stand_in.run)
    return stand_in


def test_the_fastest_seed_is_packed(flow, tmp_path, capsys):
    flow.reached = {1: 130, 2: 141.5, 3: 135}
    memory_test.main(["icepi-zero", "--seeds", "1", "2", "3", "--out", str(tmp_path)])
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["seed"] for report in reports] == [1, 2, 3]
    assert [report["clocks"]["sdram"]["met"] for report in reports] == [False, True, True]
    assert flow.packed == "2"


def test_no_seed_is_fast_enough(flow, tmp_path):
    flow.reached = {4: 133.2}
    with pytest.raises(BuildError, match=r"no seed of \[4\] meets the clocks of icepi-zero: try others"):
        memory_test.main(["icepi-zero", "--seeds", "4", "--out", str(tmp_path)])
    assert flow.packed is None


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_the_page_shows_the_reports(path):
    reports = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(clock["met"] for report in reports for clock in report["clocks"].values())
    reached = ", ".join(f"{report['clocks']['sdram']['fmax_mhz']:.2f}" for report in reports)
    (row,) = (line for line in PAGE.read_text().splitlines() if reached in line)
    board = find_board(path.stem)
    assert row.startswith(f"| {board.title} | {board.part} |")
    for resource in ("lut4", "ff", "block_ram"):
        assert f"| {reports[0]['resources'][resource].partition(' ')[0]} " in row
