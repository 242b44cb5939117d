"""Layouts of the payloads that pass between units, built from the formats in ternlight."""

from __future__ import annotations

from typing import Any

from amaranth import signed, unsigned
from amaranth.lib import data

from ternlight.formats import ACTIVATION_BITS, ELEMENT_BITS
from ternlight.geometry import Geometry
from ternlight.isa import (
    CONTROL_FIELDS,
    ENGINE_FIELDS,
    SCALAR_FIELDS,
    SIGNED_FIELDS,
    VECTOR_FIELDS,
    EngineOp,
    ScalarOp,
    VectorOp,
)
from ternlight.ufloat import EXPONENT_BITS, MANTISSA_BITS

UFLOAT = data.StructLayout({"mantissa": unsigned(MANTISSA_BITS), "exponent": signed(EXPONENT_BITS)})
"""A scalar: mantissa * 2**exponent (ternlight.ufloat)."""

REGISTER_BITS = SCALAR_FIELDS["target"]

WRITEBACK = data.StructLayout({"target": REGISTER_BITS, "value": UFLOAT})
"""A value on its way to a scalar register."""

STATE_ADDRESS_BITS = 16
"""A word of the state memory, counted over all sessions."""


def fields_layout(fields: dict[str, int]) -> data.StructLayout:
    """The layout of an instruction (or of another list of named bit fields)."""
    return data.StructLayout(
        {name: signed(bits) if name in SIGNED_FIELDS else unsigned(bits) for name, bits in fields.items()}
    )


def _command(op: Any, fields: dict[str, int], **others: Any) -> data.StructLayout:
    """A decoded instruction: its fields without the unit; `others` take the place of its fields, or follow them."""
    plain = {name: unsigned(bits) for name, bits in fields.items() if name != "unit"}
    return data.StructLayout(plain | {"op": op} | others)


def engine_command() -> data.StructLayout:
    """One engine instruction; for EMBED the address is that of the token's own row."""
    return _command(EngineOp, ENGINE_FIELDS)


def vector_command() -> data.StructLayout:
    """One vector instruction with its scalar operand; `state` is absolute, `fresh`: STATE finds zeros."""
    return _command(VectorOp, VECTOR_FIELDS, state=STATE_ADDRESS_BITS, scale=UFLOAT, fresh=1)


def scalar_command() -> data.StructLayout:
    """One scalar instruction with its operands."""
    return data.StructLayout({"op": ScalarOp, "target": REGISTER_BITS, "a": UFLOAT, "b": UFLOAT})


def sample_command() -> data.StructLayout:
    """SAMPLE with the session's parameters; top_k = 1 is greedy, 0 keeps the whole vocabulary."""
    operands = {name: CONTROL_FIELDS[name] for name in ("beats", "vocabulary")}
    return data.StructLayout(operands | {"scale": UFLOAT, "top_k": 16, "seed": 32, "position": 32})


def result_beat(geometry: Geometry) -> data.ArrayLayout:
    """V accumulators of a product (or V embedding bytes, sign-extended)."""
    return data.ArrayLayout(signed(geometry.accumulator), geometry.vector)


def element_beat(geometry: Geometry) -> data.ArrayLayout:
    """V elements of the vector memory."""
    return data.ArrayLayout(signed(ELEMENT_BITS), geometry.vector)


def activation_beat(geometry: Geometry) -> data.StructLayout:
    """V quantised activations for one of the two activation buffers."""
    return data.StructLayout({"buffer": 1, "values": data.ArrayLayout(signed(ACTIVATION_BITS), geometry.vector)})
