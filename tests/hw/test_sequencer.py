"""Sequencer against a model of its contexts: the bench plays all units, and checks every command and its time."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.geometry import Geometry
from ternlight.isa import (
    FIELDS,
    INSTRUCTION_COLUMNS,
    READS_B,
    READS_RESULTS,
    READS_SCALE,
    REDUCES,
    SCALAR_REGISTERS,
    SIGNED_FIELDS,
    TEMPERATURE_REGISTER,
    ControlOp,
    EngineOp,
    GateOp,
    NormOp,
    ScalarOp,
    Unit,
    encode,
    instruction,
)
from ternlight_hw.layouts import (
    UFLOAT,
    WRITEBACK,
    engine_command,
    gate_command,
    norm_command,
    sample_command,
    scalar_command,
)
from ternlight_hw.sequencer import TOKEN_DONE, TOKEN_JOB, Sequencer
from ternlight_hw.steering import Consumer
from ternlight_sim.bench import parameters, rng, simulate, start

PORTS = {
    "engine": engine_command(),
    "norm": norm_command(),
    "gate": gate_command(),
    "scalar": scalar_command(),
    "sample": sample_command(),
}
PORT_OF = {Unit.ENGINE: "engine", Unit.NORM: "norm", Unit.GATE: "gate", Unit.SCALAR: "scalar", Unit.CONTROL: "sample"}
CONSUMER_OF = {"norm": Consumer.NORM, "gate": Consumer.GATE, "sample": Consumer.SAMPLER}
UFLOAT_BITS = UFLOAT.size
START_CYCLES = 3
"""From the transfer of the job to the first command."""
WAKE_CYCLES = 2
"""From a value to the command that waits for it."""
PATIENCE = 6
"""Cycles, and two for each context, in which an instruction goes that nothing stops."""


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
    if unit == Unit.SCALAR:
        reads = {fields["a"]} | ({fields["b"]} if op in READS_B and not fields["immediate"] else set())
        return reads, {fields["target"]}
    reads = {fields["scale"]} if op in READS_SCALE.get(unit, ()) else set()
    return reads, {fields["reduction"]} if op in REDUCES.get(unit, ()) else set()


class ProgramWriter:
    """Writes random programs that keep the rules: three products ahead, a buffer filled again behind its consumer."""

    def __init__(self, random, registers):
        self.random, self.registers = random, registers
        self.program = []
        self.products = []  # buffers of engine commands whose consumers are still to come; None for EMBED
        self.filled = set()  # buffers between QUANT and MATVEC

    def register(self):
        return int(self.random.integers(self.registers)) if self.random.random() < 0.9 else TEMPERATURE_REGISTER

    def emit(self, unit, op, **values):
        drawn = {}
        for name, bits in FIELDS[unit].items():
            is_register = name in ("scale", "reduction", "a", "b") or (unit, name) == (Unit.SCALAR, "target")
            if is_register:
                drawn[name] = self.register()
            elif name not in ("unit", "op"):
                drawn[name] = int(self.random.integers(1 << bits)) - (1 << bits - 1 if name in SIGNED_FIELDS else 0)
        self.program.append(instruction(unit, op, **drawn | values))

    def choices(self):
        free = {0, 1} - self.filled - set(self.products)
        yield from ("scalar", "scalar", "norm")
        if len(self.products) < 3:
            yield "embed"
            yield from ("matvec", "matvec") if self.filled else ()
        if free:
            yield from ("quant", "quant")
        if self.products:
            yield from ("consume", "consume")

    def step(self, kind=None):
        random = self.random
        match kind or random.choice(list(self.choices())):
            case "scalar":
                self.emit(Unit.SCALAR, list(ScalarOp)[random.integers(len(ScalarOp))])
            case "norm":
                self.emit(Unit.NORM, [NormOp.PEAK, NormOp.STAT][random.integers(2)])
            case "embed":
                self.emit(Unit.ENGINE, EngineOp.EMBED)
                self.products.append(None)
            case "matvec":
                buffer = min(self.filled)
                self.filled.discard(buffer)
                self.emit(Unit.ENGINE, EngineOp.MATVEC, buffer=buffer)
                self.products.append(buffer)
            case "quant":
                buffer = int(random.choice(sorted({0, 1} - self.filled - set(self.products))))
                self.filled.add(buffer)
                self.emit(Unit.NORM, NormOp.QUANT, buffer=buffer)
            case "consume":
                self.products.pop(0)
                ops = [(Unit.NORM, NormOp.EMBED), (Unit.NORM, NormOp.RESID), *((Unit.GATE, op) for op in GateOp)]
                self.emit(*ops[random.integers(len(ops))])

    def settle(self):
        """All products to their ends; then, as a model's layers do, something that writes a register."""
        while self.filled or self.products:
            self.step("consume" if self.products else "matvec")
        self.emit(Unit.NORM, NormOp.PEAK, gated=0)

    def write(self, words):
        """A program with HEAD and SAMPLE like those of a model, or with END alone."""
        if self.random.random() < 0.1:
            return [instruction(Unit.CONTROL, ControlOp.END)]
        body = int(self.random.integers(1, max(2, words - 16)))
        while len(self.program) < body:
            self.step()
        self.settle()
        if self.random.random() < 0.8:
            self.program.append(instruction(Unit.CONTROL, ControlOp.HEAD))
            self.step("quant")
            self.step("matvec")
            if self.random.random() < 0.5:
                self.step("scalar")
            self.products.pop(0)
            self.emit(Unit.CONTROL, ControlOp.SAMPLE)
        self.program.append(instruction(Unit.CONTROL, ControlOp.END))
        assert len(self.program) <= words
        return self.program


class ContextModel:
    """A token on its way: what it has issued, and the values of its registers."""

    def __init__(self, job, program, now):
        self.job, self.now = job, now
        head = next((at for at, fields in enumerate(program) if is_control(fields, ControlOp.HEAD)), len(program))
        stop = len(program) - 1 if job["head"] else min(head, len(program) - 1)
        self.left = [fields for fields in program[:stop] if not is_control(fields, ControlOp.HEAD)]
        self.registers = [None] * SCALAR_REGISTERS
        self.registers[TEMPERATURE_REGISTER] = job["inverse_temperature"]
        self.awaited = {}  # register: cycle from which its value counts, or None
        self.writers = {}  # register: the unit of the latest instruction that writes it
        self.token = None
        self.begins_sampling = self.sampling = False
        self.possible_since = now

    def missing(self, cycle):
        """The registers that stop the next instruction in a cycle."""
        reads, writes = registers_of(self.left[0])
        absent = {register for register, due in self.awaited.items() if due is None or cycle < due}
        return (reads | writes) & absent

    def awaits(self, name):
        """A value of this unit has not come."""
        return any(due is None and self.writers[register] == name for register, due in self.awaited.items())

    def finished(self):
        """Nothing is left but to sample."""
        return not self.left and all(due is not None for due in self.awaited.values())


def is_control(fields, op):
    return fields["unit"] == Unit.CONTROL and fields["op"] == op


class Job:
    """A command in a unit: what it waits for, and what it does."""

    def __init__(self, context, fields, place=None):
        self.context, self.fields = context, fields
        self.place = place  # of its results in the engine's order
        self.due = None


class Bench:
    """The units around the sequencer. stall: share of the cycles in which a unit refuses; delay: the most cycles by
    which it is late; active: the most tokens at a time."""

    def __init__(self, dut, geometry, random):
        self.dut, self.geometry, self.random = dut, geometry, random
        self.count = geometry.contexts
        self.stall, self.delay, self.active = 0.0, 0, geometry.contexts
        self.contexts = [None] * self.count
        self.leaving = {}  # by slot: tokens without a context, which are not told yet
        self.cycle = 0
        self.program = []
        self.shown = dict.fromkeys(PORTS)  # what stands at a port, not taken
        self.units = {"norm": [], "gate": [], "scalar": [], "engine": []}
        self.free = [1] * 2 * self.count
        self.orders = []  # contexts of the engine's commands, in order
        self.consumers = []  # who consumes them: (unit, context)
        self.steered = 0  # entries of `consumers` that the steering took
        self.announced = 0  # commands whose results were announced
        self.completed = 0  # commands whose results are consumed
        self.frees = []  # (cycle, buffer)
        self.sampler = None
        self.jobs = []
        self.done = 0
        self.lone_since = self.lone_until = 0
        self.full_until = self.job_taken = -2  # cycles
        self.both = self.waited = self.most = 0
        self.times = {"job": [], "command": [], "token": [], "done": []}  # cycles of the latest events

    def late(self, least=1):
        return self.cycle + least + int(self.random.integers(self.delay + 1))

    async def load(self, program):
        self.program = program
        dut = self.dut
        for address, fields in enumerate(program):
            for column in range(INSTRUCTION_COLUMNS):
                dut.load__enable.value, dut.load__address.value, dut.load__column.value = 1, address, column
                dut.load__data.value = encode(fields) >> 32 * column & 0xFFFFFFFF
                await FallingEdge(dut.clk)
        dut.load__enable.value = 0

    async def run(self, jobs):
        """Run jobs to their ends; returns the cycles."""
        self.jobs = list(jobs)
        begin, expected = self.cycle, self.done + len(self.jobs)
        while self.done < expected or any(self.units.values()):
            await self.step()
            assert self.cycle < begin + 200_000
        end = self.cycle
        for _ in range(10):
            await self.step()
        assert not self.dut.running.value
        assert self.announced == self.completed == len(self.orders)
        return end - begin

    async def step(self):
        dut, random = self.dut, self.random
        self.cycle += 1
        tokens = len(self.leaving) + sum(one is not None for one in self.contexts)
        job_valid = bool(self.jobs) and tokens < self.active
        dut.job__valid.value = job_valid
        if job_valid:
            dut.job__payload.value = join(TOKEN_JOB, self.jobs[0])
        ready = {name: int(random.random() >= self.stall) for name in [*PORTS, "consumers", "done"]}
        for name, value in ready.items():
            getattr(dut, f"{name}__ready").value = value
        returned = self.drive_results()
        dut.free.value = sum(bit << index for index, bit in enumerate(self.free))
        dut.reading.value = sum(
            any(job.context == number and job.reading for job in self.units["norm"]) << number
            for number in range(self.count)
        )
        comes = self.drive_coming()
        for unit in ("engine", "norm", "gate"):
            getattr(dut, f"{unit}_idle").value = not self.units[unit]
        token = self.drive_token()

        await RisingEdge(dut.clk)
        self.leave()
        active = [number for number, one in enumerate(self.contexts) if one is not None]
        idle = not any(self.units[unit] for unit in ("engine", "norm", "gate"))
        assert bool(dut.running.value) == (bool(active) or bool(self.leaving) or not idle)
        if len(active) == self.count:
            self.full_until = self.cycle
        # A cycle late, and not behind a job.
        assert bool(dut.job__ready.value) == (self.cycle > max(self.full_until, self.job_taken) + 1)
        self.most = max(self.most, len(active))
        new = self.new_command()
        samplers = [one for one in self.leaving.values() if one.sampling]
        states = [*(self.contexts[number] for number in active), *samplers]
        assert bool(dut.sampling.value) == (bool(states) and all(one.sampling for one in states))
        if dut.waiting_scalar.value:
            self.waited += 1
            assert not all(one.sampling for one in states)
            assert all(one.sampling or one.awaits("scalar") for one in states)
        quant = new is not None and new.fields["unit"] == Unit.NORM and new.fields["op"] == NormOp.QUANT
        assert bool(dut.claim__enable.value) == quant
        if quant:
            buffer = new.fields["buffer"] + 2 * new.context
            assert int(dut.claim__buffer.value) == buffer
            assert int(dut.claim__beats.value) == new.fields["beats"]
            self.free[buffer] = 0
        self.check_consumers(ready["consumers"])
        self.check_progress(active)
        for name in PORTS:
            if self.shown[name] is not None and ready[name]:
                self.taken(name, self.shown[name])
                self.shown[name] = None
        self.check_done(ready["done"])
        if token is not None and not dut.sampled__ready.value:
            token = None
        if job_valid and dut.job__ready.value:
            number = self.contexts.index(None)
            self.contexts[number] = ContextModel(self.jobs.pop(0), self.program, self.cycle)
            self.times["job"].append(self.cycle)
            self.job_taken = self.cycle
        self.after(returned, comes, token)
        await FallingEdge(dut.clk)

    def leave(self):
        """Who has no context any more has nothing to do but to sample."""
        for number, one in enumerate(self.contexts):
            if one is not None and not getattr(self.dut, f"context_{number}").active.value:
                assert one.finished()
                self.leaving[one.job["slot"]] = one
                self.contexts[number] = None

    # What the units show.

    def drive_results(self):
        returned = []
        for unit in ("norm", "gate", "scalar"):
            queue = self.units[unit]
            due = bool(queue) and queue[0].due is not None and self.cycle >= queue[0].due
            writes = registers_of(queue[0].fields)[1] if due else set()
            getattr(self.dut, f"{unit}_result__valid").value = bool(writes)
            if writes:
                (register,) = writes
                value = int(self.random.integers(1 << UFLOAT_BITS))
                target = register | queue[0].context << 4
                getattr(self.dut, f"{unit}_result__payload").value = join(WRITEBACK, {"target": target, "value": value})
                returned.append((queue[0].context, register, value))
            if due:
                self.complete(queue.pop(0))
        self.both += len(returned) > 1
        return returned

    def drive_coming(self):
        """The engine looks two commands ahead of what is consumed."""
        accepted = self.announced < len(self.orders) and self.announced - self.completed < 2
        job = self.units["engine"][0] if self.units["engine"] else None
        comes = accepted and job is not None and self.cycle >= job.due
        self.dut.coming.value = comes
        return comes

    def drive_token(self):
        due = self.sampler is not None and self.sampler.due is not None and self.cycle >= self.sampler.due
        self.dut.sampled__valid.value = due
        token = self.sampler.token if due else int(self.random.integers(1 << 16))
        self.dut.sampled__payload.value = token
        return token if due else None

    # What the sequencer shows.

    def new_command(self):
        """The command that came in this cycle, checked; at most one."""
        dut, found = self.dut, None
        for name, layout in PORTS.items():
            if self.shown[name] is not None:
                assert getattr(dut, f"{name}__valid").value
                assert int(getattr(dut, f"{name}__payload").value) == self.shown[name].payload
            elif getattr(dut, f"{name}__valid").value:
                assert found is None
                payload = int(getattr(dut, f"{name}__payload").value)
                found = self.shown[name] = self.issued(name, split(layout, payload))
                found.payload = payload
                self.times["command"].append(self.cycle)
        return found

    def issued(self, name, shown):
        candidates = [
            number
            for number, one in enumerate(self.contexts)
            if one is not None and one.left and PORT_OF[one.left[0]["unit"]] == name
        ]
        if name in ("norm", "gate"):
            number = shown["context"]
        elif name == "scalar":
            number = shown["target"] >> 4
        elif name == "engine":
            number = shown["buffer"] >> 1
        else:
            (number,) = (at for at in candidates if self.contexts[at].job["seed"] == shown["seed"])
        assert number in candidates
        context = self.contexts[number]
        # In the cycle before, nothing stood in its way.
        assert not context.missing(self.cycle - 1)
        assert not self.stopped(number, context.left[0], self.cycle - 1)
        fields = context.left.pop(0)
        expected = self.payload(number, context, fields)
        assert {field: shown[field] for field in expected} == expected, fields
        for register in registers_of(fields)[1]:
            context.awaited[register] = None
            context.writers[register] = name
        context.possible_since = self.cycle
        context.begins_sampling = name == "sample"
        job = Job(number, fields)
        if name == "engine":
            self.orders.append(number)
        if fields["op"] in READS_RESULTS.get(fields["unit"], ()):
            job.place = len(self.consumers)
            self.consumers.append((name, number))
        return job

    def stopped(self, number, fields, cycle):
        """Whether another rule than that of the registers stops an instruction."""
        unit, op = fields["unit"], fields["op"]
        if op in READS_RESULTS.get(unit, ()):
            place = len(self.consumers)
            if place >= len(self.orders) or self.orders[place] != number:
                return True
            # That another token came is known two cycles late.
            if self.announced <= place and self.lone_since >= cycle and self.lone_until < cycle - 2:
                return True
        if unit == Unit.CONTROL and self.sampler is not None:
            return True
        if unit == Unit.NORM:
            if op == NormOp.QUANT and not self.free[fields["buffer"] + 2 * number]:
                return True
            waits = self.shown["gate"]
            return bool(fields["gated"]) and waits is not None and waits.context == number
        if unit == Unit.GATE and op in (GateOp.GATE, GateOp.MLP):
            waits = self.shown["norm"]
            return (waits is not None and waits.context == number) or any(
                job.context == number and job.reading for job in self.units["norm"]
            )
        return False

    def payload(self, number, context, fields):
        """What must be on the port, operands that are not read left out."""
        unit, op, job, registers = fields["unit"], fields["op"], context.job, context.registers
        values = {name: value for name, value in fields.items() if name != "unit"}
        if unit == Unit.ENGINE:
            cells = self.geometry.cells
            embed = op == EngineOp.EMBED
            row = job["token"] // cells if embed else 0
            values["address"] = (fields["address"] + row) % (1 << FIELDS[unit]["address"])
            cell = {"cell": job["token"] % cells} if embed else {}
            return values | {"buffer": fields["buffer"] | number << 1} | cell
        if unit == Unit.SCALAR:
            payload = {"op": op, "target": fields["target"] | number << 4, "a": registers[fields["a"]]}
            if fields["immediate"]:
                constant = {"mantissa": fields["mantissa"], "exponent": fields["exponent"] % (1 << 10)}
                payload["b"] = join(UFLOAT, constant)
            elif op in READS_B:
                payload["b"] = registers[fields["b"]]
            return {name: value for name, value in payload.items() if value is not None}
        scale = registers[fields["scale"]] if op in READS_SCALE.get(unit, ()) else None
        values.pop("scale")
        if unit == Unit.CONTROL:
            values = {name: fields[name] for name in ("beats", "vocabulary")}
            values |= {name: job[name] for name in ("top_k", "seed", "position")}
        else:
            values["context"] = number
        if unit == Unit.NORM:
            values["buffer"] |= number << 1
        if unit == Unit.GATE:
            state = 0 if op == GateOp.FORGET else job["state"]
            values |= {"state": (fields["state"] + state) % (1 << 16), "fresh": job["fresh"]}
        return values | ({} if scale is None else {"scale": scale})

    def check_consumers(self, ready):
        valid = bool(self.dut.consumers__valid.value)
        assert valid == (self.steered < len(self.consumers))
        if valid:
            unit, _ = self.consumers[self.steered]
            assert int(self.dut.consumers__payload.value) == CONSUMER_OF[unit].value
            self.steered += ready

    def check_progress(self, active):
        """An instruction that nothing stops goes before long."""
        if len(active) != 1:
            self.lone_since = self.cycle + 1
        else:
            self.lone_until = self.cycle
        for number in active:
            context = self.contexts[number]
            if (
                not context.left
                or context.missing(self.cycle)
                or self.shown[PORT_OF[context.left[0]["unit"]]] is not None
                or self.steered < len(self.consumers)
                or self.stopped(number, context.left[0], self.cycle)
            ):
                context.possible_since = self.cycle
            assert self.cycle - context.possible_since <= PATIENCE + 2 * self.count, context.left[0]

    def check_done(self, ready):
        dut = self.dut
        if not dut.done__valid.value:
            return
        payload = split(TOKEN_DONE, int(dut.done__payload.value))
        context = self.leaving[payload["slot"]]
        assert not context.sampling
        assert payload["sampled"] == (context.token is not None)
        assert context.token in (None, payload["token"])
        if ready:
            del self.leaving[payload["slot"]]
            self.done += 1
            self.times["done"].append(self.cycle)

    # What the units do.

    def taken(self, name, job):
        match name:
            case "norm" | "gate" | "scalar":
                job.reading = name == "norm"
                self.units[name].append(job)
            case "engine":
                self.units["engine"].append(job)
            case "sample":
                assert self.sampler is None
                self.sampler = job
                job.token = int(self.random.integers(1 << 16))
        job.due = self.late() if name == "engine" else None

    def complete(self, job):
        """A command of norm, gate or scalar unit, at its end."""
        if job.place is not None:
            self.completed += 1

    def after(self, returned, comes, token):
        """The consequences of this cycle, for the next ones."""
        for one in self.contexts:
            if one is not None:
                one.sampling |= one.begins_sampling
                one.begins_sampling = False
        for number, register, value in returned:
            context = self.contexts[number]
            context.registers[register] = value
            context.awaited[register] = self.cycle + WAKE_CYCLES - 1
        if comes:
            job = self.units["engine"].pop(0)
            self.announced += 1
            if job.fields["op"] == EngineOp.MATVEC:
                self.frees.append((self.late(), job.fields["buffer"] + 2 * job.context))
            if self.units["engine"]:
                self.units["engine"][0].due = self.late(3)
        for due, buffer in [*self.frees]:
            if self.cycle >= due:
                self.free[buffer] = 1
                self.frees.remove((due, buffer))
        for queue in (self.units[unit] for unit in ("norm", "gate", "scalar")):
            # The first command works, if its results are there and those before are gone.
            if queue and queue[0].due is None and self.fed(queue[0]):
                queue[0].due = self.late(0 if queue[0].fields["unit"] == Unit.NORM else 1)
            for job in queue[:1]:
                job.reading = job.due is None or (job.due > self.cycle + 2)
        if self.sampler is not None and self.sampler.due is None and self.fed(self.sampler):
            self.sampler.due = self.late()
            self.completed += 1
        if token is not None:
            # With its context it would not be taken.
            (context,) = (one for one in self.leaving.values() if one.sampling)
            context.token, context.sampling, self.sampler = token, False, None
            self.times["token"].append(self.cycle)

    def fed(self, job):
        return job.place is None or (self.announced > job.place and self.completed == job.place)


async def begin(dut):
    for name in ("job", "norm_result", "gate_result", "scalar_result", "sampled"):
        getattr(dut, f"{name}__valid").value = 0
    for name in (*PORTS, "done", "consumers"):
        getattr(dut, f"{name}__ready").value = 0
    dut.load__enable.value = dut.coming.value = dut.reading.value = 0
    dut.free.value = (1 << len(dut.free)) - 1
    dut.engine_idle.value = dut.norm_idle.value = dut.gate_idle.value = 1
    await start(dut)
    assert not dut.running.value


def random_jobs(random, count):
    """Jobs of different slots and seeds; every other one samples, and others may."""
    jobs = [draw(random, TOKEN_JOB, slot=index, seed=index) for index in range(count)]
    return [job | ({"head": 1} if index % 2 else {}) for index, job in enumerate(jobs)]


@cocotb.test()
async def bench_random(dut):
    """Random programs in all contexts, with units of random readiness and lateness."""
    values, random = parameters(), rng()
    geometry = Geometry(**values["geometry"])
    await begin(dut)
    bench = Bench(dut, geometry, random)
    for bench.stall, bench.delay in ((0.0, 0), (0.0, 3), (0.3, 2), (0.5, 12)):
        for registers in 2 * (2, 5, 14):
            for bench.active in (1, geometry.contexts):
                await bench.load(ProgramWriter(random, registers).write(geometry.program_words))
                await bench.run(random_jobs(random, 6))
    # The rare cases were met.
    assert bench.both > 20
    assert bench.waited > 100
    assert bench.most == geometry.contexts


@cocotb.test()
async def bench_cycles(dut):
    """The declared cycles, of a lone token."""
    values, random = parameters(), rng()
    geometry = Geometry(**values["geometry"])
    await begin(dut)
    bench = Bench(dut, geometry, random)
    bench.active = 1

    async def run(*instructions):
        """Two jobs; the cycles of the events of the second one."""
        await bench.load([*instructions, instruction(Unit.CONTROL, ControlOp.END)])
        (job, other) = random_jobs(random, 2)
        await bench.run([job | {"head": 1}])
        for times in bench.times.values():
            times.clear()
        await bench.run([other])
        return bench.times

    multiply = [instruction(Unit.SCALAR, ScalarOp.MUL, a=0, b=0, target=register) for register in range(1, 11)]
    times = await run(*multiply)
    # The job's transfer; then one instruction every other cycle.
    assert times["command"] == [times["job"][0] + START_CYCLES + 2 * index for index in range(10)]
    # A value comes in the cycle after its command, and starts the next one.
    times = await run(*[instruction(Unit.SCALAR, ScalarOp.RECIP, a=0, target=0) for _ in range(10)])
    assert times["command"] == [times["job"][0] + START_CYCLES + (1 + WAKE_CYCLES) * index for index in range(10)]
    times = await run(
        instruction(Unit.ENGINE, EngineOp.EMBED, address=5),
        instruction(Unit.CONTROL, ControlOp.HEAD),
        instruction(Unit.CONTROL, ControlOp.SAMPLE, scale=TEMPERATURE_REGISTER),
    )
    assert times["command"][0] == times["job"][0] + START_CYCLES
    assert times["done"] == [times["token"][0] + 1]


@pytest.mark.parametrize("contexts", [1, 2])
def test_sequencer_cycles(contexts):
    geometry = {"program_words": 64, "contexts": contexts}
    simulate(
        Sequencer(geometry=Geometry(**geometry)), __file__, bench="bench_cycles", parameters={"geometry": geometry}
    )


@pytest.mark.parametrize(
    "geometry",
    [
        {"program_words": 64, "contexts": 1},
        {"program_words": 37, "contexts": 2},
        {"program_words": 64, "contexts": 2, "inputs": 16},
        {"program_words": 64, "contexts": 3},
        {"program_words": 48, "contexts": 4},
    ],
    ids=lambda geometry: "-".join(map(str, geometry.values())),
)
def test_sequencer(geometry):
    simulate(
        Sequencer(geometry=Geometry(**geometry)),
        __file__,
        bench="bench_random",
        parameters={"geometry": geometry, "seed": 1},
    )
