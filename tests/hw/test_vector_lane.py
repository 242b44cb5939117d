"""Lane against the golden functions on single elements: any shifts, stalls up to the entry, bubbles behind it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
import pytest
from amaranth import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import FallingEdge

from ternlight.formats import (
    BLOCK_FRACTION,
    BLOCK_SHIFT_MAX,
    COMPACT_BITS,
    ELEMENT_BITS,
    EMBED_SHIFT_MAX,
    GAIN_SHIFT,
    QUANT_FRACTION,
    SHIFT_MAX,
    STAT_SHIFT,
)
from ternlight.isa import VectorOp
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION
from ternlight.ufloat import MANTISSA_BITS
from ternlight_hw.vector.beat import BEAT, ENTRY, LONG, LONG_EXIT, ROUNDED, SHORT_EXIT
from ternlight_hw.vector.issue import NARROWING_MAX
from ternlight_hw.vector.lane import EXIT, FACTOR_BITS, Lane
from ternlight_sim.bench import parameters, rng, simulate, start, unpack
from ternlight_sim.golden import vector
from ternlight_sim.golden.scalar import UFloat

OPERANDS = {"source": ELEMENT_BITS, "gain": COMPACT_BITS, "state": COMPACT_BITS}


class Exits(wiring.Component):
    """A lane whose exits have names that C++ does not reserve."""

    def __init__(self, *, accumulator: int) -> None:
        self.lane = Lane(accumulator=accumulator)
        kept = {name: member for name, member in self.lane.signature.members.items() if name not in ("short", "long")}
        super().__init__(kept | {"short_exit": Out(EXIT), "long_exit": Out(EXIT)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.lane = lane = self.lane
        for name, member in self.signature.members.items():
            if name == "beats":
                for stage, beat in enumerate(self.beats):
                    m.d.comb += lane.beats[stage].eq(beat)
            elif member.flow is In:
                m.d.comb += getattr(lane, name).eq(getattr(self, name))
        m.d.comb += [
            self.activation.eq(lane.activation),
            self.short_exit.eq(lane.short),
            self.long_exit.eq(lane.long),
        ]
        return m


@dataclass
class Beat:
    """A beat with its operands, and what must come of it: outputs by name, squares of what the reductions take."""

    op: VectorOp
    constants: dict[str, int]
    operands: dict[str, int]
    result: int
    factor: int
    expected: dict[str, int] = field(default_factory=dict)

    def encode(self) -> int:
        fields: dict[str, Any] = {"valid": 1, "op": self.op, "long": int(self.op in LONG)}
        return BEAT.const(fields | self.constants).as_value().value


def extreme(random, bits: int) -> int:
    """A signed value of so many bits: of any magnitude, or an end of the range."""
    limit = 1 << bits - 1
    if random.random() < 0.2:
        return int(random.choice([-limit, -limit + 1, -1, 0, 1, limit - 1]))
    return int(random.integers(-limit, limit)) >> int(random.integers(bits))


def random_beats(random, op: VectorOp, accumulator: int) -> list[Beat]:
    """One beat, or two for MLP: first the shifts, then a scale that asks for them."""
    operands = {name: extreme(random, bits) for name, bits in OPERANDS.items()}
    mantissa = int(random.integers(1 << MANTISSA_BITS))
    fraction = INPUT_FRACTION if op == VectorOp.FORGET else int(random.integers(INPUT_FRACTION + 1))
    shift, second = int(random.integers(SHIFT_MAX + 1)), int(random.integers(1 << 6))
    fresh = op == VectorOp.STATE and random.random() < 0.2
    result = extreme(random, 8 if op == VectorOp.EMBED else accumulator)
    constants = {"shift": shift, "lift": INPUT_FRACTION - fraction, "second_shift": second, "fresh": int(fresh)}
    scale, factor = UFloat(np.int64(mantissa), np.int64(-fraction - shift)), mantissa
    source, gain, state, acc = (np.array([value]) for value in (*operands.values(), result))
    expected: dict[str, int] = {}
    output, sums = None, vector.Sums()
    match op:
        case VectorOp.EMBED:
            exponent = int(random.integers(EMBED_SHIFT_MAX + 1))
            constants["shift"], factor = 0, 1 << exponent
            output, sums = vector.embed(acc, np.array([exponent]))
        case VectorOp.STAT | VectorOp.GAIN:
            narrowing = int(random.integers(BLOCK_SHIFT_MAX + 1))
            constants |= {"narrowing": narrowing, "shift": STAT_SHIFT if op == VectorOp.STAT else GAIN_SHIFT}
            peak = UFloat(np.int64(mantissa), np.int64(narrowing + BLOCK_FRACTION))
            if op == VectorOp.STAT:
                sums = vector.stat(source, gain, peak)
            else:
                output, sums = vector.gain(source, gain, peak)
        case VectorOp.QUANT:
            narrowing = int(random.integers(NARROWING_MAX + 1)) if random.random() < 0.5 else 0
            shift = QUANT_FRACTION if narrowing else int(random.integers(QUANT_FRACTION + 1))
            constants |= {"narrowing": narrowing, "shift": shift}
            expected["activation"] = int(vector.quant(source, UFloat(scale.mantissa, np.int64(-shift - narrowing)))[0])
        case VectorOp.FORGET:
            output = vector.forget(acc, gain, scale)
        case VectorOp.STATE:
            constants["second_shift"] = OUTPUT_FRACTION
            output = vector.state(acc, source, state * (not fresh), scale, fraction)
        case VectorOp.GATE:
            output, sums = vector.gate(acc, state, second, fraction)
        case VectorOp.MLP:
            first = Beat(op, constants, {**operands, "gain": extreme(random, COMPACT_BITS)}, result, factor)
            result = extreme(random, accumulator)
            output, sums = vector.mlp(np.array([[first.result, result]]), gain, scale, second, fraction)
        case VectorOp.RESID:
            output, sums = vector.resid(acc, source, scale, fraction)
    if output is not None:
        expected["value"] = int(output[0])
    expected |= {name: int(total) for name, total in sums._asdict().items() if name != "peak" and total is not None}
    if op == VectorOp.MLP:
        return [first, Beat(op, constants | {"odd": 1}, operands, result, factor, expected)]
    return [Beat(op, constants, operands, result, factor, expected)]


def check(dut, beats: list[Beat | None]) -> None:
    """The outputs of the beats in the stages of the exits."""
    rounded, short, long = (beats[stage] for stage in (ROUNDED, SHORT_EXIT, LONG_EXIT))
    if rounded and "activation" in rounded.expected:
        assert dut.activation.value.to_signed() == rounded.expected["activation"]
    for beat, port, leaves in ((short, "short_exit", False), (long, "long_exit", True)):
        if beat is None or (beat.op in LONG) != leaves:
            continue
        word = int(getattr(dut, port).value)
        found = {}
        for name, place in EXIT:
            (found[name],) = unpack(word >> place.offset, place.width, 1)
        for name, due in beat.expected.items():
            if name in ("energy", "power"):
                assert found[name] ** 2 == due, (beat, name)
            elif name == "value":
                bits = COMPACT_BITS if beat.op == VectorOp.STATE else ELEMENT_BITS
                assert (found[name] - due) % (1 << bits) == 0, beat


@cocotb.test()
async def bench_elements(dut):
    random, accumulator = rng(), parameters()["accumulator"]
    stages = [getattr(dut, f"beats__{stage}") for stage in range(LONG_EXIT + 1)]
    for port in stages:
        port.value = 0
    await start(dut)
    queue = [
        beat
        for _ in range(parameters()["count"])
        for beat in random_beats(random, VectorOp(int(random.integers(len(VectorOp)))), accumulator)
    ]
    beats: list[Beat | None] = [None] * len(stages)
    while queue or any(beats):
        advance = random.random() < 0.7 or beats[ENTRY] is None
        if advance:
            beats[0] = queue.pop(0) if queue and random.random() < 0.8 else None
        for port, beat in zip(stages, beats, strict=True):
            port.value = beat.encode() if beat else 0
        dut.advance.value = int(advance)
        words, entry = beats[1], beats[ENTRY]
        for name, bits in OPERANDS.items():
            operand = words.operands[name] if words else extreme(random, bits)
            getattr(dut, name).value = operand & (1 << bits) - 1
        result = entry.result if entry and advance else extreme(random, accumulator)
        dut.result.value = result & (1 << accumulator) - 1
        dut.factor.value = entry.factor if entry and advance else int(random.integers(1 << FACTOR_BITS))
        await FallingEdge(dut.clk)
        waiting, moving = beats[: ENTRY + 1], beats[ENTRY + 1 : -1]
        beats = [None, *waiting, *moving] if advance else [*waiting, None, *moving]
        check(dut, beats)


@pytest.mark.parametrize("accumulator", [18, 24])
def test_elements(accumulator):
    simulate(
        Exits(accumulator=accumulator),
        __file__,
        bench="bench_elements",
        parameters={"accumulator": accumulator, "count": 2500, "seed": accumulator},
    )
