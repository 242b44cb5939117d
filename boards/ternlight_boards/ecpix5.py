"""ECPIX-5 with the LFE5UM5G-85F."""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from .board import Board
from .ulx3s import LARGE

BOARDS = (
    Board(
        name="ecpix5-85f",
        title="ECPIX-5 85F",
        platform=ECPIX585Platform,
        # The same chip as on the ULX3S, of the fastest speed grade.
        geometry=LARGE,
        led=("rgb_led", 0, "g"),
        loader="ecpix5",
    ),
)
