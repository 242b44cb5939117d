"""Tang Nano 20K, a GW2AR-18C. The serial line goes through the BL616, which is also the programmer."""

from __future__ import annotations

from amaranth.build import Attrs, Clock, Pins, Resource
from amaranth.vendor import GowinPlatform
from amaranth_boards.resources import LEDResources, UARTResource

from ternlight.geometry import Geometry

from .board import Board


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
        geometry=Geometry(
            inputs=8,
            rows=8,
            vector=4,
            store_words=2048,
            gain_words=512,
            residual_words=32,
            gated_words=64,
            state_words=256,
            program_words=256,
            activations=128,
            accumulator=16,
            contexts=1,
            slots=2,
            prompt=64,
            ring=64,
            top_k=16,
            clock_hz=27_000_000,
        ),
        loader="tangnano20k",
    ),
)
