"""`ternlight flash`: a bitstream into a board, by openFPGALoader."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .board import PRODUCTS, build_tools


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "flash",
        help="load a bitstream into a board",
        description="Load the bitstream that `ternlight build BOARD` made, until the power goes, or for good. "
        "Exit code 10 without bitstream or openFPGALoader, 6 without board.",
    )
    parser.add_argument("board", metavar="BOARD", help="a name from `ternlight build --list`")
    parser.add_argument("--bitstream", type=Path, metavar="FILE", help="(default: build/BOARD's)")
    parser.add_argument("--permanent", action="store_true", help="into the board's flash memory")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load."""
    with build_tools():
        from ternlight_boards.board import find_board
        from ternlight_boards.loader import default_bitstream, load_bitstream

        board = find_board(args.board)
    bitstream = args.bitstream or default_bitstream(board, PRODUCTS / board.name)
    from .progress import steps

    with steps() as shown:
        shown.status("loading the bitstream")
        load_bitstream(board, bitstream, permanent=args.permanent)
    print(f"{board.title} runs {bitstream}: use it with --device and its serial port")
    return 0
