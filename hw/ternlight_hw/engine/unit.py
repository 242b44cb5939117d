"""The ternary engine: executes MATVEC and EMBED on the weight store, the activation buffers and the lanes."""

from __future__ import annotations

from amaranth import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry

from ..layouts import activation_beat, engine_command, result_layout
from .arrivals import Arrivals, ClaimPort
from .issue import Issue
from .lanes import Lanes
from .loader import Loader, store_load_port
from .ports import buffers
from .results import Results, queue_depth

QUEUE = 3
"""Commands of each context that may wait, whether or not results are taken (see Sequencer)."""


class Engine(wiring.Component):
    """Accumulate-only products of trits and activations, and embedding rows, in the order of commands.

    MATVEC: T q, for trits in the order of ternlight.weights.matvec_words: for each group of rows, each chunk of the
    vector meets one store word. Result beats are the rows in order, V at a time.
    EMBED: the row of a token (ternlight.weights.embedding_words): a beat whose element 0 is its scale, then `chunks`
    beats of V values, each shifted up to ACTIVATION_BITS.

    One word is issued per cycle, without a gap across chunks, groups and commands, while activations are there and
    results are taken; but a group takes at least group_beats cycles, for that many beats leave it. A word is issued 3
    cycles after its command was taken, and 2 cycles after the last beat of its chunk, at the earliest. `latency` cycles
    after the last word of a group was issued, its first beat is valid.

    Parameters
    ----------
    geometry: sizes of store, buffers and lanes.

    Members
    -------
    command: In(stream of engine_command). chunks, groups and beats are at least 1. MATVEC: chunks * inputs is at most a
        buffer, and of the result beats only some of the last group's may be missing: groups = ceil(beats * vector /
        rows).
    claim: In(ClaimPort), before the MATVEC command that will use the buffer, and arrivals.CLAIM_LEAD cycles or more
        before its beats.
    free: Out(2 * contexts), bit k set while buffer k can be claimed.
    quantised: In(stream of activation_beat), always ready; one vector after the other, in the order of claims.
    results: Out(stream of result_layout).
    coming: Out(1), a pulse per command, in order: its first beat is valid at most `notice` cycles later, unless
        beats before it are still to be taken.
    load: In(LoadPort) of the weight store, only while `idle`; the columns of a word in order.
    busy: Out(1), a weight word is issued to the lanes.
    starved: Out(1), an operation waits for weights and nothing else: with a store on chip, none ever does.
    idle: Out(1), no command waits or is in progress, and no result is pending. A command counts from the cycle after
        it was taken, until some cycles after its last result was.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.lanes = Lanes(geometry=geometry)
        self.latency = self.lanes.latency + 1
        self.notice = self.latency + self.lanes.embed_gap
        super().__init__(
            {
                "command": In(stream.Signature(engine_command())),
                "claim": In(ClaimPort()),
                "free": Out(buffers(geometry)),
                "quantised": In(stream.Signature(activation_beat(geometry))),
                "results": Out(stream.Signature(result_layout(geometry))),
                "coming": Out(1),
                "load": In(store_load_port(geometry)),
                "busy": Out(1),
                "starved": Out(1),
                "idle": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        geometry = self.geometry
        m.submodules.arrivals = arrivals = Arrivals(geometry=geometry)
        m.submodules.lanes = lanes = self.lanes
        m.submodules.loader = loader = Loader(geometry=geometry)
        m.submodules.results = results = Results(geometry=geometry)
        m.submodules.issue = issue = Issue(geometry=geometry, room=queue_depth(geometry), embed_gap=lanes.embed_gap)
        layout = engine_command()
        m.submodules.queue = queue = fifo.SyncFIFO(width=layout.size, depth=QUEUE * geometry.contexts)
        wiring.connect(m, wiring.flipped(self.load), loader.load)
        wiring.connect(m, loader.write, lanes.load)
        wiring.connect(m, wiring.flipped(self.claim), arrivals.claim)
        wiring.connect(m, wiring.flipped(self.quantised), arrivals.quantised)
        wiring.connect(m, arrivals.write, lanes.write)
        wiring.connect(m, issue.step, lanes.step)
        wiring.connect(m, lanes.sums, results.sums)
        wiring.connect(m, results.beats, wiring.flipped(self.results))
        m.d.comb += [
            queue.w_data.eq(self.command.payload),
            queue.w_en.eq(self.command.valid),
            self.command.ready.eq(queue.w_rdy),
            issue.operations.payload.eq(queue.r_data),
            issue.operations.valid.eq(queue.r_rdy),
            queue.r_en.eq(issue.operations.ready),
            arrivals.open.eq(issue.open),
            arrivals.open_buffer.eq(issue.open_buffer),
            arrivals.take.eq(issue.take),
            arrivals.release.eq(issue.release),
            issue.arrived.eq(arrivals.arrived),
            issue.released.eq(results.released),
            self.free.eq(arrivals.free),
            self.coming.eq(issue.coming),
            self.busy.eq(issue.step.valid & ~issue.step.embed),
        ]
        # From a flip-flop, in which a command counts as soon as it is offered.
        m.d.sync += self.idle.eq(issue.idle & ~self.command.valid)
        return m
