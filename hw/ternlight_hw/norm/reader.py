"""From PEAK, STAT and QUANT to beats: which words are read, and when."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

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
    taken, taken_bank: a bank of the residual memory has another reader in this cycle, in.
    read: Flow of SOURCE_BEAT, the beat in READ when it is read, out.
    residual, gates: WordQuery of the beat before READ and of that in it, out.
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
                "advance": Out(1),
                "gain": Out(NORM_FIELDS["gain"]),
                "next_word": Out(WORD_BITS),
                "gated": Out(1),
                "gated_word": Out(WORD_BITS),
                "taken": In(1),
                "taken_bank": In(1),
                "read": Out(Flow(SOURCE_BEAT)),
                "residual": Out(WordQuery(words=residual_words)).array(2),
                "gates": Out(WordQuery(words=gated_words)).array(2),
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
        read, read_valid, readable = Signal(self.beat_layout), Signal(), Signal()
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
        residual_word = Signal(WORD_BITS)
        m.d.sync += residual_word.eq(self.next_word)

        free = ~(self.taken & (self.taken_bank == residual_word[0]))
        m.d.comb += [
            self.gated.eq(read.gated),
            self.read.payload.eq(read.control),
            self.read.valid.eq(read_valid & readable & (read.gated | free)),
            self.advance.eq(~read_valid | self.read.valid),
            self.next_word.eq(
                Mux(self.advance, word_of(asked.context, asked_source, geometry.residual_words), residual_word)
            ),
        ]
        # Asked one cycle ahead: what moves a beat must come from a register.
        answers = []
        for number, stage in enumerate((asked, read)):
            for query in (self.residual[number], self.gates[number]):
                m.d.comb += [query.context.eq(stage.context), query.index.eq(stage.index)]
            answers.append(Mux(stage.gated, self.gates[number].readable, self.residual[number].readable))
        m.d.sync += readable.eq(Mux(self.advance, *answers))

        waiting = ((active, current.context), (asked_valid, asked.context), (read_valid, read.context))
        m.d.comb += self.reading.eq(
            Cat(
                Cat(valid & (context == number) for valid, context in waiting).any()
                for number in range(geometry.contexts)
            )
        )
        return m
