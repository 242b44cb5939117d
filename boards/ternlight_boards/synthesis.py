"""Synthesis of the device for an Artix-7 on PCIe, as far as tools from pip go: no place and route, no bitstream.

    python -m ternlight_boards.synthesis build/nitefury-ii

writes the design, the netlist, the constraints and the settings of the PCIe core into the folder, and prints how many
cells of each kind the netlist has.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ternlight.errors import BuildError
from ternlight_hw.pcie import PcieTop

from . import nitefury, tools
from .families import TOP
from .series7 import CORE, SETTINGS, Series7Device, core_stub

RESOURCES: Mapping[str, tuple[str, ...]] = {
    "lut": ("LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "INV"),
    "lut_ram": ("RAM32M", "RAM64M", "RAM32X1D", "RAM64X1D", "RAM128X1D", "RAM256X1D"),
    "ff": ("FDRE", "FDSE", "FDCE", "FDPE"),
    "carry4": ("CARRY4",),
    "block_ram_18": ("RAMB18E1",),
    "block_ram_36": ("RAMB36E1",),
    "dsp": ("DSP48E1",),
    "pcie": (CORE,),
}
"""What a report counts, and the cells of Yosys's netlist that are such."""


def synthesise(folder: Path, top: PcieTop, *, status: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Synthesise a device on the NiteFury II into `folder`; the cells of each resource.

    top: the device. status: called with a phrase for each step.
    Raises BuildError when a tool is missing or fails, or when the netlist is not that of the whole device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    status("generating the design")
    platform = nitefury.NitefuryPlatform()
    products = platform.prepare(Series7Device(top), TOP, emit_src=False).files
    for name in (f"{TOP}.v", f"{TOP}.xdc"):
        content = products[name]
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / f"{CORE}.v").write_text(core_stub())
    (folder / f"{CORE}.json").write_text(json.dumps(SETTINGS, indent=1) + "\n")
    script = f"read_verilog {CORE}.v {TOP}.v\nsynth_xilinx -family xc7 -flatten -top {TOP}\nwrite_json {TOP}.json\n"
    (folder / f"{TOP}.ys").write_text(script)
    status("synthesising")
    tools.run("yosys", [f"{TOP}.ys"], folder=folder, log=folder / "yosys.log")
    kinds = [
        cell["type"] for cell in json.loads((folder / f"{TOP}.json").read_text())["modules"][TOP]["cells"].values()
    ]
    counts = {resource: sum(kinds.count(kind) for kind in members) for resource, members in RESOURCES.items()}
    if counts["pcie"] != 1 or not counts["lut"]:
        raise BuildError(
            f"the netlist has {counts['pcie']} PCIe cores and {counts['lut']} LUTs: see {folder / 'yosys.log'}"
        )
    return counts


def main(arguments: Sequence[str]) -> None:
    """Print the cells of the device."""
    (folder,) = map(Path, arguments)
    top = PcieTop(geometry=nitefury.GEOMETRY)
    counts = synthesise(folder, top, status=lambda phrase: print(phrase, file=sys.stderr))
    json.dump(counts, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
