"""The scalar unit: arithmetic on ufloat values."""

from __future__ import annotations

from typing import ClassVar

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import ACTIVATION_MAX, BLOCK_FRACTION, BLOCK_SHIFT_MAX, QSCALE_FRACTION
from ternlight.isa import ScalarOp
from ternlight.ufloat import EXPONENT_BITS, EXPONENT_MAX, EXPONENT_MIN, MANTISSA_BITS, MANTISSA_MAX

from .layouts import WRITEBACK, scalar_command
from .recurrence import DigitRecurrence

_STEPS = {ScalarOp.RECIP: 8, ScalarOp.QSCALE: 8, ScalarOp.RSQRT: 17}
"""Steps of the recurrence; a root ends one step behind its 32-bit radicand."""
_DIVIDENDS = {
    ScalarOp.RECIP: 1 << 29 - 16,
    ScalarOp.QSCALE: ACTIVATION_MAX << QSCALE_FRACTION - 16,
    ScalarOp.RSQRT: 1 << 44 - 32,
}
"""The golden model's dividends, less the bits that the steps append."""

_WIDE_EXPONENT = signed(EXPONENT_BITS + 2)
"""Holds every exponent before its limits are applied."""

_ALIGNED = data.StructLayout(
    {
        "op": ScalarOp,
        "slow": 1,
        "target": 4,
        "big": unsigned(MANTISSA_BITS),
        "small": unsigned(MANTISSA_BITS),
        "distance": range(MANTISSA_BITS + 1),
        "product": unsigned(2 * MANTISSA_BITS),
        "exponent": _WIDE_EXPONENT,
        "zero": 1,
    }
)
_TOTAL = data.StructLayout(
    {
        "op": ScalarOp,
        "slow": 1,
        "target": 4,
        "mantissa": unsigned(MANTISSA_BITS + 1),
        "exponent": _WIDE_EXPONENT,
        "zero": 1,
    }
)


class ScalarUnit(wiring.Component):
    """result = op(a, b), bit for bit as in ternlight_sim.golden.scalar: ADD, MUL, RECIP, RSQRT, QSCALE, LOWER.

    Four stages: operands; exponents and product; sum and rounding; limits. RECIP, RSQRT and QSCALE wait in the third
    for the digits of quotient or root (one recurrence serves all of them).

    Latency: `latency[op]` cycles from the command's transfer to a valid result.
    Throughput: one ADD, MUL or LOWER per cycle; after a RECIP, RSQRT or QSCALE the next command is taken
    `latency - 1` cycles later. Results come in the order of the commands.

    Members:
        command (in, stream of scalar_command): RECIP, RSQRT and QSCALE take normalised operands or zero.
        result (out, stream of WRITEBACK).
    """

    latency: ClassVar[dict[ScalarOp, int]] = {op: _STEPS[op] + 2 if op in _STEPS else 4 for op in ScalarOp}

    def __init__(self) -> None:
        super().__init__(
            {
                "command": In(stream.Signature(scalar_command())),
                "result": Out(stream.Signature(WRITEBACK)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.recurrence = recurrence = DigitRecurrence()
        advance = Signal()
        total_valid = Signal()
        total = Signal(_TOTAL)
        # A slow operation reaches the third stage long before its digits are there.
        leave = total_valid & ~(total.slow & recurrence.busy)
        m.d.comb += [
            advance.eq(~self.result.valid | self.result.ready),
            self.command.ready.eq(advance & ~recurrence.busy),
        ]

        # Operands.
        operands_valid = Signal()
        operands = Signal(scalar_command())
        accept = self.command.valid & self.command.ready
        with m.If(advance):
            m.d.sync += operands_valid.eq(accept)
        with m.If(accept):
            m.d.sync += operands.eq(self.command.payload)
            m.d.comb += recurrence.divisor.eq(self.command.p.a.mantissa)
            with m.Switch(self.command.p.op):
                for slow, steps in _STEPS.items():
                    with m.Case(slow):
                        m.d.comb += [
                            recurrence.start.eq(1),
                            recurrence.steps.eq(steps),
                            recurrence.dividend.eq(_DIVIDENDS[slow]),
                        ]
                        if slow is ScalarOp.RSQRT:
                            # An odd exponent lends the mantissa a factor of two.
                            m.d.comb += recurrence.divisor.eq(self.command.p.a.mantissa << self.command.p.a.exponent[0])

        # Exponents and product.
        op, a, b = operands.op, operands.a, operands.b
        aligned_valid = Signal()
        aligned = Signal(_ALIGNED)
        swap = ((a.exponent < b.exponent) & (b.mantissa != 0)) | (a.mantissa == 0)
        distance = Mux(swap, b.exponent - a.exponent, a.exponent - b.exponent)
        block = b.exponent - BLOCK_FRACTION
        with m.If(advance):
            m.d.sync += aligned_valid.eq(operands_valid)
        with m.If(advance & operands_valid):
            m.d.sync += [
                aligned.op.eq(op),
                aligned.target.eq(operands.target),
                aligned.big.eq(a.mantissa),
                aligned.small.eq(0),
                aligned.zero.eq(a.mantissa == 0),
                aligned.slow.eq(0),
            ]
            with m.Switch(op):
                with m.Case(ScalarOp.ADD):
                    m.d.sync += [
                        aligned.big.eq(Mux(swap, b.mantissa, a.mantissa)),
                        aligned.small.eq(Mux(swap, a.mantissa, b.mantissa)),
                        aligned.exponent.eq(Mux(swap, b.exponent, a.exponent)),
                        # Negative only if the operand to shift is zero.
                        aligned.distance.eq(Mux(distance > MANTISSA_BITS, MANTISSA_BITS, distance)),
                        aligned.zero.eq(0),
                    ]
                with m.Case(ScalarOp.MUL):
                    m.d.sync += [
                        aligned.product.eq(a.mantissa * b.mantissa),
                        aligned.exponent.eq(a.exponent + b.exponent + MANTISSA_BITS - 1),
                    ]
                with m.Case(ScalarOp.LOWER):
                    shift = Mux(block < 0, 0, Mux(block > BLOCK_SHIFT_MAX, BLOCK_SHIFT_MAX, block))
                    m.d.sync += aligned.exponent.eq(a.exponent - (shift << 1))
                with m.Case(ScalarOp.RECIP):
                    m.d.sync += [aligned.exponent.eq(-29 - a.exponent), aligned.slow.eq(1)]
                with m.Case(ScalarOp.QSCALE):
                    m.d.sync += [aligned.exponent.eq(-QSCALE_FRACTION - a.exponent), aligned.slow.eq(1)]
                with m.Case(ScalarOp.RSQRT):
                    m.d.sync += [aligned.exponent.eq(-22 - (a.exponent >> 1)), aligned.slow.eq(1)]

        # Sum and rounding; slow operations wait here.
        product, top = aligned.product, aligned.product[-1]
        rounded = Mux(top, product >> MANTISSA_BITS, product >> MANTISSA_BITS - 1) + Mux(
            top, product[MANTISSA_BITS - 1], product[MANTISSA_BITS - 2]
        )
        with m.If(advance):
            m.d.sync += total_valid.eq(aligned_valid | (total_valid & ~leave))
        with m.If(advance & aligned_valid):
            m.d.sync += [
                total.op.eq(aligned.op),
                total.target.eq(aligned.target),
                total.zero.eq(aligned.zero),
                total.slow.eq(aligned.slow),
                total.exponent.eq(aligned.exponent + (top & (aligned.op == ScalarOp.MUL))),
                total.mantissa.eq(
                    Mux(
                        aligned.op == ScalarOp.MUL,
                        rounded,
                        aligned.big + (aligned.small >> aligned.distance),
                    )
                ),
            ]

        # Limits: the carry moves the exponent, which saturates above its range and makes zero below.
        mantissa = Signal(MANTISSA_BITS + 1)
        with m.Switch(total.op):
            with m.Case(ScalarOp.RECIP, ScalarOp.QSCALE):
                m.d.comb += mantissa.eq(recurrence.quotient)
            with m.Case(ScalarOp.RSQRT):
                m.d.comb += mantissa.eq(recurrence.root)
            with m.Default():
                m.d.comb += mantissa.eq(total.mantissa)
        carry = mantissa[-1]
        exponent = Signal(_WIDE_EXPONENT)
        m.d.comb += exponent.eq(total.exponent + carry)
        value = self.result.p.value
        with m.If(advance):
            m.d.sync += self.result.valid.eq(leave)
        with m.If(advance & leave):
            m.d.sync += [
                self.result.p.target.eq(total.target),
                value.mantissa.eq(Mux(carry, mantissa >> 1, mantissa)),
                value.exponent.eq(exponent),
            ]
            with m.If(exponent > EXPONENT_MAX):
                m.d.sync += [value.mantissa.eq(MANTISSA_MAX), value.exponent.eq(EXPONENT_MAX)]
            with m.If(total.zero | (mantissa == 0) | (exponent < EXPONENT_MIN)):
                m.d.sync += [value.mantissa.eq(0), value.exponent.eq(0)]
        return m
