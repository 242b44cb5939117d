"""Reports: read from nextpnr, kept, judged and shown."""

from __future__ import annotations

import json

import pytest

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight_boards.report import Clock, Report, SlowestPath, Use, load_reports, page, read_nextpnr

CELLS = {"lut4": ("TRELLIS_COMB", "TRELLIS_RAMW"), "dsp": ("MULT18X18D",)}


def step(kind: str, delay: float, start: str, end: str) -> dict[str, object]:
    return {"type": kind, "delay": delay, "from": {"cell": start}, "to": {"cell": end}}


NEXTPNR = {
    "utilization": {
        "TRELLIS_COMB": {"used": 900, "available": 24288},
        "TRELLIS_RAMW": {"used": 20, "available": 3036},
        "MULT18X18D": {"used": 7, "available": 28},
        "TRELLIS_IO": {"used": 4, "available": 197},
    },
    "fmax": {
        "$glbnet$clk": {"achieved": 44.7512, "constraint": 37.500001},
        "device.pll_clk": {"achieved": 900, "constraint": 37.5},
    },
    "critical_paths": [
        {
            "from": "posedge $glbnet$clk",
            "to": "posedge $glbnet$clk",
            "path": [
                step("clk-to-q", 0.52, "top.core.a_TRELLIS_FF_Q_3", "top.core.a_TRELLIS_FF_Q_3"),
                step("routing", 1.25, "top.core.a_TRELLIS_FF_Q_3", "top.x_LUT4_Z"),
                step("logic", 0.24, "top.x_LUT4_Z", "top.x_LUT4_Z"),
                step("routing", 2.5, "top.x_LUT4_Z", "top.core.b_TRELLIS_FF_Q"),
                step("setup", 0.0, "top.core.b_TRELLIS_FF_Q", "top.core.b_TRELLIS_FF_Q"),
            ],
        },
        {"from": "<async>", "to": "posedge $glbnet$clk", "path": [step("routing", 9, "pin", "c")]},
    ],
}
REPORT = Report(
    board="board",
    title="The Board",
    part="LFE5U-25F",
    geometry=Geometry(inputs=8, rows=8, vector=4, activations=64, clock_hz=37_500_000),
    baud=1_000_000,
    seed=3,
    build_id="0123abcd",
    digest="0123456789abcdef",
    resources={
        "lut4": Use(used=12_144, available=24_288),
        "ff": Use(used=1, available=24_288),
        "block_ram": Use(used=30, available=56),
        "dsp": Use(used=7, available=28),
    },
    clocks={"sync": Clock(wanted_mhz=37.5, fmax_mhz=44.75), "pll": Clock(wanted_mhz=37.5, fmax_mhz=900)},
    slowest={"sync": SlowestPath(start="top.core.a", end="top.core.b", logic_ns=0.76, routing_ns=3.75)},
    tools={"pyosys": "0.70", "amaranth": "0.5.10"},
)


def missed() -> Report:
    values = vars(REPORT) | {"clocks": {"sync": Clock(wanted_mhz=37.5, fmax_mhz=37.49)}}
    return Report(**values)


def test_what_nextpnr_says():
    resources, clocks, slowest = read_nextpnr(json.dumps(NEXTPNR), CELLS)
    assert resources == {"lut4": Use(used=920, available=24288), "dsp": Use(used=7, available=28)}
    assert clocks == {
        "sync": Clock(wanted_mhz=37.5, fmax_mhz=44.75),
        "pll": Clock(wanted_mhz=37.5, fmax_mhz=900),
    }
    assert slowest == {"sync": SlowestPath(start="top.core.a", end="top.core.b", logic_ns=0.76, routing_ns=3.75)}


def test_a_resource_that_nextpnr_does_not_know():
    with pytest.raises(BuildError, match="nextpnr reports no LUTS and no LUT5: the family's table of cells is wrong"):
        read_nextpnr(json.dumps(NEXTPNR), {"lut4": ("LUTS", "LUT5")})


def test_a_report_is_kept_whole(tmp_path):
    REPORT.save(tmp_path / "reports" / "board.json")
    assert load_reports(tmp_path / "reports") == [REPORT]


def test_a_report_of_another_version(tmp_path):
    path = tmp_path / "board.json"
    REPORT.save(path)
    older = json.loads(path.read_text())
    del older["digest"]
    for text in ("", "{}", json.dumps(older), json.dumps(older | {"digest": "0", "geometry": {"inputs": 3}})):
        path.write_text(text)
        with pytest.raises(BuildError, match=r"board\.json is not a report of this version: build the board anew"):
            Report.load(path)


def test_timing_is_judged():
    assert REPORT.meets_timing
    REPORT.check_timing()
    assert not missed().meets_timing
    with pytest.raises(
        BuildError,
        match=r"board misses its clock: domain sync reaches 37\.49 MHz of 37\.5 MHz with seed 3; "
        r"the slowest path is from top\.core\.a to top\.core\.b\.",
    ):
        missed().check_timing()


def test_the_page():
    text = page([REPORT], ["board"])
    assert (
        "| The Board (`board`) | LFE5U-25F | 64 | 4 | 37.5 MHz | 44.75 MHz "
        "| 12,144 (50%) | 1 (0%) | 30 (54%) | 7 (25%) | 3 | 0123abcd |"
    ) in text
    assert "| `board` | `top.core.a` to `top.core.b` | 0.76 ns | 3.75 ns |" in text
    assert "Tools: amaranth 0.5.10, pyosys 0.70." in text
    assert "`make reports`" in text
    assert "Not measured yet" not in text
    assert "builds both anew. Not measured yet: `a`, `b`.\n" in page([REPORT], ["b", "board", "a"])
