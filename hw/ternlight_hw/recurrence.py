"""Quotient and square root by digit recurrence."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

DIVISOR_BITS = 16
DIVIDEND_BITS = 14
QUOTIENT_BITS = 16
DIGIT_BITS = 2


class DigitRecurrence(wiring.Component):
    """quotient = dividend * 4**steps // divisor, and root = isqrt(dividend * 4**(steps - 1) // divisor)
    for steps up to 17.

    A step makes two bits of the quotient (restoring division in radix 4). A root takes two bits of its radicand
    per bit, from the top: it follows one step behind the quotient, digit by digit.

    Latency: `steps` + 1 cycles from `start`. Both results stay until the next start.

    Members:
        start (in), steps (in, at least 1), dividend (in), divisor (in): taken together while not busy. 4 * dividend
            is below 3 * divisor.
        busy (out): steps are to be done; low in the cycle in which the results are there.
        quotient (out): its low 16 bits.
        root (out).
    """

    steps_max = 31

    def __init__(self) -> None:
        super().__init__(
            {
                "start": In(1),
                "steps": In(range(self.steps_max + 1)),
                "dividend": In(DIVIDEND_BITS),
                "divisor": In(DIVISOR_BITS),
                "busy": Out(1),
                "quotient": Out(QUOTIENT_BITS),
                "root": Out(QUOTIENT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.steps)
        m.d.comb += self.busy.eq(left != 0)

        # Division: the partial remainder against one, two and three times the divisor.
        single = Signal(DIVISOR_BITS)
        triple = Signal(DIVISOR_BITS + DIGIT_BITS)
        remainder = Signal(DIVISOR_BITS)
        shifted = remainder << DIGIT_BITS
        after = [shifted - multiple for multiple in (0, single, single << 1, triple)]
        fits = [~difference[-1] for difference in after[1:]]
        digit = Signal(DIGIT_BITS)
        m.d.comb += digit.eq(Mux(fits[2], 3, Mux(fits[1], 2, fits[0])))

        # Root: the next two bits of the radicand come down, and 4 * root + 1 is tried.
        rest = Signal(QUOTIENT_BITS + DIGIT_BITS)
        lowered = Cat(self.quotient[:DIGIT_BITS], rest)
        trial = lowered - Cat(Const(1, DIGIT_BITS), self.root)

        with m.If(self.start):
            m.d.sync += [
                left.eq(self.steps),
                single.eq(self.divisor),
                # Three times the divisor is made during the first step, in which it cannot fit.
                triple.eq(~0),
                remainder.eq(self.dividend),
                self.quotient.eq(0),
                rest.eq(0),
                self.root.eq(0),
            ]
        with m.Elif(self.busy):
            m.d.sync += [
                left.eq(left - 1),
                triple.eq(single + (single << 1)),
                remainder.eq(Mux(fits[2], after[3], Mux(fits[1], after[2], Mux(fits[0], after[1], shifted)))),
                self.quotient.eq(Cat(digit, self.quotient)),
                rest.eq(Mux(trial[-1], lowered, trial)),
                self.root.eq(Cat(~trial[-1], self.root)),
            ]
        return m
