"""The norm unit: memories, the control of the pipe, V lanes and the reductions."""

from __future__ import annotations

from amaranth import Module, Mux, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.formats import COMPACT_BITS, EMBEDDING_SCALE_BITS
from ternlight.geometry import Geometry
from ternlight.isa import NormOp

from ..gated import GatedPort
from ..layouts import WRITEBACK, activation_beat, norm_command, result_beat
from ..memory import ColumnMemory, LoadPort
from ..pipeline import Flow
from ..vector.reduce import Peak, SquareSum
from .head import Head
from .lane import Lane
from .memories import GatedMemory, ResidualMemory
from .progress import Progress, of_context
from .reader import Reader
from .tail import Tail
from .updater import Updater

QUEUE = 16
"""Sums that wait for a cycle without a peak. On average there is at most one reduction per cycle, as a command takes
two at least; but the sums of STAT meet the peaks that are read a latency later."""


class NormUnit(wiring.Component):
    """Runs norm commands, V elements per cycle: ternlight_sim.golden.vector, bit for bit.

    PEAK, STAT and QUANT are read in order; EMBED and RESID run in order beside them, each as its results come, and take
    the multiplier behind the gains when no beat of the others needs it. Commands are accepted in order. All follow each
    other without a gap, with these exceptions: a command of a single beat takes two cycles; EMBED and RESID wait until
    all before them in their context is read, and an EMBED or RESID of their context is written.

    A read follows the latest writer of its memory, word by word. Counted from the transfer of a command or a result:

    * QUANT's first activations are valid after `quant_latency` cycles, if nothing is waited for;
    * EMBED and RESID take their first result after `update_latency` cycles, at the earliest;
    * an element is written `write_latency` cycles after its result, and can be read in the next cycle;
    * a command's first word is read after `fetch` cycles, at the earliest;
    * a peak is written back `peak_latency` cycles after its last word is read,
    * an energy `stat_latency` cycles after, or later if peaks are written back;
    * a power `power_latency` cycles after its last result, or later if peaks are written back.

    `beats` is at least 1, and at most what the memories hold; `lift` is at most LIFT_MAX. Sums
    are exact up to 2**13 elements.

    Parameters
    ----------
    geometry: vector, accumulator, contexts, residual_words, gated_words and gain_words are used.

    Attributes: fetch, update_latency, quant_latency, write_latency, peak_latency, stat_latency, power_latency.

    Members
    -------
    command: stream of layouts.norm_command, in.
    results: stream of layouts.result_beat, in, for EMBED and RESID. EMBED's first one is the header of a row.
    quantised: stream of layouts.activation_beat, from QUANT, out; its receiver is always ready.
    writeback: Flow of layouts.WRITEBACK, out.
    gain_load: the host's writes (LoadPort), in; only while idle.
    gated: the gate unit's writes of the gated memory (GatedPort), in.
    reading: one bit per context: a PEAK, STAT or QUANT of it is here that has words to be read, out.
    idle: no command, nothing in the pipe, no writeback pending, out; a command counts from the cycle after it is
        offered.
    """

    fetch = 2
    update_latency = 3

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.gains = ColumnMemory(depth=geometry.gain_words, columns=geometry.gain_columns, registered=True)
        self.peak = Peak(lanes=geometry.vector)
        self.sum = SquareSum(lanes=geometry.vector, ways=2)
        self.lanes = [Lane(accumulator=geometry.accumulator) for _ in range(geometry.vector)]
        multiply = 2 if self.lanes[0].wide else 1
        operands = 5  # from READ
        self.write_latency = multiply + 3
        self.quant_latency = self.fetch + operands + multiply + 2
        self.peak_latency = 3 + self.peak.latency
        self.power_latency = self.write_latency + 2 + self.sum.latency + 1  # the queue
        self.stat_latency = operands - 1 + self.power_latency
        gains = self.gains
        super().__init__(
            {
                "command": In(stream.Signature(norm_command())),
                "results": In(stream.Signature(result_beat(geometry))),
                "quantised": Out(stream.Signature(activation_beat(geometry))),
                "writeback": Out(Flow(WRITEBACK)),
                "gain_load": In(LoadPort(address_bits=gains.address_bits, column_bits=gains.column_bits)),
                "gated": In(GatedPort(geometry)),
                "reading": Out(geometry.contexts),
                "idle": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.reader = reader = Reader(geometry)
        m.submodules.updater = updater = Updater(geometry)
        m.submodules.head = head = Head()
        m.submodules.tail = tail = Tail(wide=self.lanes[0].wide)
        m.submodules.residuals = residuals = ResidualMemory(geometry)
        m.submodules.gates = gates = GatedMemory(geometry)
        m.submodules.gains = gains = self.gains
        writing = self._follow(m, reader, updater, tail)
        self._accept(m, reader, updater, writing)

        connect(m, reader.read, head.read)
        connect(m, head.narrowed, tail.narrowed)
        connect(m, updater.launched, tail.launched)
        connect(m, flipped(self.gain_load), gains.load)
        connect(m, flipped(self.gated), gates.gated)
        m.d.comb += [
            self.reading.eq(reader.reading),
            gains.read.enable.eq(reader.advance),
            gains.read.address.eq(reader.gain),
            gates.word.eq(reader.gated_word),
            residuals.next_word.eq(reader.next_word),
            residuals.next_adds.eq(tail.next_product.valid & tail.next_product.payload.adds),
            residuals.next_old.eq(tail.next_product.payload.word),
            residuals.write.eq(tail.total.valid & tail.total.payload.updates),
            residuals.word.eq(tail.total.payload.word),
            reader.taken.eq(residuals.taken),
            reader.taken_bank.eq(residuals.taken_bank),
            updater.results_valid.eq(self.results.valid),
            self.results.ready.eq(updater.results_ready),
            updater.header.eq(self.results.payload[0][:EMBEDDING_SCALE_BITS]),
            updater.hold.eq(head.narrowed.valid),
            self.quantised.valid.eq(tail.total.valid & tail.total.payload.quant),
            self.quantised.payload.buffer.eq(tail.total.payload.buffer),
        ]
        codes = data.View(data.ArrayLayout(signed(COMPACT_BITS), geometry.vector), gains.read.data)
        for index, lane in enumerate(self.lanes):
            m.submodules[f"lane_{index}"] = lane
            m.d.comb += [
                lane.head.eq(head.lanes),
                lane.tail.eq(tail.lanes),
                lane.factor.eq(tail.factor),
                lane.source.eq(Mux(reader.gated, gates.source[index], residuals.source[index])),
                lane.gain.eq(codes[index]),
                lane.result.eq(self.results.payload[index]),
                lane.old.eq(residuals.old[index]),
                residuals.written[index].eq(lane.element),
                self.quantised.payload.values[index].eq(lane.activation),
                self.peak.magnitudes[index].eq(lane.magnitude),
                self.peak.beyond[index].eq(lane.beyond),
                self.sum.terms[index].eq(lane.term),
            ]
        reducing = self._reduce(m, head, tail)
        # From a flip-flop, in which a command counts as soon as it is offered.
        m.d.sync += self.idle.eq(
            ~(self.command.valid | updater.busy | reader.reading.any() | head.busy | tail.busy | reducing)
        )
        return m

    def _accept(self, m, reader, updater, writing):
        """Hand each command to reader or updater."""
        command = self.command.payload
        updates = (command.op == NormOp.EMBED) | (command.op == NormOp.RESID)
        clear = ~of_context(reader.reading | writing, command.context)
        m.d.comb += [
            reader.command.payload.eq(command),
            reader.command.valid.eq(self.command.valid & ~updates),
            updater.command.payload.eq(command),
            updater.command.valid.eq(self.command.valid & updates & clear),
            self.command.ready.eq(Mux(updates, updater.command.ready & clear, reader.command.ready)),
        ]

    def _follow(self, m, reader, updater, tail):
        """Count what is written; returns which contexts' residuals are being written."""
        geometry, port, update = self.geometry, self.gated, tail.total
        m.submodules.residual_progress = residuals = Progress(contexts=geometry.contexts, words=geometry.residual_words)
        m.submodules.gated_progress = gates = Progress(contexts=geometry.contexts, words=geometry.gated_words)
        connect(m, reader.residual, residuals.query)
        connect(m, reader.gates, gates.query)
        # A writer begins a cycle after its transfer: the next command asks later, and no other writer is taken so soon.
        m.d.sync += [
            residuals.begin.eq(updater.command.valid & updater.command.ready),
            residuals.begin_context.eq(self.command.payload.context),
        ]
        m.d.comb += [
            residuals.write.eq(update.valid & update.payload.updates),
            residuals.write_context.eq(update.payload.target.context),
            residuals.last.eq(update.payload.last),
            gates.begin.eq(port.start),
            gates.begin_context.eq(port.start_context),
            gates.write.eq(port.enable & (port.upper | port.last)),
            gates.write_context.eq(port.context),
            gates.last.eq(port.last),
        ]
        return residuals.writing

    def _reduce(self, m, head, tail):
        """Peaks leave at once, sums when there is none; returns whether a reduction is on its way."""
        m.submodules.peak = peak = self.peak
        m.submodules.sum = total = self.sum
        m.submodules.sums = sums = SyncFIFO(width=WRITEBACK.size, depth=QUEUE)
        gained, term = head.gained, tail.term
        m.d.comb += [
            peak.valid.eq(gained.valid & gained.payload.peak),
            peak.last.eq(gained.payload.last),
            peak.target.eq(gained.payload.target),
            total.valid.eq(term.valid & ~term.payload.quant),
            total.last.eq(term.payload.last),
            total.way.eq(term.payload.updates),
            total.target.eq(term.payload.target),
            sums.w_en.eq(total.writeback.valid),
            sums.w_data.eq(total.writeback.payload),
            sums.r_en.eq(~peak.writeback.valid),
            self.writeback.valid.eq(peak.writeback.valid | sums.r_rdy),
            self.writeback.payload.eq(Mux(peak.writeback.valid, peak.writeback.payload, sums.r_data)),
        ]
        return peak.busy | total.busy | sums.r_rdy
