"""Lane of the gate unit against the golden functions on single elements: any shifts and operands, with bubbles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge

from ternlight import compact
from ternlight.formats import LOWER_BOUND_FRACTION, SHIFT_MAX, STATE_BITS
from ternlight.isa import GateOp
from ternlight.sigmoid import INPUT_FRACTION
from ternlight.ufloat import MANTISSA_BITS
from ternlight_hw.gate.beat import (
    FORGET_READ,
    FORGET_WRITE,
    GATED_WRITE,
    LAST,
    NARROWING,
    SQUARE,
    STATE_WRITE,
    STEP_BITS,
    WORD,
    beat_layout,
    second_bits,
    steps_max,
)
from ternlight_hw.gate.lane import Lane
from ternlight_hw.vector.sigmoid import limit_of
from ternlight_sim.bench import ECP5, parameters, rng, simulate, start
from ternlight_sim.golden import vector
from ternlight_sim.golden.scalar import UFloat

ONE = 1 << LOWER_BOUND_FRACTION


@dataclass
class Beat:
    """What the lane gets of a beat, by stage and port, and what it must show, likewise."""

    constants: dict[str, int]
    inputs: dict[int, dict[str, int]]
    outputs: dict[int, dict[str, int]] = field(default_factory=dict)


def extreme(random, bits: int) -> int:
    """A signed value of so many bits: of any magnitude, near a power of two, or an end of the range."""
    limit = 1 << bits - 1
    kind = random.random()
    if kind < 0.15:
        return int(random.choice([-limit, -limit + 1, -1, 0, 1, limit - 1]))
    if kind < 0.3:
        power = int(random.choice([-1, 1])) << int(random.integers(bits - 1))
        return min(max(power + int(random.integers(-9, 10)), -limit), limit - 1)
    return int(random.integers(-limit, limit)) >> int(random.integers(bits))


def random_beat(random, op: GateOp, accumulator: int) -> Beat:
    """Shifts first, then a scale that asks for them."""
    low, high = extreme(random, accumulator), extreme(random, accumulator)
    uses_high = op != GateOp.MLP and random.random() < 0.5
    keeps_high = op == GateOp.MLP or uses_high
    acc = np.array([high if uses_high else low])
    mantissa, shift = int(random.integers(1 << MANTISSA_BITS)), int(random.integers(SHIFT_MAX + 1))
    fraction = INPUT_FRACTION if op == GateOp.FORGET else int(random.integers(INPUT_FRACTION + 1))
    second = int(random.integers(1 << second_bits(accumulator)))
    fresh = op == GateOp.STATE and random.random() < 0.2
    scale = UFloat(np.int64(mantissa), np.int64(-fraction - shift))
    code = int(compact.encode(np.array([extreme(random, STATE_BITS)]))[0])
    bound = int(random.choice([0, 1, ONE - 1, *random.integers(ONE, size=3)]))
    forget = int(random.choice([0, 1, ONE, *random.integers(ONE + 1, size=3)]))
    h = np.array([code])
    outputs: dict[int, dict[str, int]] = {}
    match op:
        case GateOp.FORGET:
            outputs[FORGET_WRITE] = {"forget_write": int(vector.forget(acc, np.array([bound]), scale)[0])}
        case GateOp.STATE:
            state = vector.state(acc, np.array([forget]), h * (not fresh), scale, fraction)
            outputs[STATE_WRITE] = {"state": int(state[0])}
        case GateOp.GATE | GateOp.MLP:
            if op == GateOp.GATE:
                t, power = vector.gate(acc, h, second, fraction)
            else:
                t, power = vector.mlp(np.array([[low], [high]]), scale, second, fraction)
            outputs[GATED_WRITE] = {"value": int(t[0])}
            outputs[SQUARE] = {"power": int(power.mantissa) << 10 | int(power.exponent) & 0x3FF}
    steps = 0 if op == GateOp.GATE else (shift + 1) // 2
    narrowing = {
        "steps": steps & (1 << STEP_BITS) - 1,
        "deep": int(steps >> STEP_BITS != 0),
        "void": int(steps > steps_max(accumulator)),
    }
    return Beat(
        constants={
            "valid": 1,
            "forget": int(op == GateOp.FORGET),
            "state": int(op == GateOp.STATE),
            "gate": int(op == GateOp.GATE),
            "fresh": int(fresh),
            "lift": INPUT_FRACTION - fraction,
            "limit": limit_of(INPUT_FRACTION - fraction),
            "second": second,
        },
        inputs={
            0: {"low": low, "high": high, "uses_high": int(uses_high), "keeps_high": int(keeps_high)},
            1: {"factor": 0 if op == GateOp.GATE else mantissa << (shift & 1)},
            WORD: {
                "narrowing": NARROWING.const(narrowing).as_value().value,
                "word": bound if op == GateOp.FORGET else code,
            },
            FORGET_READ: {"forget_read": forget},
        },
        outputs=outputs,
    )


def shown(dut, name: str) -> int:
    """An output as the beats have it: a signed number, or the sum of one square."""
    if name == "power":
        square = np.int64(dut.square.value.to_signed())
        value = vector.normalise(square * square)
        return int(value.mantissa) << 10 | int(value.exponent) & 0x3FF
    value: Any = getattr(dut, name).value
    return int(value) if name == "forget_write" else int(value.to_signed())


@cocotb.test()
async def bench_elements(dut):
    random, accumulator, count = rng(), parameters()["accumulator"], parameters()["count"]
    layout = beat_layout(accumulator)
    widths = {name: len(getattr(dut, name).value) for name in ("low", "high", "word")}
    ports = [getattr(dut, f"beats__{stage}") for stage in range(LAST + 1)]
    dut.advance.value = 1
    for port in ports:
        port.value = 0
    await start(dut)
    queue = [random_beat(random, GateOp(int(random.integers(len(GateOp)))), accumulator) for _ in range(count)]
    beats: list[Beat | None] = [None] * len(ports)
    while queue or any(beats):
        beats = [queue.pop() if queue and random.random() < 0.8 else None, *beats[:-1]]
        for stage, (port, beat) in enumerate(zip(ports, beats, strict=True)):
            port.value = layout.const(beat.constants).as_value().value if beat else 0
            for name, value in beat.inputs.get(stage, {}).items() if beat else ():
                getattr(dut, name).value = value & (1 << widths[name]) - 1 if name in widths else value
        await FallingEdge(dut.clk)
        for stage, beat in enumerate(beats[:-1], 1):
            for name, due in beat.outputs.get(stage, {}).items() if beat else ():
                assert shown(dut, name) == due, (name, beat)


@pytest.mark.parametrize(
    ("accumulator", "platform"), [(13, None), (18, None), (24, None), (18, ECP5)], ids=["13", "18", "24", "ecp5"]
)
def test_elements(accumulator, platform):
    simulate(
        Lane(accumulator=accumulator),
        __file__,
        bench="bench_elements",
        parameters={"accumulator": accumulator, "count": 5000, "seed": accumulator},
        platform=platform,
    )
