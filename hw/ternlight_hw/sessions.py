"""Sessions: their records, prompts and output rings, and the choice of which token runs next."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
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
from .layouts import STATE_ADDRESS_BITS
from .memory import ColumnMemory
from .packets import PACKET_WORD
from .sequencer import TOKEN_DONE, TOKEN_JOB
from .session_record import Record, SessionBus, next_after
from .small_memory import SmallMemory

COMMAND = data.StructLayout({"op": 8, "slot": 8})

_WORD_BITS = ceil_log2(SESSION_WORDS)
_READ_CYCLES = 2
_SETTLES = 1
"""Cycles, less one, from a change of the record or of the masks to what is derived from it."""


class Task(enum.Enum):
    """What is done with a record once it is loaded; EXPECT: nothing yet, its token is the next to come back. BUS: what
    is done is a word of the bus."""

    DISPATCH = 0
    TAKE = 1
    COMMAND = 2
    TELL = 3
    EXPECT = 4
    BUS = 5


class Sessions(wiring.Component):
    """Runs the sessions token by token, in turn; a session has one token at most in the sequencer.

    One state machine does one task at a time on one record: it starts or aborts a session, gives the next token of a
    session to the sequencer, files what came back, tells the host of new tokens, or serves a word to the bus (every
    other turn, if it wants). A task takes some 25 to 35 cycles, an event 3 more per token, a word of the bus 7; most
    of them pass while the sequencer works. The record worked on last stays at hand, and while there is nothing to do
    that of the session whose token should come back next is loaded. So from a valid `done` to the transfer of
    the session's next job are `turn` cycles, or one more for a token of a prompt, if it is the session's turn again.

    A session waits while its ring is full of tokens that the host has not taken (SessionWord.CREDIT); a token with
    credit may be overwritten, even if its event is still to come. Writing FLAGS of a slot opens a request: what events
    have not told of the one before is dropped, since they would tell it with the new tag.

    Prompts and rings share one memory: a slot has a part for either, both of the larger one's size.

    Parameters: geometry. Attributes: turn.
    Members:
        bus: In SessionBus.
        command: In stream of COMMAND; result: Out(8), abi.Result of the latest command, from the cycle after it was
        taken.
        image: In(1), an image is loaded; vocabulary: In(17); state_stride: In(16).
        job: Out stream of TOKEN_JOB, ready while the sequencer can take one, and soon after a transfer of `done`.
        done: In stream of TOKEN_DONE, in any order.
        events: Out stream of PACKET_WORD. An event begins when `ready` is set, and then everything waits for its end.
        running: Out(1), a session runs; active: Out(1), that or an event is pending; blocked: Out(1), all running
        sessions wait for the host.
    """

    turn = 6

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
        self._in_flight = Signal(slots)  # the sequencer has a token
        self._ready = Signal(slots)

        self._record = Record(slot_bits)
        self._at_hand = Signal()  # the record is the one in memory
        self._changed = Signal()  # the record is newer than the one in memory
        self._index = Signal(range(SESSION_WORDS + _READ_CYCLES))  # the word that is asked for, or stored
        self._task = Signal(Task, init=Task.EXPECT)
        self._settling = Signal(range(_SETTLES + 1))

        self._token = Signal(TOKEN_BITS)  # for the sequencer, or from it
        self._sampled = Signal()
        self._is_stop = Signal()
        self._reason = Signal(Finish)
        self._job_slot = Signal(slot_bits)  # of the latest job
        self._event_slot = Signal(slot_bits)
        self._next_job = Signal(slot_bits)
        self._next_event = Signal(slot_bits)
        self._expected = Signal(slot_bits)  # the session that has waited longest for its token
        self._bus_served = Signal()  # the bus had the latest turn

        self._records = SmallMemory(shape=unsigned(32), depth=slots * SESSION_WORDS)
        self._record_address = Signal(slot_bits + _WORD_BITS)
        sizes = {Window.PROMPTS: geometry.prompt, Window.TOKENS: geometry.ring}
        self._part_bits = {window: ceil_log2(size // TOKENS_PER_WORD) for window, size in sizes.items()}
        depth = 2 * slots << max(self._part_bits.values())
        self._tokens = ColumnMemory(depth=depth, columns=1, registered=True)
        self._teller = EventTeller()

    def elaborate(self, platform):
        m = Module()
        m.submodules.records = self._records
        m.submodules.tokens = self._tokens
        m.d.comb += self._tokens.read.enable.eq(1)
        m.d.sync += [self._records.write.en.eq(0), self._tokens.write.enable.eq(0)]
        m.submodules.teller = self._teller
        connect(m, self._teller.words, flipped(self.events))
        can_run = self._running & ~self._in_flight & (~self._stalled | self._aborting)
        m.d.sync += self._ready.eq(can_run)
        m.d.comb += [
            self.running.eq(self._running.any()),
            self.active.eq(self.running | self._telling.any()),
            self.blocked.eq(self.running & ~(can_run | self._in_flight).any()),
        ]
        self._derive(m)
        self._addresses(m)
        self._describe_event(m)
        with m.FSM():
            self._choose(m)
            self._transfer(m)
            self._settle_fate(m)
            self._dispatch(m)
            self._file(m)
            self._command(m)
            self._tell(m)
            self._serve_bus(m)
        return m

    def _derive(self, m):
        """What the states ask of the record, the masks and the host, from flip-flops: true of a cycle before."""
        record, geometry = self._record, self.geometry
        consumed, prompt_count = record.status.consumed, record.prompt_count[:16]
        writes_record = self.bus.write & (self.bus.window == Window.SESSIONS)
        untaken, following = Signal(32), Signal(32)
        self._unreported, self._following_place = Signal(32), Signal(16)
        flags = {
            "reads_prompt": consumed < prompt_count,
            "prompt_ends": self._following_place == prompt_count,
            "generates": record.max_tokens != 0,
            "reaches_length": following == record.max_tokens,
            "full": untaken >= geometry.ring,
            "fresh": record.position == 0,
            "no_prompt": record.prompt_count == 0,
            "long_prompt": record.prompt_count > geometry.prompt,
            "large_top_k": record.top_k > geometry.top_k,
            "tells_all": self._unreported <= EVENT_TOKENS,
            "again": self._next_job == record.slot,
            "aborted": record.of(self._aborting),
            "running": record.of(self._running),
            "imageless": ~self.image,
            "slotless": self.command.payload.slot >= geometry.slots,
            "credit": writes_record & (self.bus.offset[:_WORD_BITS] == SessionWord.CREDIT),
            "opening": writes_record & (self.bus.offset[:_WORD_BITS] == SessionWord.FLAGS),
        }
        self._is = {name: Signal(name=f"is_{name}") for name in flags}
        m.d.sync += [self._is[name].eq(value) for name, value in flags.items()]
        self._state = Signal(STATE_ADDRESS_BITS)
        slot = Signal.like(record.slot)  # a copy near the multiplier; it changed long before
        m.d.sync += [
            slot.eq(record.slot),
            untaken.eq(record.generated - record.credit),
            following.eq(record.generated + 1),
            self._following_place.eq(consumed + 1),
            self._unreported.eq(record.generated - record.reported),
            self._state.eq(slot * self.state_stride),
            self._next_job.eq(next_after(m, self._ready, self._job_slot)),
            self._expected.eq(next_after(m, self._in_flight, self._job_slot)),
            self._next_event.eq(next_after(m, self._telling, self._event_slot)),
        ]
        prompt_word = self._tokens.read.data  # if it was asked for
        self._prompt_token, self._is_bad = Signal(TOKEN_BITS), Signal()
        m.d.sync += [
            self._prompt_token.eq(prompt_word.word_select(consumed[0], TOKEN_BITS)),
            self._is_bad.eq(prompt_word.word_select(consumed[0], TOKEN_BITS) >= self.vocabulary),
        ]

    def _place(self, window, word, slot):
        """The address of a word of a slot's prompt or ring."""
        bits, most = self._part_bits[window], max(self._part_bits.values())
        return Cat(word[:bits], Const(0, most - bits), Const(window == Window.TOKENS, 1), slot)

    def _ring_place(self, token):
        return self._place(Window.TOKENS, token[1:], self._record.slot)

    def _addresses(self, m):
        """What the memories read: prompts and rings as the task needs it, since a state is known later in a cycle."""
        record, teller, read = self._record, self._teller, self._tokens.read
        m.d.sync += self._record_address.eq(Cat(self._index[:_WORD_BITS], record.slot))
        m.d.comb += [
            self._records.read.addr.eq(self._record_address),
            teller.token.eq(read.data.word_select(teller.index[0], TOKEN_BITS)),
        ]
        self._bus_place = {
            window: self._place(window, self.bus.offset, self.bus.offset[bits:])
            for window, bits in self._part_bits.items()
        }
        with m.Switch(self._task):
            with m.Case(Task.DISPATCH):
                m.d.comb += read.address.eq(self._place(Window.PROMPTS, record.status.consumed[1:], record.slot))
            with m.Case(Task.TELL):
                m.d.comb += read.address.eq(self._ring_place(teller.index))
            with m.Case(Task.BUS):
                is_prompt = self.bus.window == Window.PROMPTS
                m.d.comb += read.address.eq(
                    Mux(is_prompt, self._bus_place[Window.PROMPTS], self._bus_place[Window.TOKENS])
                )
            with m.Default():
                # The word of which the token that comes back is a half.
                m.d.comb += read.address.eq(self._ring_place(record.generated))

    def _describe_event(self, m):
        """What is new, or as much as an event holds."""
        record, event, last = self._record, self._teller.event.payload, self._is["tells_all"]
        m.d.comb += [
            event.slot.eq(record.slot),
            event.count.eq(Mux(last, self._unreported, EVENT_TOKENS)),
            event.tag.eq(record.flags[TAG_SHIFT:]),
            event.finish.eq(Mux(last, record.status.finish, Finish.NONE)),
            event.first.eq(record.reported),
        ]

    def _write_record(self, m, address, word):
        port = self._records.write
        m.d.sync += [port.en.eq(1), port.addr.eq(address), port.data.eq(word)]

    def _write_tokens(self, m, address, word):
        port = self._tokens.write
        m.d.sync += [port.enable.eq(1), port.address.eq(address), port.data.eq(word)]

    def _choose(self, m):
        """IDLE: the next task."""
        record = self._record
        # From flip-flops: who wants a turn still wants it a cycle later. They settle before a state leads here.
        wants_bus, wants_command, wants_dispatch, wants_tell, wants_expected = (Signal() for _ in range(5))
        others = self.done.valid | wants_command | wants_dispatch | wants_tell
        m.d.sync += [
            wants_bus.eq(self.bus.enable & ~(self._bus_served & others)),
            wants_command.eq(self.command.valid),
            wants_dispatch.eq(self._ready.any() & self.job.ready),
            wants_tell.eq(self._telling.any() & self.events.ready),
            wants_expected.eq(self._in_flight.any() & ~(self._at_hand & (record.slot == self._expected))),
        ]

        def load(slot, task):
            m.d.sync += [record.slot.eq(slot), self._index.eq(0), self._task.eq(task), self._at_hand.eq(0)]
            m.next = "LOAD"

        with m.State("IDLE"):
            with m.If(wants_bus):
                m.d.sync += self._task.eq(Task.BUS)
                m.next = "BUS_READ"
            with m.Elif(self.done.valid):
                with m.If(self._at_hand & (self.done.payload.slot == record.slot)):
                    m.d.sync += self._task.eq(Task.TAKE)
                    m.next = "TAKE"
                with m.Else():
                    load(self.done.payload.slot, Task.TAKE)
            with m.Elif(wants_command):
                with m.If(self._is["slotless"]):
                    self._answer(m, Result.NO_SUCH_SLOT)
                with m.Else():
                    load(self.command.payload.slot, Task.COMMAND)
            with m.Elif(wants_dispatch):
                load(self._next_job, Task.DISPATCH)
            with m.Elif(wants_tell):
                load(self._next_event, Task.TELL)
            with m.Elif(wants_expected):
                load(self._expected, Task.EXPECT)

    def _transfer(self, m):
        """LOAD the whole record, SETTLE and go on with the task; STORE the device's part of it."""
        words, index, data = self._record.words, self._index, self._records.read.data
        with m.State("LOAD"):
            m.d.sync += [index.eq(index + 1), self._bus_served.eq(0)]
            with m.Switch(index):
                for number, word in enumerate(words):
                    with m.Case(number + _READ_CYCLES):
                        m.d.sync += word.eq(data)
            with m.If(index == SESSION_WORDS + _READ_CYCLES - 1):
                m.d.sync += self._at_hand.eq(1)
                self._settle(m)
        with m.State("SETTLE"):
            m.d.sync += self._settling.eq(self._settling - 1)
            with m.If(self._settling == 0), m.Switch(self._task):
                for task in Task:
                    with m.Case(task):
                        m.next = "IDLE" if task is Task.EXPECT else task.name
        with m.State("STORE"):
            for number in range(SessionWord.CREDIT, SESSION_WORDS):
                with m.If(index == number):
                    self._write_record(m, Cat(index[:_WORD_BITS], self._record.slot), words[number])
            m.d.sync += [index.eq(index + 1), self._task.eq(Task.EXPECT)]
            with m.If(index == SESSION_WORDS - 1):
                m.d.sync += self._changed.eq(0)
                m.next = "IDLE"

    def _settle(self, m):
        m.d.sync += self._settling.eq(_SETTLES)
        m.next = "SETTLE"

    def _rest(self, m):
        """The end of a task that leaves the record as it is."""
        m.d.sync += self._task.eq(Task.EXPECT)
        self._settle(m)

    def _store(self, m):
        # The words before CREDIT are the host's alone.
        m.d.sync += self._index.eq(SessionWord.CREDIT)
        m.next = "STORE"

    def _mark(self, m, *masks, value):
        """Set or clear the present slot's bit of some masks."""
        m.d.sync += [self._record.of(mask).eq(value) for mask in masks]

    def _finish(self, m, reason):
        m.d.sync += self._reason.eq(reason)
        m.next = "FINISH"

    def _settle_fate(self, m):
        """States that change masks follow from few conditions, since a mask is wide."""
        with m.State("FINISH"):
            m.d.sync += [self._record.status.status.eq(Status.IDLE), self._record.status.finish.eq(self._reason)]
            self._mark(m, self._running, self._aborting, value=0)
            self._mark(m, self._telling, value=1)
            self._store(m)
        with m.State("STALL"):
            self._mark(m, self._stalled, value=1)
            self._store(m)

    def _dispatch(self, m):
        """A token to the sequencer."""
        record, job = self._record, self.job.payload
        with m.State("DISPATCH"):
            # `changed`: straight after its last token, which is right only if no other session's turn comes first.
            with m.If(self._changed & ~self._is["again"]):
                self._store(m)
            with m.Elif(self._is["aborted"]):
                self._finish(m, Finish.ABORTED)
            with m.Elif(self._is["reads_prompt"]):
                m.next = "DISPATCH_PROMPT"
            with m.Elif(self._is["full"]):
                m.next = "STALL"
            with m.Else():
                m.d.sync += self._token.eq(record.last_token)
                m.next = "DISPATCH_JOB"
        with m.State("DISPATCH_PROMPT"):
            m.d.sync += self._token.eq(self._prompt_token)
            with m.If(self._is_bad):
                self._finish(m, Finish.BAD_TOKEN)
            with m.Else():
                m.next = "DISPATCH_JOB"
        with m.State("DISPATCH_JOB"):
            m.d.comb += [
                self.job.valid.eq(1),
                job.slot.eq(record.slot),
                job.token.eq(self._token),
                job.state.eq(self._state),
                job.fresh.eq(self._is["fresh"]),
                job.head.eq(~self._is["reads_prompt"] | (self._is["prompt_ends"] & self._is["generates"])),
                job.inverse_temperature.mantissa.eq(record.inverse_temperature),
                job.inverse_temperature.exponent.eq(record.inverse_temperature[EXPONENT_SHIFT:]),
                job.top_k.eq(record.top_k),
                job.seed.eq(record.seed),
                job.position.eq(record.position),
            ]
            with m.If(self.job.ready):
                m.d.sync += self._job_slot.eq(record.slot)
                self._mark(m, self._in_flight, value=1)
                self._store(m)

    def _file(self, m):
        """A token that came back."""
        record = self._record
        with m.State("TAKE"):
            m.d.comb += self.done.ready.eq(1)
            m.d.sync += [
                self._bus_served.eq(0),
                self._token.eq(self.done.payload.token),
                self._sampled.eq(self.done.payload.sampled),
            ]
            self._mark(m, self._in_flight, value=0)
            m.next = "FILE"
        with m.State("FILE"):
            pair = self._tokens.read.data
            high = record.generated[0]
            m.d.sync += [
                self._task.eq(Task.DISPATCH),
                self._changed.eq(1),
                self._is_stop.eq(Cat(stop == self._token for stop in record.stops).any()),
                record.position.eq(record.position + 1),
            ]
            with m.If(self._is["reads_prompt"]):
                m.d.sync += record.status.consumed.eq(self._following_place)
            with m.If(self._sampled):
                self._write_tokens(
                    m,
                    self._ring_place(record.generated),
                    Mux(high, Cat(pair[:TOKEN_BITS], self._token), Cat(self._token, pair[TOKEN_BITS:])),
                )
                m.d.sync += [record.last_token.eq(self._token), record.generated.eq(record.generated + 1)]
                self._mark(m, self._telling, value=1)
            m.next = "CONCLUDE"
        with m.State("CONCLUDE"):
            # The flags are still those of the record before.
            m.d.sync += self._settling.eq(0)
            m.next = "SETTLE"
            with m.If(self._sampled & self._is_stop):
                self._finish(m, Finish.STOP)
            with m.Elif(self._sampled & self._is["reaches_length"]):
                self._finish(m, Finish.LENGTH)
            with m.Elif(self._is["aborted"]):
                self._finish(m, Finish.ABORTED)
            with m.Elif(~self._sampled & self._is["prompt_ends"]):
                self._finish(m, Finish.FED)

    def _answer(self, m, result):
        m.d.sync += self.result.eq(result)
        m.next = "ANSWER"

    def _command(self, m):
        """The host's commands."""
        record = self._record
        with m.State("COMMAND"), m.Switch(self.command.payload.op):
            with m.Case(Command.START):
                with m.If(self._is["imageless"]):
                    self._answer(m, Result.NO_IMAGE)
                with m.Elif(self._is["running"]):
                    self._answer(m, Result.SLOT_RUNNING)
                with m.Elif(self._is["no_prompt"]):
                    self._answer(m, Result.EMPTY_PROMPT)
                with m.Elif(self._is["long_prompt"]):
                    self._answer(m, Result.PROMPT_TOO_LONG)
                with m.Elif(self._is["large_top_k"]):
                    self._answer(m, Result.TOP_K_TOO_LARGE)
                with m.Else():
                    m.next = "BEGIN"
            with m.Case(Command.ABORT):
                self._answer(m, Result.OK)
                self._mark(m, self._aborting, value=self._is["running"])
            with m.Default():
                self._answer(m, Result.UNKNOWN_COMMAND)
        with m.State("ANSWER"):
            m.d.comb += self.command.ready.eq(1)
            self._rest(m)
        with m.State("BEGIN"):
            m.d.comb += self.command.ready.eq(1)
            m.d.sync += [
                self.result.eq(Result.OK),
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
        """An event, while it takes."""
        record = self._record
        with m.State("TELL"):
            m.d.comb += self._teller.event.valid.eq(1)
            with m.If(self._teller.event.ready):
                m.next = "TOLD"
        with m.State("TOLD"):
            count = self._teller.event.payload.count
            m.d.sync += [record.reported.eq(record.reported + count), self._event_slot.eq(record.slot)]
            self._mark(m, self._telling, value=~self._is["tells_all"])
            self._store(m)

    def _serve_bus(self, m):
        """The host's words."""
        bus = self.bus
        slot = bus.offset[_WORD_BITS:]  # of a record's word
        is_record = bus.window == Window.SESSIONS
        with m.State("BUS_READ"):
            m.d.sync += self._record_address.eq(bus.offset)
            m.next = "BUS_WAIT"
        with m.State("BUS_WAIT"):
            m.next = "BUS"
        with m.State("BUS"):
            m.d.comb += [
                bus.ack.eq(1),
                bus.read_data.eq(Mux(is_record, self._records.read.data, self._tokens.read.data)),
            ]
            with m.If(bus.write), m.Switch(bus.window):
                with m.Case(Window.PROMPTS):
                    self._write_tokens(m, self._bus_place[Window.PROMPTS], bus.write_data)
                with m.Case(Window.SESSIONS):
                    self._write_record(m, bus.offset, bus.write_data)
                    with m.If(slot == self._record.slot):
                        m.d.sync += self._at_hand.eq(0)
            with m.If(self._is["credit"]):
                m.d.sync += self._stalled.bit_select(slot, 1).eq(0)
            with m.If(self._is["opening"]):
                m.d.sync += self._telling.bit_select(slot, 1).eq(0)
            m.d.sync += self._bus_served.eq(1)
            self._rest(m)
