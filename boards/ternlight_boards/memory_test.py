"""A bitstream that tests a board's SDRAM, and what the controller's clock reaches in it.

    python -m ternlight_boards.memory_test BOARD [--seeds 1 2 3] [--shift EIGHTHS] [--out DIR]

It prints a line of JSON for each seed of place and route. DIR/BOARD/device.bit is of the fastest seed that meets the
clocks: the first LED shines until all words were read back, the second if they were right, the third if not. The phase
of the memory's clock that is right for a board lies in the middle of those with which the test passes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from amaranth import ClockDomain, ClockSignal, DomainRenamer, Elaboratable, Instance, Module, Signal
from amaranth.lib import io, wiring
from amaranth.lib.cdc import FFSynchronizer

from ternlight.errors import BuildError
from ternlight.sdram import IS42S16160G, MT48LC16M16A2, W9825G6KH, SdramPart, either
from ternlight_hw.sdram import Pads, SdramStream
from ternlight_hw.sdram.self_test import SelfTest

from . import tools
from .board import Board, find_board
from .build import NEXTPNR_REPORT
from .families import TOP, family_of
from .memory_clock import MemoryClock
from .report import read_nextpnr

ULX3S = either(IS42S16160G, MT48LC16M16A2)
"""Boards were made with either."""
PARTS: Mapping[str, SdramPart] = {
    **{f"ulx3s-{size}f": ULX3S for size in (12, 25, 45, 85)},
    "icepi-zero": W9825G6KH,
}


class MemoryTest(Elaboratable):
    """SelfTest on a board's memory.

    As in BoardDevice configuration is the reset, and the clocks stand until the PLL has locked.

    Parameters: part, clock.
    """

    def __init__(self, *, part: SdramPart, clock: MemoryClock) -> None:
        self.part = part
        self.clock = clock

    def elaborate(self, platform):
        m = Module()
        self._clocks(m, platform)
        m.submodules.stream = sdram = SdramStream(part=self.part, clock_hz=self.clock.memory_hz)
        m.submodules.test = test = SelfTest(address=sdram.address)
        port = platform.request("sdram", 0, dir="-")
        m.submodules.pads = pads = DomainRenamer("sdram")(Pads(part=self.part, port=port, clock_domain="forwarded"))
        wiring.connect(m, test.requests, sdram.requests)
        wiring.connect(m, test.writes, sdram.writes)
        wiring.connect(m, sdram.words, test.words)
        wiring.connect(m, sdram.pins, pads.inner)
        states = (~test.done, test.done & ~test.failed, test.failed)
        for number, state in enumerate(states):
            m.submodules[f"led{number}"] = led = io.Buffer("o", platform.request("led", number, dir="-"))
            m.d.comb += led.o.eq(state)
        return m

    def _clocks(self, m, platform):
        m.submodules.clock_pin = pin = io.Buffer("i", platform.request(platform.default_clk, dir="-"))
        locked = Signal()
        outputs = {"CLKOP": "sync", "CLKOS": "sdram", "CLKOS2": "forwarded"}
        generated = {output: Signal(name=f"pll_{domain}") for output, domain in outputs.items()}
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_ICP_CURRENT="12",
            a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1",
            a_MFG_GMCREF_SEL="2",
            **{f"p_{name}": value for name, value in self.clock.parameters().items()},
            i_CLKI=pin.i,
            i_CLKFB=generated["CLKOP"],
            **{f"i_{name}": 0 for name in ("RST", "STDBY", "PHASESEL0", "PHASESEL1", "PHASEDIR", "PHASESTEP")},
            **{f"i_{name}": 0 for name in ("PHASELOADREG", "PLLWAKESYNC", "ENCLKOP", "ENCLKOS", "ENCLKOS2")},
            **{f"o_{output}": signal for output, signal in generated.items()},
            o_LOCK=locked,
        )
        for output, domain in outputs.items():
            m.domains += ClockDomain(domain, reset_less=True)
            # Each clock lets itself in: the switch takes `running` at its own edge.
            ungated = f"ungated_{domain}"
            m.domains += ClockDomain(ungated, reset_less=True)
            m.d.comb += ClockSignal(ungated).eq(generated[output])
            running = Signal(name=f"running_{domain}")
            m.submodules[f"locked_{domain}"] = FFSynchronizer(locked, running, o_domain=ungated)
            m.submodules[f"gate_{domain}"] = Instance(
                "DCCA", i_CLKI=generated[output], i_CE=running, o_CLKO=ClockSignal(domain)
            )


def synthesise(board: Board, folder: Path, *, shift: int = MemoryClock.shift) -> None:
    """The netlist of a board's test in `folder`; shift: as of MemoryClock."""
    if board.name not in PARTS:
        raise BuildError(f"no SDRAM of {board.name} is known: choose from {', '.join(PARTS)}")
    platform = board.platform()
    family = family_of(platform)
    clock = MemoryClock(input_hz=int(platform.default_clk_frequency), shift=shift)
    files = platform.prepare(MemoryTest(part=PARTS[board.name], clock=clock), TOP, emit_src=False).files
    folder.mkdir(parents=True, exist_ok=True)
    for name in (f"{TOP}.il", f"{TOP}.{family.constraints}"):
        content = files[name]
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / f"{TOP}.ys").write_text(f"read_rtlil {TOP}.il\n{family.synthesis} -top {TOP} -json {TOP}.json\n")
    tools.run("yosys", [f"{TOP}.ys"], folder=folder, log=folder / "yosys.log")
    family.improve(folder / f"{TOP}.json")


def place_and_route(board: Board, folder: Path, seed: int) -> dict[str, Any]:
    """What nextpnr reaches with a seed: clocks, slowest paths and cells."""
    platform = board.platform()
    family = family_of(platform)
    place = family.place_and_route(platform)
    options = ("--json", f"{TOP}.json", "--report", NEXTPNR_REPORT, "--seed", str(seed), "--timing-allow-fail")
    place = replace(place, arguments=(*options, *place.arguments))
    tools.run(place.program, place.arguments, folder=folder, log=folder / f"nextpnr-{seed}.log")
    resources, clocks, slowest = read_nextpnr((folder / NEXTPNR_REPORT).read_text(), family.cells)
    return {
        "board": board.name,
        "part": board.part,
        "seed": seed,
        "clocks": {name: {**asdict(value), "met": value.met} for name, value in clocks.items()},
        "slowest": {name: asdict(value) for name, value in slowest.items()},
        "resources": {name: str(value) for name, value in resources.items()},
    }


def main(arguments: Sequence[str]) -> None:
    """Synthesise, try the seeds, and pack the best."""
    parser = argparse.ArgumentParser(prog="python -m ternlight_boards.memory_test")
    parser.add_argument("board", choices=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--shift", type=int, default=MemoryClock.shift, help="of the memory's clock (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("build/memory-test"))
    args = parser.parse_args(arguments)
    board = find_board(args.board)
    folder = args.out / board.name
    synthesise(board, folder, shift=args.shift)
    family = family_of(board.platform())
    best, configuration = 0.0, folder / f"{TOP}.config"
    for seed in args.seeds:
        report = place_and_route(board, folder, seed)
        print(json.dumps(report), flush=True)
        if all(clock["met"] for clock in report["clocks"].values()) and report["clocks"]["sdram"]["fmax_mhz"] > best:
            best = report["clocks"]["sdram"]["fmax_mhz"]
            configuration.replace(folder / "best.config")
    if not best:
        raise BuildError(f"no seed of {args.seeds} meets the clocks of {board.name}: try others")
    (folder / "best.config").replace(configuration)
    pack = family.pack(board.platform())
    tools.run(pack.program, pack.arguments, folder=folder, log=folder / "pack.log")


if __name__ == "__main__":
    main(sys.argv[1:])
