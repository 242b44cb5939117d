"""What a build measured: read from nextpnr, kept as JSON beside the documents, and shown there as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ternlight.errors import BuildError, FitError
from ternlight.geometry import Geometry

MHZ = 1e6


@dataclass(frozen=True, kw_only=True)
class Use:
    """How much of a resource a design takes; LUT4 includes what carries and, on the ECP5, distributed RAM take."""

    used: int
    available: int

    def __str__(self) -> str:
        return f"{self.used:,} ({self.used / self.available:.0%})"


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A clock domain: what was asked of place and route, and what the routed design reaches."""

    wanted_mhz: float
    fmax_mhz: float

    @property
    def met(self) -> bool:
        """Whether the design runs at the wanted clock."""
        return self.fmax_mhz >= self.wanted_mhz


@dataclass(frozen=True, kw_only=True)
class SlowestPath:
    """The slowest path inside a clock domain, from register to register."""

    start: str
    end: str
    logic_ns: float
    routing_ns: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """One build of one board.

    build_id: of the gateware, as the device tells it. digest: of everything that the build depends on; equal digests
    mean equal reports.
    """

    board: str
    title: str
    part: str
    geometry: Geometry
    baud: int
    seed: int
    build_id: str
    digest: str
    resources: Mapping[str, Use]
    clocks: Mapping[str, Clock]
    slowest: Mapping[str, SlowestPath]
    tools: Mapping[str, str]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what save() wrote; raises BuildError for anything else, such as what another version wrote."""
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            values["geometry"] = Geometry(**values["geometry"])
            for name, kind in (("resources", Use), ("clocks", Clock), ("slowest", SlowestPath)):
                values[name] = {key: kind(**fields) for key, fields in values[name].items()}
            return cls(**values)
        except (OSError, ValueError, TypeError, KeyError, FitError) as error:
            raise BuildError(f"{path} is not a report of this version: build the board anew") from error

    @property
    def meets_timing(self) -> bool:
        """Whether every clock is met."""
        return all(clock.met for clock in self.clocks.values())

    def check_timing(self) -> None:
        """Raise BuildError if a clock is not met."""
        for domain, clock in self.clocks.items():
            if not clock.met:
                path = self.slowest.get(domain)
                where = f"; the slowest path is from {path.start} to {path.end}" if path else ""
                raise BuildError(
                    f"{self.board} misses its clock: domain {domain} reaches {clock.fmax_mhz:.2f} MHz of "
                    f"{clock.wanted_mhz:g} MHz with seed {self.seed}{where}. Try other seeds, or lower clock_hz"
                )


def read_nextpnr(
    text: str, cells: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, Use], dict[str, Clock], dict[str, SlowestPath]]:
    """Resources, clocks and slowest paths of nextpnr's JSON report.

    cells: as of families.Family.
    """
    values = json.loads(text)
    resources = {}
    for resource, types in cells.items():
        missing = [kind for kind in types if kind not in values["utilization"]]
        if missing:
            raise BuildError(f"nextpnr reports no {' and no '.join(missing)}: the family's table of cells is wrong")
        uses = [values["utilization"][kind] for kind in types]
        resources[resource] = Use(used=sum(use["used"] for use in uses), available=uses[0]["available"])
    clocks = {
        _domain(net): Clock(wanted_mhz=round(clock["constraint"], 3), fmax_mhz=round(clock["achieved"], 2))
        for net, clock in values["fmax"].items()
    }
    slowest = {}
    for path in values["critical_paths"]:
        start, end = (path[side].removeprefix("posedge ") for side in ("from", "to"))
        if start == end and _domain(start) in clocks:
            steps = path["path"]
            slowest[_domain(start)] = SlowestPath(
                start=_register(steps[0]["from"]["cell"]),
                end=_register(steps[-1]["to"]["cell"]),
                logic_ns=_delay(steps, ("logic", "clk-to-q", "setup", "source")),
                routing_ns=_delay(steps, ("routing",)),
            )
    return resources, clocks, slowest


def _domain(net: str) -> str:
    """Amaranth's domain of a clock net: `clk` is sync's, `NAME_clk` NAME's."""
    name = net.removeprefix("$glbnet$").rpartition(".")[2]
    return "sync" if name == "clk" else name.removesuffix("_clk")


def _register(cell: str) -> str:
    """The signal of a register's cell, without what the tools append."""
    name = cell.partition("_TRELLIS_FF_")[0].partition("_DFF")[0]
    return name.partition("$")[0] or cell


def _delay(steps: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> float:
    total: float = sum(step["delay"] for step in steps if step["type"] in kinds)
    return round(total, 2)


PAGE = """\
# Boards

What `ternlight build BOARD` makes, measured: every row is a bitstream that was placed and routed with the tools named
below, and met its clock. The page is made from the reports in [reports/boards](reports/boards), and `make reports`
builds both anew.{unmeasured}

{table}

LUT4 includes what carries and, on the ECP5, distributed RAM take. Fmax is nextpnr's for the slowest corner it knows.

| board | slowest path | logic | routing |
|---|---|---|---|
{paths}

Tools: {tools}.
"""
COLUMNS = ("board", "part", "lanes", "V", "clock", "Fmax", "LUT4", "FF", "block RAM", "DSP", "seed", "build")


def page(reports: Sequence[Report], boards: Iterable[str]) -> str:
    """docs/boards.md, from the reports and the names of all boards."""
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    paths = []
    for report in reports:
        clock = report.clocks["sync"]
        rows.append(
            (
                f"{report.title} (`{report.board}`)",
                report.part,
                f"{report.geometry.lanes}",
                f"{report.geometry.vector}",
                f"{clock.wanted_mhz:g} MHz",
                f"{clock.fmax_mhz:.2f} MHz",
                *(str(report.resources[name]) for name in ("lut4", "ff", "block_ram", "dsp")),
                f"{report.seed}",
                f"{report.build_id}",
            )
        )
        path = report.slowest["sync"]
        paths.append(
            f"| `{report.board}` | `{path.start}` to `{path.end}` | {path.logic_ns} ns | {path.routing_ns} ns |"
        )
    tools = sorted({f"{name} {version}" for report in reports for name, version in report.tools.items()})
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    missing = sorted(set(boards) - {report.board for report in reports})
    names = ", ".join(f"`{name}`" for name in missing)
    return PAGE.format(
        unmeasured=f" Not measured yet: {names}." if missing else "",
        table=table,
        paths="\n".join(paths),
        tools=", ".join(tools),
    )


def load_reports(folder: Path) -> list[Report]:
    """All reports of a folder, by name."""
    return [Report.load(path) for path in sorted(folder.glob("*.json"))]


if __name__ == "__main__":
    from .board import all_boards

    sys.stdout.write(page(load_reports(Path(sys.argv[1])), all_boards()))
