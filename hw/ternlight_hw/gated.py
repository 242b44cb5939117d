"""The port through which the gate unit fills the gated memory, which lies in the norm unit."""

from __future__ import annotations

from amaranth import signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ternlight.formats import ELEMENT_BITS
from ternlight.geometry import Geometry
from ternlight.isa import GATE_FIELDS

from .layouts import CONTEXT_BITS


class GatedPort(wiring.Signature):
    """Writes of half words, and what a reader must know to follow them.

    A word is readable once its upper half is written, or the last half of the operation: halves are written in the
    order of words, the lower half of a word first where it has both. All members are driven from registers.

    Members
    -------
    start, start_context: an operation begins that writes the gated memory of this context: from the next cycle on none
        of its words is readable.
    enable: a half is written in this cycle; it can be read in the next one. context, address, upper: where, the address
        in words of V within the context. last: of its operation. values: H elements.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(
            {
                "start": Out(1),
                "start_context": Out(CONTEXT_BITS),
                "enable": Out(1),
                "context": Out(CONTEXT_BITS),
                "address": Out(unsigned(GATE_FIELDS["target"])),
                "upper": Out(1),
                "last": Out(1),
                "values": Out(data.ArrayLayout(signed(ELEMENT_BITS), geometry.half)),
            }
        )
