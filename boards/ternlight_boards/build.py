"""From a board to its bitstream: Amaranth, Yosys, nextpnr and the packer, with progress and a report.

Amaranth's own build script runs the same programs, but silently, one after the other and to the end: here each step
tells how far it is, the seed is an argument, and a bitstream that misses its clock is not written. Its platforms still
say what is where: they check the pins, and write the design and the constraints.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import amaranth

from ternlight.errors import BuildError
from ternlight_sim.simulated_device import gateware_digest

from . import tools
from .board import Board
from .device import BoardDevice
from .families import TOP, Family, Step, family_of
from .report import Report, read_nextpnr

REPORT = "report.json"
NEXTPNR_REPORT = "nextpnr.json"
BUILD_ID_DIGITS = 8
DIGEST_DIGITS = 16

Status = Callable[[str], None]
"""Called with a phrase for each step; what follows a comma in it tells its progress."""


@dataclass(frozen=True, kw_only=True)
class Build:
    """A bitstream and what was measured on the way."""

    bitstream: Path
    report: Report


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Everything that a build depends on."""

    board: Board
    seed: int
    family: Family
    build_id: str
    files: Mapping[str, bytes]
    place: Step
    pack: Step
    tools: Mapping[str, str]

    @property
    def bitstream(self) -> str:
        return f"{TOP}.{self.family.bitstream}"

    @property
    def digest(self) -> str:
        """Equal for builds that give the same."""
        recipe = (sorted(self.files.items()), self.place, self.pack, sorted(self.tools.items()))
        return hashlib.sha256(repr(recipe).encode()).hexdigest()[:DIGEST_DIGITS]


def build_board(board: Board, folder: Path, *, seed: int | None = None, status: Status = lambda _: None) -> Build:
    """Make a board's bitstream in `folder`, with the netlist, the logs and the report beside it.

    The steps run in a folder beside it, which takes its place at the end. It stays after a failure, for its logs, and
    is removed by an interrupt. Nothing is done if `folder` holds what these sources and tools give.

    seed: of place and route; by default the board's.
    Raises BuildError: for a tool that is missing or fails, and, after the report is written, for a missed clock.
    """
    status("generating the design")
    plan = _plan(board, board.seed if seed is None else seed)
    report = _finished(plan, folder)
    if report is None:
        work = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            report = _execute(plan, work, status)
        except KeyboardInterrupt:
            shutil.rmtree(work)
            raise
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    report.check_timing()
    return Build(bitstream=folder / plan.bitstream, report=report)


def _plan(board: Board, seed: int) -> _Plan:
    platform = board.platform()
    family = family_of(platform)
    pll = family.pll.solve(int(platform.default_clk_frequency), board.geometry.clock_hz)
    place = family.place_and_route(platform)
    pack = family.pack(platform)
    for name in ("yosys", place.program, pack.program):
        tools.program(name)  # rather now than after the long steps before it
    build_id = gateware_digest(board.geometry, board.divisor)[:BUILD_ID_DIGITS]
    # Without the places in our sources: the same design gives the same files wherever it is built.
    products = platform.prepare(
        BoardDevice(board=board, pll=pll, build_id=int(build_id, 16)), TOP, emit_src=False
    ).files
    synthesis = f"{family.synthesis} -nodsp" if board.scarce_dsp else family.synthesis
    files = {
        f"{TOP}.il": products[f"{TOP}.il"],
        f"{TOP}.{family.constraints}": products[f"{TOP}.{family.constraints}"],
        f"{TOP}.ys": f"read_rtlil {TOP}.il\n{synthesis} -top {TOP} -json {TOP}.json\n",
    }
    options = (
        *("--json", f"{TOP}.json", "--report", NEXTPNR_REPORT, "--seed", str(seed)),
        *("--freq", f"{board.geometry.clock_hz / 1e6:g}"),
        "--timing-allow-fail",  # the report is judged instead
    )
    return _Plan(
        board=board,
        seed=seed,
        family=family,
        build_id=build_id,
        files={name: text.encode() if isinstance(text, str) else text for name, text in files.items()},
        place=replace(place, arguments=(*options, *place.arguments)),
        pack=pack,
        tools={
            "amaranth": amaranth.__version__,
            **{package: tools.version(package) for package in ("pyosys", *family.packages)},
        },
    )


def _finished(plan: _Plan, folder: Path) -> Report | None:
    """The report of an earlier build that gave the same."""
    try:
        report = Report.load(folder / REPORT)
    except BuildError:
        return None
    complete = (folder / plan.bitstream).exists() or not report.meets_timing
    return report if report.digest == plan.digest and complete else None


def _execute(plan: _Plan, work: Path, status: Status) -> Report:
    for name, content in plan.files.items():
        (work / name).write_bytes(content)
    tools.run("yosys", [f"{TOP}.ys"], folder=work, log=work / "yosys.log", each_line=_told(_synthesis_phrase, status))
    plan.family.improve(work / f"{TOP}.json")
    tools.run(
        plan.place.program,
        plan.place.arguments,
        folder=work,
        log=work / "nextpnr.log",
        each_line=_told(_placement_phrase, status),
    )
    resources, clocks, slowest = read_nextpnr((work / NEXTPNR_REPORT).read_text(), plan.family.cells)
    wanted_mhz = plan.board.geometry.clock_hz / 1e6
    if "sync" not in clocks or any(abs(clock.wanted_mhz / wanted_mhz - 1) > 1e-3 for clock in clocks.values()):
        raise BuildError(f"place and route was to meet {wanted_mhz:g} MHz, and took {clocks} for its clocks")
    # nextpnr's is rounded to picoseconds.
    clocks = {domain: replace(clock, wanted_mhz=wanted_mhz) for domain, clock in clocks.items()}
    report = Report(
        board=plan.board.name,
        title=plan.board.title,
        part=plan.board.part,
        geometry=plan.board.geometry,
        baud=plan.board.baud,
        seed=plan.seed,
        build_id=plan.build_id,
        digest=plan.digest,
        resources=resources,
        clocks=clocks,
        slowest=slowest,
        tools=plan.tools,
    )
    report.save(work / REPORT)
    if report.meets_timing:
        status("writing the bitstream")
        tools.run(plan.pack.program, plan.pack.arguments, folder=work, log=work / "pack.log")
    return report


def _told(phrases: Callable[[str], Iterator[str]], status: Status) -> Callable[[str], None]:
    """A reader of a program's lines that passes each new phrase on."""
    last = ""

    def each_line(line: str) -> None:
        nonlocal last
        for phrase in phrases(line):
            if phrase != last:
                status(phrase)
            last = phrase

    return each_line


def _synthesis_phrase(line: str) -> Iterator[str]:
    """Yosys numbers its passes: those of synthesis are 2.1, 2.2 and so on, inside the second command."""
    if found := re.match(r"2\.(\d+)\. Executing (\w+) pass", line):
        yield f"synthesising, pass {found[1]} ({found[2].lower()})"


def _placement_phrase(line: str) -> Iterator[str]:
    if line.startswith("Info: Packing"):
        yield "packing"
    elif found := re.match(r"Info:\s+at iteration #(\d+), type", line):
        yield f"placing, iteration {found[1]}"
    elif found := re.match(r"Info:\s+at iteration #(\d+): temp", line):
        yield f"refining the placement, iteration {found[1]}"
    elif found := re.match(r"Info:\s+\d+ \|.*\|\s*(\d+)\|", line):
        yield f"routing, {int(found[1]):,} connections left"
