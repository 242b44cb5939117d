"""Sequencer against an in-order model that says in every cycle what may be issued; the bench plays all units."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry
from ternlight.isa import (
    INSTRUCTION_COLUMNS,
    READS_B,
    READS_SCALE,
    SCALAR_REGISTERS,
    TEMPERATURE_REGISTER,
    WRITES_ENERGY,
    WRITES_PEAK,
    WRITES_POWER,
    ControlOp,
    EngineOp,
    ScalarOp,
    Unit,
    VectorOp,
    encode,
    instruction,
)
from ternlight_hw.layouts import UFLOAT, WRITEBACK, engine_command, sample_command, scalar_command, vector_command
from ternlight_hw.sequencer import TOKEN_DONE, TOKEN_JOB, Sequencer
from ternlight_sim.bench import parameters, rng, simulate, start

FETCH_CYCLES = 3
"""From the transfer of the job to the first instruction."""
PORTS = {"engine": engine_command(), "vector": vector_command(), "scalar": scalar_command(), "sample": sample_command()}
UFLOAT_BITS = UFLOAT.size


def split(layout, word):
    """The fields of a payload as unsigned integers."""
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in layout}


def join(layout, values):
    """The inverse of split."""
    return sum(values[name] << field.offset for name, field in layout)


def draw(random, layout, **values):
    """Random fields of a payload, besides those given."""
    return {name: int(random.integers(1 << field.width)) for name, field in layout} | values


def registers_of(fields):
    """The registers that an instruction reads, and those that it writes."""
    unit, op = fields["unit"], fields["op"]
    if unit == Unit.VECTOR:
        reads = {fields["scale"]} if op in READS_SCALE else set()
        writes = {"peak": WRITES_PEAK, "energy": WRITES_ENERGY, "power": WRITES_POWER}
        return reads, {fields[name] for name, ops in writes.items() if op in ops}
    if unit == Unit.SCALAR:
        reads = {fields["a"]} | ({fields["b"]} if op in READS_B and not fields["immediate"] else set())
        return reads, {fields["target"]}
    return ({fields["scale"]} if unit == Unit.CONTROL and op == ControlOp.SAMPLE else set()), set()


def random_instruction(random, registers):
    """A random vector, scalar or engine instruction that uses the first so many registers and the last one."""

    def register():
        return int(random.integers(registers)) if random.random() < 0.9 else TEMPERATURE_REGISTER

    unit = [Unit.VECTOR, Unit.SCALAR, Unit.ENGINE][random.choice(3, p=[0.45, 0.35, 0.2])]
    op = list({Unit.VECTOR: VectorOp, Unit.SCALAR: ScalarOp, Unit.ENGINE: EngineOp}[unit])
    fields = instruction(unit, op[random.integers(len(op))])
    widths = {Unit.VECTOR: {"fence": 1, "buffer": 1, "beats": 11, "source": 12, "target": 12, "gain": 14, "state": 12}}
    widths[Unit.VECTOR] |= {"shift": 6, "fraction": 5}
    widths[Unit.SCALAR] = {"immediate": 1, "mantissa": 15}
    widths[Unit.ENGINE] = {"buffer": 1, "chunks": 10, "groups": 14, "beats": 14, "address": 24}
    for name, bits in widths[unit].items():
        fields[name] = int(random.integers(1 << bits))
    if unit == Unit.SCALAR:
        fields |= {name: register() for name in ("a", "b", "target")}
        fields["exponent"] = int(random.integers(-512, 512))
    if unit == Unit.VECTOR:
        fields["scale"] = register()
        # No instruction writes one register twice.
        order = random.permutation(registers)
        fields |= {name: int(order[place]) for place, name in enumerate(("peak", "energy", "power"))}
    return fields


def random_program(random, words, *, registers):
    """A program that fits the memory, with HEAD and SAMPLE like those of a model, or with END alone."""
    count = int(random.choice([0, words - 3, int(random.integers(1, words - 3))]))
    program = [random_instruction(random, registers) for _ in range(count)]
    if random.random() < 0.7:
        head = int(random.integers(count + 1))
        program.insert(head, instruction(Unit.CONTROL, ControlOp.HEAD))
        place = int(random.integers(head + 1, len(program) + 1))
        values = {"beats": int(random.integers(1 << 14)), "vocabulary": int(random.integers(1 << 17))}
        scale = int(random.integers(registers))
        program.insert(place, instruction(Unit.CONTROL, ControlOp.SAMPLE, scale=scale, **values))
    return [*program, instruction(Unit.CONTROL, ControlOp.END)]


class Model:
    """What the sequencer must show in each cycle of a job, and what its units do.

    registers: the values at the present point of the program; those awaited (`awaited`: register -> unit) are already
    the values that the units will return. ready_stall: share of the cycles in which a unit refuses; delay: the most
    cycles by which it is late.
    """

    def __init__(self, dut, random):
        self.dut, self.random = dut, random
        self.ready_stall, self.delay = 0.0, 0
        self.registers = [0] * SCALAR_REGISTERS
        self.awaited = {}
        self.returns = {"vector": [], "scalar": []}  # (register, cycle from which it may return)
        self.claimed = set()
        self.sampling_until = 0
        self.both = 0  # cycles in which both units returned a value
        self.waited = 0

    def lateness(self):
        return int(self.random.integers(self.delay + 1))

    async def run(self, program, job):
        """One job, checked in every cycle; returns the cycles from its transfer to that of `done`."""
        dut, random = self.dut, self.random
        place = 0  # of the next instruction to issue
        self.registers[TEMPERATURE_REGISTER] = job["inverse_temperature"]
        dut.job__payload.value = join(TOKEN_JOB, job)
        dut.job__valid.value = 1
        await RisingEdge(dut.clk)
        assert dut.job__ready.value
        await FallingEdge(dut.clk)
        # The next job waits, with another payload.
        dut.job__payload.value = join(TOKEN_JOB, draw(random, TOKEN_JOB))
        cycles = 0
        since = FETCH_CYCLES  # the cycle in which the next instruction was there
        chosen = None
        sampling = False
        idle_from = {"engine": 0, "vector": 0}
        while True:
            cycles += 1
            fields = program[place] if cycles >= FETCH_CYCLES else None
            free = 3 & ~sum(1 << buffer for buffer in self.claimed)
            ready = {name: int(random.random() >= self.ready_stall) for name in PORTS}
            idle = {unit: int(cycles >= idle_from[unit]) for unit in idle_from}
            idle["vector"] &= not self.returns["vector"]
            returned = {}
            for unit, queue in self.returns.items():
                due = [entry for entry in queue if entry[1] <= cycles]
                getattr(dut, f"{unit}_result__valid").value = bool(due)
                if due:
                    returned[unit] = due[random.integers(len(due))]
                    register = returned[unit][0]
                    value = {"target": register, "value": self.registers[register]}
                    getattr(dut, f"{unit}_result__payload").value = join(WRITEBACK, value)
            for name, value in ready.items():
                getattr(dut, f"{name}__ready").value = value
            dut.free.value = free
            dut.engine_idle.value, dut.vector_idle.value = idle["engine"], idle["vector"]
            token_comes = sampling and cycles >= self.sampling_until
            dut.sampled__valid.value = token_comes
            dut.sampled__payload.value = chosen if token_comes else int(random.integers(1 << 16))
            done_ready = int(random.random() >= self.ready_stall)
            dut.done__ready.value = done_ready

            await RisingEdge(dut.clk)
            assert dut.running.value
            assert not dut.job__ready.value
            assert int(dut.sampling.value) == sampling
            assert dut.vector_result__ready.value
            assert dut.scalar_result__ready.value
            reads, writes = registers_of(fields) if fields else (set(), set())
            absent = [register for register in reads | writes if register in self.awaited]
            waiting = any(self.awaited[register] == "scalar" for register in absent)
            assert int(dut.waiting_scalar.value) == waiting
            self.waited += waiting
            self.both += len(returned) == 2

            port, payload, ends, issued = None, None, False, False
            if fields and not absent:
                port, payload = self.command(fields, job)
                quant = fields["unit"] == Unit.VECTOR and fields["op"] == VectorOp.QUANT
                if quant and not free >> fields["buffer"] & 1:
                    port = None
                if port == "sample" and (sampling or not idle["vector"]):
                    port = None
                if port == "engine" and fields["op"] == EngineOp.EMBED and cycles == since:
                    port = None
                if fields["unit"] == Unit.CONTROL and fields["op"] == ControlOp.HEAD:
                    issued, ends = job["head"], not job["head"]
                ends |= fields["unit"] == Unit.CONTROL and fields["op"] == ControlOp.END
            for name in PORTS:
                assert int(getattr(dut, f"{name}__valid").value) == (name == port), (name, fields)
            claims = False
            if port is not None:
                shown = split(PORTS[port], int(getattr(dut, f"{port}__payload").value))
                assert {name: shown[name] for name in payload} == payload
                issued = ready[port]
                claims = issued and quant
            assert int(dut.claim__enable.value) == claims
            finished = ends and not sampling and not self.awaited and idle["engine"] and idle["vector"]
            assert int(dut.done__valid.value) == finished
            if finished:
                sampled = chosen is not None
                expected = {"token": chosen or 0, "sampled": int(sampled)}
                assert split(TOKEN_DONE, int(dut.done__payload.value)) == expected
            if claims:
                assert int(dut.claim__buffer.value) == fields["buffer"]
                assert int(dut.claim__beats.value) == fields["beats"]

            # What the units make of this cycle.
            for buffer in list(self.claimed):
                if random.random() < 0.5 ** min(self.delay, 4):
                    self.claimed.discard(buffer)
            if claims:
                self.claimed.add(fields["buffer"])
            for unit, entry in returned.items():
                self.returns[unit].remove(entry)
                del self.awaited[entry[0]]
            sampling = sampling and not token_comes
            if issued:
                place, since = place + 1, cycles + 1
                if port in ("vector", "scalar"):
                    for register in sorted(writes):
                        self.registers[register] = int(random.integers(1 << UFLOAT_BITS))
                        self.awaited[register] = port
                        self.returns[port].append((register, cycles + 1 + self.lateness()))
                if port in idle_from:
                    idle_from[port] = max(idle_from[port], cycles + 1 + self.lateness())
                if port == "sample":
                    sampling, chosen = True, int(random.integers(1 << 16))
                    self.sampling_until = cycles + 1 + self.lateness()
            await FallingEdge(dut.clk)
            if finished and done_ready:
                dut.done__ready.value = 0
                dut.job__valid.value = 0
                return cycles

    def command(self, fields, job):
        """The port and the payload of an instruction whose operands are there; (None, None) for HEAD and END.

        Operands that the operation does not read are left out.
        """
        unit, op = fields["unit"], fields["op"]
        if unit == Unit.ENGINE:
            address = fields["address"]
            if op == EngineOp.EMBED:
                address = (address + job["token"] * fields["chunks"]) % (1 << 24)
            return "engine", {name: fields[name] for name, _ in PORTS["engine"]} | {"address": address}
        if unit == Unit.SCALAR:
            payload = {"op": op, "target": fields["target"], "a": self.registers[fields["a"]]}
            if fields["immediate"]:
                payload["b"] = join(
                    UFLOAT, {"mantissa": fields["mantissa"], "exponent": fields["exponent"] % (1 << 10)}
                )
            elif op in READS_B:
                payload["b"] = self.registers[fields["b"]]
            return "scalar", payload
        if unit == Unit.VECTOR:
            payload = {name: fields[name] for name, _ in PORTS["vector"] if name in fields}
            payload |= {"state": (job["state"] + fields["state"]) % (1 << 16), "fresh": job["fresh"]}
            del payload["scale"]
            return "vector", payload | ({"scale": self.registers[fields["scale"]]} if op in READS_SCALE else {})
        if op == ControlOp.SAMPLE:
            session = {"scale": self.registers[fields["scale"]]}
            values = fields | {name: job[name] for name in ("top_k", "seed", "position")} | session
            return "sample", {name: values[name] for name, _ in PORTS["sample"]}
        return None, None


async def load(dut, program):
    for address, fields in enumerate(program):
        for column in range(INSTRUCTION_COLUMNS):
            dut.load__enable.value, dut.load__address.value, dut.load__column.value = 1, address, column
            dut.load__data.value = encode(fields) >> 32 * column & 0xFFFFFFFF
            await FallingEdge(dut.clk)
    dut.load__enable.value = 0


async def begin(dut):
    for name in ("job", "vector_result", "scalar_result", "sampled"):
        getattr(dut, f"{name}__valid").value = 0
    for name in ("engine", "vector", "scalar", "sample", "done"):
        getattr(dut, f"{name}__ready").value = 0
    dut.load__enable.value = 0
    dut.free.value, dut.engine_idle.value, dut.vector_idle.value = 3, 1, 1
    await start(dut)
    assert not dut.running.value


@cocotb.test()
async def bench_random(dut):
    """Random programs: every command, claim and wait in its cycle, with units of random readiness and lateness."""
    words, random = parameters()["words"], rng()
    await begin(dut)
    model = Model(dut, random)
    for model.ready_stall, model.delay in ((0.0, 0), (0.0, 3), (0.3, 2), (0.5, 12)):
        for registers in 3 * (3, 5, 14):
            program = random_program(random, words, registers=registers)
            await load(dut, program)
            for head in (1, 0, 1):
                await model.run(program, draw(random, TOKEN_JOB, head=head))
    # The rare cases were met.
    assert model.both > 20
    assert model.waited > 100


@cocotb.test()
async def bench_cycles(dut):
    """One instruction per cycle, jobs back to back."""
    words, random = parameters()["words"], rng()
    await begin(dut)
    model = Model(dut, random)
    program = []
    while len(program) < words - 1:
        fields = random_instruction(random, 4)
        # Independent of each other: products, and scalars of one register that return in the next cycle.
        if fields["unit"] == Unit.ENGINE and fields["op"] == EngineOp.MATVEC:
            program.append(fields)
            program.append(instruction(Unit.SCALAR, ScalarOp.MUL, a=14, b=13, target=len(program) // 2 % 12))
    program = [*program[: words - 1], instruction(Unit.CONTROL, ControlOp.END)]
    await load(dut, program)
    for _ in range(3):
        cycles = await model.run(program, draw(random, TOKEN_JOB))
        # END is the last of them; then the units say one cycle later that they are idle.
        assert cycles == FETCH_CYCLES + len(program) - 1 + (program[-2]["unit"] == Unit.SCALAR)


@pytest.mark.parametrize(("words", "bench"), [(64, "bench_random"), (37, "bench_random"), (64, "bench_cycles")])
def test_sequencer(words, bench):
    simulate(
        Sequencer(geometry=Geometry(program_words=words)),
        __file__,
        bench=bench,
        parameters={"words": words, "seed": 1},
    )
