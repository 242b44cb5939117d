"""carry_sum against integers, plain and in an ECP5's carry chains."""

from __future__ import annotations

import cocotb
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from ternlight_hw.vector.chain import carry_sum
from ternlight_sim.bench import ECP5, parameters, rng, simulate

FUNCTIONS = {
    "copy": lambda b: b,
    "inverse": lambda b, c: b ^ c,
    "choice": lambda b, c, d: (d & ~b) | (~d & c),
    "select": lambda b, c, d: (b ^ c) & d,
}


def masked(c, d):
    return c ^ d


class Sums(wiring.Component):
    """One sum for each function, and a masked one; c is a vector, d one bit for all."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        super().__init__(
            {"a": In(bits), "b": In(bits), "c": In(bits), "d": In(1), "carry": In(1)}
            | {f"sum_{name}": Out(bits) for name in (*FUNCTIONS, "masked")}
        )

    def elaborate(self, platform):
        m = Module()
        for name, function in FUNCTIONS.items():
            operands = [self.b, self.c, self.d][: function.__code__.co_argcount]
            total = carry_sum(m, platform, self.a, function, *operands, carry=self.carry)
            m.d.comb += getattr(self, f"sum_{name}").eq(total)
        total = carry_sum(m, platform, self.a, masked, self.c, self.d, mask=self.b, carry=self.carry)
        m.d.comb += self.sum_masked.eq(total)
        return m


@cocotb.test()
async def bench_sums(dut):
    bits, random = parameters()["bits"], rng()
    mask = (1 << bits) - 1
    corners = [0, 1, mask >> 1, mask - 1, mask]
    for _ in range(2000):
        a, b, c = (
            int(random.choice(corners)) if random.random() < 0.3 else int(random.integers(mask + 1)) for _ in range(3)
        )
        d, carry = (int(random.integers(2)) for _ in range(2))
        dut.a.value, dut.b.value, dut.c.value, dut.d.value, dut.carry.value = a, b, c, d, carry
        await Timer(1, "ns")
        for name, function in FUNCTIONS.items():
            operands = (b, c, -d)[: function.__code__.co_argcount]
            assert int(getattr(dut, f"sum_{name}").value) == (a + function(*operands) + carry) & mask, name
        assert int(dut.sum_masked.value) == ((a & b) + masked(c, -d) + carry) & mask


@pytest.mark.parametrize("platform", [None, ECP5], ids=["plain", "ecp5"])
@pytest.mark.parametrize("bits", [2, 7, 18])
def test_sums(bits, platform):
    simulate(Sums(bits), __file__, bench="bench_sums", parameters={"bits": bits}, platform=platform)


def test_refuses():
    with pytest.raises(ValueError, match="a function of three operands must be 0 where the last two are"):
        carry_sum(Module(), ECP5, Sums(4).a, lambda b, c, d: b ^ c ^ d, *[Sums(4).b] * 3)
