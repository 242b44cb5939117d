"""What a board is to the build: a platform with its pins, and the device that fits it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight.link import DEFAULT_BAUD

MODULES = ("ulx3s", "icepi_zero", "tang_nano_20k", "ecpix5")
"""The board files; each has a tuple BOARDS."""

BAUD_TOLERANCE = 0.02
"""Half of what a receiver stands, for the other half is the host's."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A board and the device that its bitstream holds.

    name: on the command line and of files.
    title: for people.
    platform: Amaranth's platform class, which has the resource `uart`, the LED's and the default clock's.
    geometry: the device; its clock_hz is the clock that the PLL makes and that place and route must meet.
    loader: openFPGALoader's name of the board.
    led: where the LED is that shines while the device works: a resource's name, its number and parts of it.
    baud: bits per second of the serial line.
    seed: of place and route, one that meets the clock.
    scarce_dsp: synthesis makes multipliers of LUTs, but for those of the lanes, which are instantiated.
    """

    name: str
    title: str
    platform: type[Any]
    geometry: Geometry
    loader: str
    led: tuple[str | int, ...] = ("led", 0)
    baud: int = DEFAULT_BAUD
    seed: int = 1
    scarce_dsp: bool = False

    def __post_init__(self) -> None:
        error = abs(self.geometry.clock_hz / self.divisor / self.baud - 1)
        if error > BAUD_TOLERANCE:
            raise BuildError(
                f"a clock of {self.geometry.clock_hz / 1e6:g} MHz gives no line rate within {BAUD_TOLERANCE:.0%} of "
                f"{self.baud:,} baud: choose a rate that divides the clock"
            )

    @property
    def divisor(self) -> int:
        """Clock cycles per bit of the serial line."""
        return max(1, round(self.geometry.clock_hz / self.baud))

    @property
    def part(self) -> str:
        """The device as its maker names it."""
        part: str = getattr(self.platform, "part", None) or self.platform.device
        return part


def all_boards() -> Mapping[str, Board]:
    """Every board by its name, in the order of the board files."""
    boards = (board for module in MODULES for board in import_module(f".{module}", __package__).BOARDS)
    return {board.name: board for board in boards}


def find_board(name: str) -> Board:
    """A board by its name; raises BuildError that lists the known ones."""
    boards = all_boards()
    if name not in boards:
        raise BuildError(f"there is no board {name}: choose from {', '.join(boards)}")
    return boards[name]
