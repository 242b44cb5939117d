"""`ternlight build`: the bitstream of a board, with the open tools that pip installs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .board import PRODUCTS, build_tools

if TYPE_CHECKING:
    from ternlight_boards.board import Board
    from ternlight_boards.report import Report


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "build",
        help="make the bitstream of a board",
        description="Synthesise, place and route the device for a board, and write its bitstream and a report. "
        "Exit code 10 if a tool is missing or fails, or if the clock is not met.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("board", nargs="?", metavar="BOARD", help="a name from --list")
    what.add_argument("--all", action="store_true", help="every board, one after the other")
    what.add_argument("--list", action="store_true", help="list the boards and their devices")
    parser.add_argument("--seed", type=int, help="of place and route (default: the board's)")
    parser.add_argument(
        "--out", type=Path, default=PRODUCTS, metavar="DIR", help="products go to DIR/BOARD (default: %(default)s)"
    )
    parser.add_argument("--report-dir", type=Path, metavar="DIR", help="keep the report as DIR/BOARD.json too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Build or list."""
    with build_tools():
        from ternlight_boards.board import all_boards, find_board
        from ternlight_boards.build import build_board

        boards = list(all_boards().values()) if args.board is None else [find_board(args.board)]
    from .progress import steps

    if args.list:
        for board in boards:
            print(_line(board))
        return 0
    for board in boards:
        with steps() as shown:
            build = build_board(board, args.out / board.name, seed=args.seed, status=shown.status)
        if args.report_dir is not None:
            build.report.save(args.report_dir / f"{board.name}.json")
        print(_summary(build.report))
        print(f"{board.name}: {build.bitstream}", flush=True)
    return 0


def _line(board: Board) -> str:
    geometry = board.geometry
    return (
        f"{board.name:15} {board.title}: {board.part}, {geometry.lanes} lanes, "
        f"{geometry.clock_hz / 1e6:g} MHz, {board.baud:,} baud"
    )


def _summary(report: Report) -> str:
    clock = report.clocks["sync"]
    resources = ", ".join(f"{name.replace('_', ' ')} {use}" for name, use in report.resources.items())
    return f"{report.board}: {clock.fmax_mhz:.2f} MHz of {clock.wanted_mhz:g} MHz wanted; {resources}"
