"""Tang Nano 20K, a GW2AR-18C. The serial line goes through the BL616, which is also the programmer."""

from __future__ import annotations

from dataclasses import replace

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, UARTResource

from .board import Board
from .ulx3s import SMALL


class TangNano20KPlatform(GowinPlatform):
    """The pins that the device uses; `chip` is the die as the open tools call it."""

    part = "GW2AR-LV18QN88C8/I7"
    family = "GW2AR-18C"
    chip = "GW2A-18C"
    default_clk = "clk27"
    resources = (
        Resource("clk27", 0, Pins("4", dir="i"), Clock(27e6), Attrs(IO_TYPE="LVCMOS33")),
        UARTResource(0, rx="70", tx="69", attrs=Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")),
        *LEDResources(pins="15 16 17 18 19 20", invert=True, attrs=Attrs(IO_TYPE="LVCMOS33")),
    )
    connectors = ()


BOARDS = (
    Board(
        name="tang-nano-20k",
        title="Tang Nano 20K",
        platform=TangNano20KPlatform,
        geometry=replace(SMALL, rows=8, store_words=2048, state_words=256, clock_hz=27_000_000),
        loader="tangnano20k",
    ),
)
