"""The instruction set: opcodes and the fields of a 64-bit instruction, for compiler, golden model and gateware.

A program is the list of instructions of one token; the model's shape is in it, so that one bitstream runs every model.
Several tokens, of different sessions, run it at the same time, each in a context of its own: scalar registers, vector
memories, activation buffers. A field list gives (name, bits) from bit 0 up; every instruction begins with its unit.

The instructions of a context are issued in order. Scalar registers hold ufloat values (ternlight_sim.golden.scalar). An
instruction waits until the registers that it reads, and those that it will write, are valid; it invalidates those it
writes until the value arrives. Two activation buffers join norm unit and engine: QUANT waits until its buffer is free
and claims it; MATVEC consumes its chunks as they arrive and frees it. A program claims a buffer again only behind the
instruction that takes the results of its product: before, it might wait for a product that waits to be taken. An
operation that reads a vector memory follows the operation that writes it, element by element: no instruction need wait
for the end of another.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

INSTRUCTION_BITS = 64
INSTRUCTION_COLUMNS = INSTRUCTION_BITS // 32
SCALAR_REGISTERS = 16
TEMPERATURE_REGISTER = 15
"""Holds the session's inverse temperature when a token starts."""


class Unit(IntEnum):
    """The unit that executes an instruction."""

    CONTROL = 0
    NORM = 1
    GATE = 2
    SCALAR = 3
    ENGINE = 4


class ControlOp(IntEnum):
    """END: the token is done. HEAD: a prefill token ends here. SAMPLE: choose the next token from the logits."""

    END = 0
    HEAD = 1
    SAMPLE = 2


class NormOp(IntEnum):
    """Operations of the norm unit; ternlight_sim.golden.vector defines each bit of them.

    EMBED, RESID: write the residual memory, from results. PEAK, STAT, QUANT: multiply a vector by its gains, and give
    its peak, its energy, or activations.
    """

    EMBED = 0
    PEAK = 1
    STAT = 2
    QUANT = 3
    RESID = 4


class GateOp(IntEnum):
    """Operations of the gate unit, all on results; ternlight_sim.golden.vector defines each bit of them.

    FORGET: forget gates, for the STATE that follows. STATE: the recurrence. GATE, MLP: write the gated memory.
    """

    FORGET = 0
    STATE = 1
    GATE = 2
    MLP = 3


class ScalarOp(IntEnum):
    """Operations of the scalar unit; ternlight_sim.golden.scalar defines each bit of them."""

    ADD = 0
    MUL = 1
    RECIP = 2
    RSQRT = 3
    QSCALE = 4


class EngineOp(IntEnum):
    """MATVEC: a ternary product. EMBED: read the token's embedding row from the weight store."""

    MATVEC = 0
    EMBED = 1


UNIT_FIELD = {"unit": 3}

NORM_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 3,
    "gated": 1,  # the source is in the gated memory, instead of the residual's
    "buffer": 1,
    "beats": 11,  # beats of V elements, without EMBED's header
    "source": 12,  # word of V of the context's memory; EMBED and RESID write there
    "gain": 14,  # gain memory, words of V
    "scale": 4,  # scalar register read
    "reduction": 4,  # scalar register written
    "fraction": 5,
    "lift": 2,  # of a gained vector, in steps of formats.LIFT_STEP
}

GATE_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 2,
    "beats": 11,  # result beats of V elements
    "target": 12,  # word of V of the context's gated memory
    "state": 16,  # state memory, words of H within the slot's state; FORGET: of the lower bounds, absolute
    "scale": 4,  # scalar register read
    "reduction": 4,  # scalar register written
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
    "chunks": 9,  # MATVEC: chunks of activations; EMBED: beats of a row, without its header
    "groups": 14,  # MATVEC: row groups; EMBED: store words from one beat to the next
    "beats": 14,  # MATVEC: result beats of V elements
    "address": 22,  # first store word; EMBED: of token 0's first beat
}

CONTROL_FIELDS: dict[str, int] = UNIT_FIELD | {
    "op": 2,
    "beats": 14,  # SAMPLE: result beats
    "vocabulary": 17,  # SAMPLE: tokens; ids from here up are padding
    "scale": 4,  # SAMPLE: scalar register with the logits' scale over the temperature
}

FIELDS: dict[Unit, dict[str, int]] = {
    Unit.CONTROL: CONTROL_FIELDS,
    Unit.NORM: NORM_FIELDS,
    Unit.GATE: GATE_FIELDS,
    Unit.SCALAR: SCALAR_FIELDS,
    Unit.ENGINE: ENGINE_FIELDS,
}
OPS: dict[Unit, type[IntEnum]] = {
    Unit.CONTROL: ControlOp,
    Unit.NORM: NormOp,
    Unit.GATE: GateOp,
    Unit.SCALAR: ScalarOp,
    Unit.ENGINE: EngineOp,
}
SIGNED_FIELDS = {"exponent"}

READS_SCALE: dict[Unit, set[IntEnum]] = {
    Unit.NORM: {NormOp.QUANT, NormOp.RESID},
    Unit.GATE: {GateOp.FORGET, GateOp.STATE, GateOp.MLP},
    Unit.CONTROL: {ControlOp.SAMPLE},
}
"""Operations that read the scalar register `scale`."""
REDUCES: dict[Unit, set[IntEnum]] = {
    Unit.NORM: {NormOp.EMBED, NormOp.PEAK, NormOp.STAT, NormOp.RESID},
    Unit.GATE: {GateOp.GATE, GateOp.MLP},
}
"""Operations that write the scalar register `reduction`: PEAK the largest magnitude, the others a sum of squares."""
READS_RESULTS: dict[Unit, set[IntEnum]] = {
    Unit.NORM: {NormOp.EMBED, NormOp.RESID},
    Unit.GATE: set(GateOp),
    Unit.CONTROL: {ControlOp.SAMPLE},
}
"""Operations that consume the results of the engine's operation before them: in each context, one by one in order."""
READS_B = {ScalarOp.ADD, ScalarOp.MUL}
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
    """The word of an instruction."""
    word = position = 0
    for name, bits in FIELDS[Unit(fields["unit"])].items():
        word |= (int(fields[name]) & (1 << bits) - 1) << position
        position += bits
    return word


def decode(word: int) -> dict[str, Any]:
    """The fields of an instruction's word; raises ValueError for an unknown operation."""
    unit = Unit(word & (1 << UNIT_FIELD["unit"]) - 1)
    fields: dict[str, Any] = {}
    for name, bits in FIELDS[unit].items():
        value = word & (1 << bits) - 1
        if name in SIGNED_FIELDS and value >> bits - 1:
            value -= 1 << bits
        fields[name] = value
        word >>= bits
    return fields | {"unit": unit, "op": OPS[unit](fields["op"])}
