"""The engine's Issue against the list of what its operations ask of the lanes, cycle by cycle."""

from __future__ import annotations

from typing import NamedTuple

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.formats import ACTIVATION_BITS
from ternlight.geometry import Geometry, ceil_div
from ternlight.isa import EngineOp
from ternlight_hw.issue import OPERATION, Issue
from ternlight_sim.bench import StreamSource, parameters, rng, simulate, start


class Step(NamedTuple):
    """A word's way into the lanes; `chunk` counts with `load` and `end` with `last`."""

    weights: int
    load: bool
    chunk: int | None
    group: int
    first: bool
    last: bool
    end: int | None


class Beat(NamedTuple):
    """A beat of an embedding row, and whether its word is done."""

    payload: int
    ends_word: bool


class Program:
    """Random operations, with the words and chunks that they read, and what they do: (operation, Step or Beat)."""

    def __init__(self, random, geometry: Geometry, count: int):
        self.random, self.geometry = random, geometry
        self.operations: list[int] = []
        self.words: list[int] = []
        self.chunks: list[int] = []
        self.work: list[tuple[int, Step | Beat]] = []
        for _ in range(count):
            op = EngineOp.EMBED if random.random() < 0.25 else EngineOp.MATVEC
            chunks, groups = int(random.integers(1, 5)), int(random.integers(1, 3 * geometry.block + 2))
            per_group = geometry.rows // geometry.vector
            beats = groups * per_group - int(random.integers(per_group))
            if op == EngineOp.EMBED:
                beats = int(random.integers(1, 3 * geometry.embedding_beats + 2))
            self._append(self._embed(beats) if op == EngineOp.EMBED else self._matvec(chunks, groups, beats))
            fields = {"op": op, "chunks": chunks, "groups": groups, "beats": beats}
            self.operations.append(OPERATION.const(fields).as_value().value)

    def _append(self, work: list[Step] | list[Beat]) -> None:
        self.work += [(len(self.operations), item) for item in work]

    def _draw(self, queue: list[int], bits: int) -> int:
        """A new entry of `words` or `chunks`."""
        queue.append(int.from_bytes(self.random.bytes(bits // 8), "little"))
        return queue[-1]

    def _matvec(self, chunks: int, groups: int, beats: int) -> list[Step]:
        geometry, steps = self.geometry, []
        per_group = geometry.rows // geometry.vector
        for block in range(0, groups, geometry.block):
            for number in range(chunks):
                chunk = self._draw(self.chunks, ACTIVATION_BITS * geometry.inputs)
                for group in range(block, min(block + geometry.block, groups)):
                    load, last = group == block, number == chunks - 1
                    steps.append(
                        Step(
                            weights=self._draw(self.words, geometry.store_bits),
                            load=load,
                            chunk=chunk if load else None,
                            group=group - block,
                            first=number == 0,
                            last=last,
                            end=min(beats - group * per_group, per_group) - 1 if last else None,
                        )
                    )
        return steps

    def _embed(self, beats: int) -> list[Beat]:
        geometry, bits = self.geometry, ACTIVATION_BITS * self.geometry.vector
        items = []
        for at in range(beats):
            part = at % geometry.embedding_beats
            word = self.words[-1] if part else self._draw(self.words, geometry.store_bits)
            ends_word = part == geometry.embedding_beats - 1 or at == beats - 1
            items.append(Beat(word >> part * bits & (1 << bits) - 1, ends_word))
        assert ceil_div(beats, geometry.embedding_beats) == sum(item.ends_word for item in items)
        return items


def step_of(dut) -> Step:
    """What the lanes see."""
    load, last = bool(dut.step__load.value), bool(dut.step__last.value)
    return Step(
        weights=int(dut.step__weights.value),
        load=load,
        chunk=int(dut.step__chunk.value) if load else None,
        group=int(dut.step__group.value),
        first=bool(dut.step__first.value),
        last=last,
        end=int(dut.step__end.value) if last else None,
    )


@cocotb.test()
async def bench_operations(dut):
    """Every output in every cycle; whatever its operands allow is done at once."""
    geometry, room, stall = Geometry(**parameters()["geometry"]), parameters()["room"], parameters()["stall"]
    random = rng()
    program = Program(random, geometry, parameters()["count"])
    dut.released.value = dut.embedding__ready.value = 0
    sources = {
        name: StreamSource(dut, name, stall=stall, seed=seed)
        for seed, name in enumerate(("operations", "words", "chunks"))
    }
    await start(dut)
    assert int(dut.idle.value)
    for name, source in sources.items():
        cocotb.start_soon(source.send(getattr(program, name)))

    work = iter(program.work)
    operation, item = next(work)
    accepted = lent = done = most = 0
    while done < len(program.work):
        # Places come back so slowly that they run out.
        dut.released.value = int(lent > 0 and (not stall or random.random() < 0.2))
        most = max(most, lent)
        refused = random.random() < stall
        dut.embedding__ready.value = int(not refused)
        await RisingEdge(dut.clk)
        word, chunk, offered = (
            bool(getattr(dut, f"{name}__valid").value) for name in ("words", "chunks", "operations")
        )
        active = operation < accepted
        steps, tells = active and isinstance(item, Step), active and isinstance(item, Beat)
        operands = (steps and (chunk or not item.load) and (lent < room or not item.last)) or (
            tells and lent == 0 and not refused
        )
        taken = operands and word
        # With everything at hand there is a word per cycle; only an embedding waits, for the groups before it.
        assert stall or taken or not active or (tells and lent)
        assert bool(dut.starved.value) == (operands and not word)
        assert bool(dut.step__valid.value) == (steps and taken)
        assert bool(dut.embedding__valid.value) == (tells and lent == 0 and word)
        assert bool(dut.words__ready.value) == (operands and (steps or item.ends_word))
        assert bool(dut.chunks__ready.value) == (steps and taken and item.load)
        assert bool(dut.idle.value) == (not active and not offered and lent == 0)
        if steps and taken:
            assert step_of(dut) == item
            lent += item.last
        if tells and taken:
            assert int(dut.embedding__payload.value) == item.payload
        lent -= int(dut.released.value)

        before = operation
        if taken:
            done += 1
            operation, item = next(work, (len(program.operations), None))
        ends = not active or operation != before
        assert bool(dut.operations__ready.value) == ends
        accepted += ends and offered
        await FallingEdge(dut.clk)
    assert most == (room if stall else 1)
    while lent:
        assert not int(dut.idle.value)
        dut.released.value = 1
        await FallingEdge(dut.clk)
        lent -= 1
    assert int(dut.idle.value)


SIZES = [
    {"inputs": 4, "rows": 8, "vector": 4, "block": 3},
    {"inputs": 8, "rows": 8, "vector": 2, "block": 4},
]


@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize(("sizes", "room"), [(SIZES[0], 2), (SIZES[1], 5)])
def test_operations(sizes, room, stall):
    simulate(
        Issue(geometry=Geometry(**sizes), room=room),
        __file__,
        bench="bench_operations",
        parameters={"geometry": sizes, "room": room, "stall": stall, "count": 60, "seed": 5},
    )


def test_issue_refuses_room():
    with pytest.raises(ValueError, match="room must be positive, not 0"):
        Issue(geometry=Geometry(), room=0)
