"""From PEAK, STAT and QUANT to beats: which words are read, and when."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.geometry import Geometry
from ternlight.isa import NORM_FIELDS, NormOp

from ..layouts import CONTEXT_BITS, norm_command
from ..pipeline import Flow
from .beat import SOURCE_BEAT, WORD_BITS
from .memories import word_of
from .progress import WordQuery


class Reader(wiring.Component):
    """Reads the operands of one command after the other, a beat per cycle, without a gap between commands.

    The gains of a beat are asked for first, as their memory takes two cycles; those of a command's first beat in the
    cycle of its transfer. Two cycles later the beat is in READ, where it waits until its source is written, and those
    behind it wait. A command of a single beat takes two cycles: so reductions never come faster than they leave.

    Parameters
    ----------
    geometry: contexts, residual_words and gated_words are used.

    Members
    -------
    command: stream of layouts.norm_command, in: PEAK, STAT and QUANT.
    advance: both stages of the gain memory move, out. gain: the word that is asked for, out.
    next_word: the word of the residual memory for READ in the next cycle, out.
    gated, gated_word: the source of the beat in READ is in the gated memory: this word, out.
    taken, taken_bank: a bank of the residual memory has another reader in the next cycle, in.
    read: Flow of SOURCE_BEAT, the beat in READ when it is read, out.
    residual, gates: WordQuery of the beat before READ; that in it may wait, out.
    reading: one bit per context: it has beats that are not yet read, out.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.beat_layout = data.StructLayout(
            {
                "control": SOURCE_BEAT,
                "context": CONTEXT_BITS,
                "gated": 1,
                "index": NORM_FIELDS["beats"],
            }
        )
        residual_words, gated_words = geometry.residual_words, geometry.gated_words
        super().__init__(
            {
                "command": In(stream.Signature(norm_command())),
                "advance": Out(1, init=1),
                "gain": Out(NORM_FIELDS["gain"]),
                "next_word": Out(WORD_BITS),
                "gated": Out(1),
                "gated_word": Out(WORD_BITS),
                "taken": In(1),
                "taken_bank": In(1),
                "read": Out(Flow(SOURCE_BEAT)),
                "residual": Out(WordQuery(words=residual_words)),
                "gates": Out(WordQuery(words=gated_words)),
                "reading": Out(geometry.contexts),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        # The command's addresses and count are its counters.
        current, active, index, pause = Signal(norm_command()), Signal(), Signal(NORM_FIELDS["beats"]), Signal()
        beat, valid = Signal(norm_command()), Signal()
        m.d.comb += [
            beat.eq(Mux(active, current, self.command.payload)),
            valid.eq(active | (self.command.valid & ~pause)),
            self.command.ready.eq(~active & ~pause & self.advance),
            self.gain.eq(beat.gain),
        ]
        last = beat.beats == 1
        asked, asked_valid, asked_source = Signal(self.beat_layout), Signal(), Signal.like(beat.source)
        read, read_valid = Signal(self.beat_layout), Signal()
        with m.If(self.advance):
            m.d.sync += [
                asked_valid.eq(valid),
                read_valid.eq(asked_valid),
                active.eq(valid & ~last),
                pause.eq(valid & last & ~active),
                index.eq(Mux(active, index, 0) + 1),
                current.eq(beat),
                current.gain.eq(beat.gain + 1),
                current.source.eq(beat.source + 1),
                current.beats.eq(beat.beats - 1),
                asked.context.eq(beat.context),
                asked.gated.eq(beat.gated),
                asked.index.eq(Mux(active, index, 0)),
                asked.control.peak.eq(beat.op == NormOp.PEAK),
                asked.control.quant.eq(beat.op == NormOp.QUANT),
                asked.control.last.eq(last),
                asked.control.lift.eq(beat.lift),
                asked.control.buffer.eq(beat.buffer),
                asked.control.target.number.eq(beat.reduction),
                asked.control.target.context.eq(beat.context),
                asked.control.scale.eq(beat.scale),
                asked_source.eq(beat.source),
                read.eq(asked),
                self.gated_word.eq(word_of(asked.context, asked_source, geometry.gated_words)),
            ]
        residual_word, asked_word = Signal(WORD_BITS), Signal(WORD_BITS)
        m.d.sync += residual_word.eq(self.next_word)
        m.d.comb += [
            asked_word.eq(word_of(asked.context, asked_source, geometry.residual_words)),
            self.gated.eq(read.gated),
            self.read.payload.eq(read.control),
            self.read.valid.eq(read_valid & self.advance),
            self.next_word.eq(Mux(self.advance, asked_word, residual_word)),
        ]
        # What moves all beats comes from a register: whether that in READ, if there is one, will be read in a cycle is
        # decided in the cycle before.
        readable, asked_readable, still_readable = Signal(), Signal(), Signal()
        residual, gates = self.residual, self.gates
        for query in (residual, gates):
            m.d.comb += [
                query.context.eq(asked.context),
                query.index.eq(asked.index),
                query.waiting_context.eq(read.context),
            ]

        def free(stage, word):
            return stage.gated | ~(self.taken & (self.taken_bank == word[0]))

        m.d.comb += [
            asked_readable.eq(Mux(asked.gated, gates.readable, residual.readable)),
            still_readable.eq(readable | Mux(read.gated, gates.written, residual.written)),
        ]
        m.d.sync += [
            readable.eq(Mux(self.advance, asked_readable, still_readable)),
            self.advance.eq(
                Mux(
                    self.advance,
                    ~asked_valid | (asked_readable & free(asked, asked_word)),
                    still_readable & free(read, residual_word),
                )
            ),
        ]

        waiting = ((active, current.context), (asked_valid, asked.context), (read_valid, read.context))
        m.d.comb += self.reading.eq(
            Cat(
                Cat(valid & (context[: ceil_log2(geometry.contexts)] == number) for valid, context in waiting).any()
                for number in range(geometry.contexts)
            )
        )
        return m
