"""Layouts of the payloads that pass between units, built from the formats in ternlight."""

from __future__ import annotations

from amaranth import signed, unsigned
from amaranth.lib import data

from ternlight.formats import ACTIVATION_BITS, ELEMENT_BITS
from ternlight.geometry import Geometry
from ternlight.isa import SIGNED_FIELDS, EngineOp, ScalarOp, VectorOp
from ternlight.ufloat import EXPONENT_BITS, MANTISSA_BITS

UFLOAT = data.StructLayout({"mantissa": unsigned(MANTISSA_BITS), "exponent": signed(EXPONENT_BITS)})
"""A scalar: mantissa * 2**exponent (ternlight.ufloat)."""

WRITEBACK = data.StructLayout({"target": 4, "value": UFLOAT})
"""A value on its way to a scalar register."""


def fields_layout(fields: dict[str, int]) -> data.StructLayout:
    """The layout of an instruction (or of another list of named bit fields)."""
    return data.StructLayout(
        {name: signed(bits) if name in SIGNED_FIELDS else unsigned(bits) for name, bits in fields.items()}
    )


def engine_command() -> data.StructLayout:
    """One engine instruction; for EMBED the address is that of the token's own row."""
    return data.StructLayout({"op": EngineOp, "buffer": 1, "chunks": 10, "groups": 14, "beats": 14, "address": 24})


def vector_command() -> data.StructLayout:
    """One vector instruction with its scalar operand; `state` is absolute, `fresh`: STATE finds zeros."""
    return data.StructLayout(
        {
            "op": VectorOp,
            "fence": 1,
            "buffer": 1,
            "beats": 11,
            "source": 12,
            "target": 12,
            "gain": 14,
            "state": 16,
            "fresh": 1,
            "scale": UFLOAT,
            "peak": 4,
            "energy": 4,
            "power": 4,
            "shift": 6,
            "fraction": 5,
        }
    )


def scalar_command() -> data.StructLayout:
    """One scalar instruction with its operands."""
    return data.StructLayout({"op": ScalarOp, "target": 4, "a": UFLOAT, "b": UFLOAT})


def sample_command() -> data.StructLayout:
    """SAMPLE with the session's parameters; top_k = 1 is greedy, 0 keeps the whole vocabulary."""
    return data.StructLayout(
        {
            "beats": 14,
            "vocabulary": 17,
            "scale": UFLOAT,
            "top_k": 16,
            "seed": 32,
            "position": 32,
        }
    )


def result_beat(geometry: Geometry) -> data.ArrayLayout:
    """V accumulators of a product (or V embedding bytes, sign-extended)."""
    return data.ArrayLayout(signed(geometry.accumulator), geometry.vector)


def element_beat(geometry: Geometry) -> data.ArrayLayout:
    """V elements of the vector memory."""
    return data.ArrayLayout(signed(ELEMENT_BITS), geometry.vector)


def activation_beat(geometry: Geometry) -> data.StructLayout:
    """V quantised activations for one of the two activation buffers."""
    return data.StructLayout({"buffer": 1, "values": data.ArrayLayout(signed(ACTIVATION_BITS), geometry.vector)})
