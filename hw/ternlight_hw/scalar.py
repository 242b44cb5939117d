"""The scalar unit: arithmetic on ufloat values."""

from __future__ import annotations

from typing import ClassVar

from amaranth import Cat, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.formats import QSCALE_FRACTION
from ternlight.isa import ScalarOp
from ternlight.reciprocal import (
    BASE_BITS,
    GUARD_BITS,
    POSITION_BITS,
    RECIP_EXPONENT,
    RSQRT_EXPONENT,
    SLOPE_BITS,
    TABLE,
    Curve,
)
from ternlight.ufloat import EXPONENT_BITS, EXPONENT_MAX, EXPONENT_MIN, MANTISSA_BITS, MANTISSA_MAX

from .layouts import REGISTER, WRITEBACK, scalar_command
from .pipeline import Flow, Pipeline
from .vector.arithmetic import named
from .vector.chain import carry_sum
from .vector.multiplier import multiplied

FROM_TABLE = (ScalarOp.RECIP, ScalarOp.RSQRT, ScalarOp.QSCALE)

_WIDE_EXPONENT = signed(EXPONENT_BITS + 2)
"""Holds every exponent before its limits are applied."""

_ENTRY = data.StructLayout({"base": unsigned(BASE_BITS), "slope": unsigned(SLOPE_BITS)})
_DISTANCE_BITS = (MANTISSA_BITS - 1).bit_length()
_ALIGNED = data.StructLayout(
    {
        "is_mul": 1,
        "target": REGISTER,
        "big": unsigned(MANTISSA_BITS),
        "small": unsigned(MANTISSA_BITS),
        "distance": unsigned(_DISTANCE_BITS),
        "far": 1,  # nothing of `small` counts
        "exponent": _WIDE_EXPONENT,
    }
)
_TOTAL = data.StructLayout({"target": REGISTER, "mantissa": unsigned(MANTISSA_BITS + 1), "exponent": _WIDE_EXPONENT})
"""A result before its limits."""


class ScalarUnit(wiring.Component):
    """result = op(a, b), bit for bit as in ternlight_sim.golden.scalar: ADD, MUL, RECIP, RSQRT, QSCALE.

    ADD and MUL have four stages: operands; exponents and product; sum and rounding; limits. The others look up a
    segment of their curve and interpolate in it: table; its entry, registered; product; difference; limits.

    Latency: `latency[op]` cycles from the command's transfer to the result.
    Throughput: one command per cycle; an operation from the table makes the next one wait a cycle.
    Results come in the order of the commands.

    Members:
        command (in, stream of scalar_command): RECIP, RSQRT and QSCALE take normalised operands or zero.
        result (out, Flow of WRITEBACK).
    """

    latency: ClassVar[dict[ScalarOp, int]] = {op: 5 if op in FROM_TABLE else 4 for op in ScalarOp}

    def __init__(self) -> None:
        super().__init__({"command": In(stream.Signature(scalar_command())), "result": Out(Flow(WRITEBACK))})

    def elaborate(self, platform):
        m = Module()
        looked_up = Signal()  # the command before needs the stage of limits one cycle later
        table = self.command.p.op.matches(*FROM_TABLE)
        accept = self.command.valid & self.command.ready
        m.d.comb += self.command.ready.eq(~looked_up)
        m.d.sync += looked_up.eq(accept & table)
        calculated, computed = self._calculate(m, platform, accept & ~table)
        interpolated, difference, difference_zero = self._interpolate(m, accept & table)

        # Limits: the carry moves the exponent, which saturates above its range and makes zero below.
        valid = calculated | interpolated
        total, carry = Signal(_TOTAL), computed.mantissa[-1]  # an interpolated result has none
        moved, over, none = Signal(_WIDE_EXPONENT), Signal(), Signal()
        m.d.comb += [
            total.eq(Mux(interpolated, difference, computed)),
            moved.eq(computed.exponent + carry),
            # Of both ways before the choice between them.
            over.eq(Mux(interpolated, difference.exponent > EXPONENT_MAX, moved > EXPONENT_MAX)),
            none.eq(
                Mux(
                    interpolated,
                    named(m, difference_zero | (difference.exponent < EXPONENT_MIN)),
                    named(m, computed.mantissa == 0) | (moved < EXPONENT_MIN),
                )
            ),
        ]
        value = self.result.payload.value
        m.d.sync += self.result.valid.eq(valid)
        with m.If(valid):
            m.d.sync += [
                self.result.payload.target.eq(total.target),
                value.mantissa.eq(Mux(carry & ~interpolated, total.mantissa[1:], total.mantissa)),
                value.exponent.eq(Mux(interpolated, difference.exponent, moved)),
            ]
            with m.If(over):
                m.d.sync += [value.mantissa.eq(MANTISSA_MAX), value.exponent.eq(EXPONENT_MAX)]
            with m.If(none):
                m.d.sync += [value.mantissa.eq(0), value.exponent.eq(0)]
        return m

    def _calculate(self, m, platform, start):
        """ADD and MUL up to the limits."""
        operands_valid, aligned_valid, total_valid = Signal(), Signal(), Signal()
        m.d.sync += [operands_valid.eq(start), aligned_valid.eq(operands_valid), total_valid.eq(aligned_valid)]
        operands, aligned, total = Signal(scalar_command()), Signal(_ALIGNED), Signal(_TOTAL, name="computed")
        with m.If(start):
            m.d.sync += operands.eq(self.command.payload)

        # The distance both ways at once: which one counts is known late. A negative one is of an operand of zero.
        a, b = operands.a, operands.b
        is_mul = operands.op == ScalarOp.MUL
        ahead, behind = (named(m, difference) for difference in (a.exponent - b.exponent, b.exponent - a.exponent))
        swap = named(m, (ahead[-1] & (b.mantissa != 0)) | (a.mantissa == 0))
        product = multiplied(m, platform, a.mantissa, b.mantissa, enable=operands_valid)
        with m.If(operands_valid):
            m.d.sync += [
                aligned.is_mul.eq(is_mul),
                aligned.target.eq(operands.target),
                aligned.big.eq(Mux(swap, b.mantissa, a.mantissa)),
                aligned.small.eq(Mux(swap, a.mantissa, b.mantissa)),
                aligned.distance.eq(Mux(swap, behind, ahead)[:_DISTANCE_BITS]),
                aligned.far.eq(Mux(swap, behind[_DISTANCE_BITS:].any(), ahead[_DISTANCE_BITS:].any()) | is_mul),
                aligned.exponent.eq(Mux(is_mul, a.exponent + b.exponent, Mux(swap, b.exponent, a.exponent))),
            ]

        # One adder for both: of MUL it rounds.
        top = product[-1]
        floor = Mux(top, product >> MANTISSA_BITS, product >> MANTISSA_BITS - 1)
        half = Mux(top, product[MANTISSA_BITS - 1], product[MANTISSA_BITS - 2])
        first, small = Signal(MANTISSA_BITS + 1), Signal(MANTISSA_BITS + 1)
        m.d.comb += [
            first.eq(Mux(aligned.is_mul, floor, aligned.big)),
            small.eq(aligned.small >> aligned.distance),
        ]
        mantissa = carry_sum(
            m, platform, first, lambda small, far: small & ~far, small, aligned.far, carry=half & aligned.is_mul
        )
        points = Mux(aligned.is_mul, Mux(top, MANTISSA_BITS, MANTISSA_BITS - 1), 0)
        with m.If(aligned_valid):
            m.d.sync += [
                total.target.eq(aligned.target),
                total.exponent.eq(aligned.exponent + points),
                total.mantissa.eq(mantissa),
            ]
        return total_valid, total

    def _interpolate(self, m, start):
        """RECIP, RSQRT and QSCALE up to the limits; returns also whether the operand was zero."""
        m.submodules.table = memory = Memory(
            shape=_ENTRY, depth=len(TABLE), init=[{"base": base, "slope": slope} for base, slope in TABLE]
        )
        read = memory.read_port()
        command = self.command.p
        curve = Signal(Curve)
        with m.Switch(command.op):
            with m.Case(ScalarOp.QSCALE):
                m.d.comb += curve.eq(Curve.QSCALE)
            with m.Case(ScalarOp.RSQRT):
                m.d.comb += curve.eq(Mux(command.a.exponent[0], Curve.RSQRT_ODD, Curve.RSQRT_EVEN))
            with m.Default():
                m.d.comb += curve.eq(Curve.RECIP)
        m.d.comb += [
            read.en.eq(start),
            read.addr.eq(Cat(command.a.mantissa[POSITION_BITS:-1], curve)),
        ]

        exponent = Signal(_WIDE_EXPONENT)
        with m.Switch(command.op):
            with m.Case(ScalarOp.QSCALE):
                m.d.comb += exponent.eq(-QSCALE_FRACTION - command.a.exponent)
            with m.Case(ScalarOp.RSQRT):
                m.d.comb += exponent.eq(-RSQRT_EXPONENT - (command.a.exponent >> 1))
            with m.Default():
                m.d.comb += exponent.eq(-RECIP_EXPONENT - command.a.exponent)
        beside = {"target": command.target, "exponent": exponent, "zero": command.a.mantissa == 0}

        def stage(**values):
            """The next stage of some values and of what travels beside them."""
            registers = pipe.stage(**values, **beside)
            beside.update(zip(beside, registers[len(values) :], strict=True))
            return registers[: len(values)]

        pipe = Pipeline(m, start)
        (position,) = stage(position=command.a.mantissa[:POSITION_BITS])
        # A register behind the block RAM's slow output.
        base, slope, position = stage(base=read.data.base, slope=read.data.slope, position=position)
        base, product = stage(base=base, product=slope * position)
        (mantissa,) = stage(mantissa=(base - (product >> POSITION_BITS))[GUARD_BITS : GUARD_BITS + MANTISSA_BITS])
        total = Signal(_TOTAL, name="interpolated")
        zero = beside.pop("zero")
        m.d.comb += [total[name].eq(value) for name, value in {"mantissa": mantissa, **beside}.items()]
        return pipe.valid, total, zero
