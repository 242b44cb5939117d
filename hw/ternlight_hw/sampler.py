"""The token unit: chooses the next token from the accumulators of the output product."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.gumbel import SCORE_BITS

from .gumbel import ID_BITS
from .layouts import result_beat, sample_command
from .score import Scorer, candidate_layout
from .top_queue import TopQueue


class Sampler(wiring.Component):
    """token = ternlight_sim.golden.sampling.sample(acc, scale, top_k, seed, position), one per command.

    A command consumes `beats` beats of V accumulators; lane l of beat b belongs to token b * V + l, and ids from
    `vocabulary` up are padding. With top_k >= 1 a beat is compared with the smallest candidate kept so far, and only
    the lanes that pass take a cycle each, to enter the queue; then the queue's entries are scored, unless top_k is 1
    (greedy). With top_k = 0 every token is scored as it comes.

    Throughput: a beat takes max(1, lanes that pass) cycles. The threshold is that of three passed lanes ago, so
    a lane may pass in vain; it never stays out wrongly.

    Latency, from the command's transfer to a valid token, when beats are always there: `overhead(top_k)` cycles and
    the cycles of the beats (the last one counts 0 if no lane passes).

    Parameters:
        geometry: V, the accumulator's width, and top_k, the most candidates that can be kept.

    Members:
        command (in, stream of sample_command): 1 <= vocabulary <= beats * V, and top_k <= geometry.top_k. The
            device's controller refuses other requests: here they give a wrong token.
        logits (in, stream of result_beat).
        token (out, stream of unsigned ID_BITS).
        idle (out): no command in progress, no token pending.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        super().__init__(
            {
                "command": In(stream.Signature(sample_command())),
                "logits": In(stream.Signature(result_beat(geometry))),
                "token": Out(stream.Signature(unsigned(ID_BITS))),
                "idle": Out(1),
            }
        )

    @staticmethod
    def overhead(top_k: int) -> int:
        """Cycles of a command besides those of its beats."""
        collect = 4
        if top_k == 1:
            return collect
        return collect + top_k + Scorer.latency

    def elaborate(self, platform):
        m = Module()
        lanes = self.geometry.vector
        m.submodules.queue = queue = TopQueue(self.geometry)
        m.submodules.scorer = scorer = Scorer(self.geometry)

        command = Signal(sample_command())
        beats = Signal.like(command.beats)  # still to come
        left = Signal.like(command.vocabulary)  # tokens still to come
        first = Signal(ID_BITS)  # token of lane 0 in the beat that comes next
        take_all = Signal()
        m.d.comb += [
            take_all.eq(command.top_k == 0),
            scorer.seed.eq(command.seed),
            scorer.position.eq(command.position),
            scorer.scale.eq(command.scale),
        ]

        # The beat that is being taken apart, lowest lane first.
        beat = Signal(result_beat(self.geometry))
        beat_first = Signal(ID_BITS)
        pending = Signal(lanes)
        rest = Signal(lanes)
        m.d.comb += rest.eq(pending & (pending - 1))
        passes = Cat(
            (left > lane) & (~queue.tail.valid | (self.logits.payload[lane] > queue.tail.candidate.acc))
            for lane in range(lanes)
        )
        with m.If(self.logits.valid & self.logits.ready):
            m.d.sync += [
                beat.eq(self.logits.payload),
                beat_first.eq(first),
                pending.eq(passes),
                beats.eq(beats - 1),
                left.eq(Mux(left > lanes, left - lanes, 0)),
                first.eq(first + lanes),
            ]
        with m.Elif(pending.any()):
            m.d.sync += pending.eq(rest)

        candidate = Signal(candidate_layout(self.geometry))
        candidate_valid = Signal()
        m.d.sync += candidate_valid.eq(pending.any())
        for lane in range(lanes):
            with m.If(pending[lane] & ~pending[:lane].any()):
                m.d.sync += [candidate.acc.eq(beat[lane]), candidate.token.eq(beat_first + lane)]
        m.d.comb += [
            queue.candidate.valid.eq(candidate_valid & ~take_all),
            queue.candidate.payload.eq(candidate),
            scorer.candidate.valid.eq(candidate_valid & take_all),
            scorer.candidate.payload.eq(candidate),
        ]

        # The token's complement stands below the score: the lowest of equal scores wins.
        key = Cat(~scorer.scored.payload.token, scorer.scored.payload.score).as_signed()
        lowest = -1 << ID_BITS + SCORE_BITS - 1
        best = Signal.like(key)
        with m.If(scorer.scored.valid & (key > best)):
            m.d.sync += best.eq(key)

        countdown = Signal(range(max(self.geometry.top_k, Scorer.latency) + 1))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    self.idle.eq(1),
                    self.command.ready.eq(1),
                    queue.clear.eq(self.command.valid),
                    queue.keep.eq(self.command.p.top_k),
                ]
                with m.If(self.command.valid):
                    m.d.sync += [
                        command.eq(self.command.payload),
                        beats.eq(self.command.p.beats),
                        left.eq(self.command.p.vocabulary),
                        first.eq(0),
                        best.eq(lowest),
                    ]
                    m.next = "COLLECT"

            with m.State("COLLECT"):
                m.d.comb += self.logits.ready.eq((beats != 0) & (rest == 0))
                with m.If((beats == 0) & ~pending.any()):
                    m.next = "LAST"

            with m.State("LAST"):
                # The last candidate moves into the queue in this cycle.
                with m.If(command.top_k == 1):
                    m.next = "TOKEN"
                with m.Elif(take_all):
                    m.d.sync += countdown.eq(Scorer.latency - 1)
                    m.next = "SETTLE"
                with m.Else():
                    m.d.sync += countdown.eq(command.top_k - 1)
                    m.next = "SCORE"

            with m.State("SCORE"):
                m.d.comb += [
                    queue.shift.eq(1),
                    scorer.candidate.valid.eq(queue.tail.valid),
                    scorer.candidate.payload.eq(queue.tail.candidate),
                ]
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.d.sync += countdown.eq(Scorer.latency - 1)
                    m.next = "SETTLE"

            with m.State("SETTLE"):
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.next = "TOKEN"

            with m.State("TOKEN"):
                m.d.comb += [
                    self.token.valid.eq(1),
                    self.token.payload.eq(Mux(command.top_k == 1, queue.tail.candidate.token, ~best[:ID_BITS])),
                ]
                with m.If(self.token.ready):
                    m.next = "IDLE"
        return m
