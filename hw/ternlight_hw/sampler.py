"""The token unit: chooses the next token from the accumulators of the output product."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import Geometry
from ternlight.gumbel import SCORE_BITS

from .gumbel import ID_BITS
from .layouts import result_beat, sample_command
from .score import SCORED, Scorer, candidate_layout
from .top_queue import TopQueue

GROUP = 4
"""Lanes whose pending bits are gathered in one, to be looked at sooner."""

_LOWEST = {"token": 0, "score": -1 << SCORE_BITS - 1}
"""Below every score."""


class Sampler(wiring.Component):
    """token = ternlight_sim.golden.sampling.sample(acc, scale, top_k, seed, position), one per command.

    A command consumes `beats` beats of V accumulators; lane l of beat b belongs to token b * V + l, and ids from
    `vocabulary` up are padding. With top_k >= 1 a beat is compared with the smallest candidate kept so far, and only
    the lanes that pass are offered to the queue, one by one; then the queue's entries are scored, unless top_k is 1
    (greedy). With top_k = 0 every token is scored as it comes.

    Throughput: a beat takes a cycle if no lane passes, and n + 1 if n lanes pass; with top_k = 0 all do. The threshold
    is older than the latest candidates, so a lane may pass in vain; it never stays out wrongly.

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
        if top_k == 1:
            return 6
        return 5 + Scorer.latency + (2 + top_k if top_k else 0)

    def elaborate(self, platform):
        m = Module()
        lanes = self.geometry.vector
        m.submodules.queue = queue = TopQueue(self.geometry)
        m.submodules.scorer = scorer = Scorer(self.geometry)

        command = Signal(sample_command())
        take_all, greedy = Signal(), Signal()
        m.d.comb += [
            scorer.seed.eq(command.seed),
            scorer.position.eq(command.position),
            scorer.scale.eq(command.scale),
        ]

        # First stage: a beat is compared with the queue's tail. Accumulators are kept with their top bit inverted,
        # and so are unsigned; compared with `<`, since Yosys makes two comparators of `>`.
        arrived = Signal()
        arrived_acc = [Signal(self.geometry.accumulator, name=f"arrived_{lane}") for lane in range(lanes)]
        arrived_lanes = Signal(lanes)  # those below `vocabulary`
        arrived_first = Signal(ID_BITS)  # token of lane 0
        more = Signal()  # beats are to come
        beats = Signal.like(command.beats)  # how many
        left = Signal.like(command.vocabulary)  # tokens to come
        first = Signal(ID_BITS)
        tail = queue.tail.candidate.acc
        threshold = Cat(tail[:-1], ~tail[-1], queue.tail.valid)
        passes = Cat(threshold < Cat(acc, arrived_lanes[lane]) for lane, acc in enumerate(arrived_acc))

        # Second stage: the lanes that pass leave, the lowest first.
        beat = [Signal.like(acc, name=f"acc_{lane}") for lane, acc in enumerate(arrived_acc)]
        beat_first = Signal.like(first)
        pending = Signal(lanes)
        pending_groups = Signal(-(-lanes // GROUP))  # which groups have pending lanes
        chosen, chosen_lane = Signal(), Signal(range(lanes))
        done, free = Signal(), Signal()
        m.d.comb += [
            done.eq(~pending_groups.any()),
            free.eq(~arrived | done),
            self.logits.ready.eq(more & free),
        ]
        # What no one offers is taken too, and does not count: its arrival need not wait for `valid`.
        with m.If(free):
            m.d.sync += [
                arrived.eq(self.logits.valid & more),
                *(held.eq(Cat(acc[:-1], ~acc[-1])) for held, acc in zip(arrived_acc, self.logits.payload, strict=True)),
                arrived_lanes.eq(Cat(lane < left for lane in range(lanes))),
                arrived_first.eq(first),
            ]
        with m.If(self.logits.valid & self.logits.ready):
            m.d.sync += [
                more.eq(beats != 1),
                beats.eq(beats - 1),
                left.eq(Mux(left < lanes, 0, left - lanes)),
                first.eq(first + lanes),
            ]

        pending_next = Signal(lanes)
        with m.If(arrived & done):
            m.d.comb += pending_next.eq(passes)
            m.d.sync += beat_first.eq(arrived_first)
            m.d.sync += [held.eq(acc) for held, acc in zip(beat, arrived_acc, strict=True)]
        with m.Else():
            m.d.comb += pending_next.eq(pending & (pending - 1))
        m.d.sync += [
            chosen.eq(pending_groups.any()),
            pending.eq(pending_next),
            pending_groups.eq(Cat(pending_next[at : at + GROUP].any() for at in range(0, lanes, GROUP))),
        ]
        for lane in reversed(range(lanes)):
            with m.If(pending[lane]):
                m.d.sync += chosen_lane.eq(lane)

        # Third stage: the accumulator of a lane, for the queue or for its score.
        acc = Array(beat)[chosen_lane]
        offered = Signal(candidate_layout(self.geometry))
        scoring = Signal()  # the candidates come from the queue
        m.d.comb += [
            offered.acc.eq(Cat(acc[:-1], ~acc[-1])),
            offered.token.eq(beat_first + chosen_lane),
            queue.candidate.valid.eq(chosen & ~take_all),
            queue.candidate.payload.eq(offered),
        ]
        m.d.sync += [
            scorer.candidate.valid.eq(Mux(scoring, queue.tail.valid, chosen & take_all)),
            scorer.candidate.payload.eq(Mux(scoring, queue.tail.candidate, offered)),
        ]

        # The lowest token of equal scores wins: below the scores, the tokens stand on the other's side.
        scored = scorer.scored.payload
        best = Signal(SCORED, init=_LOWEST, reset_less=True)
        better = Cat(scored.token, best.score).as_signed() < Cat(best.token, scored.score).as_signed()
        with m.If(scorer.scored.valid & better):
            m.d.sync += best.eq(scored)

        countdown = Signal(range(max(self.geometry.top_k, Scorer.latency + 1)))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += [
                    self.idle.eq(1),
                    self.command.ready.eq(1),
                    queue.clear.eq(1),
                    # With an empty queue everything passes.
                    queue.keep.eq(Mux(self.command.p.top_k == 0, 1, self.command.p.top_k)),
                ]
                # All this is done until a command is there: `valid` has enough to move.
                m.d.sync += [
                    command.eq(self.command.payload),
                    take_all.eq(self.command.p.top_k == 0),
                    greedy.eq(self.command.p.top_k == 1),
                    beats.eq(self.command.p.beats),
                    left.eq(self.command.p.vocabulary),
                    first.eq(0),
                    best.eq(SCORED.const(_LOWEST)),
                    more.eq(self.command.valid),
                ]
                with m.If(self.command.valid):
                    m.next = "COLLECT"

            with m.State("COLLECT"), m.If(~more & ~arrived & ~pending_groups.any() & ~chosen):
                m.next = "PLACE"

            with m.State("PLACE"):
                m.next = "LAST"

            with m.State("LAST"):
                # The last candidate moves into the queue in this cycle.
                m.d.comb += queue.shift.eq(~greedy)
                with m.If(greedy):
                    m.next = "TOKEN"
                with m.Elif(take_all):
                    m.d.sync += countdown.eq(Scorer.latency - 2)
                    m.next = "SETTLE"
                with m.Else():
                    m.d.sync += countdown.eq(command.top_k - 1)
                    m.next = "SCORE"

            with m.State("SCORE"):
                m.d.comb += [scoring.eq(1), queue.shift.eq(1)]
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.d.sync += countdown.eq(Scorer.latency)
                    m.next = "SETTLE"

            with m.State("SETTLE"):
                m.d.sync += countdown.eq(countdown - 1)
                with m.If(countdown == 0):
                    m.next = "TOKEN"

            with m.State("TOKEN"):
                m.d.comb += [
                    self.token.valid.eq(1),
                    self.token.payload.eq(Mux(greedy, queue.tail.candidate.token, best.token)),
                ]
                with m.If(self.token.ready):
                    m.next = "IDLE"
        return m
