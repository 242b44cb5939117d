"""The ternary engine: executes MATVEC and EMBED on the weight store, the activation buffers and the lanes."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import data, fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.isa import EngineOp

from .activations import Activations, ClaimPort
from .issue import Issue
from .layouts import activation_beat, engine_command, result_beat
from .memory import LoadPort
from .results import Results
from .rows import Rows
from .store import Store

QUEUE = 4
"""Commands that may wait."""


class Engine(wiring.Component):
    """Accumulate-only products of trits and activations, and embedding rows, in the order of commands.

    MATVEC: T q, for trits in the order of ternlight.weights.matvec_words. For every block of up to `block` row groups,
    every chunk of a vector's activations passes over the groups, one store word per cycle; each group's accumulators
    are cleared by its first chunk and emitted by its last. Result beats are the rows in order, V at a time.
    EMBED: the first `beats` beats of V signed bytes from `chunks` store words (ternlight.weights.embedding_words).

    A command is copied to three queues, and the parts that serve them run ahead of each other: the weight reader, the
    activation reader, and the issue of words to the lanes, which joins both. So words follow each other without a gap
    across chunks, blocks and commands, while activations are there and results are taken: a product of n words
    whose operands wait takes n cycles. Its first result is valid `latency` cycles after the first word
    of its last chunk was issued. A word is issued 4 cycles after its command was taken, and 2 cycles after the
    last beat of its chunk, at the earliest. EMBED starts when all earlier results have left the queue behind the
    lanes, and then gives one beat per cycle.

    Parameters
    ----------
    geometry: sizes of store, buffers, lanes and block.

    Members
    -------
    command: In(stream of engine_command). chunks and beats are at least 1. MATVEC: chunks * inputs is at most
        a buffer, groups is at least 1, and of the result beats only some of the last group's may be missing
        (groups = ceil(beats * vector / rows)). EMBED: chunks = ceil(beats / embedding_beats).
    claim: In(ClaimPort), before the MATVEC command that will use the buffer, and before its beats.
    free: Out(2), bit k set while buffer k can be claimed.
    quantised: In(stream of activation_beat), always ready.
    results: Out(stream of result_beat).
    load: In(LoadPort) of the weight store, only while `idle`.
    busy: Out(1), a weight word is issued to the lanes.
    starved: Out(1), an operation waits for weights and nothing else.
    idle: Out(1), no command waits or is in progress, and no result is pending. A command counts from the cycle after
        it was taken.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.store = Store(geometry=geometry)
        self.rows = Rows(geometry=geometry)
        # Room for a whole block, and for the groups that come while the first one's beats leave.
        self.results_depth = geometry.block + self.rows.latency + 1
        self.latency = self.rows.latency + 2
        super().__init__(
            {
                "command": In(stream.Signature(engine_command())),
                "claim": In(ClaimPort()),
                "free": Out(2),
                "quantised": In(stream.Signature(activation_beat(geometry))),
                "results": Out(stream.Signature(result_beat(geometry))),
                "load": In(
                    LoadPort(
                        address_bits=self.store.memory.address_bits,
                        column_bits=self.store.memory.column_bits,
                    )
                ),
                "busy": Out(1),
                "starved": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.store = store = self.store
        m.submodules.activations = activations = Activations(geometry=geometry)
        m.submodules.rows = rows = self.rows
        m.submodules.results = results = Results(geometry=geometry, depth=self.results_depth)
        m.submodules.issue = issue = Issue(geometry=geometry, room=self.results_depth)
        wiring.connect(m, wiring.flipped(self.load), store.load)
        wiring.connect(m, wiring.flipped(self.claim), activations.claim)
        wiring.connect(m, wiring.flipped(self.quantised), activations.quantised)
        wiring.connect(m, store.words, issue.words)
        wiring.connect(m, activations.chunks, issue.chunks)
        wiring.connect(m, issue.step, rows.step)
        wiring.connect(m, rows.sums, results.sums)
        wiring.connect(m, issue.embedding, results.embedding)
        wiring.connect(m, results.beats, wiring.flipped(self.results))

        queues = []
        for name, consumer in (
            ("words", store.requests),
            ("chunks", activations.requests),
            ("operations", issue.operations),
        ):
            layout = consumer.payload.shape()
            m.submodules[f"{name}_queue"] = queue = fifo.SyncFIFO(width=layout.size, depth=QUEUE)
            entry = data.View(layout, queue.w_data)
            m.d.comb += [getattr(entry, field).eq(getattr(self.command.payload, field)) for field, _ in layout]
            m.d.comb += [
                consumer.payload.eq(queue.r_data),
                consumer.valid.eq(queue.r_rdy),
                queue.r_en.eq(consumer.ready),
            ]
            queues.append(queue)

        words_queue, chunks_queue, operations_queue = queues
        embed = self.command.payload.op == EngineOp.EMBED
        # An embedding row is one group of words, and needs no chunks of activations.
        with m.If(embed):
            m.d.comb += data.View(store.requests.payload.shape(), words_queue.w_data).groups.eq(1)

        # A command enters all its queues in one cycle, or none.
        taken = self.command.valid & self.command.ready
        m.d.comb += [
            self.command.ready.eq(words_queue.w_rdy & chunks_queue.w_rdy & operations_queue.w_rdy),
            words_queue.w_en.eq(taken),
            chunks_queue.w_en.eq(taken & ~embed),
            operations_queue.w_en.eq(taken),
        ]

        m.d.comb += [
            self.free.eq(activations.free),
            issue.released.eq(results.released),
            self.busy.eq(issue.step.valid),
            self.starved.eq(issue.starved),
            self.idle.eq(issue.idle & ~results.beats.valid),
        ]
        return m
