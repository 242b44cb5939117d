"""Where a board's cells are: each module's share of the netlist that `ternlight build` leaves beside its bitstream.

    python -m ternlight_boards.modules build/BOARD > docs/reports/modules/BOARD.json

Lanes and build are what the build's own report says, not what the board's file says by now. Cells are counted after
synthesis, when they still have the names of their modules; packing adds the ends of carry chains.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ternlight.errors import BuildError

from .build import REPORT
from .families import TOP
from .report import Report

DEVICE = "top"
"""The device in a board's design."""
AROUND = "pins, clock and reset"
"""What is not in the device, and what synthesis named after a pin."""
LEVELS = 2
"""Modules are told apart so deep in the device: core.engine, with all that is in it."""
CELLS: Mapping[str, tuple[str, int]] = {
    "LUT4": ("lut4", 1),
    "CCU2C": ("lut4", 2),  # two bits of a carry chain
    "TRELLIS_DPR16X4": ("lut4", 4),  # distributed RAM, without the LUTs that its write port blocks
    "TRELLIS_FF": ("ff", 1),
    "DP16KD": ("block_ram", 1),
    "MULT18X18D": ("dsp", 1),
}
"""ECP5 cells: the resource that each takes, and how much of it."""
RESOURCES = tuple(dict.fromkeys(resource for resource, _ in CELLS.values()))


def module_cells(netlist: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """The resources of each module of a flattened ECP5 netlist in Yosys's JSON, the largest first.

    Raises BuildError for a netlist without LUTs of an ECP5.
    """
    designs: list[Mapping[str, Any]] = [
        module for module in netlist["modules"].values() if int(str(module["attributes"].get("top", "0")), 2)
    ]
    cells = designs[0]["cells"] if designs else {}
    # Flattening leaves a note of each module that was there.
    scopes = {name for name, cell in cells.items() if cell["type"] == "$scopeinfo"}
    found: dict[str, Counter[str]] = {}
    for name, cell in cells.items():
        if cell["type"] in CELLS:
            resource, amount = CELLS[cell["type"]]
            found.setdefault(_module(name, scopes), Counter())[resource] += amount
    if not any(counts["lut4"] for counts in found.values()):
        raise BuildError("the netlist has no LUTs of an ECP5: only those parts can be told apart by module")
    ordered = sorted(found.items(), key=lambda item: (-item[1]["lut4"], item[0]))
    return {module: {resource: counts[resource] for resource in RESOURCES} for module, counts in ordered}


def _module(cell: str, scopes: set[str]) -> str:
    """The innermost module of the device, up to LEVELS deep, that a cell is named after."""
    device, *parts = cell.split(".")[:-1] or [""]
    for depth in range(min(LEVELS, len(parts)), 0, -1):
        module = ".".join(parts[:depth])
        if f"{DEVICE}.{module}" in scopes:
            return module
    return DEVICE if device == DEVICE else AROUND


def main(arguments: Sequence[str]) -> None:
    """Print the report of a board's build."""
    (folder,) = map(Path, arguments)
    build = Report.load(folder / REPORT)
    report = {
        "board": build.board,
        "build_id": build.build_id,
        "lanes": build.geometry.lanes,
        "command": f"python -m ternlight_boards.modules {shlex.quote(str(folder))}",
        "modules": module_cells(json.loads((folder / f"{TOP}.json").read_text())),
    }
    json.dump(report, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
