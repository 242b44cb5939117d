"""From vector commands to beats: the counters and the constants of the operation that is being issued."""

from __future__ import annotations

from amaranth import Const, Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import BLOCK_FRACTION, BLOCK_SHIFT_MAX, GAIN_SHIFT, QUANT_FRACTION, SHIFT_MAX, STAT_SHIFT
from ternlight.isa import VectorOp
from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION

from ..layouts import vector_command
from .arithmetic import clamp, named
from .beat import BEAT, LONG, ROUTE, is_one_of

NARROWING_MAX = 31
"""From 24 on, the shift of a 24-bit element gives zero."""


class Issue(wiring.Component):
    """Issues the beats of one command after the other.

    The beat is presented one cycle after its command's transfer, and the next one after each cycle with `advance`.
    A command follows the one before without a gap; one of a single beat comes one cycle later, so that the last
    beats of operations are at least two cycles apart (the reductions need two cycles to leave). A command with a
    fence waits until no beat is here and `drained` is set.

    Members
    -------
    command: stream of layouts.vector_command, in.
    advance: the beat is taken, in. drained: no beat behind this component is still to be written, in.
    beat, route: the beat with its decoded constants, out; source, gain, state: word addresses of its operands, out.
    busy: a command is here, out.
    """

    def __init__(self) -> None:
        command = vector_command()
        super().__init__(
            {
                "command": In(stream.Signature(command)),
                "advance": In(1),
                "drained": In(1),
                "beat": Out(BEAT),
                "route": Out(ROUTE),
                "source": Out(command["source"].shape),
                "gain": Out(command["gain"].shape),
                "state": Out(command["state"].shape),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # The command's addresses and count are its counters.
        current = Signal(vector_command())
        lead = Signal()  # the idle cycle before a single beat
        begin, second, odd = Signal(), Signal(), Signal()
        op = current.op
        last = current.beats == 1

        m.d.comb += [
            self.source.eq(current.source),
            self.gain.eq(current.gain),
            self.state.eq(current.state),
            self.command.ready.eq(
                Mux(
                    self.command.payload.fence,
                    ~self.busy & self.drained,
                    ~self.busy | (self.advance & last & ~lead),
                )
            ),
        ]
        with m.If(self.busy & self.advance):
            with m.If(lead):
                m.d.sync += lead.eq(0)
            with m.Else():
                m.d.sync += [
                    current.beats.eq(current.beats - 1),
                    current.source.eq(current.source + 1),
                    current.state.eq(current.state + 1),
                    current.gain.eq(current.gain + self.route.produces),
                    current.target.eq(current.target + self.route.produces),
                    begin.eq(0),
                    second.eq(begin),
                    odd.eq(~odd),
                    self.busy.eq(~last),
                ]
        with m.If(self.command.valid & self.command.ready):
            m.d.sync += [
                current.eq(self.command.payload),
                lead.eq(self.command.payload.beats == 1),
                begin.eq(1),
                second.eq(0),
                odd.eq(0),
                self.busy.eq(1),
            ]

        beat, route = self.beat, self.route
        m.d.comb += [
            beat.valid.eq(self.busy & ~lead),
            beat.op.eq(op),
            beat.long.eq(is_one_of(op, LONG)),
            beat.odd.eq(odd),
            route.produces.eq(1),
            route.first.eq(begin),
            route.last.eq(last),
            route.mantissa.eq(current.scale.mantissa),
            # GATE reads what STATE has just written.
            beat.fresh.eq(current.fresh & (op == VectorOp.STATE)),
            route.buffer.eq(current.buffer),
            route.target.eq(Mux(op == VectorOp.STATE, current.state, current.target)),
            route.peak.eq(current.peak),
            route.energy.eq(current.energy),
            route.power.eq(current.power),
        ]
        with m.If(op == VectorOp.EMBED):
            m.d.comb += [route.header.eq(begin), route.produces.eq(~begin), route.first.eq(second)]
        with m.If(op == VectorOp.MLP):
            m.d.comb += [route.produces.eq(odd), route.first.eq(second)]

        exponent = current.scale.exponent
        fraction = named(m, Mux(op == VectorOp.FORGET, INPUT_FRACTION, current.fraction))
        scaling = Signal(signed(12))
        m.d.comb += [
            scaling.eq(-exponent - fraction),
            beat.lift.eq(INPUT_FRACTION - fraction),
            beat.second_shift.eq(Mux(op == VectorOp.STATE, OUTPUT_FRACTION, current.shift)),
            beat.narrowing.eq(
                Mux(
                    op == VectorOp.QUANT,
                    clamp(-QUANT_FRACTION - exponent, 0, NARROWING_MAX),
                    clamp(exponent - BLOCK_FRACTION, 0, BLOCK_SHIFT_MAX),
                )
            ),
        ]
        with m.Switch(op):
            with m.Case(VectorOp.EMBED):
                m.d.comb += beat.shift.eq(Const(0))
            with m.Case(VectorOp.STAT):
                m.d.comb += beat.shift.eq(STAT_SHIFT)
            with m.Case(VectorOp.GAIN):
                m.d.comb += beat.shift.eq(GAIN_SHIFT)
            with m.Case(VectorOp.QUANT):
                m.d.comb += beat.shift.eq(clamp(-exponent, 0, QUANT_FRACTION))
            with m.Default():
                m.d.comb += beat.shift.eq(clamp(scaling, 0, SHIFT_MAX))
        return m
