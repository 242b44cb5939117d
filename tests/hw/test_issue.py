"""The engine's Issue against the list of what its operations ask of the lanes, cycle by cycle."""

from __future__ import annotations

from typing import NamedTuple

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry
from ternlight.isa import EngineOp
from ternlight_hw.engine.issue import Issue
from ternlight_hw.layouts import engine_command
from ternlight_sim.bench import StreamSource, parameters, rng, simulate, start


class Step(NamedTuple):
    """A word's way into the lanes; None where it does not count."""

    address: int
    chunk: int | None
    first: bool
    last: bool
    end: int | None
    final: bool | None
    embed: bool
    cell: int | None
    header: bool | None


class Work(NamedTuple):
    """A step, and what comes with it."""

    step: Step
    takes: bool  # needs a chunk's arrival
    beats: int  # that leave the lanes
    coming: bool
    ends: bool  # its operation


class Program:
    """Random operations, and the steps that they are."""

    def __init__(self, random, geometry, count):
        self.geometry = geometry
        self.operations, self.work = [], []
        for _ in range(count):
            op = EngineOp.EMBED if random.random() < 0.25 else EngineOp.MATVEC
            chunks = int(random.integers(1, geometry.buffer_chunks + 1))
            groups = int(random.integers(1, 6))
            fields = {
                "op": op,
                "buffer": int(random.integers(2 * geometry.contexts)),
                "chunks": chunks,
                "groups": groups,
                "beats": groups * geometry.group_beats - int(random.integers(geometry.group_beats)),
                "address": int(random.integers(geometry.store_words // 2)),
                "cell": int(random.integers(geometry.cells)),
            }
            self.operations.append(engine_command().const(fields).as_value().value)
            self.work += self._embed(fields) if op == EngineOp.EMBED else self._matvec(fields)

    def _matvec(self, fields):
        per_group, chunks, groups = self.geometry.group_beats, fields["chunks"], fields["groups"]
        work = []
        for group in range(groups):
            for chunk in range(chunks):
                last = chunk == chunks - 1
                beats = min(per_group, fields["beats"] - group * per_group) if last else 0
                step = Step(
                    address=fields["address"] + group * chunks + chunk,
                    chunk=fields["buffer"] * self.geometry.buffer_chunks + chunk,
                    first=chunk == 0,
                    last=last,
                    end=beats - 1 if last else None,
                    final=group == groups - 1 if last else None,
                    embed=False,
                    cell=None,
                    header=None,
                )
                work.append(Work(step, group == 0, beats, group == 0 and last, last and group == groups - 1))
        return work

    def _embed(self, fields):
        work = []
        for beat in range(fields["chunks"] + 1):
            final = beat == fields["chunks"]
            step = Step(
                address=fields["address"] + max(0, beat - 1) * fields["groups"],
                chunk=None,
                first=True,
                last=True,
                end=0,
                final=final,
                embed=True,
                cell=fields["cell"],
                header=beat == 0,
            )
            work.append(Work(step, False, 1, beat == 0, final))
        return work


def matches(dut, expected):
    for name, value in expected._asdict().items():
        if value is not None and hasattr(dut, f"step__{name}"):
            assert int(getattr(dut, f"step__{name}").value) == value, name


@cocotb.test()
async def bench_operations(dut):
    """Every step as soon as its operands allow, and no sooner."""
    geometry, room, gap = Geometry(**parameters()["geometry"]), parameters()["room"], parameters()["embed_gap"]
    stall, random = parameters()["stall"], rng()
    program = Program(random, geometry, parameters()["count"])
    dut.arrived.value = dut.released.value = 0
    source = StreamSource(dut, "operations", stall=stall, seed=1)
    await start(dut)
    assert int(dut.idle.value)
    cocotb.start_soon(source.send(program.operations))
    work, done, active = program.work, 0, False
    # Room that the issue knows of, beats that it lent a cycle ago, and one that left a cycle ago.
    counted, pending, returned = room, 0, False
    out = 0  # beats under way
    clear_from, held, cycle, issued, least = 0, False, 0, None, room
    while done < len(work) or out:
        cycle += 1
        arrived = not stall or random.random() < 0.6
        released = out > 0 and (not stall or random.random() < 0.5)
        dut.arrived.value, dut.released.value = int(arrived), int(released)
        await RisingEdge(dut.clk)
        assert bool(dut.step__valid.value) == (issued is not None)
        assert bool(dut.coming.value) == (issued is not None and issued.coming)
        if issued is not None:
            matches(dut, issued.step)
        offered = bool(dut.operations__valid.value)
        assert bool(dut.idle.value) == (not active and not offered and not pending and counted == room)
        goes = False
        if active:
            item = work[done]
            # While a lending is not yet counted, an exact fit waits.
            fits = counted > geometry.group_beats or (counted == geometry.group_beats and not pending)
            clear = cycle >= clear_from
            goes = (arrived or not item.takes) and (clear or not held) and (not item.step.last or (clear and fits))
            assert bool(dut.take.value) == (goes and item.takes)
            assert bool(dut.release.value) == (goes and item.ends and not item.step.embed)
        ends = goes and work[done].ends
        assert bool(dut.operations__ready.value) == (not active or ends)
        opens = (not active or ends) and offered
        following = work[done + ends] if opens else None
        assert bool(dut.open.value) == (opens and not following.step.embed)

        counted += returned - pending
        out -= released
        returned = released
        pending, issued = 0, None
        if goes:
            issued = work[done]
            done += 1
            pending = issued.beats
            out += pending
            if issued.step.last and (issued.ends or not issued.step.embed):
                clear_from = cycle + 1 + (gap if issued.step.embed else geometry.group_beats - 1)
                held = issued.step.embed
        least = min(least, counted - pending)
        active = opens or (active and not ends)
        await FallingEdge(dut.clk)
    assert least >= 0
    assert least < geometry.group_beats or not stall


SIZES = [
    {"inputs": 4, "rows": 8, "vector": 4, "activations": 16, "contexts": 3},
    {"inputs": 8, "rows": 8, "vector": 8, "activations": 24},
    {"inputs": 8, "rows": 32, "vector": 4, "activations": 48, "contexts": 1},
]


@pytest.mark.parametrize("stall", [0.0, 0.3])
@pytest.mark.parametrize(("sizes", "room", "embed_gap"), [(SIZES[0], 4, 0), (SIZES[1], 3, 2), (SIZES[2], 16, 9)])
def test_operations(sizes, room, embed_gap, stall):
    simulate(
        Issue(geometry=Geometry(**sizes), room=room, embed_gap=embed_gap),
        __file__,
        bench="bench_operations",
        parameters={"geometry": sizes, "room": room, "embed_gap": embed_gap, "stall": stall, "count": 60, "seed": 5},
    )


def test_issue_refuses_room():
    with pytest.raises(ValueError, match="room must be at least two groups of 2 beats, not 3"):
        Issue(geometry=Geometry(), room=3)
