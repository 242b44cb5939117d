"""The vector unit's Issue against the beats of its commands, cycle by cycle."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.formats import BLOCK_FRACTION, BLOCK_SHIFT_MAX, GAIN_SHIFT, QUANT_FRACTION, SHIFT_MAX, STAT_SHIFT
from ternlight.isa import VectorOp
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION
from ternlight.ufloat import EXPONENT_MAX, EXPONENT_MIN
from ternlight_hw.layouts import vector_command
from ternlight_hw.vector.beat import BEAT, LONG, ROUTE
from ternlight_hw.vector.issue import NARROWING_MAX, Issue
from ternlight_sim.bench import rng, simulate, start

COMMAND = vector_command()
SIGMOID = (VectorOp.FORGET, VectorOp.STATE, VectorOp.GATE, VectorOp.MLP)


def fields_of(layout, raw: int) -> dict[str, int]:
    """The unsigned fields of a payload."""
    return {name: raw >> field.offset & (1 << field.width) - 1 for name, field in layout}


def clip(value: int, high: int) -> int:
    return max(0, min(value, high))


def constants(command: dict[str, Any]) -> dict[str, int]:
    """The shifts of ternlight_sim.golden.vector: those of BEAT that the operation uses."""
    op, exponent = command["op"], command["scale"]["exponent"]
    fraction = INPUT_FRACTION if op == VectorOp.FORGET else command["fraction"]
    used = {"shift": clip(-exponent - fraction, SHIFT_MAX)}
    match op:
        case VectorOp.EMBED:
            used = {"shift": 0}
        case VectorOp.STAT | VectorOp.GAIN:
            shift = STAT_SHIFT if op == VectorOp.STAT else GAIN_SHIFT
            used = {"shift": shift, "narrowing": clip(exponent - BLOCK_FRACTION, BLOCK_SHIFT_MAX)}
        case VectorOp.QUANT:
            narrowing = clip(-QUANT_FRACTION - exponent, NARROWING_MAX)
            used = {"shift": clip(-exponent, QUANT_FRACTION), "narrowing": narrowing}
        case VectorOp.GATE:
            used = {}
    if op in SIGMOID:
        used["lift"] = INPUT_FRACTION - fraction
    if op in (VectorOp.GATE, VectorOp.MLP):
        used["second_shift"] = command["shift"]
    if op == VectorOp.STATE:
        used["second_shift"] = OUTPUT_FRACTION
    return used


def beats_of(command: dict[str, Any]) -> list[dict[str, int]]:
    """What every beat of a command shows: the fields of BEAT and ROUTE, and its addresses."""
    op, count = command["op"], command["beats"]
    outputs, beats = 0, []
    for number in range(count):
        header = op == VectorOp.EMBED and number == 0
        produces = not header and (op != VectorOp.MLP or number % 2 == 1)
        target = command["state"] + number if op == VectorOp.STATE else command["target"] + outputs
        beats.append(
            constants(command)
            | {name: command[name] for name in ("buffer", "peak", "energy", "power")}
            | {
                "valid": 1,
                "op": int(op),
                "long": int(op in LONG),
                "odd": number % 2,
                "fresh": int(command["fresh"] and op == VectorOp.STATE),
                "header": int(header),
                "produces": int(produces),
                "last": int(number == count - 1),
                "mantissa": command["scale"]["mantissa"],
                "target": target,
                "source": command["source"] + number,
                "state": command["state"] + number,
                "gain": command["gain"] + outputs,
            }
            # Of beats without an output it means nothing.
            | ({"first": int(outputs == 0)} if produces else {})
        )
        outputs += produces
    return beats


def random_command(random) -> dict[str, Any]:
    op = VectorOp(int(random.integers(len(VectorOp))))
    beats = int(random.choice([1, 1, 2, 3, int(random.integers(1, 20))]))
    command = {name: int(random.integers(1 << field.width)) for name, field in COMMAND if name != "scale"}
    # Addresses that stay within their memories.
    command |= {name: command[name] >> 1 for name in ("source", "target", "gain", "state")}
    extreme = int(random.choice([EXPONENT_MIN, EXPONENT_MAX, int(random.integers(EXPONENT_MIN, EXPONENT_MAX))]))
    exponent = extreme if random.random() < 0.1 else int(random.integers(-80, 20))
    return command | {
        "op": op,
        "fence": int(random.random() < 0.2),
        "beats": {VectorOp.EMBED: beats + 1, VectorOp.MLP: 2 * beats}.get(op, beats),
        "fraction": int(random.integers(INPUT_FRACTION + 1)),
        "scale": {"mantissa": int(random.integers(1 << 15)), "exponent": exponent},
    }


def shown(dut) -> dict[str, int]:
    return (
        fields_of(BEAT, int(dut.beat.value))
        | fields_of(ROUTE, int(dut.route.value))
        | {name: int(getattr(dut, name).value) for name in ("source", "gain", "state")}
    )


@cocotb.test()
async def bench_commands(dut):
    """Beats begin in the cycle after the transfer, follow each other with `advance`, and wait without it."""
    random = rng()
    dut.command__valid.value = dut.advance.value = dut.drained.value = 0
    await start(dut)
    waiting: list[dict[str, int] | None] = []  # beats to come of the command that is here; None: an idle one
    commands = [random_command(random) for _ in range(1200)]
    offered = None
    rates = np.ones(3)
    cycle = 0
    while commands or offered or waiting:
        if cycle % 200 == 0:
            rates = random.choice([0.3, 0.8, 1.0], 3)
        cycle += 1
        offers, advance, drained = (bool(random.random() < rate) for rate in rates)
        if offered is None and commands and offers:
            offered = commands.pop()
        dut.command__valid.value = int(offered is not None)
        if offered is not None:
            dut.command__payload.value = COMMAND.const(offered).as_value().value
        dut.advance.value, dut.drained.value = int(advance), int(drained)

        await RisingEdge(dut.clk)
        assert bool(dut.busy.value) == bool(waiting)
        beat = shown(dut)
        assert bool(beat["valid"]) == bool(waiting and waiting[0])
        if waiting and waiting[0]:
            assert {name: beat[name] for name in waiting[0]} == waiting[0]
        if offered is not None:
            takes = not waiting and drained if offered["fence"] else not waiting or (advance and len(waiting) == 1)
            assert bool(dut.command__ready.value) == takes
        if waiting and advance:
            waiting.pop(0)
        if offered is not None and takes:
            beats = beats_of(offered)
            waiting = [None, *beats] if len(beats) == 1 else beats
            offered = None
        await FallingEdge(dut.clk)


def test_commands():
    simulate(Issue(), __file__, bench="bench_commands", parameters={"seed": 7})
