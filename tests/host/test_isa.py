"""Instructions as words and back, every field of every operation at its limits."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ternlight.isa import (
    FIELDS,
    INSTRUCTION_BITS,
    OPS,
    READS_B,
    READS_RESULTS,
    READS_SCALE,
    REDUCES,
    SIGNED_FIELDS,
    ControlOp,
    EngineOp,
    GateOp,
    NormOp,
    ScalarOp,
    Unit,
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


@pytest.mark.parametrize("unit", Unit)
def test_fields_lie_side_by_side(unit):
    """From bit 0 up, in the order of the list, whatever the other fields hold."""
    op = next(iter(OPS[unit]))
    position = 0
    for name, bits in FIELDS[unit].items():
        if name not in ("unit", "op"):
            ones = -1 if name in SIGNED_FIELDS else (1 << bits) - 1
            changed = encode(instruction(unit, op, **{name: ones})) ^ encode(instruction(unit, op))
            assert changed == (1 << bits) - 1 << position, name
        position += bits


def test_all_fields_at_once():
    """Random instructions of every unit: no field disturbs another."""
    random = np.random.default_rng(1)
    for unit, op in OPERATIONS * 50:
        values = {}
        for name, bits in FIELDS[unit].items():
            if name not in ("unit", "op"):
                low = -(1 << bits - 1) if name in SIGNED_FIELDS else 0
                values[name] = int(random.integers(low, low + (1 << bits)))
        fields = instruction(unit, op, **values)
        assert fields == {"unit": unit, "op": op} | values
        word = encode(fields)
        assert 0 <= word < 1 << INSTRUCTION_BITS
        assert decode(word) == fields


def test_the_word_begins_with_unit_and_operation():
    for unit, op in OPERATIONS:
        word = encode(instruction(unit, op))
        assert (word & 7, word >> 3) == (unit, op)


def test_what_operations_read_and_write_has_a_field():
    """And no unit has such a field that none of its operations uses."""
    for name, table in (("scale", READS_SCALE), ("reduction", REDUCES)):
        assert {unit for unit in Unit if name in FIELDS[unit]} == {*table}
    for table in (READS_SCALE, REDUCES, READS_RESULTS):
        for unit, ops in table.items():
            assert ops <= set(OPS[unit])
            assert {type(op) for op in ops} == {OPS[unit]}
    assert all("beats" in FIELDS[unit] for unit in READS_RESULTS)
    assert set(ScalarOp) >= READS_B


@pytest.mark.parametrize(
    ("unit", "op", "fields", "message"),
    [
        (Unit.NORM, NormOp.QUANT, {"beats": 2048}, "NORM QUANT: beats must be from 0 to 2047, not 2048"),
        (Unit.GATE, GateOp.MLP, {"shift": 64}, "GATE MLP: shift must be from 0 to 63, not 64"),
        (Unit.ENGINE, EngineOp.MATVEC, {"address": -1}, "ENGINE MATVEC: address must be from 0 to 4194303, not -1"),
        (Unit.SCALAR, ScalarOp.MUL, {"exponent": 512}, "SCALAR MUL: exponent must be from -512 to 511, not 512"),
        (Unit.SCALAR, ScalarOp.MUL, {"exponent": -513}, "SCALAR MUL: exponent must be from -512 to 511, not -513"),
        (Unit.CONTROL, ControlOp.END, {"gain": 1, "beats": 1}, "CONTROL has no fields ['gain']"),
    ],
)
def test_values_that_do_not_fit(unit, op, fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        instruction(unit, op, **fields)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (Unit.NORM | 7 << 3, "7 is not a valid NormOp"),
        (Unit.SCALAR | 5 << 3, "5 is not a valid ScalarOp"),
        (Unit.CONTROL | 3 << 3, "3 is not a valid ControlOp"),
        (5, "5 is not a valid Unit"),
    ],
)
def test_unknown_operations_are_not_decoded(word, message):
    with pytest.raises(ValueError, match=message):
        decode(word)
