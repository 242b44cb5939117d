"""Runs the program of one token: fetches, decodes and issues instructions in order, and holds the scalar registers."""

from __future__ import annotations

from amaranth import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import TOKEN_BITS
from ternlight.geometry import Geometry
from ternlight.isa import (
    CONTROL_FIELDS,
    ENGINE_FIELDS,
    INSTRUCTION_BITS,
    INSTRUCTION_COLUMNS,
    READS_B,
    READS_SCALE,
    SCALAR_FIELDS,
    SCALAR_REGISTERS,
    TEMPERATURE_REGISTER,
    UNIT_FIELD,
    VECTOR_FIELDS,
    WRITES_ENERGY,
    WRITES_PEAK,
    WRITES_POWER,
    ControlOp,
    EngineOp,
    Unit,
    VectorOp,
)

from .activations import ClaimPort
from .layouts import (
    STATE_ADDRESS_BITS,
    UFLOAT,
    WRITEBACK,
    engine_command,
    fields_layout,
    sample_command,
    scalar_command,
    vector_command,
)
from .memory import ColumnMemory, LoadPort

TOKEN_JOB = data.StructLayout(
    {
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
TOKEN_DONE = data.StructLayout({"token": TOKEN_BITS, "sampled": 1})


def _one_of(value, members):
    """value is one of the members."""
    return Cat(value == member for member in sorted(members)).any()


class Sequencer(wiring.Component):
    """Issues the instructions of a token; a scoreboard has one bit per scalar register.

    An instruction is issued when its unit accepts it, the registers that it reads hold their values, and those that it
    writes are not awaited; operands are read at issue. A job is done when its program reached END (or HEAD, without
    `head`), all units are idle and all registers hold their values.

    Latency: the first instruction is offered 3 cycles after the job's transfer; the engine's EMBED waits one cycle
    more for its address. Throughput: one instruction per cycle; the next job is taken in the cycle after `done`.

    Parameters: geometry.
    Members:
        job: In stream of TOKEN_JOB; done: Out stream of TOKEN_DONE, one per job.
        load: In LoadPort of the program memory.
        engine, vector, scalar, sample: Out streams of commands; claim: Out ClaimPort; free: In(2) from the engine.
        vector_result, scalar_result: In streams of WRITEBACK, always ready; sampled: In stream of token ids.
        engine_idle, vector_idle: In(1).
        running: Out(1), a job is in progress; sampling: Out(1), SAMPLE is under way and owns the result stream;
        waiting_scalar: Out(1), the next instruction waits for a value from the scalar unit.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self._program = ColumnMemory(depth=geometry.program_words, columns=INSTRUCTION_COLUMNS)
        super().__init__(
            {
                "job": In(stream.Signature(TOKEN_JOB)),
                "done": Out(stream.Signature(TOKEN_DONE)),
                "load": In(LoadPort(address_bits=self._program.address_bits, column_bits=self._program.column_bits)),
                "engine": Out(stream.Signature(engine_command())),
                "vector": Out(stream.Signature(vector_command())),
                "scalar": Out(stream.Signature(scalar_command())),
                "sample": Out(stream.Signature(sample_command())),
                "claim": Out(ClaimPort()),
                "free": In(2),
                "vector_result": In(stream.Signature(WRITEBACK)),
                "scalar_result": In(stream.Signature(WRITEBACK)),
                "sampled": In(stream.Signature(unsigned(CONTROL_FIELDS["vocabulary"]))),
                "engine_idle": In(1),
                "vector_idle": In(1),
                "running": Out(1),
                "sampling": Out(1),
                "waiting_scalar": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.program = program = self._program
        wiring.connect(m, wiring.flipped(self.load), program.load)

        job = Signal(TOKEN_JOB)
        counter = Signal(ceil_log2(self.geometry.program_words))
        fetched = Signal()  # the memory's output is the instruction at counter - 1
        word = Signal(INSTRUCTION_BITS)
        held = Signal()  # word is an instruction to issue
        issue = Signal()
        stop = Signal()  # the program ends at word

        registers = Array(Signal(UFLOAT, name=f"register_{index}") for index in range(SCALAR_REGISTERS))
        present = Signal(SCALAR_REGISTERS, init=-1)
        from_scalar = Signal(SCALAR_REGISTERS)  # an absent register is awaited from the scalar unit

        # Fetch: memory, then a register, so that decoding starts from flip-flops.
        take = Signal()
        m.d.comb += [
            take.eq(fetched & (~held | issue)),
            program.read.enable.eq(self.running & (~fetched | take)),
            program.read.address.eq(counter),
        ]
        with m.If(program.read.enable):
            m.d.sync += [counter.eq(counter + 1), fetched.eq(1)]
        with m.If(take):
            m.d.sync += [word.eq(program.read.data), held.eq(1)]
        with m.Elif(issue):
            m.d.sync += held.eq(0)

        # Decode.
        unit = word[: UNIT_FIELD["unit"]]
        vector, scalar, engine, control = (
            data.View(layout, word[: layout.size])
            for layout in map(fields_layout, (VECTOR_FIELDS, SCALAR_FIELDS, ENGINE_FIELDS, CONTROL_FIELDS))
        )
        reads = Signal(SCALAR_REGISTERS)
        writes = Signal(SCALAR_REGISTERS)
        with m.Switch(unit):
            with m.Case(Unit.VECTOR):
                m.d.comb += reads.eq(_one_of(vector.op, READS_SCALE) << vector.scale)
                m.d.comb += writes.eq(
                    _one_of(vector.op, WRITES_PEAK) << vector.peak
                    | _one_of(vector.op, WRITES_ENERGY) << vector.energy
                    | _one_of(vector.op, WRITES_POWER) << vector.power
                )
            with m.Case(Unit.SCALAR):
                reads_b = _one_of(scalar.op, READS_B) & ~scalar.immediate
                m.d.comb += [reads.eq(1 << scalar.a | reads_b << scalar.b), writes.eq(1 << scalar.target)]
            with m.Case(Unit.CONTROL):
                m.d.comb += reads.eq((control.op == ControlOp.SAMPLE) << control.scale)
        absent = Signal(SCALAR_REGISTERS)
        go = Signal()
        m.d.comb += [
            absent.eq((reads | writes) & ~present),
            go.eq(held & ~absent.any()),
            self.waiting_scalar.eq(held & (absent & from_scalar).any()),
        ]

        # Operands; the row address of EMBED takes one more cycle for its product.
        row = Signal(ENGINE_FIELDS["address"])
        row_ready = Signal()
        m.d.sync += [row.eq(engine.address + job.token * engine.chunks), row_ready.eq(held & ~issue)]
        for name in vector_command().members:
            if name not in ("state", "fresh", "scale"):
                m.d.comb += self.vector.payload[name].eq(vector[name])
        m.d.comb += [
            self.vector.payload.state.eq(job.state + vector.state),
            self.vector.payload.fresh.eq(job.fresh),
            self.vector.payload.scale.eq(registers[vector.scale]),
            self.scalar.payload.op.eq(scalar.op),
            self.scalar.payload.target.eq(scalar.target),
            self.scalar.payload.a.eq(registers[scalar.a]),
            self.engine.payload.op.eq(engine.op),
            self.engine.payload.buffer.eq(engine.buffer),
            self.engine.payload.chunks.eq(engine.chunks),
            self.engine.payload.groups.eq(engine.groups),
            self.engine.payload.beats.eq(engine.beats),
            self.engine.payload.address.eq(Mux(engine.op == EngineOp.EMBED, row, engine.address)),
            self.sample.payload.beats.eq(control.beats),
            self.sample.payload.vocabulary.eq(control.vocabulary),
            self.sample.payload.scale.eq(registers[control.scale]),
            self.sample.payload.top_k.eq(job.top_k),
            self.sample.payload.seed.eq(job.seed),
            self.sample.payload.position.eq(job.position),
        ]
        with m.If(scalar.immediate):
            m.d.comb += [
                self.scalar.payload.b.mantissa.eq(scalar.mantissa),
                self.scalar.payload.b.exponent.eq(scalar.exponent),
            ]
        with m.Else():
            m.d.comb += self.scalar.payload.b.eq(registers[scalar.b])

        # Issue.
        quant = vector.op == VectorOp.QUANT
        with m.Switch(unit):
            with m.Case(Unit.VECTOR):
                m.d.comb += [
                    self.vector.valid.eq(go & (~quant | self.free.bit_select(vector.buffer, 1))),
                    issue.eq(self.vector.valid & self.vector.ready),
                ]
            with m.Case(Unit.SCALAR):
                m.d.comb += [self.scalar.valid.eq(go), issue.eq(go & self.scalar.ready)]
            with m.Case(Unit.ENGINE):
                m.d.comb += [
                    self.engine.valid.eq(go & ((engine.op != EngineOp.EMBED) | row_ready)),
                    issue.eq(self.engine.valid & self.engine.ready),
                ]
            with m.Case(Unit.CONTROL), m.Switch(control.op):
                with m.Case(ControlOp.SAMPLE):
                    # The vector unit is past its last results, so the next ones are logits.
                    m.d.comb += [
                        self.sample.valid.eq(go & self.vector_idle & ~self.sampling),
                        issue.eq(self.sample.valid & self.sample.ready),
                    ]
                with m.Case(ControlOp.HEAD):
                    m.d.comb += [stop.eq(held & ~job.head), issue.eq(held & job.head)]
                with m.Default():
                    m.d.comb += stop.eq(held)
        m.d.comb += [
            self.claim.enable.eq(issue & (unit == Unit.VECTOR) & quant),
            self.claim.buffer.eq(vector.buffer),
            self.claim.beats.eq(vector.beats),
        ]

        # Scalar registers.
        returned = [Signal(SCALAR_REGISTERS, name=f"returned_{index}") for index in range(2)]
        for mask, result in zip(returned, (self.vector_result, self.scalar_result), strict=True):
            m.d.comb += [result.ready.eq(1), mask.eq(result.valid << result.payload.target)]
            with m.If(result.valid):
                m.d.sync += registers[result.payload.target].eq(result.payload.value)
        m.d.sync += present.eq((present | returned[0] | returned[1]) & ~Mux(issue, writes, 0))
        with m.If(issue & (unit == Unit.SCALAR)):
            m.d.sync += from_scalar.eq(from_scalar | writes)
        with m.Elif(issue & (unit == Unit.VECTOR)):
            m.d.sync += from_scalar.eq(from_scalar & ~writes)

        # Sampling.
        chosen = Signal(TOKEN_DONE)
        m.d.comb += self.sampled.ready.eq(self.sampling)
        with m.If(self.sample.valid & self.sample.ready):
            m.d.sync += self.sampling.eq(1)
        with m.Elif(self.sampled.valid & self.sampled.ready):
            m.d.sync += [self.sampling.eq(0), chosen.token.eq(self.sampled.payload), chosen.sampled.eq(1)]

        # Jobs.
        m.d.comb += [
            self.job.ready.eq(~self.running),
            self.done.payload.eq(chosen),
            self.done.valid.eq(
                self.running & stop & ~self.sampling & self.engine_idle & self.vector_idle & present.all()
            ),
        ]
        with m.If(self.job.valid & self.job.ready):
            m.d.sync += [
                job.eq(self.job.payload),
                registers[TEMPERATURE_REGISTER].eq(self.job.payload.inverse_temperature),
                counter.eq(0),
                chosen.eq(0),
                self.running.eq(1),
            ]
        with m.If(self.done.valid & self.done.ready):
            m.d.sync += [self.running.eq(0), fetched.eq(0), held.eq(0)]
        return m
