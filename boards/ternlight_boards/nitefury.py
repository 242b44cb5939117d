"""NiteFury II, an M.2 board with an Artix-7 200T on PCIe."""

from __future__ import annotations

from dataclasses import replace

from amaranth.build import Attrs, DiffPairs, PinsN, Resource, Subsignal
from amaranth_boards.nitefury import NitefuryIIPlatform

from .series7 import CLOCK_HZ
from .ulx3s import SMALL


class NitefuryPlatform(NitefuryIIPlatform):
    """The board with the first lane of its PCIe, and with the link's reset as the input that it is on a card."""

    resources = [  # noqa: RUF012 - as Amaranth's platforms have it
        *(resource for resource in NitefuryIIPlatform.resources if resource.name != "pcie"),
        Resource(
            "pcie",
            0,
            Subsignal("rst", PinsN("J1", dir="i"), Attrs(IOSTANDARD="LVCMOS33", PULLUP="TRUE")),
            Subsignal("clk", DiffPairs(p="F6", n="E6", dir="i")),
            Subsignal("rx", DiffPairs(p="B10", n="A10", dir="i")),
            Subsignal("tx", DiffPairs(p="B6", n="A6", dir="o")),
        ),
    ]


GEOMETRY = replace(
    SMALL,
    inputs=16,
    rows=32,
    vector=8,
    store_words=4096,
    residual_words=32,
    gated_words=64,
    state_words=1024,
    program_words=512,
    activations=384,
    accumulator=18,
    contexts=2,
    slots=4,
    prompt=256,
    ring=256,
    top_k=64,
    clock_hz=CLOCK_HZ,
)
"""512 lanes: small for this part, since nothing has been placed on it yet."""
