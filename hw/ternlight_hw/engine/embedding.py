"""Result beats of embeddings."""

from __future__ import annotations

from amaranth import Cat, Const, Mux, Signal

from ternlight.formats import ACTIVATION_BITS, EMBEDDING_SCALE_BITS
from ternlight.geometry import Geometry

from ..layouts import result_beat


def embedding_beat(m, bits, header, geometry: Geometry):
    """The result beat of a cell: its values, or, as element 0, the scale above them."""
    width = geometry.embedding_bits
    beat = Signal(result_beat(geometry))
    for index, element in enumerate(beat):
        value = Cat(Const(0, ACTIVATION_BITS - width), bits[index * width :][:width]).as_signed()
        scale = bits[-EMBEDDING_SCALE_BITS:] if index == 0 else 0
        m.d.comb += element.eq(Mux(header, scale, value))
    return beat.as_value()
