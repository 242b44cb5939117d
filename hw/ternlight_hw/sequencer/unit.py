"""Runs the tokens of several sessions: fetches, decodes and issues instructions, and steers the engine's results."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import TOKEN_BITS
from ternlight.geometry import Geometry
from ternlight.isa import CONTROL_FIELDS, Unit

from ..engine.arrivals import ClaimPort
from ..layouts import (
    CONTEXT_BITS,
    REGISTER,
    WRITEBACK,
    engine_command,
    gate_command,
    norm_command,
    sample_command,
    scalar_command,
)
from ..memory import LoadPort
from ..pipeline import Flow
from ..shift_queue import ShiftQueue
from ..steering import Consumer
from .arbiter import following
from .context import OFFER, TOKEN_JOB, Context
from .decode import Route, fields_of
from .fetch import Fetch

TOKEN_DONE = data.StructLayout({"slot": 8, "token": TOKEN_BITS, "sampled": 1})

COMMANDS_PER_CONTEXT = 3
"""Engine commands of a context whose results are not consumed yet: what a program may have at most."""


class Sequencer(wiring.Component):
    """Issues the instructions of up to `contexts` tokens, of each in the order of its program.

    Every cycle belongs to one of the contexts that have a token, in turn: its next instruction is issued if it can go.
    It can go when

    * its unit can take a command: the register in front of it is empty;
    * the scalar registers that it reads hold their values, and the one that it writes is not awaited;
    * QUANT: its activation buffer is free; it is claimed at issue;
    * an instruction that consumes results: its context's turn has come in the order of the engine's commands, and the
      engine has announced the results (`coming`), unless this is the only token: so none waits in a unit for long
      while it stands in the way of another context's;
    * SAMPLE: the sampler is free;
    * GATE, MLP: the norm unit has read all beats of the context's commands before, so that the gated memory may change;
    * a command of the norm unit that reads the gated memory: what writes it has reached the gate unit.

    No deadlock. Units work in the order of issue, and the engine's results are consumed in the order of its commands.
    An issued command waits only for earlier ones, and for the results of the engine's commands before its own. A
    program has at most COMMANDS_PER_CONTEXT engine commands whose consumers it has not reached, and fills a buffer
    again only behind the consumer of its product; the engine takes so many commands of every context, whether or not
    its results are taken. So look, of all consumers that are not issued, at the first one in the order of the engine's
    commands: what its context must issue before it waits only for issued commands, all of whose results come, so
    that it can be issued as well; and then its results can leave.

    A context is free for another token when its program has reached END (or HEAD, without `head`) and all its registers
    hold their values: of its operations at most SAMPLE is then under way, as QUANT precedes a product, FORGET a STATE,
    STATE a GATE, and each product's results end in an operation that writes registers, or in SAMPLE. With the sampled
    token, if there is one, the token is done.

    Latency, if there is no other token: a value that comes in cycle t lets the command that waits for it be valid in
    cycle t + 2; the first command of a token is valid 3 cycles after the job's transfer. Throughput: an instruction per
    cycle, of one context and to one unit every other cycle. `done` is valid one cycle after the sampled token was
    transferred, or its context finished. A job is taken every other cycle at most.

    Parameters: geometry.
    Members:
        job: In stream of TOKEN_JOB; done: Out stream of TOKEN_DONE, one per job, in any order.
        load: In LoadPort of the program memory, only while not `running`.
        engine, norm, gate, scalar, sample: Out streams of commands; claim: Out ClaimPort; free: In, from the engine.
        consumers: Out stream of Consumer: who takes the results of the engine's commands, in their order.
        coming: In(1), the engine announces the results of its next command; reading: In, from the norm unit.
        norm_result, gate_result, scalar_result: In Flows of WRITEBACK; sampled: In stream of token ids.
        engine_idle, norm_idle, gate_idle: In(1).
        running: Out(1), a token or a unit is at work; sampling: Out(1), the tokens wait for the sampler, all of them;
        waiting_scalar: Out(1), all others wait for a value of the scalar unit.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self._fetch = Fetch(geometry=geometry)
        self._sampling = Signal()  # the sampler has a command
        self._latest = Signal(geometry.contexts)  # whose turn the cycle before was
        super().__init__(
            {
                "job": In(stream.Signature(TOKEN_JOB)),
                "done": Out(stream.Signature(TOKEN_DONE)),
                "load": In(LoadPort(address_bits=self._fetch.address_bits, column_bits=self._fetch.column_bits)),
                "engine": Out(stream.Signature(engine_command())),
                "norm": Out(stream.Signature(norm_command())),
                "gate": Out(stream.Signature(gate_command())),
                "scalar": Out(stream.Signature(scalar_command())),
                "sample": Out(stream.Signature(sample_command())),
                "consumers": Out(stream.Signature(Consumer)),
                "claim": Out(ClaimPort()),
                "free": In(2 * geometry.contexts),
                "coming": In(1),
                "reading": In(geometry.contexts),
                "norm_result": In(Flow(WRITEBACK)),
                "gate_result": In(Flow(WRITEBACK)),
                "scalar_result": In(Flow(WRITEBACK)),
                "sampled": In(stream.Signature(unsigned(CONTROL_FIELDS["vocabulary"]))),
                "engine_idle": In(1),
                "norm_idle": In(1),
                "gate_idle": In(1),
                "running": Out(1),
                "sampling": Out(1),
                "waiting_scalar": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetch = fetch = self._fetch
        wiring.connect(m, wiring.flipped(self.load), fetch.load)
        contexts = [Context(geometry=self.geometry, number=number) for number in range(self.geometry.contexts)]
        for number, context in enumerate(contexts):
            m.submodules[f"context_{number}"] = context
            wiring.connect(m, fetch.instructions[number], context.instruction)
            m.d.comb += [
                fetch.restart[number].eq(context.restart | self.load.enable),
                context.discard.eq(self.load.enable),
            ]
        self._issue(m, contexts)
        self._jobs(m, contexts)
        self._tell_state(m, contexts)
        return m

    def _issue(self, m, contexts):
        """One of the requests, into the command register of its unit."""
        active = Cat(context.active for context in contexts)
        chosen = Signal(len(contexts), init=1)  # whose turn it is: from a flip-flop, since it selects much
        with m.If(active.any()):
            m.d.sync += chosen.eq(following(active, chosen))
        offer, job = Signal(OFFER), Signal(TOKEN_JOB)
        number = Signal(CONTEXT_BITS)
        for index, context in enumerate(contexts):
            m.d.comb += context.chosen.eq(chosen[index])
            with m.If(chosen[index]):
                m.d.comb += [offer.eq(context.offer), job.eq(context.current), number.eq(index)]
        decoded = offer.decoded

        def issued(condition):
            """An instruction goes for which the condition, of a context, holds."""
            return Cat(context.grant & condition(context.offer.decoded) for context in contexts).any()

        ports = {
            Route.NORM: self.norm,
            Route.GATE: self.gate,
            Route.SCALAR: self.scalar,
            Route.ENGINE: self.engine,
            Route.SAMPLE: self.sample,
        }
        units = {
            Route.NORM: Unit.NORM,
            Route.GATE: Unit.GATE,
            Route.SCALAR: Unit.SCALAR,
            Route.ENGINE: Unit.ENGINE,
            Route.SAMPLE: Unit.CONTROL,
        }
        for route, port in ports.items():
            fields = fields_of(units[route], decoded.word)
            values = {name: fields[name] for name, _ in fields.shape() if name in port.payload.shape().members}
            values |= self._operands(route, offer=offer, job=job, number=number, fields=fields)
            # An empty register loads in every cycle, so that its enable is a flip-flop.
            with m.If(~port.valid):
                m.d.sync += [port.payload[name].eq(value) for name, value in values.items()]
            goes = issued(lambda decoded, route=route: decoded.route[route.value])
            m.d.sync += port.valid.eq(Mux(port.valid, ~port.ready, goes))

        consumes = issued(lambda decoded: decoded.consumes)
        with m.If(~self.consumers.valid):
            m.d.sync += self.consumers.payload.eq(
                Mux(
                    decoded.route[Route.SAMPLE.value],
                    Consumer.SAMPLER,
                    Mux(decoded.route[Route.GATE.value], Consumer.GATE, Consumer.NORM),
                )
            )
        m.d.sync += [
            self.consumers.valid.eq(Mux(self.consumers.valid, ~self.consumers.ready, consumes)),
            self.claim.enable.eq(issued(lambda decoded: decoded.quant)),
        ]
        m.d.comb += [self.claim.buffer.eq(self.norm.payload.buffer), self.claim.beats.eq(self.norm.payload.beats)]
        pushes, pops = Signal(), Signal()
        m.d.sync += [
            self._latest.eq(chosen),
            pushes.eq(issued(lambda decoded: decoded.route[Route.ENGINE.value])),
            pops.eq(consumes),
        ]
        self._turns(m, contexts, pushes=pushes, pops=pops)

    def _operands(self, route, *, offer, job, number, fields):
        """What a command has beside the fields of its instruction, or in their place."""
        match route:
            case Route.NORM:
                return {"scale": offer.first, "context": number, "buffer": Cat(fields.buffer, number)}
            case Route.GATE:
                return {"scale": offer.first, "context": number, "state": offer.base, "fresh": job.fresh}
            case Route.SCALAR:
                target = data.View(REGISTER, Cat(fields.target, number))
                return {"a": offer.first, "b": offer.second, "target": target}
            case Route.ENGINE:
                cell = job.token[: ceil_log2(self.geometry.cells)]
                return {"buffer": Cat(fields.buffer, number), "address": offer.base, "cell": cell}
            case _:
                return {"scale": offer.first} | {name: job[name] for name in ("top_k", "seed", "position")}

    def _turns(self, m, contexts, *, pushes, pops):
        """The order of the engine's commands, and what may go where."""
        m.submodules.order = order = ShiftQueue(width=len(contexts), depth=COMMANDS_PER_CONTEXT * len(contexts))
        m.d.comb += [order.push.eq(Mux(pushes, self._latest, 0)), order.pop.eq(pops)]
        announced = Signal(range(-order.depth, order.depth + 1))  # below zero: consumers that did not wait
        m.d.sync += announced.eq(announced + self.coming - pops)
        lone = Signal()
        active = Cat(context.active for context in contexts)
        m.d.sync += lone.eq((active & (active - 1)) == 0)
        comes = (lone | (announced > 0)) & ~self.consumers.valid
        for index, context in enumerate(contexts):
            m.d.comb += [
                context.open.norm.eq(~self.norm.valid),
                context.open.gate.eq(~self.gate.valid),
                context.open.scalar.eq(~self.scalar.valid),
                context.open.engine.eq(~self.engine.valid),
                context.open.sample.eq(~self._sampling & ~self.sample.valid),
                context.turn.eq(order.oldest[index] & comes),
                context.free.eq(self.free[2 * index :][:2]),
                context.diverted.eq(self.gate.valid & (self.gate.payload.context == index)),
                context.reading.eq(self.reading[index] | (self.norm.valid & (self.norm.payload.context == index))),
            ]
            for port, result in zip(
                context.writebacks, (self.norm_result, self.gate_result, self.scalar_result), strict=True
            ):
                m.d.comb += [port.valid.eq(result.valid), port.payload.eq(result.payload)]

    def _jobs(self, m, contexts):
        """A job to the first context without one; what is done, one by one."""
        accepted = self.job.valid & self.job.ready
        waiting = accepted
        for context in contexts:
            m.d.comb += [context.job.payload.eq(self.job.payload), context.job.valid.eq(waiting)]
            waiting &= ~context.job.ready
        # From a flip-flop, and so not again behind a job.
        m.d.sync += self.job.ready.eq(~accepted & Cat(context.job.ready for context in contexts).any())

        # One SAMPLE at a time. Its token is told when the context has finished, which it then did long ago.
        slot, begins = Signal(TOKEN_DONE.members["slot"]), Signal()
        m.d.sync += begins.eq(
            Cat(context.grant & context.offer.decoded.route[Route.SAMPLE.value] for context in contexts).any()
        )
        with m.If(begins):
            m.d.sync += self._sampling.eq(1)
            for context, issued in zip(contexts, self._latest, strict=True):
                with m.If(issued):
                    m.d.sync += slot.eq(context.current.slot)
        sampled = self.sampled.valid & self.sampled.ready
        with m.If(sampled):
            m.d.sync += self._sampling.eq(0)

        free = ~self.done.valid & ~self.sampled.ready
        tells = sampled
        with m.If(~self.done.valid):
            m.d.sync += [
                self.done.payload.slot.eq(slot),
                self.done.payload.token.eq(self.sampled.payload),
                self.done.payload.sampled.eq(sampled),
            ]
        for context in contexts:
            chosen = free & context.finished & ~context.samples
            m.d.comb += context.release.eq(chosen | (context.finished & context.samples))
            with m.If(chosen):
                m.d.sync += self.done.payload.slot.eq(context.current.slot)
            free &= ~context.finished | context.samples
            tells |= chosen
        m.d.sync += [
            self.done.valid.eq(Mux(self.done.valid, ~self.done.ready, tells)),
            self.sampled.ready.eq(
                free & self.sampled.valid & ~Cat(context.active & context.samples for context in contexts).any()
            ),
        ]

    def _tell_state(self, m, contexts):
        active, samples, waiting = (
            Cat(getattr(context, name) for context in contexts) for name in ("active", "samples", "waiting_scalar")
        )
        idle = self.engine_idle & self.norm_idle & self.gate_idle
        m.d.comb += [
            self.running.eq(active.any() | self._sampling | self.done.valid | ~idle),
            self.sampling.eq(self._sampling & (samples | ~active).all()),
            self.waiting_scalar.eq(waiting.any() & (waiting | samples | ~active).all()),
        ]
