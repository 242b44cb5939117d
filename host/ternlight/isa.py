"""The instruction set: opcodes and the fields of a 96-bit instruction, for compiler, golden model and gateware.

A program is the list of instructions of one token, executed in order; the model's shape is in it, so that one
bitstream runs every model. A field list gives (name, bits) from bit 0 up; every instruction begins with its unit.

Scalar registers hold ufloat values (see ternlight_sim.golden.scalar). An instruction waits until the registers that
it reads, and those that it will write, are valid; it invalidates those it writes until the value arrives.
Two activation buffers join vector unit and engine: QUANT waits until its buffer is free and claims it; MATVEC
consumes its chunks as they arrive and frees it. Vector operations pass through one pipe in order;
`fence` makes an operation wait until the pipe is empty (its source was written by an operation that may be in flight).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

INSTRUCTION_BITS = 96
INSTRUCTION_COLUMNS = INSTRUCTION_BITS // 32
SCALAR_REGISTERS = 16
TEMPERATURE_REGISTER = 15
"""Holds the session's inverse temperature when a token starts."""


class Unit(IntEnum):
    """The unit that executes an instruction."""

    CONTROL = 0
    VECTOR = 1
    SCALAR = 2
    ENGINE = 3


class ControlOp(IntEnum):
    """END: the token is done. HEAD: a prefill token ends here. SAMPLE: choose the next token from the logits."""

    END = 0
    HEAD = 1
    SAMPLE = 2


class VectorOp(IntEnum):
    """Operations of the vector unit; ternlight_sim.golden.vector defines each bit of them."""

    EMBED = 0
    STAT = 1
    GAIN = 2
    QUANT = 3
    FORGET = 4
    STATE = 5
    GATE = 6
    MLP = 7
    RESID = 8


class ScalarOp(IntEnum):
    """Operations of the scalar unit; ternlight_sim.golden.scalar defines each bit of them."""

    ADD = 0
    MUL = 1
    RECIP = 2
    RSQRT = 3
    QSCALE = 4
    LOWER = 5


class EngineOp(IntEnum):
    """MATVEC: a ternary product. EMBED: read the token's embedding row from the weight store."""

    MATVEC = 0
    EMBED = 1


UNIT_FIELD = {"unit": 2}

VECTOR_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 4,
    "fence": 1,
    "buffer": 1,
    "beats": 11,  # input beats of V elements (MLP consumes two per output; EMBED has one header beat)
    "source": 12,  # vector memory, words of V
    "target": 12,
    "gain": 14,  # gain memory, words of V
    "state": 12,  # state memory, words of V within the slot's state
    "scale": 4,  # scalar register read
    "peak": 4,  # scalar registers written
    "energy": 4,
    "power": 4,
    "shift": 6,
    "fraction": 5,
}

SCALAR_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 4,
    "target": 4,
    "a": 4,
    "b": 4,
    "immediate": 1,  # operand b is the constant below instead of a register
    "mantissa": 15,
    "exponent": 10,  # signed
}

ENGINE_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 1,
    "buffer": 1,
    "chunks": 10,  # MATVEC: chunks of activations; EMBED: store words of one row
    "groups": 14,  # MATVEC: row groups
    "beats": 14,  # result beats of V elements
    "address": 24,  # first store word; EMBED: of token 0's row
}

CONTROL_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 2,
    "beats": 14,  # SAMPLE: result beats
    "vocabulary": 17,  # SAMPLE: tokens; ids from here up are padding
    "scale": 4,  # SAMPLE: scalar register with the logits' scale over the temperature
}

FIELDS: dict[Unit, dict[str, int]] = {
    Unit.CONTROL: CONTROL_FIELDS,
    Unit.VECTOR: VECTOR_FIELDS,
    Unit.SCALAR: SCALAR_FIELDS,
    Unit.ENGINE: ENGINE_FIELDS,
}
OPS: dict[Unit, type[IntEnum]] = {
    Unit.CONTROL: ControlOp,
    Unit.VECTOR: VectorOp,
    Unit.SCALAR: ScalarOp,
    Unit.ENGINE: EngineOp,
}
SIGNED_FIELDS = {"exponent"}

READS_SCALE = {
    VectorOp.STAT,
    VectorOp.GAIN,
    VectorOp.QUANT,
    VectorOp.FORGET,
    VectorOp.STATE,
    VectorOp.MLP,
    VectorOp.RESID,
}
"""Vector operations that read the scalar register `scale`."""
WRITES_PEAK = {VectorOp.EMBED, VectorOp.GAIN, VectorOp.GATE, VectorOp.MLP, VectorOp.RESID}
WRITES_ENERGY = {VectorOp.STAT, VectorOp.MLP}
WRITES_POWER = {VectorOp.STAT, VectorOp.GATE}
READS_RESULTS = {VectorOp.EMBED, VectorOp.FORGET, VectorOp.STATE, VectorOp.GATE, VectorOp.MLP, VectorOp.RESID}
"""Vector operations that consume `beats` beats of the engine's result stream."""
READS_B = {ScalarOp.ADD, ScalarOp.MUL, ScalarOp.LOWER}
"""Scalar operations with a second operand."""


def instruction(unit: Unit, op: IntEnum, **values: int) -> dict[str, Any]:
    """An instruction as a dictionary of all its fields; raises ValueError for a value that does not fit."""
    fields = FIELDS[unit]
    filled: dict[str, Any] = {"unit": unit, "op": op} | {
        name: values.pop(name, 0) for name in fields if name not in ("unit", "op")
    }
    if values:
        raise ValueError(f"{unit.name} has no fields {sorted(values)}")
    for name, bits in fields.items():
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if name in SIGNED_FIELDS else (0, (1 << bits) - 1)
        if not low <= filled[name] <= high:
            raise ValueError(f"{unit.name} {op.name}: {name} must be from {low} to {high}, not {filled[name]}")
    return filled


def encode(fields: dict[str, Any]) -> int:
    """The 96-bit word of an instruction."""
    word = position = 0
    for name, bits in FIELDS[Unit(fields["unit"])].items():
        word |= (int(fields[name]) & (1 << bits) - 1) << position
        position += bits
    return word


def decode(word: int) -> dict[str, Any]:
    """The fields of a 96-bit word; raises ValueError for an unknown operation."""
    unit = Unit(word & 3)
    fields: dict[str, Any] = {}
    for name, bits in FIELDS[unit].items():
        value = word & (1 << bits) - 1
        if name in SIGNED_FIELDS and value >> bits - 1:
            value -= 1 << bits
        fields[name] = value
        word >>= bits
    return fields | {"unit": unit, "op": OPS[unit](fields["op"])}
