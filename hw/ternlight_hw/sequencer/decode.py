"""What the sequencer knows of an instruction before it is its turn."""

from __future__ import annotations

from amaranth import Cat, Mux
from amaranth.lib import data, enum

from ternlight.isa import (
    FIELDS,
    READS_B,
    READS_RESULTS,
    READS_SCALE,
    REDUCES,
    SCALAR_FIELDS,
    UNIT_FIELD,
    ControlOp,
    EngineOp,
    GateOp,
    NormOp,
    Unit,
)

from ..layouts import fields_layout

WORD_BITS = max(sum(fields.values()) for fields in FIELDS.values())
"""Bits of an instruction that mean anything."""
_REGISTER_BITS = SCALAR_FIELDS["a"]


class Route(enum.Enum):
    """Where an instruction goes; HEAD and END stay in the sequencer."""

    END = 0
    HEAD = 1
    NORM = 2
    GATE = 3
    SCALAR = 4
    ENGINE = 5
    SAMPLE = 6


DECODED = data.StructLayout(
    {
        "word": WORD_BITS,
        "route": data.ArrayLayout(1, len(Route)),  # one bit per Route
        # Scalar registers, and whether the instruction reads or writes them.
        "first": _REGISTER_BITS,
        "second": _REGISTER_BITS,
        "target": _REGISTER_BITS,
        "reads_first": 1,
        "reads_second": 1,
        "writes_target": 1,
        "immediate": 1,  # the second operand is a constant
        "consumes": 1,  # takes results
        "quant": 1,
        "gated": 1,  # norm unit: reads the gated memory
        "overwrites": 1,  # gate unit: writes the gated memory
        "embed": 1,  # engine: the address depends on the token
        "stateful": 1,  # gate unit: the address counts from the session's state
    }
)


def fields_of(unit, word):
    """The fields of a unit's instruction."""
    layout = fields_layout(FIELDS[unit])
    return data.View(layout, word[: layout.size])


def _one_of(value, members):
    """value is one of the members."""
    return Cat(value == member for member in sorted(members)).any()


def decode(m, word, decoded):
    """Drive `decoded` from an instruction word; one whose unit or operation does not exist is an END."""
    unit = word[: UNIT_FIELD["unit"]]
    norm, gate, scalar, engine, control = (
        fields_of(unit, word) for unit in (Unit.NORM, Unit.GATE, Unit.SCALAR, Unit.ENGINE, Unit.CONTROL)
    )

    def route(*routes, condition=1):
        for one in routes:
            m.d.comb += decoded.route[one.value].eq(condition)

    m.d.comb += [
        decoded.word.eq(word),
        # Number 0 is not TEMPERATURE_REGISTER, which a new token writes.
        decoded.second.eq(Mux(scalar.immediate, 0, scalar.b)),
        decoded.immediate.eq(scalar.immediate),
    ]
    with m.Switch(unit):
        with m.Case(Unit.NORM):
            route(Route.NORM)
            m.d.comb += [
                decoded.first.eq(norm.scale),
                decoded.target.eq(norm.reduction),
                decoded.reads_first.eq(_one_of(norm.op, READS_SCALE[Unit.NORM])),
                decoded.writes_target.eq(_one_of(norm.op, REDUCES[Unit.NORM])),
                decoded.consumes.eq(_one_of(norm.op, READS_RESULTS[Unit.NORM])),
                decoded.quant.eq(norm.op == NormOp.QUANT),
                decoded.gated.eq(norm.gated),
            ]
        with m.Case(Unit.GATE):
            route(Route.GATE)
            m.d.comb += [
                decoded.first.eq(gate.scale),
                decoded.target.eq(gate.reduction),
                decoded.reads_first.eq(_one_of(gate.op, READS_SCALE[Unit.GATE])),
                decoded.writes_target.eq(_one_of(gate.op, REDUCES[Unit.GATE])),
                decoded.consumes.eq(1),
                decoded.overwrites.eq(_one_of(gate.op, {GateOp.GATE, GateOp.MLP})),
                decoded.stateful.eq(gate.op != GateOp.FORGET),
            ]
        with m.Case(Unit.SCALAR):
            route(Route.SCALAR)
            m.d.comb += [
                decoded.first.eq(scalar.a),
                decoded.target.eq(scalar.target),
                decoded.reads_first.eq(1),
                decoded.reads_second.eq(_one_of(scalar.op, READS_B) & ~scalar.immediate),
                decoded.writes_target.eq(1),
            ]
        with m.Case(Unit.ENGINE):
            route(Route.ENGINE)
            m.d.comb += decoded.embed.eq(engine.op == EngineOp.EMBED)
        with m.Case(Unit.CONTROL):
            is_sample, is_head = control.op == ControlOp.SAMPLE, control.op == ControlOp.HEAD
            route(Route.SAMPLE, condition=is_sample)
            route(Route.HEAD, condition=is_head)
            route(Route.END, condition=~is_sample & ~is_head)
            m.d.comb += [
                decoded.first.eq(control.scale),
                decoded.reads_first.eq(is_sample),
                decoded.consumes.eq(is_sample),
            ]
        with m.Default():
            route(Route.END)
