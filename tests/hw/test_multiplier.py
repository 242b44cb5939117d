"""multiplied against integers, plain and in an ECP5's multiplier blocks."""

from __future__ import annotations

import cocotb
import pytest
from amaranth import Module, Shape
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from ternlight_hw.vector.multiplier import multiplied
from ternlight_sim.bench import ECP5, rng, simulate, start, unpack

SHAPES = [
    ((18, True), (18, True)),
    ((18, False), (18, False)),
    ((18, True), (18, False)),
    ((10, False), (7, True)),
    ((24, True), (18, True)),
]
"""Widths and signs of factors; the last pair takes more than a block."""


class Products(wiring.Component):
    """A product of each pair."""

    def __init__(self) -> None:
        members = {"enable": In(1)}
        for index, (a, b) in enumerate(SHAPES):
            members |= {f"a_{index}": In(Shape(*a)), f"b_{index}": In(Shape(*b)), f"product_{index}": Out(a[0] + b[0])}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        for index in range(len(SHAPES)):
            a, b, product = (getattr(self, f"{name}_{index}") for name in ("a", "b", "product"))
            m.d.comb += product.eq(multiplied(m, platform, a, b, enable=self.enable))
        return m


@cocotb.test()
async def bench_products(dut):
    random = rng()
    dut.enable.value = 0
    await start(dut)
    held: list[int] | None = None
    for _ in range(2000):
        enable, products = int(random.random() < 0.7), []
        for index, pair in enumerate(SHAPES):
            product = 1
            for name, (bits, signed) in zip("ab", pair, strict=True):
                limit = 1 << bits
                corners = [0, 1, limit // 2 - 1, limit // 2, limit - 1]
                raw = int(random.choice(corners)) if random.random() < 0.3 else int(random.integers(limit))
                getattr(dut, f"{name}_{index}").value = raw
                product *= unpack(raw, bits, 1, signed=signed)[0]
            products.append(product)
        dut.enable.value = enable
        await FallingEdge(dut.clk)
        held = products if enable else held
        for index, product in enumerate(held or []):
            bits = sum(width for width, _ in SHAPES[index])
            assert int(getattr(dut, f"product_{index}").value) == product & (1 << bits) - 1, index


@pytest.mark.parametrize("platform", [None, ECP5], ids=["plain", "ecp5"])
def test_products(platform):
    simulate(Products(), __file__, bench="bench_products", platform=platform)
