"""A context: one token's way through the program."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import TOKEN_BITS
from ternlight.geometry import Geometry
from ternlight.isa import ENGINE_FIELDS, SCALAR_REGISTERS, TEMPERATURE_REGISTER, Unit

from ..layouts import STATE_ADDRESS_BITS, UFLOAT, WRITEBACK
from ..pipeline import Flow
from .decode import DECODED, Route, fields_of
from .operands import BANKS, OperandBanks, Source

TOKEN_JOB = data.StructLayout(
    {
        "slot": 8,
        "token": TOKEN_BITS,
        "state": STATE_ADDRESS_BITS,  # first word of the session's state
        "fresh": 1,  # the session has seen nothing: its state reads as zero
        "head": 1,  # go on beyond HEAD and sample
        "inverse_temperature": UFLOAT,
        "top_k": 16,
        "seed": 32,
        "position": 32,
    }
)
UNITS = data.StructLayout({"norm": 1, "gate": 1, "scalar": 1, "engine": 1, "sample": 1})
"""What may go to each unit, as far as the unit is concerned."""
OFFER = data.StructLayout(
    {
        "decoded": DECODED,
        "first": UFLOAT,
        "second": UFLOAT,
        "base": ENGINE_FIELDS["address"],  # the address of an engine or gate instruction
    }
)

_REGISTERS = {"first": "reads_first", "second": "reads_second", "target": "writes_target"}
"""The registers that an instruction names, and whether it uses them."""


class Context(wiring.Component):
    """Holds the next instruction of a token, and lets it go as soon as nothing is in its way.

    The instruction waits for the scalar registers that it reads, and for the one that it writes if that is still
    awaited. When a value comes in cycle t, and is the last that it waits for, it goes in cycle t + 1, if the context is
    chosen then. A scalar instruction goes in the cycle after it was loaded at the earliest, others, whose address is
    computed or which wait for more than registers, one later. A context issues at most every other cycle.

    Parameters: geometry; number, of the context.
    Members:
        job: In stream of TOKEN_JOB, ready while there is no token; current: Out(TOKEN_JOB).
        instruction: In stream of DECODED, which begins anew after `restart`, Out(1). discard: In(1), drops the
        instruction held (the program changes, and there is no token).
        writebacks: In Flows of WRITEBACK, of all contexts, one per bank.
        open: In(UNITS), the units can take a command; free: In(2), of the context's activation buffers; turn: In(1),
        the next results without a consumer are this context's; diverted: In(1), a command of this context is on its
        way to the gate unit; reading: In(1), the norm unit has commands of this context whose beats are still to be
        read. They may be a cycle late, but for `open`.
        chosen: In(1), it is this context's cycle; grant: Out(1), the instruction goes; offer: Out(OFFER).
        finished: Out(1), nothing is left to issue or to await but what the sampler makes of SAMPLE; samples: Out(1),
        there was one. release: In(1), while finished: the context is free for another token.
        active: Out(1), there is a token; waiting_scalar: Out(1), it waits for a value of the scalar unit.
    """

    def __init__(self, *, geometry: Geometry, number: int) -> None:
        self.geometry = geometry
        self.number = number
        super().__init__(
            {
                "job": In(stream.Signature(TOKEN_JOB)),
                "current": Out(TOKEN_JOB),
                "instruction": In(stream.Signature(DECODED)),
                "restart": Out(1),
                "discard": In(1),
                "writebacks": In(Flow(WRITEBACK)).array(len(BANKS)),
                "open": In(UNITS),
                "free": In(2),
                "turn": In(1),
                "diverted": In(1),
                "reading": In(1),
                "chosen": In(1),
                "offer": Out(OFFER),
                "grant": Out(1),
                "finished": Out(1),
                "samples": Out(1),
                "release": In(1),
                "active": Out(1),
                "waiting_scalar": Out(1),
            }
        )

        self._held = Signal(DECODED)
        self._holds = Signal()
        self._load = Signal()
        self._unblocked = Signal()  # waits for nothing but registers and the unit; the address is there
        self._issued = Signal()  # in the cycle before
        self._awaited = Signal(len(_REGISTERS))
        self._accept = Signal()
        self._begins = Signal()  # the first cycle of a token
        self._running = Signal()  # there are instructions to issue
        self._started = Signal()
        self._ended = Signal()  # there are none, but the token is not done
        self._passes = Signal()  # HEAD: goes on
        self._all_present = Signal()

    def elaborate(self, platform):
        m = Module()
        self._hold(m)
        self._watch_registers(m)
        self._request(m)
        self._follow_token(m)
        return m

    def _hold(self, m):
        """The instruction held: loaded when there is none, so that its enable is a flip-flop."""
        coming = self.instruction.payload
        m.d.comb += [
            self.instruction.ready.eq(~self._holds),
            self._load.eq(self.instruction.valid & self.instruction.ready & ~self.discard),
            self._accept.eq(self.job.valid & self.job.ready),
        ]
        with m.If(~self._holds):
            m.d.sync += [self._held.eq(coming), self._holds.eq(self._load)]
        m.d.sync += self._issued.eq(self.grant)
        with m.If(self.grant | self._passes | self.restart | self.discard):
            m.d.sync += self._holds.eq(0)

    def _watch_registers(self, m):
        """The scalar registers, and which of those that matter to the instruction held are awaited.

        An issue shows a cycle later, while the next instruction may be loaded: this one still stands in its register.
        """
        m.submodules.banks = banks = OperandBanks()
        held, coming = self._held, self.instruction.payload
        present = Signal(SCALAR_REGISTERS, init=-1)
        sources = [Signal(Source, name=f"source_{index}", init=Source.SCALAR) for index in range(SCALAR_REGISTERS)]
        mine = [write.valid & (write.payload.target.context == self.number) for write in self.writebacks]
        for here, write, bank in zip(mine, self.writebacks, banks.writes, strict=True):
            m.d.comb += [bank.valid.eq(here), bank.payload.eq(write.payload)]
        with m.If(self._begins):
            # No value is awaited yet.
            temperature = banks.writes[BANKS.index(Source.SCALAR)]
            m.d.comb += [
                temperature.valid.eq(1),
                temperature.payload.target.number.eq(TEMPERATURE_REGISTER),
                temperature.payload.value.eq(self.current.inverse_temperature),
            ]

        returned = Cat(
            Cat(
                here & (write.payload.target.number == index) for here, write in zip(mine, self.writebacks, strict=True)
            ).any()
            for index in range(SCALAR_REGISTERS)
        )
        leaves = Cat(self._issued & held.writes_target & (held.target == index) for index in range(SCALAR_REGISTERS))
        writer = Mux(
            held.route[Route.SCALAR.value],
            Source.SCALAR,
            Mux(held.route[Route.GATE.value], Source.GATE, Source.NORM),
        )
        m.d.sync += present.eq((present | returned) & ~leaves)
        for index, source in enumerate(sources):
            with m.If(leaves[index]):
                m.d.sync += source.eq(writer)
        with m.If(self._begins):
            m.d.sync += sources[TEMPERATURE_REGISTER].eq(Source.SCALAR)

        # One comparison serves the instruction that is loaded, and the one that is held.
        numbers = {name: Mux(self._holds, held[name], coming[name]) for name in _REGISTERS}
        leaving = {name: self._issued & held.writes_target & (held.target == coming[name]) for name in _REGISTERS}
        for (name, used), awaited in zip(_REGISTERS.items(), self._awaited, strict=True):
            comes = Cat(
                here & (write.payload.target.number == numbers[name])
                for here, write in zip(mine, self.writebacks, strict=True)
            ).any()
            absent = coming[used] & (~present.bit_select(coming[name], 1) | leaving[name])
            m.d.sync += awaited.eq(Mux(self._holds, awaited, absent) & ~comes)
        from_scalar = Signal(2)
        for index, name in enumerate(("first", "second")):
            source = Signal(len(Source), name=f"source_of_{name}")  # one bit for each, which selects a whole value
            # Bit by bit: such a selection takes two levels of logic.
            latest = Cat(Cat(bits).bit_select(coming[name], 1) for bits in zip(*map(Value.cast, sources), strict=True))
            found = Mux(leaving[name], writer, latest)
            if name == "second":
                found = Mux(coming.immediate, Source.IMMEDIATE, found)
            with m.If(~self._holds):
                m.d.sync += source.eq(Cat(found == one for one in Source))
            with m.If(self._begins & (numbers[name] == TEMPERATURE_REGISTER)):
                m.d.sync += source.eq(1 << Source.SCALAR.value)
            m.d.comb += [
                banks.registers[index].eq(held[name]),
                banks.selects[index].eq(source),
                from_scalar[index].eq(self._awaited[index] & source[Source.SCALAR.value]),
            ]
        constant = fields_of(Unit.SCALAR, held.word)
        m.d.comb += [
            banks.immediate.mantissa.eq(constant.mantissa),
            banks.immediate.exponent.eq(constant.exponent),
            self.offer.first.eq(banks.values[0]),
            self.offer.second.eq(banks.values[1]),
            self.waiting_scalar.eq(self._running & self._holds & from_scalar.any()),
        ]
        m.d.sync += self._all_present.eq(present.all())

    def _request(self, m):
        """Whether the instruction can go."""
        held, units, job = self._held, self.open, self.current
        cell_bits = ceil_log2(self.geometry.cells)
        engine, gate = (fields_of(unit, held.word) for unit in (Unit.ENGINE, Unit.GATE))
        offset = Mux(held.embed, job.token >> cell_bits, Mux(held.stateful, job.state, 0))
        m.d.sync += self.offer.base.eq(Mux(held.route[Route.ENGINE.value], engine.address, gate.state) + offset)
        buffer = fields_of(Unit.NORM, held.word).buffer
        # None of this can change to the worse but by an issue of this context, after which nothing is held for a cycle.
        m.d.sync += self._unblocked.eq(
            self._running
            & self._holds
            & (~held.quant | self.free.bit_select(buffer, 1))
            & (~held.consumes | self.turn)
            & ~(held.gated & self.diverted)
            & ~(held.overwrites & self.reading)
        )
        here = self._started & self._holds & ~self._awaited.any()
        others = (Route.NORM, Route.GATE, Route.ENGINE, Route.SAMPLE)
        possible = (held.route[Route.SCALAR.value] & units.scalar) | (
            self._unblocked & Cat(held.route[route.value] & units[route.name.lower()] for route in others).any()
        )
        m.d.comb += [self.grant.eq(self.chosen & here & possible), self.offer.decoded.eq(held)]

    def _follow_token(self, m):
        """From the job to the token's end."""
        held, job = self._held, self.current
        here = self._running & self._holds
        end, head = (held.route[route.value] for route in (Route.END, Route.HEAD))
        m.d.comb += [
            self.active.eq(self._running | self._ended),
            self._begins.eq(self._running & ~self._started),
            self.job.ready.eq(~self.active),
            self.restart.eq(here & (end | (head & ~job.head))),
            self._passes.eq(here & head & job.head),
        ]
        m.d.sync += [
            self._started.eq(self._running),
            self.finished.eq(self._ended & self._all_present & ~self.release),
        ]
        with m.If(~self.active):
            m.d.sync += [job.eq(self.job.payload), self.samples.eq(0), self._running.eq(self._accept)]
        with m.If(self.restart):
            m.d.sync += [self._running.eq(0), self._ended.eq(1)]
        with m.If(self.release):
            m.d.sync += self._ended.eq(0)
        with m.If(self._issued & held.route[Route.SAMPLE.value]):
            m.d.sync += self.samples.eq(1)
