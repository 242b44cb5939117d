"""The scalar unit: arithmetic on ufloat values."""

from __future__ import annotations

from typing import ClassVar

from amaranth import Cat, Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.formats import BLOCK_FRACTION, BLOCK_SHIFT_MAX, QSCALE_FRACTION
from ternlight.isa import ScalarOp
from ternlight.ufloat import EXPONENT_BITS, EXPONENT_MAX, EXPONENT_MIN, MANTISSA_BITS, MANTISSA_MAX

from .layouts import WRITEBACK, scalar_command
from .quotient_guess import (
    FRACTION,
    GUESS_BITS,
    POSITION_BITS,
    SEGMENT_BITS,
    SEGMENTS,
    SLOPE_BITS,
    SLOPE_FRACTION,
    START_BITS,
    Curve,
)

_CHECK_STEPS = {ScalarOp.RECIP: 5, ScalarOp.QSCALE: 5, ScalarOp.RSQRT: 8}
"""The step in which it is seen whether a guess fits, for the operations that guess."""
_EXPONENTS = {ScalarOp.RECIP: -29, ScalarOp.QSCALE: -QSCALE_FRACTION, ScalarOp.RSQRT: -22}
"""Exponents of their results for mantissas with exponent 0."""

DIVISOR_BITS = MANTISSA_BITS + 1
LOW_BITS = 17
"""A root's squared guess is multiplied in two parts, of which the low one has so many bits: unsigned factors of a
multiplier of 18 bits by 18. The difference of a quotient's product from the dividend needs no more either."""

_SEGMENT = data.StructLayout({"start": unsigned(START_BITS), "slope": unsigned(SLOPE_BITS)})

_WIDE_EXPONENT = signed(EXPONENT_BITS + 2)
"""Holds every exponent before its limits are applied."""

_ALIGNED = data.StructLayout(
    {
        "op": ScalarOp,
        "target": 4,
        "big": unsigned(MANTISSA_BITS),
        "small": unsigned(MANTISSA_BITS),
        "distance": unsigned(4),
        "exponent": _WIDE_EXPONENT,
        "lowering": range(BLOCK_SHIFT_MAX + 1),
        "zero": 1,
    }
)
_TOTAL = data.StructLayout(
    {"target": 4, "sum": unsigned(MANTISSA_BITS + 1), "slow": 1, "fits": 1, "exponent": _WIDE_EXPONENT, "zero": 1}
)


class ScalarUnit(wiring.Component):
    """result = op(a, b), bit for bit as in ternlight_sim.golden.scalar: ADD, MUL, RECIP, RSQRT, QSCALE, LOWER.

    Four stages: operands; exponents and product; sum and rounding; limits. Between the second and the third, RECIP,
    QSCALE and RSQRT take some steps more: a table gives a guess, and the multiplier of MUL shows whether that is one
    too large (quotient_guess).

    Latency: `latency[op]` cycles from the command's transfer to a valid result.
    Throughput: one ADD, MUL or LOWER per cycle; after a RECIP, RSQRT or QSCALE the next command is taken
    `latency - 1` cycles later. Results come in the order of the commands. Everything waits while a result does.

    Members:
        command (in, stream of scalar_command): RECIP, RSQRT and QSCALE take normalised operands or zero.
        result (out, stream of WRITEBACK).
    """

    latency: ClassVar[dict[ScalarOp, int]] = {op: _CHECK_STEPS.get(op, 2) + 2 for op in ScalarOp}

    def __init__(self) -> None:
        super().__init__(
            {
                "command": In(stream.Signature(scalar_command())),
                "result": Out(stream.Signature(WRITEBACK)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = Memory(
            shape=_SEGMENT, depth=len(SEGMENTS), init=[{"start": start, "slope": slope} for start, slope in SEGMENTS]
        )
        lookup = table.read_port()
        step = Signal(range(max(_CHECK_STEPS.values()) + 1))  # of a slow operation; 0: there is none
        advance, accept, checked = Signal(), Signal(), Signal()
        operands_valid, aligned_valid, total_valid = Signal(), Signal(), Signal()
        operands, aligned, total = Signal(scalar_command()), Signal(_ALIGNED), Signal(_TOTAL)
        op, a, b = operands.op, operands.a, operands.b
        is_root = op == ScalarOp.RSQRT
        m.d.comb += [
            advance.eq(~self.result.valid | self.result.ready),
            self.command.ready.eq(advance & (step == 0)),
            accept.eq(self.command.valid & self.command.ready),
            checked.eq(Mux(is_root, step == _CHECK_STEPS[ScalarOp.RSQRT], step == _CHECK_STEPS[ScalarOp.RECIP])),
        ]

        # Operands; the first step of a slow operation reads the table.
        given = self.command.p
        slow = Signal()
        curve = Signal(Curve)
        with m.Switch(given.op):
            with m.Case(ScalarOp.RECIP):
                m.d.comb += [slow.eq(1), curve.eq(Curve.RECIP)]
            with m.Case(ScalarOp.QSCALE):
                m.d.comb += [slow.eq(1), curve.eq(Curve.QSCALE)]
            with m.Case(ScalarOp.RSQRT):
                m.d.comb += [slow.eq(1), curve.eq(Mux(given.a.exponent[0], Curve.RSQRT_ODD, Curve.RSQRT_EVEN))]
        m.d.comb += [
            lookup.addr.eq(Cat(given.a.mantissa[POSITION_BITS : POSITION_BITS + SEGMENT_BITS], curve)),
            lookup.en.eq(self.command.ready),
        ]
        with m.If(accept):
            m.d.sync += operands.eq(given)
        with m.If(advance):
            m.d.sync += [
                operands_valid.eq(accept),
                aligned_valid.eq(operands_valid & (step == 0)),
                total_valid.eq(aligned_valid | checked),
                self.result.valid.eq(total_valid),
            ]

        # Steps of a slow operation: guess = start - slope * position.
        segment, fall = Signal(_SEGMENT), Signal(SLOPE_BITS + POSITION_BITS)
        guess, less = Signal(GUESS_BITS), Signal(GUESS_BITS)
        guess_next = (segment.start - (fall >> SLOPE_FRACTION - FRACTION) >> FRACTION)[:GUESS_BITS]
        with m.If(advance):
            m.d.sync += [
                segment.eq(lookup.data),
                fall.eq(segment.slope * a.mantissa[:POSITION_BITS]),
                guess.eq(guess_next),
                less.eq(guess - 1),
            ]

        # The multiplier of MUL and of the checks. A root's guess g is squared; then g**2 * m, in two parts.
        left, right = Signal(LOW_BITS), Signal(DIVISOR_BITS)
        product = Signal(LOW_BITS + DIVISOR_BITS)
        square_high = Signal(DIVISOR_BITS)
        with m.If(advance):
            m.d.sync += [product.eq(left * right), square_high.eq(product[LOW_BITS:])]
            with m.Switch(step):
                with m.Case(0):
                    m.d.sync += [left.eq(given.a.mantissa), right.eq(Mux(slow, given.a.mantissa, given.b.mantissa))]
                with m.Case(3):
                    m.d.sync += left.eq(guess_next)
                    with m.If(is_root):
                        m.d.sync += right.eq(guess_next)
                with m.Case(5):
                    m.d.sync += [left.eq(product), right.eq(a.mantissa << a.exponent[0])]
                with m.Case(6):
                    m.d.sync += left.eq(square_high)
            m.d.sync += step.eq(Mux(checked, 0, step + 1))
            with m.If(step == 0):
                m.d.sync += step.eq(accept & slow)

        # A guess fits if its product is not above the dividend, of which these low bits are all zero: a product less
        # one is negative then. The difference is too small to matter to the bits above.
        low_product, low_any = Signal(DIVISOR_BITS), Signal()
        with m.If(advance):
            m.d.sync += [low_product.eq(product[LOW_BITS:] - 1), low_any.eq(product[:LOW_BITS].any())]
        quotient_fits = (product[:LOW_BITS] - 1)[LOW_BITS - 1]
        root_fits = (product[:DIVISOR_BITS] + low_product + low_any)[DIVISOR_BITS - 1]
        fits = Mux(is_root, root_fits, quotient_fits)

        # Exponents; the operand of a sum that is to be shifted.
        swap = ((a.exponent < b.exponent) & (b.mantissa != 0)) | (a.mantissa == 0)
        distance = Mux(swap, b.exponent - a.exponent, a.exponent - b.exponent)
        block = b.exponent - BLOCK_FRACTION
        with m.If(advance & operands_valid):
            m.d.sync += [
                aligned.op.eq(op),
                aligned.target.eq(operands.target),
                aligned.big.eq(a.mantissa),
                aligned.small.eq(0),
                aligned.exponent.eq(a.exponent),
                aligned.lowering.eq(0),
                aligned.zero.eq(a.mantissa == 0),
            ]
            with m.Switch(op):
                with m.Case(ScalarOp.ADD):
                    m.d.sync += [
                        aligned.big.eq(Mux(swap, b.mantissa, a.mantissa)),
                        aligned.small.eq(Mux(swap, a.mantissa, b.mantissa)),
                        aligned.exponent.eq(Mux(swap, b.exponent, a.exponent)),
                        # Negative only if the operand to shift is zero.
                        aligned.distance.eq(distance[:4] | distance[4:].any().replicate(4)),
                        aligned.zero.eq(0),
                    ]
                with m.Case(ScalarOp.MUL):
                    m.d.sync += aligned.exponent.eq(a.exponent + b.exponent)
                with m.Case(ScalarOp.LOWER):
                    m.d.sync += aligned.lowering.eq(
                        Mux(block < 0, 0, Mux(block < BLOCK_SHIFT_MAX, block, BLOCK_SHIFT_MAX))
                    )
                for slow_op in _CHECK_STEPS:
                    with m.Case(slow_op):
                        m.d.sync += aligned.exponent.eq(
                            _EXPONENTS[slow_op] - (a.exponent >> (slow_op == ScalarOp.RSQRT))
                        )

        # Sum and rounding, in one adder: the lowest column makes a carry of the bit that rounds.
        is_product = aligned.op == ScalarOp.MUL
        top = product[2 * MANTISSA_BITS - 1]
        rounded = Mux(top, product[MANTISSA_BITS - 1 : 2 * MANTISSA_BITS], product[MANTISSA_BITS - 2 :])
        carry_in = is_product & rounded[0]
        addend = Mux(is_product, rounded[1 : 1 + MANTISSA_BITS], aligned.big)
        lowering = Mux(is_product, Mux(top, -MANTISSA_BITS, 1 - MANTISSA_BITS), aligned.lowering << 1)
        with m.If(advance & (aligned_valid | checked)):
            m.d.sync += [
                total.target.eq(aligned.target),
                total.zero.eq(aligned.zero),
                total.exponent.eq(aligned.exponent - lowering),
                total.sum.eq((Cat(Const(1, 1), addend) + Cat(carry_in, aligned.small >> aligned.distance)) >> 1),
                total.slow.eq(checked),
                total.fits.eq(fits),
            ]

        # Limits: the carry moves the exponent, which saturates above its range and makes zero below. Both are seen
        # without the adder.
        mantissa = Mux(total.slow, Mux(total.fits, guess, less), total.sum)
        carry = mantissa[-1]
        value = self.result.p.value
        too_large = ~(total.exponent < EXPONENT_MAX + 1) | (carry & (total.exponent == EXPONENT_MAX))
        too_small = (total.exponent < EXPONENT_MIN) & ~(carry & (total.exponent == EXPONENT_MIN - 1))
        with m.If(advance & total_valid):
            m.d.sync += [
                self.result.p.target.eq(total.target),
                value.mantissa.eq(Mux(carry, mantissa >> 1, mantissa)),
                value.exponent.eq(total.exponent + carry),
            ]
            with m.If(too_large):
                m.d.sync += [value.mantissa.eq(MANTISSA_MAX), value.exponent.eq(EXPONENT_MAX)]
            with m.If(total.zero | (mantissa == 0) | too_small):
                m.d.sync += [value.mantissa.eq(0), value.exponent.eq(0)]
        return m
