"""The gate unit: the states and forget gates, the pipe's control, H lanes and the sum of squares."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.formats import COMPACT_BITS
from ternlight.geometry import Geometry, ceil_div
from ternlight.isa import GateOp

from ..gated import GatedPort
from ..layouts import WRITEBACK, gate_command, result_beat
from ..memory import ColumnMemory, LoadPort, ReadPort
from ..pipeline import Flow
from ..primitives import DISTRIBUTED_RAM, DISTRIBUTED_RAM_WORDS
from ..vector.reduce import SquareSum
from .beat import (
    FORGET_READ,
    FORGET_WRITE,
    GATED_WRITE,
    LAST,
    SQUARE,
    STATE_WRITE,
    forget_words,
)
from .issue import STATE_LAG, Issue
from .lane import FORGET_BITS, Lane


class GateUnit(wiring.Component):
    """Runs gate commands in order, one beat of H elements per cycle: ternlight_sim.golden.vector, bit for bit.

    FORGET, STATE and GATE take a result beat of V elements in two cycles, its lower half first, MLP in one: H values a
    (the lower half) and H values b. From its entry, for the upper half the cycle of the result's transfer, a beat takes

    * `gated_latency` cycles until GATE and MLP write the gated memory,
    * `state_latency` until STATE writes the state memory,
    * `reduce_latency` from the last beat's entry until the sum of squares of GATE and MLP is valid on `writeback`.

    The first result may be transferred (or its lower half enters) one cycle after the command. Commands follow each
    other without a gap, of whatever contexts, but for a GATE close behind a short STATE: its first beat enters
    `state_lag` cycles after the first of the STATE's, had these come without a gap, at the earliest.

    FORGET writes its forget gates to a memory of the context, from its first word on; the STATE that follows in the
    context reads as many. A GATE reads the states that the STATE before it in its context has written, all of them, in
    the same order. `fraction` is at most 13, `shift` less than 2**second_bits(accumulator) (see beat.py), lower bounds
    are not negative, and states have STATE_BITS. Sums are exact up to 2**13 elements.

    Parameters
    ----------
    geometry: vector, accumulator, residual_words, state_words and contexts are used.

    Attributes: gated_latency, state_latency, reduce_latency, state_lag.

    Members
    -------
    command: stream of layouts.gate_command, in.
    results: stream of layouts.result_beat, in.
    writeback: Flow of layouts.WRITEBACK, out.
    state_load, state_read: the host's access to the state memory (LoadPort, ReadPort of a registered memory), in; only
        while idle.
    gated: writes to the gated memory (GatedPort), out. `start` comes in the cycle after a command's transfer.
    idle: no command, nothing in the pipe, no writeback pending, out.
    """

    gated_latency = GATED_WRITE
    state_latency = STATE_WRITE
    state_lag = STATE_LAG

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.states = ColumnMemory(depth=geometry.state_words, columns=geometry.state_columns, registered=True)
        self.reduce = SquareSum(lanes=geometry.half)
        self.reduce_latency = SQUARE + self.reduce.latency
        states = self.states
        super().__init__(
            {
                "command": In(stream.Signature(gate_command())),
                "results": In(stream.Signature(result_beat(geometry))),
                "writeback": Out(Flow(WRITEBACK)),
                "state_load": In(LoadPort(address_bits=states.address_bits, column_bits=states.column_bits)),
                "state_read": In(ReadPort(address_bits=states.address_bits, data_bits=states.data_bits)),
                "gated": Out(GatedPort(geometry)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.states = states = self.states
        m.submodules.reduce = reduce = self.reduce
        m.submodules.issue = issue = Issue(geometry=geometry)
        beats, routes = self._beats(m, issue)

        connect(m, flipped(self.command), issue.command)
        m.d.comb += [
            issue.results_valid.eq(self.results.valid),
            self.results.ready.eq(issue.results_ready),
            self.idle.eq(~(issue.busy | Cat(beat.valid for beat in beats).any() | reduce.busy)),
        ]
        self._access(m, issue, beats[1], states)

        depth = ceil_div(geometry.contexts * forget_words(geometry), DISTRIBUTED_RAM_WORDS) * DISTRIBUTED_RAM_WORDS
        gates = data.ArrayLayout(FORGET_BITS, geometry.half)
        m.submodules.forget_gates = memory = Memory(shape=gates, depth=depth, init=[], attrs=DISTRIBUTED_RAM)
        forget_read, forget_write = memory.read_port(domain="comb"), memory.write_port()
        m.d.comb += [
            forget_read.addr.eq(routes[FORGET_READ].forget),
            forget_write.addr.eq(routes[FORGET_WRITE].forget),
            forget_write.en.eq(beats[FORGET_WRITE].valid & beats[FORGET_WRITE].forget),
            states.write.address.eq(routes[STATE_WRITE].address),
            states.write.enable.eq(beats[STATE_WRITE].valid & beats[STATE_WRITE].state),
        ]
        codes = data.ArrayLayout(COMPACT_BITS, geometry.half)
        old, new = data.View(codes, states.read.data), data.View(codes, states.write.data)
        for index in range(geometry.half):
            m.submodules[f"lane_{index}"] = lane = Lane(accumulator=geometry.accumulator)
            m.d.comb += [
                *(port.eq(beat) for port, beat in zip(lane.beats, beats, strict=True)),
                lane.advance.eq(issue.advance),
                lane.low.eq(self.results.payload[index]),
                lane.high.eq(self.results.payload[geometry.half + index]),
                lane.uses_high.eq(issue.uses_high),
                lane.keeps_high.eq(issue.keeps_high),
                lane.factor.eq(issue.factor),
                lane.narrowing.eq(issue.narrowing),
                lane.word.eq(old[index]),
                lane.forget_read.eq(forget_read.data[index]),
                forget_write.data[index].eq(lane.forget_write),
                new[index].eq(lane.state),
                self.gated.values[index].eq(lane.value),
                reduce.terms[index].eq(lane.square),
            ]
        self._outputs(m, beats, routes)
        return m

    def _beats(self, m, issue):
        """The beats and their routes, by stage."""
        beats = [issue.beat, *(Signal.like(issue.beat, name=f"beat_{stage}") for stage in range(1, LAST + 1))]
        routes = [issue.route, *(Signal.like(issue.route, name=f"route_{stage}") for stage in range(1, LAST + 1))]
        for stage, (before, after) in enumerate(pairwise(beats)):
            with m.If(issue.advance if stage == 0 else before.valid):
                m.d.sync += [after.eq(before), routes[stage + 1].eq(routes[stage])]
            m.d.sync += after.valid.eq(before.valid)
        return beats, routes

    def _access(self, m, issue, asked, states):
        """The state memory's read port, the host's while the unit is idle. It has two stages: those of a beat."""
        connect(m, flipped(self.state_load), states.load)
        m.d.comb += [
            states.read.enable.eq(issue.busy | asked.valid | self.state_read.enable),
            self.state_read.data.eq(states.read.data),
        ]
        with m.If(issue.busy):
            m.d.comb += states.read.address.eq(issue.state)
        with m.Else():
            m.d.comb += states.read.address.eq(self.state_read.address)

    def _outputs(self, m, beats, routes):
        """The gated memory's port, and the sum of squares."""
        gated, beat, route = self.gated, beats[GATED_WRITE], routes[GATED_WRITE]
        command = self.command
        m.d.sync += [
            gated.start.eq(command.valid & command.ready & command.payload.op.matches(GateOp.GATE, GateOp.MLP)),
            gated.start_context.eq(command.payload.context),
        ]
        m.d.comb += [
            gated.enable.eq(beat.valid & (beat.gate | route.mlp)),
            gated.context.eq(route.context),
            gated.address.eq(route.address),
            gated.upper.eq(route.upper),
            gated.last.eq(route.last),
            self.reduce.valid.eq(beats[SQUARE].valid & (beats[SQUARE].gate | routes[SQUARE].mlp)),
            self.reduce.last.eq(routes[SQUARE].last),
            self.reduce.target.number.eq(routes[SQUARE].reduction),
            self.reduce.target.context.eq(routes[SQUARE].context),
            self.writeback.valid.eq(self.reduce.writeback.valid),
            self.writeback.payload.eq(self.reduce.writeback.payload),
        ]
