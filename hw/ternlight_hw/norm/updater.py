"""From EMBED and RESID to beats: they begin as their results come."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import EMBEDDING_FACTOR_SHIFT, EMBEDDING_MANTISSA_BITS, EMBEDDING_SCALE_BITS
from ternlight.geometry import Geometry
from ternlight.isa import NormOp
from ternlight.ufloat import EXPONENT_BITS, MANTISSA_BITS

from ..layouts import norm_command
from ..pipeline import Flow
from .beat import OPERAND_BEAT, WORD_BITS
from .memories import word_of
from .scaling import SHIFT, SHIFT_END, lifted, split


class Updater(wiring.Component):
    """Runs one command after the other: each result that is transferred is a beat in OPERANDS in the next cycle.

    A command is ready for its first result three cycles after its transfer. The next one is prepared meanwhile, and
    follows without a gap; one of a single beat, in the second cycle after.

    Parameters
    ----------
    geometry: contexts and residual_words are used.

    Members
    -------
    command: stream of layouts.norm_command, in: EMBED and RESID.
    results_valid, results_ready: the handshake of the results, in and out; header: the lowest bits of a result, in.
    hold: the next beat of OPERANDS is not free, in.
    launched: Flow of OPERAND_BEAT, out: the result of this cycle is in OPERANDS in the next one.
    busy: a command is here, out.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "command": In(stream.Signature(norm_command())),
                "results_valid": In(1),
                "results_ready": Out(1),
                "header": In(EMBEDDING_SCALE_BITS),
                "hold": In(1),
                "launched": Out(Flow(OPERAND_BEAT)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        given, waiting, current = Signal(norm_command()), Signal(norm_command()), Signal(norm_command())
        given_valid, waiting_valid, active = Signal(), Signal(), Signal()
        transfer, header, word, beat_last = Signal(), Signal(), Signal(WORD_BITS), Signal()
        beat = self.launched.payload
        m.d.comb += [
            self.command.ready.eq(~given_valid),
            self.busy.eq(given_valid | waiting_valid | active),
            self.results_ready.eq(active & ~self.hold),
            transfer.eq(self.results_valid & self.results_ready),
            self.launched.valid.eq(transfer & ~header),
        ]

        with m.If(~given_valid):
            m.d.sync += [given_valid.eq(self.command.valid), given.eq(self.command.payload)]

        # The shift is -(exponent + fraction), or none: with -n = ~n + 1, of which the table adds the 1.
        none, less = Signal(), Signal(SHIFT_END.bit_length())
        complement = Signal(signed(EXPONENT_BITS + 1))
        m.d.comb += complement.eq(~(given.scale.exponent + given.fraction))
        shift, mantissa = Signal(SHIFT), Signal(MANTISSA_BITS)
        header_shift = split(m, self.header[EMBEDDING_MANTISSA_BITS:])
        scale_shift = split(m, less, offset=1)
        # What a transfer decides must be close to registers: the last beat is foreseen, and a command that is done may
        # be followed by none, which then is not active.
        free = (self.launched.valid & beat.last) | ~active
        with m.If(transfer):
            with m.If(header):
                one = 1 << EMBEDDING_MANTISSA_BITS
                m.d.sync += [
                    header.eq(0),
                    mantissa.eq((one | self.header[:EMBEDDING_MANTISSA_BITS]) << EMBEDDING_FACTOR_SHIFT),
                    shift.eq(header_shift),
                ]
            with m.Else():
                m.d.sync += [
                    current.beats.eq(current.beats - 1),
                    beat_last.eq(current.beats == 2),
                    word.eq(word + 1),
                ]
        with m.If(free):
            m.d.sync += [
                waiting_valid.eq(0),
                active.eq(waiting_valid),
                current.eq(waiting),
                beat_last.eq(waiting.beats == 1),
                word.eq(word_of(waiting.context, waiting.source, self.geometry.residual_words)),
                header.eq(waiting.op == NormOp.EMBED),
                mantissa.eq(waiting.scale.mantissa),
                shift.eq(Mux(none, 0, scale_shift)),
            ]
        with m.If(given_valid & ~waiting_valid):
            m.d.sync += [
                given_valid.eq(0),
                waiting_valid.eq(1),
                waiting.eq(given),
                none.eq(complement < 0),
                less.eq(complement[: len(less)] | complement[len(less) : -1].any().replicate(len(less))),
            ]

        m.d.comb += [
            beat.updates.eq(1),
            beat.adds.eq(current.op == NormOp.RESID),
            beat.last.eq(beat_last),
            beat.word.eq(word),
            beat.target.number.eq(current.reduction),
            beat.target.context.eq(current.context),
            beat.factor.eq(lifted(mantissa, shift)),
            beat.steps.eq(shift.steps),
        ]
        return m
