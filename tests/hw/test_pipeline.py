"""Pipeline, with the stages of a small formula, against lists of what each stage holds."""

from __future__ import annotations

import cocotb
from amaranth import Module, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from ternlight_hw.pipeline import Flow, Pipeline
from ternlight_sim.bench import rng, simulate, start, unpack

BITS = 8
PAIR = data.StructLayout({"a": signed(BITS), "b": signed(BITS)})


def stages_of(a: int, b: int) -> list[tuple[int, ...]]:
    """What each stage holds of a pair, up to a * b - a."""
    return [(a, b), (a, a * b), (a * b - a,)]


WIDTHS = [(BITS, BITS), (BITS, 2 * BITS), (2 * BITS + 1,)]


class Formula(wiring.Component):
    """a * b - a, with every stage in view: `held_n` has the registers of stage n, `valid_n` whether it counts."""

    def __init__(self) -> None:
        ports = {"source": In(Flow(PAIR))}
        for number, widths in enumerate(WIDTHS, 1):
            ports |= {f"valid_{number}": Out(1), f"held_{number}": Out(sum(widths))}
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, self.source.valid)
        assert pipe.depth == 0

        def show(*registers):
            assert [len(register) for register in registers] == list(WIDTHS[pipe.depth - 1])
            offset = 0
            for register in registers:
                held = getattr(self, f"held_{pipe.depth}")
                m.d.comb += held[offset : offset + len(register)].eq(register)
                offset += len(register)
            m.d.comb += getattr(self, f"valid_{pipe.depth}").eq(pipe.valid)

        a, b = pipe.stage(a=self.source.payload.a, b=self.source.payload.b)
        show(a, b)
        a, product = pipe.stage(a=a, product=a * b)
        show(a, product)
        (total,) = pipe.stage(total=product - a)
        show(total)
        assert pipe.depth == len(WIDTHS)
        return m


def held(dut, number: int) -> tuple[int, ...]:
    """The registers of a stage, each with its sign."""
    word, values = int(getattr(dut, f"held_{number}").value), []
    for bits in WIDTHS[number - 1]:
        values += unpack(word, bits, 1)
        word >>= bits
    return tuple(values)


@cocotb.test()
async def bench_stages(dut):
    """A stage is one cycle; what passes no valid pair moves no register."""
    random = rng()
    dut.source__valid.value = 0
    await start(dut)
    limit = 1 << BITS - 1
    pairs: list[tuple[int, int] | None] = [None] * len(WIDTHS)
    registers: list[tuple[int, ...] | None] = [None] * len(WIDTHS)  # None: nothing has come so far
    for cycle in range(2000):
        rate = (0.0, 0.1, 0.6, 1.0)[cycle // 50 % 4]
        valid = bool(random.random() < rate)
        a, b = (int(random.choice([-limit, limit - 1, int(random.integers(-limit, limit))])) for _ in PAIR)
        dut.source__valid.value = int(valid)
        dut.source__payload.value = PAIR.const({"a": a, "b": b}).as_value().value
        pairs = [(a, b) if valid else None, *pairs[:-1]]
        await FallingEdge(dut.clk)
        for place, pair in enumerate(pairs):
            assert bool(getattr(dut, f"valid_{place + 1}").value) == (pair is not None)
            if pair is not None:
                registers[place] = stages_of(*pair)[place]
            if registers[place] is not None:
                assert held(dut, place + 1) == registers[place]


def test_stages():
    simulate(Formula(), __file__, bench="bench_stages", parameters={"seed": 8})
