"""A netlist's cells by module."""

from __future__ import annotations

import json

import pytest

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight_boards.modules import AROUND, CELLS, main, module_cells
from ternlight_boards.report import Report


def netlist(cells: dict[str, str]) -> dict[str, object]:
    """A flattened design as Yosys writes it, beside a cell's own definition."""
    scopes = ("pll", "top", "top.core", "top.core.engine", "top.core.engine.rows", "top.link", "top.link.port")
    notes = {scope: {"type": "$scopeinfo"} for scope in scopes}
    named = {name: {"type": kind} for name, kind in cells.items()}
    return {
        "modules": {
            "LUT4": {"attributes": {"blackbox": "1"}, "cells": {"top.core.inside": {"type": "TRELLIS_FF"}}},
            "device": {"attributes": {"top": "00000000000000000000000000000001"}, "cells": notes | named},
        }
    }


CELLS_OF_A_DESIGN = {
    "top.core.engine.sum_LUT4_Z": "LUT4",
    "top.core.engine.rows.sum_CCU2C_S0": "CCU2C",
    "top.core.engine.rows.sum_TRELLIS_FF_Q": "TRELLIS_FF",
    "top.core.engine.rows.held": "TRELLIS_DPR16X4",
    "top.core.engine.store": "DP16KD",
    "top.core.payload$3.scale_LUT4_Z": "LUT4",
    "top.link.port.word_LUT4_Z": "LUT4",
    "top.link.port.word_LUT4_Z_1": "LUT4",
    "top.link.port.crc": "MULT18X18D",
    "top.link.port.word_PFUMX_Z": "PFUMX",
    "top.active_LUT4_Z": "LUT4",
    "led_pin.buf.o_LUT4_Z": "LUT4",
    "locked_TRELLIS_FF_Q": "TRELLIS_FF",
}


def test_cells_go_to_the_innermost_module_that_is_told_apart():
    """What is no module in a name, as a part of a stream, does not count as one."""
    assert list(module_cells(netlist(CELLS_OF_A_DESIGN)).items()) == [
        ("core.engine", {"lut4": 7, "ff": 1, "block_ram": 1, "dsp": 0}),
        ("link.port", {"lut4": 2, "ff": 0, "block_ram": 0, "dsp": 1}),
        ("core", {"lut4": 1, "ff": 0, "block_ram": 0, "dsp": 0}),
        (AROUND, {"lut4": 1, "ff": 1, "block_ram": 0, "dsp": 0}),
        ("top", {"lut4": 1, "ff": 0, "block_ram": 0, "dsp": 0}),
    ]


def test_no_cell_is_lost():
    total = sum(sum(counts.values()) for counts in module_cells(netlist(CELLS_OF_A_DESIGN)).values())
    assert total == sum(CELLS[kind][1] for kind in CELLS_OF_A_DESIGN.values() if kind in CELLS)


@pytest.mark.parametrize("cells", [{}, {"top.core.x": "DFF", "top.core.y": "TRELLIS_FF"}])
def test_a_netlist_of_another_family(cells):
    with pytest.raises(BuildError, match="the netlist has no LUTs of an ECP5"):
        module_cells(netlist(cells))


def test_the_report_of_a_build(tmp_path, capsys):
    """Its lanes are those that were built, whatever the board's file says."""
    Report(
        board="ulx3s-25f",
        title="a board",
        part="a part",
        geometry=Geometry(inputs=8, rows=16, vector=4, activations=64),
        baud=1_000_000,
        seed=1,
        build_id="0000abcd",
        digest="0123456789abcdef",
        resources={},
        clocks={},
        slowest={},
        tools={},
    ).save(tmp_path / "report.json")
    (tmp_path / "device.json").write_text(json.dumps(netlist(CELLS_OF_A_DESIGN)))
    main([str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    assert (report["board"], report["build_id"], report["lanes"]) == ("ulx3s-25f", "0000abcd", 128)
    assert report["command"] == f"python -m ternlight_boards.modules {tmp_path}"
    assert report["modules"]["core.engine"]["lut4"] == 7
