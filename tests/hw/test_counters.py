"""Counters against sums of what was counted."""

from __future__ import annotations

import re

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight_hw.counters import Counters
from ternlight_sim.bench import parameters, rng, simulate, start

AGE = 3
"""The total counts the cycles up to that many before `told`."""


@cocotb.test()
async def bench_totals(dut):
    """Totals of counters that advance always, never and at random; then again after a reset at any time."""
    amount, bits = parameters()["amount"], parameters()["bits"]
    random = rng()
    dut.wanted.value = 0
    dut.count.value = 0
    await start(dut)
    for _ in range(4):
        rates = random.permutation([0.0, 1.0, *random.random(amount)])[:amount]
        history = [[0] * amount]  # totals after each cycle
        waited = 0
        while len(history) < 3000:
            # Often in the very next cycle.
            if not waited and random.random() < 0.5:
                waited = 1
                dut.index.value = index = int(random.integers(amount))
            dut.wanted.value = bool(waited)
            counts = random.random(amount) < rates
            dut.count.value = sum(1 << place for place, advances in enumerate(counts) if advances)
            await RisingEdge(dut.clk)
            told = int(dut.told.value)
            if waited and told:
                assert 1 <= waited - 1 <= amount
                expected = history[-AGE][index] if len(history) >= AGE else 0
                assert int(dut.total.value) == expected % (1 << bits)
                waited = 0
            elif waited:
                waited += 1
            else:
                assert not told
            history.append([total + int(advances) for total, advances in zip(history[-1], counts, strict=True)])
            await FallingEdge(dut.clk)
        assert max(history[-1]) > 1 << bits or bits > 16
        dut.rst.value, dut.wanted.value = 1, 0
        await FallingEdge(dut.clk)
        dut.rst.value = 0


@pytest.mark.parametrize(("amount", "bits"), [(2, 5), (9, 11), (9, 64), (16, 9)])
def test_totals(amount, bits):
    simulate(
        Counters(amount=amount, bits=bits),
        __file__,
        bench="bench_totals",
        parameters={"amount": amount, "bits": bits, "seed": amount},
    )


@pytest.mark.parametrize(
    ("amount", "bits", "message"),
    [
        (1, 64, "amount must be at least 2, not 1"),
        (9, 4, "bits must be more than 4 for 9 counters, not 4"),
    ],
)
def test_counters_refuse(amount, bits, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Counters(amount=amount, bits=bits)
