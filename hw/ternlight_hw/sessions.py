"""Sessions: their records, prompts and output rings, and the choice of which token runs next."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from ternlight.abi import (
    CONTINUE_FLAG,
    EVENT_TOKENS,
    EXPONENT_SHIFT,
    SESSION_WORDS,
    TAG_SHIFT,
    TOKEN_BITS,
    TOKENS_PER_WORD,
    Command,
    Finish,
    Result,
    SessionWord,
    Status,
    Window,
)
from ternlight.geometry import Geometry

from .event_teller import EventTeller
from .packets import PACKET_WORD
from .sequencer import TOKEN_DONE, TOKEN_JOB
from .session_record import Record, SessionBus, next_after

COMMAND = data.StructLayout({"op": 8, "slot": 8})

_WORD_BITS = ceil_log2(SESSION_WORDS)


class Task(enum.Enum):
    """What is done with a record once it is loaded."""

    DISPATCH = 0
    FILE = 1
    COMMAND = 2
    TELL = 3


class Sessions(wiring.Component):
    """Runs the sessions token by token, in turn.

    One state machine does one task at a time on one record: it starts or aborts a session, gives the next token of a
    session to the sequencer, files what came back, tells the host of new tokens, or serves a word to the bus (every
    other turn, if it wants). A task takes some 20 to 30 cycles, an event 2 more per token, a word of the bus 3; most
    of them pass while the sequencer works. From a valid `done` to the transfer of the next job are 44 cycles, or 45 for
    a token of a prompt.

    A session waits while its ring is full of tokens that the host has not taken (SessionWord.CREDIT); a token with
    credit may be overwritten, even if its event is still to come. Writing FLAGS of a slot opens a request: what events
    have not told of the one before is dropped, since they would tell it with the new tag.

    Parameters: geometry.
    Members:
        bus: In SessionBus.
        command: In stream of COMMAND; result: Out(8), abi.Result of the latest command, from the cycle after it was
        taken.
        image: In(1), an image is loaded; vocabulary: In(17); state_stride: In(16).
        job: Out stream of TOKEN_JOB; done: In stream of TOKEN_DONE.
        events: Out stream of PACKET_WORD. An event begins when `ready` is set, and then everything waits for its end.
        running: Out(1), a session runs; active: Out(1), that or an event is pending; blocked: Out(1), all running
        sessions wait for the host.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.slot_bits = max(1, ceil_log2(geometry.slots))
        self.offset_bits = self.slot_bits + max(_WORD_BITS, ceil_log2(geometry.prompt), ceil_log2(geometry.ring))
        super().__init__(
            {
                "bus": In(SessionBus(offset_bits=self.offset_bits)),
                "command": In(stream.Signature(COMMAND)),
                "result": Out(8),
                "image": In(1),
                "vocabulary": In(TOKEN_BITS + 1),
                "state_stride": In(16),
                "job": Out(stream.Signature(TOKEN_JOB)),
                "done": In(stream.Signature(TOKEN_DONE)),
                "events": Out(stream.Signature(PACKET_WORD)),
                "active": Out(1),
                "running": Out(1),
                "blocked": Out(1),
            }
        )
        slots, slot_bits = geometry.slots, self.slot_bits
        self._running = Signal(slots)
        self._aborting = Signal(slots)
        self._stalled = Signal(slots)  # the ring was full at the session's turn, and no credit came since
        self._telling = Signal(slots)  # has something that events have not told
        self._ready = Signal(slots)

        self._record = Record(slot_bits)
        self._index = Signal(range(SESSION_WORDS + 1))  # the word that is loaded or stored
        self._task = Signal(Task)
        self._state = Signal(16)  # slot * state_stride

        self._token = Signal(TOKEN_BITS)  # for the sequencer
        self._was_prompt = Signal()
        self._in_flight = Signal()  # the sequencer has a token of job_slot
        self._job_slot = Signal(slot_bits)
        self._event_slot = Signal(slot_bits)
        self._bus_served = Signal()  # the bus had the latest turn

        prompt_words, ring_words = geometry.prompt // TOKENS_PER_WORD, geometry.ring // TOKENS_PER_WORD
        self._memories = {
            Window.SESSIONS: Memory(shape=unsigned(32), depth=slots * SESSION_WORDS, init=[]),
            Window.PROMPTS: Memory(shape=unsigned(32), depth=slots * prompt_words, init=[]),
            Window.TOKENS: Memory(shape=unsigned(32), depth=slots * ring_words, init=[]),
        }
        self._read = {window: memory.read_port() for window, memory in self._memories.items()}
        self._record_write = self._memories[Window.SESSIONS].write_port()
        self._prompt_write = self._memories[Window.PROMPTS].write_port()
        self._ring_write = self._memories[Window.TOKENS].write_port(granularity=TOKEN_BITS)
        self._teller = EventTeller()

    def elaborate(self, platform):
        m = Module()
        for window, memory in self._memories.items():
            m.submodules[window.name.lower()] = memory
        m.submodules.teller = self._teller
        connect(m, self._teller.words, flipped(self.events))
        m.d.sync += self._state.eq(self._record.slot * self.state_stride)
        m.d.comb += [
            self._ready.eq(self._running & (~self._stalled | self._aborting)),
            self.running.eq(self._running.any()),
            self.active.eq(self.running | self._telling.any()),
            self.blocked.eq(self._running.any() & ~self._ready.any()),
        ]
        self._addresses(m)
        next_job = next_after(m, self._ready, self._job_slot)
        next_event = next_after(m, self._telling, self._event_slot)
        with m.FSM():
            self._choose(m, next_job=next_job, next_event=next_event)
            self._transfer(m)
            self._dispatch(m)
            self._file(m)
            self._command(m)
            self._tell(m)
            self._serve_bus(m)
        return m

    def _addresses(self, m):
        """What the memories read while it is not the bus's turn."""
        record, teller = self._record, self._teller
        m.d.comb += [
            self._read[Window.SESSIONS].addr.eq(Cat(self._index[:_WORD_BITS], record.slot)),
            self._read[Window.PROMPTS].addr.eq(
                Cat(record.status.consumed[1 : ceil_log2(self.geometry.prompt)], record.slot)
            ),
            self._read[Window.TOKENS].addr.eq(Cat(teller.index[1 : ceil_log2(self.geometry.ring)], record.slot)),
            teller.token.eq(self._read[Window.TOKENS].data.word_select(teller.index[0], TOKEN_BITS)),
        ]

    def _choose(self, m, *, next_job, next_event):
        """IDLE: the next task."""
        wants_dispatch = self._ready.any() & ~self._in_flight
        wants_tell = self._telling.any() & self.events.ready
        others = self.done.valid | self.command.valid | wants_dispatch | wants_tell

        def load(slot, task):
            m.d.sync += [self._record.slot.eq(slot), self._index.eq(0), self._task.eq(task)]
            m.next = "LOAD"

        with m.State("IDLE"):
            with m.If(self.bus.enable & ~(self._bus_served & others)):
                m.next = "BUS_READ"
            with m.Elif(self.done.valid):
                load(self._job_slot, Task.FILE)
            with m.Elif(self.command.valid):
                with m.If(self.command.payload.slot >= self.geometry.slots):
                    self._answer(m, Result.NO_SUCH_SLOT)
                with m.Else():
                    load(self.command.payload.slot, Task.COMMAND)
            with m.Elif(wants_dispatch):
                load(next_job, Task.DISPATCH)
            with m.Elif(wants_tell):
                load(next_event, Task.TELL)

    def _transfer(self, m):
        """LOAD the whole record and go on with the task; STORE the device's part of it."""
        words, index = self._record.words, self._index
        with m.State("LOAD"):
            m.d.sync += [index.eq(index + 1), self._bus_served.eq(0)]
            # The memory's output is the word before.
            with m.Switch(index):
                for number, word in enumerate(words):
                    with m.Case(number + 1):
                        m.d.sync += word.eq(self._read[Window.SESSIONS].data)
            with m.If(index == SESSION_WORDS), m.Switch(self._task):
                for task in Task:
                    with m.Case(task):
                        m.next = task.name
        with m.State("STORE"):
            write = self._record_write
            m.d.comb += [write.addr.eq(Cat(index[:_WORD_BITS], self._record.slot)), write.en.eq(1)]
            with m.Switch(index):
                for number in range(SessionWord.CREDIT, SESSION_WORDS):
                    with m.Case(number):
                        m.d.comb += write.data.eq(words[number])
            m.d.sync += index.eq(index + 1)
            with m.If(index == SESSION_WORDS - 1):
                m.next = "IDLE"

    def _store(self, m):
        # The words before CREDIT are the host's alone.
        m.d.sync += self._index.eq(SessionWord.CREDIT)
        m.next = "STORE"

    def _mark(self, m, *masks, value):
        """Set or clear the present slot's bit of some masks."""
        m.d.sync += [self._record.of(mask).eq(value) for mask in masks]

    def _finish(self, m, reason):
        m.d.sync += [self._record.status.status.eq(Status.IDLE), self._record.status.finish.eq(reason)]
        self._mark(m, self._running, self._aborting, value=0)
        self._mark(m, self._telling, value=1)

    def _dispatch(self, m):
        """A token to the sequencer."""
        record = self._record
        consumed, prompt_count = record.status.consumed, record.prompt_count[:16]
        prompt_token = self._read[Window.PROMPTS].data.word_select(consumed[0], TOKEN_BITS)
        job = self.job.payload
        with m.State("DISPATCH"):
            with m.If(record.of(self._aborting)):
                self._finish(m, Finish.ABORTED)
                self._store(m)
            with m.Elif(consumed < prompt_count):
                m.next = "DISPATCH_PROMPT"
            with m.Elif(record.generated - record.credit >= self.geometry.ring):
                self._mark(m, self._stalled, value=1)
                m.next = "IDLE"
            with m.Else():
                m.d.sync += [self._token.eq(record.last_token), self._was_prompt.eq(0)]
                m.next = "DISPATCH_JOB"
        with m.State("DISPATCH_PROMPT"):
            m.d.sync += [self._token.eq(prompt_token), self._was_prompt.eq(1)]
            with m.If(prompt_token >= self.vocabulary):
                self._finish(m, Finish.BAD_TOKEN)
                self._store(m)
            with m.Else():
                m.next = "DISPATCH_JOB"
        with m.State("DISPATCH_JOB"):
            m.d.comb += [
                self.job.valid.eq(1),
                job.token.eq(self._token),
                job.state.eq(self._state),
                job.fresh.eq(record.position == 0),
                job.head.eq(~self._was_prompt | ((consumed + 1 == prompt_count) & (record.max_tokens != 0))),
                job.inverse_temperature.mantissa.eq(record.inverse_temperature),
                job.inverse_temperature.exponent.eq(record.inverse_temperature[EXPONENT_SHIFT:]),
                job.top_k.eq(record.top_k),
                job.seed.eq(record.seed),
                job.position.eq(record.position),
            ]
            with m.If(self.job.ready):
                m.d.sync += [self._in_flight.eq(1), self._job_slot.eq(record.slot)]
                m.next = "IDLE"

    def _file(self, m):
        """A token that came back."""
        record, done = self._record, self.done.payload
        consumed = record.status.consumed
        is_stop = Cat(stop == done.token for stop in record.stops).any()
        with m.State("FILE"):
            m.d.comb += [
                self.done.ready.eq(1),
                self._ring_write.addr.eq(Cat(record.generated[1 : ceil_log2(self.geometry.ring)], record.slot)),
                self._ring_write.data.eq(done.token.replicate(TOKENS_PER_WORD)),
            ]
            m.d.sync += [self._in_flight.eq(0), record.position.eq(record.position + 1)]
            with m.If(self._was_prompt):
                m.d.sync += consumed.eq(consumed + 1)
            with m.If(done.sampled):
                m.d.comb += self._ring_write.en.eq(1 << record.generated[0])
                m.d.sync += [record.last_token.eq(done.token), record.generated.eq(record.generated + 1)]
                self._mark(m, self._telling, value=1)
                with m.If(is_stop):
                    self._finish(m, Finish.STOP)
                with m.Elif(record.generated + 1 == record.max_tokens):
                    self._finish(m, Finish.LENGTH)
                with m.Elif(record.of(self._aborting)):
                    self._finish(m, Finish.ABORTED)
            with m.Elif(record.of(self._aborting)):
                self._finish(m, Finish.ABORTED)
            with m.Elif(consumed + 1 == record.prompt_count[:16]):
                self._finish(m, Finish.FED)
            self._store(m)

    def _answer(self, m, result):
        m.d.sync += self.result.eq(result)
        m.d.comb += self.command.ready.eq(1)
        m.next = "IDLE"

    def _command(self, m):
        """The host's commands."""
        record = self._record
        with m.State("COMMAND"), m.Switch(self.command.payload.op):
            with m.Case(Command.START):
                with m.If(~self.image):
                    self._answer(m, Result.NO_IMAGE)
                with m.Elif(record.of(self._running)):
                    self._answer(m, Result.SLOT_RUNNING)
                with m.Elif(record.prompt_count == 0):
                    self._answer(m, Result.EMPTY_PROMPT)
                with m.Elif(record.prompt_count > self.geometry.prompt):
                    self._answer(m, Result.PROMPT_TOO_LONG)
                with m.Elif(record.top_k > self.geometry.top_k):
                    self._answer(m, Result.TOP_K_TOO_LARGE)
                with m.Else():
                    self._answer(m, Result.OK)
                    self._begin(m)
            with m.Case(Command.ABORT):
                self._answer(m, Result.OK)
                self._mark(m, self._aborting, value=record.of(self._running))
            with m.Default():
                self._answer(m, Result.UNKNOWN_COMMAND)

    def _begin(self, m):
        record = self._record
        m.d.sync += [
            record.status.status.eq(Status.RUNNING),
            record.status.finish.eq(Finish.NONE),
            record.status.consumed.eq(0),
            record.credit.eq(0),
            record.generated.eq(0),
            record.reported.eq(0),
        ]
        with m.If(~record.flags[ceil_log2(CONTINUE_FLAG)]):
            m.d.sync += record.position.eq(0)
        self._mark(m, self._running, value=1)
        self._mark(m, self._aborting, self._stalled, self._telling, value=0)
        self._store(m)

    def _tell(self, m):
        """An event of what is new, or of as much as an event holds."""
        record, event = self._record, self._teller.event.payload
        unreported = Signal(32)
        last = unreported <= EVENT_TOKENS
        with m.State("TELL"):
            m.d.comb += [
                unreported.eq(record.generated - record.reported),
                event.slot.eq(record.slot),
                event.count.eq(Mux(last, unreported, EVENT_TOKENS)),
                event.tag.eq(record.flags[TAG_SHIFT:]),
                event.finish.eq(Mux(last, record.status.finish, Finish.NONE)),
                event.first.eq(record.reported),
                self._teller.event.valid.eq(1),
            ]
            with m.If(self._teller.event.ready):
                m.d.sync += [record.reported.eq(record.reported + event.count), self._event_slot.eq(record.slot)]
                self._mark(m, self._telling, value=~last)
                self._store(m)

    def _serve_bus(self, m):
        """The host's words."""
        bus = self.bus
        slot = bus.offset[_WORD_BITS:]  # of a record's word
        with m.State("BUS_READ"):
            m.d.comb += [port.addr.eq(bus.offset) for port in self._read.values()]
            m.next = "BUS"
        with m.State("BUS"):
            m.d.comb += bus.ack.eq(1)
            with m.Switch(bus.window):
                for window, port in self._read.items():
                    with m.Case(window):
                        m.d.comb += bus.read_data.eq(port.data)
            m.d.comb += [
                self._prompt_write.addr.eq(bus.offset),
                self._prompt_write.data.eq(bus.write_data),
                self._prompt_write.en.eq(bus.write & (bus.window == Window.PROMPTS)),
            ]
            with m.If(bus.write & (bus.window == Window.SESSIONS)):
                m.d.comb += [
                    self._record_write.addr.eq(bus.offset),
                    self._record_write.data.eq(bus.write_data),
                    self._record_write.en.eq(1),
                ]
                with m.Switch(bus.offset[:_WORD_BITS]):
                    with m.Case(SessionWord.CREDIT):
                        m.d.sync += self._stalled.bit_select(slot, 1).eq(0)
                    with m.Case(SessionWord.FLAGS):
                        m.d.sync += self._telling.bit_select(slot, 1).eq(0)
            m.d.sync += self._bus_served.eq(1)
            m.next = "IDLE"
