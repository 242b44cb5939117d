"""ScalarUnit against the golden scalar arithmetic."""

from __future__ import annotations

import itertools

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.isa import ScalarOp
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN, MANTISSA_MAX, MANTISSA_MIN
from ternlight_hw.layouts import WRITEBACK, scalar_command
from ternlight_hw.scalar import FROM_TABLE, ScalarUnit
from ternlight_sim.bench import StreamSource, parameters, rng, simulate, start
from ternlight_sim.golden import scalar
from ternlight_sim.golden.scalar import UFloat

CORNERS = [(0, 0)] + [
    (mantissa, exponent)
    for mantissa in (MANTISSA_MIN, MANTISSA_MIN + 1, 23170, MANTISSA_MAX)
    for exponent in (EXPONENT_MIN, EXPONENT_MIN + 1, -15, -14, 0, 1, 15, EXPONENT_MAX - 1, EXPONENT_MAX)
]
UNNORMALISED = [(1, 0), (16256, -22), (MANTISSA_MIN - 1, 300)]
"""Operands that only the fast operations take (the second is a QSCALE result)."""


def random_operand(random, near=None):
    if near is None or random.random() < 0.3:
        exponent = int(random.integers(EXPONENT_MIN, EXPONENT_MAX + 1))
    else:
        exponent = int(np.clip(near + random.integers(-17, 18), EXPONENT_MIN, EXPONENT_MAX))
    return int(random.integers(MANTISSA_MIN, MANTISSA_MAX + 1)), exponent


def operations(random, count):
    """Every pair of corners for every operation, then random ones, in random order."""
    fast = [op for op in ScalarOp if op not in FROM_TABLE]
    chosen = [(op, a, b) for op, a, b in itertools.product(fast, CORNERS + UNNORMALISED, CORNERS + UNNORMALISED)]
    chosen += [(op, a, (0, 0)) for op, a in itertools.product(FROM_TABLE, CORNERS)]
    for _ in range(count):
        a = random_operand(random)
        chosen.append((ScalarOp(int(random.integers(len(ScalarOp)))), a, random_operand(random, near=a[1])))
    return [chosen[index] for index in random.permutation(len(chosen))]


def expected(op, a, b):
    golden = getattr(scalar, op.name.lower())
    operands = [UFloat(*(np.asarray(part, np.int64) for part in operand)) for operand in (a, b)]
    result = golden(*operands) if op in (ScalarOp.ADD, ScalarOp.MUL) else golden(operands[0])
    return int(result.mantissa), int(result.exponent)


def command(op, target, a, b):
    fields = {
        "op": op,
        "target": {"number": target & 15, "context": target >> 4},
        "a": {"mantissa": a[0], "exponent": a[1]},
        "b": {"mantissa": b[0], "exponent": b[1]},
    }
    return scalar_command().const(fields).as_value().value


def writeback(target, value):
    register = {"number": target & 15, "context": target >> 4}
    return WRITEBACK.const({"target": register, "value": {"mantissa": value[0], "exponent": value[1]}}).as_value().value


@cocotb.test()
async def bench_operations(dut):
    stall = parameters()["stall"]
    random = rng()
    source = StreamSource(dut, "command", stall=stall, seed=1)
    await start(dut)
    todo = [(op, int(random.integers(64)), a, b) for op, a, b in operations(random, parameters()["count"])]
    cocotb.start_soon(source.send([command(*operation) for operation in todo]))
    results = []
    while len(results) < len(todo):
        await RisingEdge(dut.clk)
        if int(dut.result__valid.value):
            results.append(int(dut.result__payload.value))
    for (op, target, a, b), result in zip(todo, results, strict=True):
        assert result == writeback(target, expected(op, a, b)), f"{op.name} {a} {b}"


@pytest.mark.parametrize(("stall", "count"), [(0.0, 3000), (0.4, 1000)])
def test_operations(stall, count):
    simulate(
        ScalarUnit(), __file__, bench="bench_operations", parameters={"stall": stall, "count": count, "seed": count}
    )


async def arrivals(dut, ops):
    """Cycles in which commands are taken and results appear, for commands that are offered without a pause."""
    taken, arrived = [], []
    queue = list(ops)
    for cycle in range(100 * len(ops)):
        dut.command__valid.value = int(bool(queue))
        if queue:
            dut.command__payload.value = command(queue[0], 0, (20000, 3), (30000, 2))
        await RisingEdge(dut.clk)
        if queue and int(dut.command__ready.value):
            taken.append(cycle)
            queue.pop(0)
        if int(dut.result__valid.value):
            arrived.append(cycle)
        await FallingEdge(dut.clk)
        if len(arrived) == len(ops):
            break
    return taken, arrived


@cocotb.test()
async def bench_timing(dut):
    await start(dut)
    latency = ScalarUnit.latency
    for op in ScalarOp:
        taken, arrived = await arrivals(dut, [op])
        assert arrived[0] - taken[0] == latency[op], op.name
    for pair in itertools.product(ScalarOp, repeat=2):
        taken, arrived = await arrivals(dut, pair)
        assert taken[1] - taken[0] == (2 if pair[0] in FROM_TABLE else 1), pair
        assert [end - begin for begin, end in zip(taken, arrived, strict=True)] == [latency[op] for op in pair], pair


def test_timing():
    simulate(ScalarUnit(), __file__, bench="bench_timing")
