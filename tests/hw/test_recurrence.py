"""DigitRecurrence against integer division and square roots."""

from __future__ import annotations

from math import isqrt

import cocotb
from cocotb.triggers import FallingEdge

from ternlight_hw.recurrence import DIVIDEND_BITS, DIVISOR_BITS, QUOTIENT_BITS, DigitRecurrence
from ternlight_sim.bench import rng, simulate, start

ROOT_STEPS_MAX = QUOTIENT_BITS + 1
"""A root has one bit less than there are steps; this many fill its port."""


def corners() -> list[tuple[int, int]]:
    """Dividends and divisors at the ends of what is allowed: 4 * dividend below 3 * divisor."""
    largest_divisor, largest_dividend = (1 << DIVISOR_BITS) - 1, (1 << DIVIDEND_BITS) - 1
    pairs = [(dividend, divisor) for dividend in (0, 1, 2, 3) for divisor in range(1, 12)]
    pairs += [(dividend, largest_divisor) for dividend in (0, 1, largest_dividend)]
    # The largest dividend of a divisor, and the smallest divisor of a dividend.
    pairs += [((3 * divisor - 1) // 4, divisor) for divisor in (1, 2, 3, 4, 1 << 14, (1 << 14) + 1)]
    pairs += [(dividend, 4 * dividend // 3 + 1) for dividend in (5, 1 << 12, 1 << 13, largest_dividend)]
    return [(dividend, divisor) for dividend, divisor in pairs if 4 * dividend < 3 * divisor]


def random_pair(random) -> tuple[int, int]:
    divisor = int(random.integers(1, 1 << DIVISOR_BITS)) >> int(random.integers(DIVISOR_BITS)) or 1
    largest = min((1 << DIVIDEND_BITS) - 1, (3 * divisor - 1) // 4)
    return int(random.integers(largest + 1)), divisor


@cocotb.test()
async def bench_digits(dut):
    """Every start is followed by `steps` busy cycles, then by results that stay."""
    random = rng()
    steps_max = DigitRecurrence.steps_max
    jobs = [(pair, steps) for pair in corners() for steps in (1, 2, 8, ROOT_STEPS_MAX, steps_max)]
    jobs += [(random_pair(random), int(random.integers(1, steps_max + 1))) for _ in range(1500)]
    dut.start.value = 0
    await start(dut)
    assert not int(dut.busy.value)
    for (dividend, divisor), steps in jobs:
        dut.start.value, dut.steps.value = 1, steps
        dut.dividend.value, dut.divisor.value = dividend, divisor
        await FallingEdge(dut.clk)
        # Operands are taken with the start.
        dut.start.value, dut.steps.value = 0, int(random.integers(steps_max + 1))
        dut.dividend.value, dut.divisor.value = (
            int(random.integers(1 << bits)) for bits in (DIVIDEND_BITS, DIVISOR_BITS)
        )
        for _ in range(steps):
            assert int(dut.busy.value)
            await FallingEdge(dut.clk)
        quotient = (dividend << 2 * steps) // divisor
        # Half of the jobs start in the cycle in which the results before are there.
        for wait in range(1 + int(random.choice([0, 0, 1, 2]))):
            if wait:
                await FallingEdge(dut.clk)
            assert not int(dut.busy.value)
            assert int(dut.quotient.value) == quotient & (1 << QUOTIENT_BITS) - 1, (dividend, divisor, steps)
            if steps <= ROOT_STEPS_MAX:
                assert int(dut.root.value) == isqrt(quotient >> 2), (dividend, divisor, steps)


def test_digits():
    simulate(DigitRecurrence(), __file__, bench="bench_digits", parameters={"seed": 4})
