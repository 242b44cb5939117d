"""The board files: what they state is complete and consistent, and Amaranth takes it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight.link import DEFAULT_BAUD
from ternlight_boards.board import MODULES, Board, all_boards, find_board
from ternlight_boards.device import BoardDevice
from ternlight_boards.families import TOP, family_of
from ternlight_boards.pll import Ecp5Pll, GowinPll
from ternlight_boards.report import Report, load_reports, page

DOCS = Path(__file__).parents[2] / "docs"
REPORTS = DOCS / "reports" / "boards"
BOARDS = all_boards()
TINY = Geometry(inputs=8, rows=8, vector=4, store_words=1024, activations=16, prompt=16, ring=16, slots=1, top_k=2)
PINS = {
    "ulx3s-12f": {"clk25_0__io": "G2", "uart_0__rx__io": "M1", "uart_0__tx__io": "L4", "led_0__io": "B2"},
    "ulx3s-25f": {"clk25_0__io": "G2", "uart_0__rx__io": "M1", "uart_0__tx__io": "L4", "led_0__io": "B2"},
    "ulx3s-45f": {"clk25_0__io": "G2", "uart_0__rx__io": "M1", "uart_0__tx__io": "L4", "led_0__io": "B2"},
    "ulx3s-85f": {"clk25_0__io": "G2", "uart_0__rx__io": "M1", "uart_0__tx__io": "L4", "led_0__io": "B2"},
    "icepi-zero": {"clk50_0__io": "M1", "uart_0__rx__io": "K16", "uart_0__tx__io": "K15", "led_0__io": "E13"},
    "tang-nano-20k": {"clk27_0__io": "4", "uart_0__rx__io": "70", "uart_0__tx__io": "69", "led_0__io": "15"},
    "ecpix5-85f": {"clk100_0__io": "K23", "uart_0__rx__io": "R26", "uart_0__tx__io": "R24", "rgb_led_0__g__io": "R21"},
}


def test_names():
    assert list(BOARDS) == [board.name for board in BOARDS.values()]
    assert set(BOARDS) == set(PINS)
    assert len(MODULES) < len(BOARDS)


@pytest.mark.parametrize("name", PINS)
def test_the_design_has_its_pins(name):
    """Those of the clock, the serial line and the LED, and no other, each where the board's schematic has it."""
    board = replace(BOARDS[name], geometry=replace(TINY, clock_hz=BOARDS[name].geometry.clock_hz))
    platform = board.platform()
    family = family_of(platform)
    pll = family.pll.solve(int(platform.default_clk_frequency), board.geometry.clock_hz)
    files = platform.prepare(BoardDevice(board=board, pll=pll, build_id=7), TOP, emit_src=False).files
    constraints = files[f"{TOP}.{family.constraints}"]
    if isinstance(constraints, bytes):
        constraints = constraints.decode()
    located = re.findall(r'(?:LOCATE COMP|IO_LOC) "(\w+)" (?:SITE )?"?(\w+)"?;', constraints)
    assert dict(located) == PINS[name]
    design = files[f"{TOP}.il"]
    primitives = {Ecp5Pll: ("EHXPLLL", "DCCA"), GowinPll: ("rPLL", "DQCE")}[family.pll]
    for primitive in primitives:
        assert f"cell \\{primitive} " in (design if isinstance(design, str) else design.decode())


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_the_line_rate(board):
    assert board.baud == DEFAULT_BAUD
    assert board.geometry.clock_hz / board.divisor == pytest.approx(board.baud, rel=0.02)


def test_a_line_rate_that_the_clock_does_not_give():
    with pytest.raises(BuildError, match=r"37\.5 MHz gives no line rate within 2% of 3,000,000 baud"):
        replace(BOARDS["ulx3s-25f"], geometry=replace(TINY, clock_hz=37_500_000), baud=3_000_000)


def test_an_unknown_board():
    with pytest.raises(BuildError, match="there is no board ulx3s: choose from ulx3s-12f, ulx3s-25f"):
        find_board("ulx3s")
    assert find_board("icepi-zero") is BOARDS["icepi-zero"] or isinstance(find_board("icepi-zero"), Board)


def test_a_platform_without_tools():
    with pytest.raises(BuildError, match="there are no tools for object"):
        family_of(object())


# What the documents say.


@pytest.mark.parametrize("path", sorted(REPORTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_report_is_of_its_board(path):
    """A board whose device changed must be measured again."""
    report, board = Report.load(path), BOARDS[path.stem]
    assert (report.board, report.title, report.part) == (board.name, board.title, board.part)
    assert (report.geometry, report.baud, report.seed) == (board.geometry, board.baud, board.seed)
    assert report.clocks["sync"].wanted_mhz == board.geometry.clock_hz / 1e6
    assert report.meets_timing


def test_the_page_shows_the_reports():
    reports = load_reports(REPORTS)
    assert reports
    assert (DOCS / "boards.md").read_text() == page(reports, BOARDS)
