"""Sessions against their golden model: every transaction of random hosts with a sequencer that the bench plays."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import cocotb
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import (
    CONTINUE_FLAG,
    EVENT_HEADER_WORDS,
    EVENT_TOKENS,
    NO_TOKEN,
    SESSION_WORDS,
    TAG_SHIFT,
    TOKENS_PER_WORD,
    Command,
    Finish,
    Result,
    SessionWord,
    Status,
    Window,
    pack_tokens,
)
from ternlight.geometry import Geometry
from ternlight_hw.sequencer import TOKEN_DONE, TOKEN_JOB
from ternlight_hw.sessions import Sessions
from ternlight_sim.bench import parameters, rng, simulate, start, unpack
from ternlight_sim.golden.control import SessionsModel

VOCABULARY = 60000
TOKENS = 20
"""Tokens that the sequencer gives: few, so that stop tokens are met."""
STATE_STRIDE = 37
BUS_PATIENCE = 160
"""Cycles within which a word of the bus is served, unless an event is refused halfway."""


@dataclass
class Pace:
    """How the bench's side behaves: most and least cycles that the sequencer takes for a token; most cycles of the host
    between its words; chance that events are refused in a cycle, and that they are refused for long."""

    token: int = 60
    least: int = 1
    host: int = 20
    refuse: float = 0.0
    block: float = 0.0


@dataclass
class Told:
    """What events told of a request."""

    tokens: list[int] = field(default_factory=list)
    finish: Finish = Finish.NONE


class Host:
    """A generator that yields None to let a cycle pass, or an access (see Bench.read, write and command) whose answer
    it is sent."""

    def __init__(self, generator):
        self.generator = generator
        self.access = self.answer = None

    def advance(self):
        """Whether it goes on; an access waits until it is answered."""
        if self.access is None:
            try:
                self.access, self.answer = self.generator.send(self.answer), None
            except StopIteration:
                return False
        return True

    def take_answer(self, answer):
        self.access, self.answer = None, answer


class Bench:
    """The signals of the design, the model beside them, and the actors: call `cycle` until all hosts are through."""

    def __init__(self, dut, geometry, random, pace):
        self.dut, self.geometry, self.random, self.pace = dut, geometry, random, pace
        self.model = SessionsModel(geometry, vocabulary=VOCABULARY, state_stride=STATE_STRIDE)
        self.time = 0
        self.hosts = []
        self.bus_user = self.command_user = None
        self.bus_since = 0
        self.jobs_due = {}  # slot: the cycle from which its job is done, and what comes of it
        self.returning = None
        self.job_ready_from = 0
        self.event = []
        self.event_end = -2  # when the latest one ended
        self.blocked_until = 0
        self.sampled = [[] for _ in range(geometry.slots)]  # of the running request
        self.told = {}  # (slot, tag): Told
        self.finishes, self.results = set(), set()
        self.blocked_cycles = self.jobs = self.longest = self.together = 0

    async def begin(self):
        dut = self.dut
        dut.bus__enable.value = dut.command__valid.value = dut.done__valid.value = 0
        dut.job__ready.value = dut.events__ready.value = 0
        dut.image.value, dut.vocabulary.value, dut.state_stride.value = 1, VOCABULARY, STATE_STRIDE
        await start(dut)

    def run_host(self, generator):
        self.hosts.append(Host(generator))

    async def finish(self, limit):
        """All hosts to their end; then nothing is left to tell."""
        while self.hosts or self.jobs_due or self.model.telling or self.event:
            await self.cycle()
            assert self.time < limit
        await self.cycle()
        for _ in range(100):
            await self.cycle()
            assert not self.dut.active.value
            assert not self.dut.job__valid.value
            assert not self.dut.events__valid.value

    def advance_hosts(self):
        self.hosts = [host for host in self.hosts if host.advance()]
        for host in self.hosts:
            if host.access is not None and host.access[0] == "command":
                self.command_user = self.command_user or host
            elif host.access is not None and self.bus_user is None:
                self.bus_user, self.bus_since = host, self.time

    async def cycle(self):
        dut, random, pace = self.dut, self.random, self.pace
        self.time += 1
        self.advance_hosts()
        dut.bus__enable.value = self.bus_user is not None
        if self.bus_user:
            kind, window, offset, word = self.bus_user.access
            dut.bus__write.value, dut.bus__window.value, dut.bus__offset.value = kind == "write", window, offset
            dut.bus__write_data.value = word
        dut.command__valid.value = self.command_user is not None
        if self.command_user:
            _, op, slot = self.command_user.access
            dut.command__payload.value = op | slot << 8
        job_ready = len(self.jobs_due) < self.geometry.contexts and self.time >= self.job_ready_from
        dut.job__ready.value = job_ready
        if self.returning is None:
            due = [slot for slot, (since, _) in self.jobs_due.items() if self.time >= since]
            self.returning = due[random.integers(len(due))] if due else None
        returns = self.returning is not None
        dut.done__valid.value = returns
        if returns:
            dut.done__payload.value = self.jobs_due[self.returning][1]
        refused = self.time < self.blocked_until or random.random() < pace.refuse
        dut.events__ready.value = not refused
        await RisingEdge(dut.clk)
        self.check_flags()
        transactions = 0
        if dut.bus__ack.value:
            assert self.bus_user
            transactions += 1
            self.bus_acknowledged(int(dut.bus__read_data.value))
        elif self.bus_user and not pace.refuse:
            assert self.time - self.bus_since < BUS_PATIENCE
        commanded = self.command_user is not None and bool(dut.command__ready.value)
        if dut.job__valid.value and job_ready:
            transactions += 1
            self.job_taken(int(dut.job__payload.value))
        if returns and dut.done__ready.value:
            transactions += 1
            self.job_returned()
        if dut.events__valid.value and not refused:
            transactions += 1
            self.event_word(int(dut.events__payload.value))
        # One task at a time; the model sees transactions in this order.
        assert transactions + commanded <= 1
        await FallingEdge(dut.clk)
        if commanded:
            self.commanded(int(dut.result.value))

    def check_flags(self):
        model, geometry = self.model, self.geometry
        # In the cycles after an event its end is being noted.
        told = self.event_end < self.time <= self.event_end + 2
        assert bool(self.dut.active.value) == bool(model.running or model.telling or self.event or told)
        if self.dut.blocked.value:
            self.blocked_cycles += 1
            assert not model.in_flight
            for slot in list(model.running):
                model.settle(slot)
            assert model.running
            for slot in model.running:
                record = model.records[slot]
                assert record[SessionWord.GENERATED] - record[SessionWord.CREDIT] == geometry.ring

    def bus_acknowledged(self, data):
        kind, window, offset, word = self.bus_user.access
        model = self.model
        if kind == "write":
            model.write(window, offset, word)
        else:
            expected = model.read(window, offset)
            if data != expected and window == Window.SESSIONS:
                assert model.settle(offset // SESSION_WORDS)
                expected = model.read(window, offset)
            assert data == expected, (window, offset)
        self.bus_user.take_answer(data)
        self.bus_user = None

    def commanded(self, result):
        _, op, slot = self.command_user.access
        running = slot in self.model.running
        expected = self.model.command(op, slot)
        if result != expected:
            # The session ended before, unseen.
            assert running
            assert self.model.settle(slot)
            expected = self.model.command(op, slot)
        assert result == expected
        if result == Result.OK and op == Command.START:
            self.sampled[slot] = []
            self.told[slot, self.model.records[slot][SessionWord.FLAGS] >> TAG_SHIFT & 0xFF] = Told()
        self.results.add(result)
        self.command_user.take_answer(result)
        self.command_user = None

    def job_taken(self, payload):
        shown = {name: payload >> part.offset & (1 << part.width) - 1 for name, part in TOKEN_JOB}
        assert shown == self.model.next_job()
        self.jobs += 1
        # A token that was not sampled means nothing.
        done = {"slot": shown["slot"], "token": int(self.random.integers(TOKENS)), "sampled": shown["head"]}
        payload = sum(done[name] << part.offset for name, part in TOKEN_DONE)
        self.jobs_due[shown["slot"]] = (
            self.time + int(self.random.integers(self.pace.least, self.pace.token + 1)),
            payload,
        )
        self.together = max(self.together, len(self.jobs_due))

    def job_returned(self):
        slot, self.returning = self.returning, None
        _, payload = self.jobs_due.pop(slot)
        token, sampled = (payload >> TOKEN_DONE[name].offset for name in ("token", "sampled"))
        token, sampled = token & 0xFFFF, sampled & 1
        if sampled:
            self.sampled[slot].append(token)
            record = self.model.records[slot]
            assert len(self.sampled[slot]) - record[SessionWord.CREDIT] <= self.geometry.ring
        self.model.done(slot, token, bool(sampled))
        self.job_ready_from = self.time + 1 + int(self.random.integers(3))

    def event_word(self, payload):
        word, last = payload & 0xFFFFFFFF, payload >> 32
        if not self.event:
            slot = word & 0xFF
            if word >> 24 and slot in self.model.running:
                # The session ended before, unseen.
                assert self.model.settle(slot)
            assert slot == self.model.next_event()
            self.expected = self.model.tell(slot)
            self.event_since = self.time
        self.event.append(word)
        position = len(self.event) - 1
        assert word == self.expected[position], (position, hex(word), [hex(word) for word in self.expected])
        assert last == (len(self.event) == len(self.expected))
        if last:
            self.event_told(self.event)
            self.event, self.event_end = [], self.time
            # As the gateware's buffer of events, which takes an event whole.
            if self.random.random() < self.pace.block:
                self.blocked_until = self.time + int(self.random.integers(100 * self.geometry.ring))

    def event_told(self, words):
        slot, count, tag, finish = (words[0] >> shift & 0xFF for shift in (0, 8, 16, 24))
        told = self.told[slot, tag]
        assert told.finish == Finish.NONE
        assert words[1] == len(told.tokens)
        assert count or finish
        self.longest = max(self.longest, count)
        assert self.pace.refuse or self.time - self.event_since + 1 == 2 + 3 * count
        packed = sum(word << 32 * place for place, word in enumerate(words[EVENT_HEADER_WORDS:]))
        told.tokens += unpack(packed, 16, count, signed=False)
        told.finish = Finish(finish)
        assert told.tokens == self.sampled[slot][: len(told.tokens)]
        if finish:
            assert len(told.tokens) == len(self.sampled[slot])
            self.finishes.add(told.finish)

    # What hosts do.

    def pause(self, cycles):
        for _ in range(int(cycles)):
            yield None

    def read(self, window, offset):
        yield from self.pause(self.random.integers(self.pace.host + 1))
        return (yield ("read", window, offset, 0))

    def write(self, window, offset, word):
        yield from self.pause(self.random.integers(self.pace.host + 1))
        yield ("write", window, offset, word)

    def command(self, op, slot):
        return (yield ("command", op, slot))

    def record_write(self, slot, first, words):
        for index, word in enumerate(words):
            yield from self.write(Window.SESSIONS, slot * SESSION_WORDS + first + index, word)

    def status(self, slot):
        word = yield from self.read(Window.SESSIONS, slot * SESSION_WORDS + SessionWord.STATUS)
        return Status(word & 0xFF)

    def prompt_write(self, slot, tokens):
        padded = [*tokens, *[0] * (-len(tokens) % TOKENS_PER_WORD)]
        first = slot * self.geometry.prompt // TOKENS_PER_WORD
        for index, word in enumerate(pack_tokens(padded)):
            yield from self.write(Window.PROMPTS, first + index, word)

    def start(self, slot, tag, prompt, max_tokens, *, keep=False, stops=(), top_k=1):
        random = self.random
        flags = (CONTINUE_FLAG if keep else 0) | tag << TAG_SHIFT
        stop_words = [*stops, *[NO_TOKEN] * (4 - len(stops))]
        scale = int(random.integers(1 << 15)) | int(random.integers(1 << 10)) << 16
        words = [flags, len(prompt), max_tokens, scale, top_k, int(random.integers(1 << 32)), *stop_words]
        yield from self.prompt_write(slot, prompt)
        yield from self.record_write(slot, 0, words)
        return (yield from self.command(Command.START, slot))

    def take(self, slot, tag):
        """Take tokens as they are told, with credit now and then, until the request is told to its end."""
        credit = 0
        while True:
            told = self.told[slot, tag]
            if told.finish != Finish.NONE:
                return
            if len(told.tokens) > credit and self.random.random() < 0.03:
                if self.random.random() < 0.1:
                    yield from self.pause(self.random.integers(1000))
                credit = len(told.tokens)
                yield from self.record_write(slot, SessionWord.CREDIT, [credit])
            yield None

    def read_all(self, slot):
        for index in range(SESSION_WORDS):
            yield from self.read(Window.SESSIONS, slot * SESSION_WORDS + index)
        for window, tokens in ((Window.TOKENS, self.geometry.ring), (Window.PROMPTS, self.geometry.prompt)):
            words = tokens // TOKENS_PER_WORD
            for offset in range(words):
                yield from self.read(window, slot * words + offset)

    def random_host(self, slot, requests):
        """Requests of all kinds, one after the other, some of them refused or aborted."""
        random, geometry = self.random, self.geometry
        kinds = ["plain", "late", "feed", "stop", "abort", "abort", "bad"]
        for tag in range(requests):
            if tag % len(kinds) == 0:
                random.shuffle(kinds)
            kind = kinds[tag % len(kinds)]
            length = int(random.choice([1, geometry.prompt, int(random.integers(1, geometry.prompt + 1))]))
            prompt = [int(token) for token in random.integers(VOCABULARY, size=length)]
            if kind == "bad":
                prompt[random.integers(min(length, 4))] = int(random.choice([VOCABULARY, 65535]))
            max_tokens = int(random.choice([1, geometry.ring, int(random.integers(2, 3 * geometry.ring))]))
            max_tokens = {"feed": 0, "plain": max_tokens}.get(kind, 3 * geometry.ring)
            stops = [int(token) for token in random.integers(TOKENS, size=int(random.choice([1, 4])))]
            stops = stops if kind == "stop" else []
            keep = random.random() < 0.4
            if keep and random.random() < 0.3:
                # A restored state.
                position = int(random.choice([0, random.integers(1 << 32)]))
                yield from self.record_write(slot, SessionWord.POSITION, [position])
            flaw = ["empty", "", "long", "top_k"][tag % 4]
            top_k = int(random.choice([0, 1, geometry.top_k]))
            if flaw:
                too_long = int(random.choice([geometry.prompt + 1, 1 << 16 | 1]))
                count = {"empty": 0, "long": too_long, "top_k": 1}[flaw]
                yield from self.record_write(slot, SessionWord.PROMPT_COUNT, [count, 5, 0])
                yield from self.record_write(slot, SessionWord.TOP_K, [geometry.top_k + (flaw == "top_k")])
                result = yield from self.command(Command.START, slot)
                refusals = {
                    "empty": Result.EMPTY_PROMPT,
                    "long": Result.PROMPT_TOO_LONG,
                    "top_k": Result.TOP_K_TOO_LARGE,
                }
                assert result == refusals[flaw]
            result = yield from self.start(slot, tag, prompt, max_tokens, keep=keep, stops=stops, top_k=top_k)
            assert result == Result.OK
            if kind == "abort":
                yield from self.pause(random.integers(int(random.choice([20, 600, 2000]))))
                assert (yield from self.command(Command.START, slot)) in (Result.SLOT_RUNNING, Result.OK)
                assert (yield from self.command(Command.ABORT, slot)) == Result.OK
                while (yield from self.status(slot)) == Status.RUNNING:
                    pass
                # What is not told yet is given up by a new request, or by the same again.
                if random.random() < 0.4:
                    continue
                if random.random() < 0.5:
                    assert (yield from self.command(Command.START, slot)) == Result.OK
            if kind == "late":
                yield from self.pause(70 * geometry.ring)
            yield from self.take(slot, tag)
            yield from self.read_all(slot)

    def random_reader(self, accesses):
        """Looks everywhere at any time, and tries what has no effect."""
        random, geometry = self.random, self.geometry
        sizes = {Window.SESSIONS: SESSION_WORDS}
        sizes |= {Window.PROMPTS: geometry.prompt // TOKENS_PER_WORD, Window.TOKENS: geometry.ring // TOKENS_PER_WORD}
        for _ in range(accesses):
            yield from self.pause(random.integers(100))
            window = list(sizes)[random.integers(len(sizes))]
            offset = int(random.integers(geometry.slots * sizes[window]))
            if window == Window.TOKENS and random.random() < 0.3:
                yield from self.write(window, offset, int(random.integers(1 << 32)))
            yield from self.read(window, offset)
            if random.random() < 0.1:
                slot = int(random.integers(geometry.slots))
                assert (yield from self.command(int(random.choice([0, 3, 255])), slot)) == Result.UNKNOWN_COMMAND
                slot = int(random.choice([geometry.slots, 255]))
                op = int(random.choice([Command.START, Command.ABORT]))
                assert (yield from self.command(op, slot)) == Result.NO_SUCH_SLOT


PACES = {
    "light": Pace(),
    "busy": Pace(token=1, host=0),
    "refused": Pace(token=30, host=3, refuse=0.6),
    "blocked": Pace(token=10, host=20, block=0.15),
}


@cocotb.test()
async def bench_random(dut):
    """All slots at work for random hosts; every transaction as in the model."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    bench = Bench(dut, geometry, random, PACES[parameters()["pace"]])
    await bench.begin()
    for slot in range(geometry.slots):
        bench.run_host(bench.random_host(slot, parameters()["requests"]))
    bench.run_host(bench.random_reader(100))
    await bench.finish(400_000)
    assert bench.finishes == set(Finish) - {Finish.NONE}
    assert bench.results == set(Result) - {Result.NO_IMAGE}
    assert bench.blocked_cycles or geometry.slots > 1
    assert bench.together == min(geometry.contexts, geometry.slots) or bench.pace.token < 60
    assert bench.longest == min(EVENT_TOKENS, geometry.ring) or geometry.slots > 1
    cocotb.log.info("%d jobs in %d cycles", bench.jobs, bench.time)


@cocotb.test()
async def bench_cycles(dut):
    """The cycles between two tokens of a lone session; NO_IMAGE; and `blocked` until there is credit."""
    geometry, random = Geometry(**parameters()["geometry"]), rng()
    bench = Bench(dut, geometry, random, Pace(token=30, least=30, host=0))
    await bench.begin()
    dut.image.value = bench.model.image = 0
    bench.run_host(bench.start(0, 1, [5, 6], 100))
    while bench.hosts:
        await bench.cycle()
    assert bench.results == {Result.NO_IMAGE}
    dut.image.value = bench.model.image = 1
    bench.run_host(bench.command(Command.START, 0))
    # No event comes between two tokens.
    bench.blocked_until = 100_000
    taken = []

    async def jobs(count):
        while bench.jobs < count:
            before = bench.jobs
            await bench.cycle()
            taken.extend([bench.time] * (bench.jobs - before))
            assert bench.time < (taken[-1] if taken else 0) + 400

    # The prompt's two tokens, and a full ring.
    await jobs(1 + geometry.ring)
    # A token of the prompt must be read first.
    assert [after - before for before, after in itertools.pairwise(taken)] == [
        bench.pace.least + Sessions.turn + 1,
        *[bench.pace.least + Sessions.turn] * (geometry.ring - 1),
    ]
    for _ in range(100):
        await bench.cycle()
    bench.blocked_until = 0
    while bench.model.telling or bench.event:
        await bench.cycle()
    assert dut.blocked.value
    bench.run_host(bench.record_write(0, SessionWord.CREDIT, [1]))
    await jobs(2 + geometry.ring)
    bench.run_host(bench.command(Command.ABORT, 0))
    await bench.finish(bench.time + 1000)


SMALL = {"slots": 4, "ring": 16, "prompt": 16, "top_k": 8, "contexts": 2}
ODD = SMALL | {"slots": 3, "prompt": 64, "contexts": 3}
ALONE = SMALL | {"contexts": 1}
LONE = SMALL | {"slots": 1, "ring": 64}
"""Its ring holds the tokens of several events."""


@pytest.mark.parametrize(
    ("sizes", "requests", "pace"),
    [
        (SMALL, 7, "light"),
        (SMALL, 7, "busy"),
        (ALONE, 7, "busy"),
        (SMALL, 7, "refused"),
        (ODD, 7, "blocked"),
        (LONE, 21, "blocked"),
    ],
)
def test_sessions(sizes, requests, pace):
    simulate(
        Sessions(geometry=Geometry(**sizes)),
        __file__,
        bench="bench_random",
        parameters={"geometry": sizes, "requests": requests, "pace": pace, "seed": 3},
    )


@pytest.mark.parametrize("slots", [1, 4])
def test_sessions_cycles(slots):
    geometry = SMALL | {"slots": slots}
    simulate(Sessions(geometry=Geometry(**geometry)), __file__, bench="bench_cycles", parameters={"geometry": geometry})
