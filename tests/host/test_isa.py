"""Instructions as words and back, every field of every operation at its limits."""

from __future__ import annotations

import re

import pytest

from ternlight.isa import (
    FIELDS,
    INSTRUCTION_BITS,
    OPS,
    SIGNED_FIELDS,
    ControlOp,
    EngineOp,
    ScalarOp,
    Unit,
    VectorOp,
    decode,
    encode,
    instruction,
)

OPERATIONS = [(unit, op) for unit, ops in OPS.items() for op in ops]


@pytest.mark.parametrize(("unit", "op"), OPERATIONS, ids=lambda value: value.name)
def test_every_field_goes_through(unit, op):
    names = [name for name in FIELDS[unit] if name not in ("unit", "op")]
    for name in names:
        bits = FIELDS[unit][name]
        corners = (-(1 << bits - 1), -1, (1 << bits - 1) - 1) if name in SIGNED_FIELDS else (0, 1, (1 << bits) - 1)
        for value in corners:
            fields = instruction(unit, op, **{name: value})
            assert decode(encode(fields)) == fields
            assert {other for other in names if fields[other]} <= {name}


def test_instructions_fit():
    for unit, fields in FIELDS.items():
        assert sum(fields.values()) <= INSTRUCTION_BITS, unit
        assert max(OPS[unit]) < 1 << fields["op"], unit
        assert next(iter(fields)) == "unit"


def test_the_word_begins_with_the_unit():
    assert [encode(instruction(unit, op)) & 3 for unit, op in OPERATIONS] == [unit for unit, _ in OPERATIONS]


@pytest.mark.parametrize(
    ("unit", "op", "fields", "message"),
    [
        (Unit.VECTOR, VectorOp.GAIN, {"beats": 2048}, "VECTOR GAIN: beats must be from 0 to 2047, not 2048"),
        (Unit.ENGINE, EngineOp.MATVEC, {"address": -1}, "ENGINE MATVEC: address must be from 0 to 16777215, not -1"),
        (Unit.SCALAR, ScalarOp.MUL, {"exponent": 512}, "SCALAR MUL: exponent must be from -512 to 511, not 512"),
        (Unit.SCALAR, ScalarOp.MUL, {"exponent": -513}, "SCALAR MUL: exponent must be from -512 to 511, not -513"),
        (Unit.CONTROL, ControlOp.END, {"gain": 1, "beats": 1}, "CONTROL has no fields ['gain']"),
    ],
)
def test_values_that_do_not_fit(unit, op, fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        instruction(unit, op, **fields)


def test_unknown_operations_are_not_decoded():
    with pytest.raises(ValueError, match="15 is not a valid VectorOp"):
        decode(Unit.VECTOR | 15 << 2)
