"""From gate commands to beats: which result is taken when, and the constants of the operation."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.isa import GateOp
from ternlight.sigmoid import INPUT_FRACTION

from ..layouts import STATE_ADDRESS_BITS, gate_command
from ..vector.arithmetic import named
from .beat import FACTOR_BITS, NARROWING, STATE_WRITE, STEP_BITS, beat_layout, forget_words, route_layout, steps_max

STATE_LAG = STATE_WRITE + 1
"""Cycles from the entry of a beat of STATE to that of the beat that reads what it wrote."""


class Issue(wiring.Component):
    """Issues the beats of one command after the other.

    A result beat of V elements is two beats of H, its lower half first, or one beat of MLP, which takes both halves: it
    is transferred with the last of them. Beats begin in the cycle after their command's transfer; commands follow each
    other without a gap: one more is taken while another is here.

    The pipe behind never stalls, so that time alone tells what is written. A STATE reads the forget gates of its
    FORGET at any distance. A GATE reads each state STATE_LAG cycles after the entry of the beat that writes it, at the
    earliest: it begins so late that its first beat does, though the STATE's beats came without a gap; all others then
    follow by themselves. Whichever the contexts, it waits for the latest STATE.

    Members
    -------
    command: stream of layouts.gate_command, in.
    results_valid: a result beat is here, in. results_ready: it is taken, out.
    advance: a beat waits for its result, or takes it; enters: it takes it, out. Except for `enters`, all outputs come
        from registers.
    uses_high, keeps_high: see Lane, out. state: the word of the state memory of that beat, out.
    beat, route: its constants, out; `beat.valid` is `enters`.
    factor, narrowing: those of the first product, one and two cycles later, out.
    busy: a command is here, out.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "command": In(stream.Signature(gate_command())),
                "results_valid": In(1),
                "results_ready": Out(1),
                "advance": Out(1),
                "enters": Out(1),
                "uses_high": Out(1),
                "keeps_high": Out(1),
                "state": Out(STATE_ADDRESS_BITS),
                "beat": Out(beat_layout(geometry.accumulator)),
                "route": Out(route_layout(geometry)),
                "factor": Out(FACTOR_BITS),
                "narrowing": Out(NARROWING),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        waiting, pending = Signal(gate_command()), Signal()
        offered, offers = Signal(gate_command()), Signal()
        m.d.comb += [
            self.command.ready.eq(~pending),
            offered.eq(Mux(pending, waiting, self.command.payload)),
            offers.eq(pending | self.command.valid),
        ]
        with m.If(~pending):
            m.d.sync += waiting.eq(self.command.payload)

        # The command's addresses and count are its counters.
        current = Signal(gate_command())
        left = Signal(len(current.beats) + 1)
        place = Signal(len(current.target) + 1)
        forget_word = Signal(self.route.forget.shape())
        forget, state, gate, mlp = (Signal(name=op.name.lower()) for op in GateOp)
        last, finishes, load = Signal(), Signal(), Signal()
        m.d.comb += [
            self.enters.eq(self.advance & self.results_valid),
            finishes.eq(self.enters & last),
            load.eq(~self.busy | finishes),
        ]
        with m.If(self.enters):
            m.d.sync += [
                left.eq(left - 1),
                last.eq(left == 2),
                place.eq(place + 1),
                forget_word.eq(forget_word + 1),
                current.state.eq(current.state + 1),
            ]
        m.d.sync += pending.eq(offers & ~load)
        with m.If(load):
            m.d.sync += [
                self.busy.eq(offers),
                current.eq(offered),
                current.fraction.eq(Mux(offered.op == GateOp.FORGET, INPUT_FRACTION, offered.fraction)),
                left.eq(Mux(offered.op == GateOp.MLP, offered.beats, offered.beats << 1)),
                last.eq((offered.op == GateOp.MLP) & (offered.beats == 1)),
                place.eq(offered.target << 1),
                forget_word.eq(
                    Array(context * forget_words(self.geometry) for context in range(self.geometry.contexts))[
                        offered.context
                    ]
                ),
                *(flag.eq(offered.op == op) for op, flag in zip(GateOp, (forget, state, gate, mlp), strict=True)),
            ]

        # Cycles until a GATE may begin. A later STATE ends its time later than those before.
        hold, lag = Signal(range(STATE_LAG)), Signal(range(STATE_LAG))
        with m.If(finishes & state):
            m.d.sync += hold.eq(lag)
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)
        held = named(m, hold > 1)
        with m.If(load):
            m.d.sync += [
                lag.eq(Mux(offered.beats < (STATE_LAG + 1) // 2, STATE_LAG - (offered.beats << 1), 0)),
                self.advance.eq(offers & ~((offered.op == GateOp.GATE) & (held | (self.busy & state & (lag != 0))))),
            ]
        with m.Elif(~self.advance):
            m.d.sync += self.advance.eq(~held)

        second_half = place[0]
        beat, route = self.beat, self.route
        m.d.comb += [
            self.results_ready.eq(self.advance & (mlp | second_half)),
            self.uses_high.eq(~mlp & second_half),
            self.keeps_high.eq(mlp | second_half),
            self.state.eq(current.state),
            beat.valid.eq(self.enters),
            beat.forget.eq(forget),
            beat.state.eq(state),
            beat.gate.eq(gate),
            beat.fresh.eq(state & current.fresh),
            beat.lift.eq(INPUT_FRACTION - current.fraction),
            beat.limit.eq(Cat(current.fraction <= bit for bit in range(INPUT_FRACTION))),
            beat.second.eq(current.shift),
            route.mlp.eq(mlp),
            route.last.eq(last),
            route.context.eq(current.context),
            route.upper.eq(second_half),
            route.address.eq(Mux(state, current.state, place[1:])),
            route.forget.eq(forget_word),
            route.reduction.eq(current.reduction),
        ]

        # The first product is to be shifted right by -total, if that is positive.
        total = named(m, current.scale.exponent + current.fraction)
        down, steps = Signal.like(total), Signal(len(total))
        doubled = total[0] & total[-1]
        m.d.sync += [
            self.factor.eq(Mux(gate, 0, Mux(doubled, current.scale.mantissa << 1, current.scale.mantissa))),
            down.eq(Mux(gate, 0, total)),
        ]
        m.d.comb += steps.eq(Mux(down[-1], -(down >> 1), 0))
        m.d.sync += [
            self.narrowing.steps.eq(steps),
            self.narrowing.deep.eq(steps >> STEP_BITS != 0),
            self.narrowing.void.eq(steps > steps_max(self.geometry.accumulator)),
        ]
        return m
