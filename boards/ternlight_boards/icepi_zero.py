"""Icepi Zero, an LFE5U-25F in the shape of a Raspberry Pi Zero."""

from __future__ import annotations

from amaranth_boards.icepi_zero import IcepiZero1_3Platform

from .board import Board
from .ulx3s import SMALL

BOARDS = (
    Board(
        name="icepi-zero",
        title="Icepi Zero",
        platform=IcepiZero1_3Platform,
        geometry=SMALL,
        loader="icepi-zero",
        scarce_dsp=True,
    ),
)
