"""Sessions: their records, prompts and output rings, and the choice of which token runs next."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import (
    CONTINUE_FLAG,
    EVENT_TOKENS,
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

from .packets import PACKET_WORD
from .sequencer import TOKEN_DONE, TOKEN_JOB

COMMAND = data.StructLayout({"op": 8, "slot": 8})

_STATUS = data.StructLayout({"status": 8, "finish": 8, "consumed": 16})
_EVENT_HEADER = data.StructLayout({"slot": 8, "count": 8, "tag": 8, "finish": 8})


class Task(enum.Enum):
    """What is done with a record once it is loaded."""

    DISPATCH = 0
    FILE = 1
    COMMAND = 2
    TELL = 3


class SessionBus(wiring.Signature):
    """One word of a session window: held until `ack`, one cycle; `read_data` is valid with `ack`.

    offset: the word within the window. Reads of PROMPTS and writes of TOKENS are acknowledged without effect.
    """

    def __init__(self, *, offset_bits: int) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "write": Out(1),
                "window": Out(4),
                "offset": Out(offset_bits),
                "write_data": Out(32),
                "ack": In(1),
                "read_data": In(32),
            }
        )


class Sessions(wiring.Component):
    """Runs the sessions token by token, in turn.

    One state machine does one task at a time on one record: it starts or aborts a session, gives the next token of a
    session to the sequencer, files what came back, tells the host of new tokens, or serves a word to the bus. A task
    takes some 20 to 30 cycles, most of them while the sequencer works.

    A session waits while its ring is full of tokens that the host has not taken (SessionWord.CREDIT).

    Parameters: geometry.
    Members:
        bus: In SessionBus.
        command: In stream of COMMAND; result: Out(8), abi.Result of the latest command, valid when it was taken.
        image: In(1), an image is loaded; vocabulary: In(17); state_stride: In(16).
        job: Out stream of TOKEN_JOB; done: In stream of TOKEN_DONE.
        events: Out stream of PACKET_WORD.
        active: Out(1), a session runs or an event is pending; blocked: Out(1), all running sessions wait for the host.
    """

    def __init__(self, *, geometry: Geometry) -> None:
        self.geometry = geometry
        self.slot_bits = max(1, ceil_log2(geometry.slots))
        self.offset_bits = self.slot_bits + max(
            ceil_log2(SESSION_WORDS), ceil_log2(geometry.prompt), ceil_log2(geometry.ring)
        )
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
                "blocked": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        slots, slot_bits = self.geometry.slots, self.slot_bits
        prompt_words = self.geometry.prompt // TOKENS_PER_WORD
        ring_words = self.geometry.ring // TOKENS_PER_WORD

        m.submodules.records = records = Memory(shape=unsigned(32), depth=slots * SESSION_WORDS, init=[])
        m.submodules.prompts = prompts = Memory(shape=unsigned(32), depth=slots * prompt_words, init=[])
        m.submodules.rings = rings = Memory(shape=unsigned(32), depth=slots * ring_words, init=[])
        record_read, record_write = records.read_port(), records.write_port()
        prompt_read, prompt_write = prompts.read_port(), prompts.write_port()
        ring_read, ring_write = rings.read_port(), rings.write_port(granularity=TOKEN_BITS)

        running = Signal(slots)
        aborting = Signal(slots)
        stalled = Signal(slots)  # the ring was full when the session's turn came
        telling = Signal(slots)  # has something that events have not told

        slot = Signal(slot_bits)
        record = [Signal(32, name=word.name.lower()) for word in SessionWord if word != SessionWord.STOP]
        stops = [Signal(32, name=f"stop_{index}") for index in range(STOP_TOKENS)]
        words = [*record[: SessionWord.STOP], *stops, *record[SessionWord.STOP :]]
        flags, prompt_count, max_tokens, inverse_temperature, top_k, seed = words[: SessionWord.STOP]
        credit, status_word, generated, position, last_token, reported = words[SessionWord.CREDIT :]
        status = data.View(_STATUS, status_word)
        state = Signal(16)  # slot * state_stride

        def of(mask):
            return mask.bit_select(slot, 1)

        # A fair choice: the first candidate after the latest slot.
        def next_after(mask, latest):
            chosen = Signal(slot_bits)
            for distance in reversed(range(1, slots + 1)):
                for start in range(slots):
                    candidate = (start + distance) % slots
                    with m.If((latest == start) & mask[candidate]):
                        m.d.comb += chosen.eq(candidate)
            return chosen

        ready = running & (~stalled | aborting)
        job_slot = Signal(slot_bits)
        in_flight = Signal()  # the sequencer has a token of job_slot
        was_prompt = Signal()
        event_slot = Signal(slot_bits)
        next_job, next_event = next_after(ready, job_slot), next_after(telling, event_slot)
        m.d.comb += [
            self.active.eq(running.any() | telling.any()),
            self.blocked.eq(running.any() & ~ready.any() & ~in_flight),
        ]

        # Loading and storing the record of `slot`, word by word.
        index = Signal(range(SESSION_WORDS + 1))
        m.d.comb += record_read.addr.eq(Cat(index[:4], slot))
        m.d.sync += state.eq(slot * self.state_stride)

        task = Signal(Task)

        def load(next_slot, next_task):
            m.d.sync += [slot.eq(next_slot), index.eq(0), task.eq(next_task)]
            m.next = "LOAD"

        def store():
            m.d.sync += index.eq(SessionWord.CREDIT)
            m.next = "STORE"

        def finish(reason):
            m.d.sync += [status.status.eq(Status.IDLE), status.finish.eq(reason)]
            m.d.sync += [running.bit_select(slot, 1).eq(0), aborting.bit_select(slot, 1).eq(0)]
            m.d.sync += telling.bit_select(slot, 1).eq(1)

        def refuse(result):
            m.d.sync += self.result.eq(result)
            m.d.comb += self.command.ready.eq(1)
            m.next = "IDLE"

        token = Signal(TOKEN_BITS)
        prompt_address = Cat(status.consumed[1 : ceil_log2(self.geometry.prompt)], slot)
        prompt_token = prompt_read.data.word_select(status.consumed[0], TOKEN_BITS)
        from_prompt = status.consumed < prompt_count[:16]
        last_of_prompt = status.consumed + 1 == prompt_count[:16]
        m.d.comb += prompt_read.addr.eq(prompt_address)
        told = Signal(range(EVENT_TOKENS + 1))  # tokens of the event so far
        count = Signal(range(EVENT_TOKENS + 1))
        told_index = Signal(32)
        m.d.comb += told_index.eq(reported + told)
        m.d.comb += ring_read.addr.eq(Cat(told_index[1 : ceil_log2(self.geometry.ring)], slot))
        ring_token = ring_read.data.word_select(told_index[0], TOKEN_BITS)
        low_token = Signal(TOKEN_BITS)
        header = Signal(_EVENT_HEADER)
        is_stop = Cat(stop == self.done.payload.token for stop in stops).any()
        unreported = Signal(32)
        m.d.comb += unreported.eq(generated - reported)
        bus_slot = self.bus.offset[ceil_log2(SESSION_WORDS) :]

        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.done.valid):
                    load(job_slot, Task.FILE)
                with m.Elif(self.command.valid):
                    with m.If(self.command.payload.slot >= slots):
                        refuse(Result.NO_SUCH_SLOT)
                    with m.Else():
                        load(self.command.payload.slot, Task.COMMAND)
                with m.Elif(ready.any() & ~in_flight):
                    load(next_job, Task.DISPATCH)
                with m.Elif(telling.any() & self.events.ready):
                    load(next_event, Task.TELL)
                with m.Elif(self.bus.enable):
                    m.d.sync += [index.eq(self.bus.offset[:4]), slot.eq(bus_slot)]
                    m.next = "BUS_READ"
            with m.State("LOAD"):
                m.d.sync += index.eq(index + 1)
                with m.Switch(index):
                    for number, word in enumerate(words):
                        with m.Case(number + 1):
                            m.d.sync += word.eq(record_read.data)
                with m.If(index == SESSION_WORDS):
                    m.d.sync += told.eq(0)
                    with m.Switch(task):
                        for following in Task:
                            with m.Case(following):
                                m.next = following.name
            with m.State("STORE"):
                # The words before CREDIT are the host's alone.
                m.d.comb += [
                    record_write.addr.eq(Cat(index[:4], slot)),
                    record_write.en.eq(1),
                ]
                with m.Switch(index):
                    for number in range(SessionWord.CREDIT, SESSION_WORDS):
                        with m.Case(number):
                            m.d.comb += record_write.data.eq(words[number])
                m.d.sync += index.eq(index + 1)
                with m.If(index == SESSION_WORDS - 1):
                    m.next = "IDLE"

            # A token to the sequencer.
            with m.State("DISPATCH"):
                m.d.sync += job_slot.eq(slot)
                with m.If(of(aborting)):
                    finish(Finish.ABORTED)
                    store()
                with m.Elif(from_prompt):
                    m.next = "DISPATCH_PROMPT"
                with m.Elif(generated - credit >= self.geometry.ring):
                    m.d.sync += stalled.bit_select(slot, 1).eq(1)
                    m.next = "IDLE"
                with m.Else():
                    m.d.sync += [token.eq(last_token), was_prompt.eq(0)]
                    m.next = "DISPATCH_JOB"
            with m.State("DISPATCH_PROMPT"):
                m.d.sync += [token.eq(prompt_token), was_prompt.eq(1)]
                with m.If(prompt_token >= self.vocabulary):
                    finish(Finish.BAD_TOKEN)
                    store()
                with m.Else():
                    m.next = "DISPATCH_JOB"
            with m.State("DISPATCH_JOB"):
                m.d.comb += [
                    self.job.valid.eq(1),
                    self.job.payload.token.eq(token),
                    self.job.payload.state.eq(state),
                    self.job.payload.fresh.eq(position == 0),
                    self.job.payload.head.eq(Mux(was_prompt, last_of_prompt & (max_tokens != 0), 1)),
                    self.job.payload.inverse_temperature.mantissa.eq(inverse_temperature),
                    self.job.payload.inverse_temperature.exponent.eq(inverse_temperature[EXPONENT_SHIFT:].as_signed()),
                    self.job.payload.top_k.eq(top_k),
                    self.job.payload.seed.eq(seed),
                    self.job.payload.position.eq(position),
                ]
                with m.If(self.job.ready):
                    m.d.sync += in_flight.eq(1)
                    m.next = "IDLE"

            # A token that came back.
            with m.State("FILE"):
                m.d.sync += position.eq(position + 1)
                with m.If(was_prompt):
                    m.d.sync += status.consumed.eq(status.consumed + 1)
                with m.If(self.done.payload.sampled):
                    m.d.comb += [
                        ring_write.addr.eq(Cat(generated[1 : ceil_log2(self.geometry.ring)], slot)),
                        ring_write.data.eq(self.done.payload.token.replicate(TOKENS_PER_WORD)),
                        ring_write.en.eq(1 << generated[0]),
                    ]
                    m.d.sync += [
                        last_token.eq(self.done.payload.token),
                        generated.eq(generated + 1),
                        telling.bit_select(slot, 1).eq(1),
                    ]
                    with m.If(is_stop):
                        finish(Finish.STOP)
                    with m.Elif(generated + 1 == max_tokens):
                        finish(Finish.LENGTH)
                    with m.Elif(of(aborting)):
                        finish(Finish.ABORTED)
                with m.Elif(of(aborting)):
                    finish(Finish.ABORTED)
                with m.Elif(last_of_prompt):
                    finish(Finish.FED)
                m.d.comb += self.done.ready.eq(1)
                m.d.sync += in_flight.eq(0)
                store()

            # Commands.
            with m.State("COMMAND"), m.Switch(self.command.payload.op):
                with m.Case(Command.START):
                    with m.If(~self.image):
                        refuse(Result.NO_IMAGE)
                    with m.Elif(of(running)):
                        refuse(Result.SLOT_RUNNING)
                    with m.Elif(prompt_count == 0):
                        refuse(Result.EMPTY_PROMPT)
                    with m.Elif(prompt_count > self.geometry.prompt):
                        refuse(Result.PROMPT_TOO_LONG)
                    with m.Elif(top_k > self.geometry.top_k):
                        refuse(Result.TOP_K_TOO_LARGE)
                    with m.Else():
                        refuse(Result.OK)
                        m.d.sync += [
                            status.status.eq(Status.RUNNING),
                            status.finish.eq(Finish.NONE),
                            status.consumed.eq(0),
                            generated.eq(0),
                            reported.eq(0),
                            credit.eq(0),
                            running.bit_select(slot, 1).eq(1),
                            aborting.bit_select(slot, 1).eq(0),
                            stalled.bit_select(slot, 1).eq(0),
                            telling.bit_select(slot, 1).eq(0),
                        ]
                        with m.If(~flags[ceil_log2(CONTINUE_FLAG)]):
                            m.d.sync += position.eq(0)
                        store()
                with m.Case(Command.ABORT):
                    refuse(Result.OK)
                    m.d.sync += aborting.bit_select(slot, 1).eq(of(running))
                with m.Default():
                    refuse(Result.UNKNOWN_COMMAND)

            # Events.
            with m.State("TELL"):
                last_event = unreported <= EVENT_TOKENS
                m.d.comb += [
                    self.events.valid.eq(1),
                    self.events.payload.word.eq(header.as_value()),
                    header.slot.eq(slot),
                    header.count.eq(Mux(last_event, unreported, EVENT_TOKENS)),
                    header.tag.eq(flags[TAG_SHIFT:]),
                    header.finish.eq(Mux(last_event, status.finish, Finish.NONE)),
                ]
                m.d.sync += count.eq(header.count)
                with m.If(self.events.ready):
                    m.d.sync += [telling.bit_select(slot, 1).eq(~last_event), event_slot.eq(slot)]
                    m.next = "TELL_INDEX"
            with m.State("TELL_INDEX"):
                m.d.comb += [
                    self.events.valid.eq(1),
                    self.events.payload.word.eq(reported),
                    self.events.payload.last.eq(count == 0),
                ]
                with m.If(self.events.ready):
                    m.next = "TELL_READ"
            with m.State("TELL_READ"):
                with m.If(told == count):
                    m.d.sync += reported.eq(told_index)
                    store()
                with m.Else():
                    m.next = "TELL_TOKEN"
            with m.State("TELL_TOKEN"):
                last_of_event = told + 1 == count
                m.d.comb += [
                    self.events.valid.eq(told[0] | last_of_event),
                    self.events.payload.word.eq(Mux(told[0], Cat(low_token, ring_token), ring_token)),
                    self.events.payload.last.eq(last_of_event),
                ]
                with m.If(~self.events.valid | self.events.ready):
                    m.d.sync += [low_token.eq(ring_token), told.eq(told + 1)]
                    m.next = "TELL_READ"

            # The host's words.
            with m.State("BUS_READ"):
                m.d.comb += ring_read.addr.eq(self.bus.offset)
                m.next = "BUS"
            with m.State("BUS"):
                m.d.comb += [
                    self.bus.ack.eq(1),
                    self.bus.read_data.eq(Mux(self.bus.window == Window.TOKENS, ring_read.data, record_read.data)),
                    prompt_write.addr.eq(self.bus.offset),
                    prompt_write.data.eq(self.bus.write_data),
                    prompt_write.en.eq(self.bus.write & (self.bus.window == Window.PROMPTS)),
                    record_write.addr.eq(self.bus.offset),
                    record_write.data.eq(self.bus.write_data),
                    record_write.en.eq(self.bus.write & (self.bus.window == Window.SESSIONS)),
                ]
                # The host may have given credit.
                m.d.sync += stalled.bit_select(slot, 1).eq(0)
                m.next = "IDLE"
        return m
