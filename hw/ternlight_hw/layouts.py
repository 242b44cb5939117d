"""Layouts of the payloads that pass between units, built from the formats in ternlight."""

from __future__ import annotations

from typing import Any

from amaranth import signed, unsigned
from amaranth.lib import data

from ternlight.abi import TOKEN_BITS
from ternlight.formats import ACTIVATION_BITS, ELEMENT_BITS
from ternlight.geometry import CONTEXTS_MAX, Geometry
from ternlight.isa import (
    CONTROL_FIELDS,
    ENGINE_FIELDS,
    GATE_FIELDS,
    NORM_FIELDS,
    SCALAR_FIELDS,
    SIGNED_FIELDS,
    EngineOp,
    GateOp,
    NormOp,
    ScalarOp,
)
from ternlight.ufloat import EXPONENT_BITS, MANTISSA_BITS

UFLOAT = data.StructLayout({"mantissa": unsigned(MANTISSA_BITS), "exponent": signed(EXPONENT_BITS)})
"""A scalar: mantissa * 2**exponent (ternlight.ufloat)."""

CONTEXT_BITS = (CONTEXTS_MAX - 1).bit_length()
REGISTER = data.StructLayout({"number": SCALAR_FIELDS["target"], "context": CONTEXT_BITS})
"""A scalar register of a context."""

WRITEBACK = data.StructLayout({"target": REGISTER, "value": UFLOAT})
"""A value on its way to a scalar register."""

STATE_ADDRESS_BITS = GATE_FIELDS["state"]
"""A word of the state memory, counted over all sessions."""

BUFFER_BITS = CONTEXT_BITS + NORM_FIELDS["buffer"]
"""An activation buffer of a context: buffer + 2 * context."""


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
    """One engine instruction; `buffer` counts over all contexts.

    EMBED: `address` is the first word of the token's row, and `cell` its place in the words.
    """
    return _command(EngineOp, ENGINE_FIELDS, buffer=BUFFER_BITS, cell=TOKEN_BITS)


def norm_command() -> data.StructLayout:
    """One instruction of the norm unit with its scalar operand; `buffer` counts over all contexts."""
    return _command(NormOp, NORM_FIELDS, buffer=BUFFER_BITS, scale=UFLOAT, context=CONTEXT_BITS)


def gate_command() -> data.StructLayout:
    """One instruction of the gate unit with its scalar operand; `state` is absolute, `fresh`: STATE finds zeros."""
    return _command(GateOp, GATE_FIELDS, state=STATE_ADDRESS_BITS, scale=UFLOAT, context=CONTEXT_BITS, fresh=1)


def scalar_command() -> data.StructLayout:
    """One scalar instruction with its operands."""
    return data.StructLayout({"op": ScalarOp, "target": REGISTER, "a": UFLOAT, "b": UFLOAT})


def sample_command() -> data.StructLayout:
    """SAMPLE with the session's parameters; top_k = 1 is greedy, 0 keeps the whole vocabulary."""
    operands = {name: CONTROL_FIELDS[name] for name in ("beats", "vocabulary")}
    return data.StructLayout(operands | {"scale": UFLOAT, "top_k": 16, "seed": 32, "position": 32})


def result_beat(geometry: Geometry) -> data.ArrayLayout:
    """V accumulators of a product, or V embedding values of ACTIVATION_BITS, sign-extended."""
    return data.ArrayLayout(signed(geometry.accumulator), geometry.vector)


def result_layout(geometry: Geometry) -> data.StructLayout:
    """A result beat of the engine; `last`: of its command."""
    return data.StructLayout({"values": result_beat(geometry), "last": 1})


def element_beat(geometry: Geometry) -> data.ArrayLayout:
    """V elements of a vector memory."""
    return data.ArrayLayout(signed(ELEMENT_BITS), geometry.vector)


def activation_beat(geometry: Geometry) -> data.StructLayout:
    """V quantised activations for an activation buffer."""
    return data.StructLayout(
        {"buffer": BUFFER_BITS, "values": data.ArrayLayout(signed(ACTIVATION_BITS), geometry.vector)}
    )
