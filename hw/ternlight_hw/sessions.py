"""Sessions: their records, prompts and output rings, and the choice of which token runs next."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import ceil_log2

from ternlight.abi import (
    CONTINUE_FLAG,
    EXPONENT_SHIFT,
    SESSION_WORDS,
    STOP_TOKENS,
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

from .block_memory import BlockMemory
from .event_teller import EventTeller
from .packets import PACKET_WORD
from .sequencer import TOKEN_DONE, TOKEN_JOB
from .session_record import Mark, Record, SessionBus, next_after

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
    other turn, if it wants). A task takes some 20 to 30 cycles, an event 3 more per token, a word of the bus 4; most
    of them pass while the sequencer works. From a valid `done` to the transfer of the next job are 44 cycles.

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
        self._running = Mark(slots)
        self._aborting = Mark(slots)
        self._stalled = Mark(slots)  # the ring was full at the session's turn, and no credit came since
        self._telling = Mark(slots)  # has something that events have not told
        self._ready = Signal(slots)

        self._record = Record(geometry, slot_bits)
        self._index = Signal(range(SESSION_WORDS + 2))  # of the word that is loaded or stored
        self._loaded = Signal(32)
        self._is_stop = Signal()  # the token that came back is a stop token
        self._task = Signal(Task)
        self._state = Signal(16)  # slot * state_stride, one bit of the slot after the other
        self._stride, self._slot_rest = Signal(16), Signal(slot_bits)
        self._is_running, self._is_aborting = Signal(), Signal()

        self._prompt_word, self._ring_word = Signal(32), Signal(32)
        self._prompt_token = Signal(TOKEN_BITS)
        self._is_bad = Signal()  # that token is beyond the vocabulary
        self._token = Signal(TOKEN_BITS)  # for the sequencer
        self._was_prompt = Signal()
        self._in_flight = Signal()  # the sequencer has a token of job_slot
        self._job_slot = Signal(slot_bits)
        self._event_slot = Signal(slot_bits)
        self._bus_served = Signal()  # the bus had the latest turn

        prompt_words, ring_words = geometry.prompt // TOKENS_PER_WORD, geometry.ring // TOKENS_PER_WORD
        self._memories = {
            Window.SESSIONS: BlockMemory(shape=unsigned(32), depth=slots * SESSION_WORDS),
            Window.PROMPTS: BlockMemory(shape=unsigned(32), depth=slots * prompt_words),
            Window.TOKENS: BlockMemory(shape=unsigned(32), depth=slots * ring_words, granularity=TOKEN_BITS),
        }
        self._read = {window: memory.read for window, memory in self._memories.items()}
        record_write = self._memories[Window.SESSIONS].write
        self._record_write = Signal(data.StructLayout({"en": 1, "addr": len(record_write.addr), "data": 32}))
        self._prompt_write = self._memories[Window.PROMPTS].write
        self._ring_write = self._memories[Window.TOKENS].write
        self._teller = EventTeller()

    def elaborate(self, platform):
        m = Module()
        for window, memory in self._memories.items():
            m.submodules[window.name.lower()] = memory
        m.submodules.teller = self._teller
        connect(m, self._teller.words, flipped(self.events))
        self._record.derive(m)
        m.d.sync += [
            self._is_running.eq(self._record.of(self._running.slots)),
            self._is_aborting.eq(self._record.of(self._aborting.slots)),
        ]
        m.d.comb += [
            self._ready.eq(self._running.slots & (~self._stalled.slots | self._aborting.slots)),
            self.running.eq(self._running.slots.any()),
            self.active.eq(self.running | self._telling.slots.any()),
            self.blocked.eq(self.running & ~self._ready.any()),
        ]
        for mark in (self._running, self._aborting, self._stalled, self._telling):
            self._record.mark(m, mark)
        self._read_memories(m)
        self._offer(m)
        job_waits, next_job = next_after(m, self._ready, self._job_slot)
        event_waits, next_event = next_after(m, self._telling.slots, self._event_slot)
        with m.FSM():
            self._choose(m, job_waits=job_waits, next_job=next_job, event_waits=event_waits, next_event=next_event)
            self._transfer(m)
            self._dispatch(m)
            self._file(m)
            self._command(m)
            self._tell(m)
            self._serve_bus(m)
        return m

    def _read_memories(self, m):
        """What the memories read while it is not the bus's turn. Their outputs are late, and pass a register first; so
        do the words of a record on their way in, which are chosen from many."""
        record, teller = self._record, self._teller
        # A record is read from its middle on: what others are computed from comes before what is only kept.
        address = self._index ^ SESSION_WORDS // 2
        m.d.comb += [
            self._read[Window.SESSIONS].addr.eq(Cat(address[:_WORD_BITS], record.slot)),
            self._read[Window.PROMPTS].addr.eq(
                Cat(record.status.consumed[1 : ceil_log2(self.geometry.prompt)], record.slot)
            ),
            self._read[Window.TOKENS].addr.eq(Cat(teller.index[1 : ceil_log2(self.geometry.ring)], record.slot)),
            teller.token.eq(self._ring_word.word_select(teller.index[0], TOKEN_BITS)),
        ]
        write = self._memories[Window.SESSIONS].write
        m.d.comb += [getattr(write, name).eq(self._record_write[name]) for name in ("en", "addr", "data")]
        m.d.sync += [
            self._record_write.en.eq(0),
            self._record_write.addr.eq(self.bus.offset),
            self._record_write.data.eq(self.bus.write_data),
            self._loaded.eq(self._read[Window.SESSIONS].data),
            self._prompt_word.eq(self._read[Window.PROMPTS].data),
            self._ring_word.eq(self._read[Window.TOKENS].data),
            self._prompt_token.eq(self._prompt_word.word_select(record.status.consumed[0], TOKEN_BITS)),
            self._is_bad.eq(~(self._prompt_token < self.vocabulary)),
        ]

    def _offer(self, m):
        """What is given away; whether anyone may take it, the states say."""
        record, bus, job, event = self._record, self.bus, self.job.payload, self._teller.event.payload
        m.d.comb += [
            job.token.eq(self._token),
            job.state.eq(self._state),
            job.fresh.eq(record.fresh),
            job.head.eq(~self._was_prompt | (record.ends_prompt & record.generates)),
            job.inverse_temperature.mantissa.eq(record.inverse_temperature),
            job.inverse_temperature.exponent.eq(record.inverse_temperature[EXPONENT_SHIFT:]),
            job.top_k.eq(record.top_k),
            job.seed.eq(record.seed),
            job.position.eq(record.position),
            event.slot.eq(record.slot),
            event.count.eq(record.event_count),
            event.tag.eq(record.flags[TAG_SHIFT:]),
            event.finish.eq(Mux(record.fits_event, record.status.finish, Finish.NONE)),
            event.first.eq(record.offset),
            self._ring_write.addr.eq(Cat(record.generated[1 : ceil_log2(self.geometry.ring)], record.slot)),
            self._ring_write.data.eq(self.done.payload.token.replicate(TOKENS_PER_WORD)),
            self._prompt_write.addr.eq(bus.offset),
            self._prompt_write.data.eq(bus.write_data),
            bus.read_data.eq(self._loaded),
        ]
        with m.Switch(bus.window):
            with m.Case(Window.PROMPTS):
                m.d.comb += bus.read_data.eq(self._prompt_word)
            with m.Case(Window.TOKENS):
                m.d.comb += bus.read_data.eq(self._ring_word)

    def _choose(self, m, *, job_waits, next_job, event_waits, next_event):
        """IDLE: the next task."""
        wants_dispatch = job_waits & ~self._in_flight
        wants_tell = event_waits & self.events.ready
        others = self.done.valid | self.command.valid | wants_dispatch | wants_tell

        def load(slot, task):
            m.d.sync += [self._record.slot.eq(slot), self._index.eq(0), self._task.eq(task)]
            m.next = "LOAD"

        with m.State("SETTLE"):
            # What waits is seen one cycle after the last change.
            m.next = "IDLE"
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
        """LOAD the record and go on with the task; STORE what the task changed."""
        record, index = self._record, self._index
        with m.State("LOAD"):
            m.d.sync += [index.eq(index + 1), self._bus_served.eq(0)]
            with m.If(index == 0):
                m.d.sync += [
                    self._is_stop.eq(0),
                    self._state.eq(0),
                    self._stride.eq(self.state_stride),
                    self._slot_rest.eq(record.slot),
                ]
            with m.Else():
                m.d.sync += [self._stride.eq(self._stride << 1), self._slot_rest.eq(self._slot_rest >> 1)]
                with m.If(self._slot_rest[0]):
                    m.d.sync += self._state.eq(self._state + self._stride)
            with m.Switch(index):
                # Two registers behind the address.
                for number in range(SESSION_WORDS):
                    with m.Case((number ^ SESSION_WORDS // 2) + 2):
                        record.load(m, number, self._loaded, tells=self._task == Task.TELL)
                        if SessionWord.STOP <= number < SessionWord.STOP + STOP_TOKENS:
                            with m.If(self._loaded == self.done.payload.token):
                                m.d.sync += self._is_stop.eq(1)
            with m.If(index == SESSION_WORDS + 1), m.Switch(self._task):
                for task in Task:
                    with m.Case(task):
                        m.next = task.name
        with m.State("STORE"):
            write = self._record_write
            m.d.sync += [write.addr.eq(Cat(index[:_WORD_BITS], record.slot)), write.en.eq(1)]
            with m.Switch(index):
                for number, word in record.stored().items():
                    with m.Case(number):
                        m.d.sync += write.data.eq(word)
            m.d.sync += index.eq(index + 1)
            with m.Switch(self._task):
                with m.Case(Task.FILE, Task.DISPATCH), m.If(index == SessionWord.LAST_TOKEN):
                    m.next = "IDLE"
                with m.Default(), m.If(index == SessionWord.REPORTED):
                    m.next = "IDLE"

    def _store(self, m, first):
        """Store from this word on: to the last one, but FILE and DISPATCH leave that as it is."""
        m.d.sync += self._index.eq(first)
        m.next = "STORE"

    def _mark(self, m, *marks, value):
        """Set or clear the present slot's bit of some masks."""
        for mark in marks:
            m.d.comb += [mark.change.eq(1), mark.value.eq(value)]

    def _finish(self, m, reason):
        m.d.sync += [self._record.status.status.eq(Status.IDLE), self._record.status.finish.eq(reason)]
        self._mark(m, self._running, self._aborting, value=0)
        self._mark(m, self._telling, value=1)

    def _dispatch(self, m):
        """A token to the sequencer."""
        record = self._record
        with m.State("DISPATCH"):
            m.d.sync += [
                self._token.eq(Mux(record.reading, self._prompt_token, record.last_token)),
                self._was_prompt.eq(record.reading),
            ]
            m.next = "DISPATCH_JOB"
            with m.If(self._is_aborting):
                self._finish(m, Finish.ABORTED)
                self._store(m, SessionWord.STATUS)
            with m.Elif(record.reading & self._is_bad):
                self._finish(m, Finish.BAD_TOKEN)
                self._store(m, SessionWord.STATUS)
            with m.Elif(~record.reading & record.is_full):
                self._mark(m, self._stalled, value=1)
                m.next = "SETTLE"
        with m.State("DISPATCH_JOB"):
            m.d.comb += self.job.valid.eq(1)
            with m.If(self.job.ready):
                m.d.sync += [self._in_flight.eq(1), self._job_slot.eq(record.slot)]
                m.next = "SETTLE"

    def _file(self, m):
        """A token that came back."""
        record, done = self._record, self.done.payload
        with m.State("FILE"):
            m.d.comb += self.done.ready.eq(1)
            self._store(m, SessionWord.STATUS)
            m.d.sync += [self._in_flight.eq(0), record.position.eq(record.position + 1)]
            with m.If(self._was_prompt):
                m.d.sync += record.status.consumed.eq(record.status.consumed + 1)
            with m.If(done.sampled):
                m.d.comb += self._ring_write.en.eq(1 << record.generated[0])
                m.d.sync += [
                    record.last_token.eq(done.token),
                    record.generated.eq(record.generated_next),
                ]
                self._mark(m, self._telling, value=1)
                with m.If(self._is_stop):
                    self._finish(m, Finish.STOP)
                with m.Elif(record.is_last):
                    self._finish(m, Finish.LENGTH)
                with m.Elif(self._is_aborting):
                    self._finish(m, Finish.ABORTED)
            with m.Elif(self._is_aborting):
                self._finish(m, Finish.ABORTED)
            with m.Elif(record.ends_prompt):
                self._finish(m, Finish.FED)

    def _answer(self, m, result):
        m.d.sync += self.result.eq(result)
        m.d.comb += self.command.ready.eq(1)
        m.next = "SETTLE"

    def _command(self, m):
        """The host's commands."""
        record = self._record
        with m.State("COMMAND"), m.Switch(self.command.payload.op):
            with m.Case(Command.START):
                with m.If(~self.image):
                    self._answer(m, Result.NO_IMAGE)
                with m.Elif(self._is_running):
                    self._answer(m, Result.SLOT_RUNNING)
                with m.Elif(record.empty):
                    self._answer(m, Result.EMPTY_PROMPT)
                with m.Elif(record.too_long):
                    self._answer(m, Result.PROMPT_TOO_LONG)
                with m.Elif(record.top_k_too_large):
                    self._answer(m, Result.TOP_K_TOO_LARGE)
                with m.Else():
                    self._answer(m, Result.OK)
                    self._begin(m)
            with m.Case(Command.ABORT):
                self._answer(m, Result.OK)
                self._mark(m, self._aborting, value=self._is_running)
            with m.Default():
                self._answer(m, Result.UNKNOWN_COMMAND)

    def _begin(self, m):
        record = self._record
        m.d.sync += [
            record.status.status.eq(Status.RUNNING),
            record.status.finish.eq(Finish.NONE),
            record.status.consumed.eq(0),
            record.generated.eq(0),
            record.offset.eq(0),
        ]
        with m.If(~record.flags[ceil_log2(CONTINUE_FLAG)]):
            m.d.sync += record.position.eq(0)
        self._mark(m, self._running, value=1)
        self._mark(m, self._aborting, self._stalled, self._telling, value=0)
        self._store(m, SessionWord.CREDIT)

    def _tell(self, m):
        """An event of what is new, or of as much as an event holds."""
        record = self._record
        with m.State("TELL"):
            m.d.comb += self._teller.event.valid.eq(1)
            with m.If(self._teller.event.ready):
                m.d.sync += [record.offset.eq(record.offset + record.event_count), self._event_slot.eq(record.slot)]
                self._mark(m, self._telling, value=~record.fits_event)
                self._store(m, SessionWord.REPORTED)

    def _serve_bus(self, m):
        """The host's words."""
        bus = self.bus
        with m.State("BUS_READ"):
            m.d.comb += [port.addr.eq(bus.offset) for port in self._read.values()]
            # Between tasks: the slot whose marks a record's word may change.
            m.d.sync += self._record.slot.eq(bus.offset[_WORD_BITS:])
            m.next = "BUS_WORD"
        with m.State("BUS_WORD"):
            m.next = "BUS"
        with m.State("BUS"):
            m.d.comb += [
                bus.ack.eq(1),
                self._prompt_write.en.eq(bus.write & (bus.window == Window.PROMPTS)),
            ]
            with m.If(bus.write & (bus.window == Window.SESSIONS)):
                m.d.sync += self._record_write.en.eq(1)
                with m.Switch(bus.offset[:_WORD_BITS]):
                    with m.Case(SessionWord.CREDIT):
                        self._mark(m, self._stalled, value=0)
                    with m.Case(SessionWord.FLAGS):
                        self._mark(m, self._telling, value=0)
            m.d.sync += self._bus_served.eq(1)
            m.next = "SETTLE"
