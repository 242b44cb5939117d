"""The golden model of the sessions: what each transaction with the host and the sequencer does, and must show.

Time is not modelled. A session can end between two transactions without one of its own (aborted while it waits for its
turn, or a bad token in its prompt); `settle` makes that step when it was observed. When a session with a bad token is
aborted, either end is right: the model takes the abort.
"""

from __future__ import annotations

from typing import Any

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
    pack_tokens,
)
from ternlight.geometry import Geometry
from ternlight.ufloat import EXPONENT_BITS, MANTISSA_BITS

_TOKEN_MASK = (1 << TOKEN_BITS) - 1


class SessionsModel:
    """The twin of the gateware's Sessions.

    Parameters: geometry, vocabulary, state_stride; image: one is loaded.
    """

    def __init__(self, geometry: Geometry, *, vocabulary: int, state_stride: int, image: bool = True) -> None:
        self.geometry = geometry
        self.vocabulary = vocabulary
        self.state_stride = state_stride
        self.image = image
        slots = geometry.slots
        self.records = [[0] * SESSION_WORDS for _ in range(slots)]
        self.prompts = [[0] * geometry.prompt for _ in range(slots)]
        self.rings = [[0] * geometry.ring for _ in range(slots)]
        self.running: set[int] = set()
        self.aborting: set[int] = set()
        self.telling: set[int] = set()
        self.in_flight: dict[int, bool] = {}  # slot: its job is a token of the prompt
        self.job_slot = 0
        self.event_slot = 0

    def read(self, window: Window, offset: int) -> int:
        """A word of a session window."""
        if window == Window.SESSIONS:
            return self.records[offset // SESSION_WORDS][offset % SESSION_WORDS]
        buffers = self.prompts if window == Window.PROMPTS else self.rings
        slot, index = divmod(offset * TOKENS_PER_WORD, len(buffers[0]))
        return pack_tokens(buffers[slot][index : index + TOKENS_PER_WORD])[0]

    def write(self, window: Window, offset: int, word: int) -> None:
        """The host's write of a word; TOKENS cannot be written."""
        if window == Window.SESSIONS:
            slot, index = divmod(offset, SESSION_WORDS)
            self.records[slot][index] = word
            if index == SessionWord.FLAGS:
                self.telling.discard(slot)
        elif window == Window.PROMPTS:
            slot, index = divmod(offset * TOKENS_PER_WORD, self.geometry.prompt)
            for place in range(TOKENS_PER_WORD):
                self.prompts[slot][index + place] = word >> TOKEN_BITS * place & _TOKEN_MASK

    def command(self, op: int, slot: int) -> Result:
        """A command; it is executed unless it is refused."""
        if slot >= self.geometry.slots:
            return Result.NO_SUCH_SLOT
        if op == Command.ABORT:
            self.aborting |= {slot} & self.running
            return Result.OK
        if op != Command.START:
            return Result.UNKNOWN_COMMAND
        record = self.records[slot]
        if not self.image:
            return Result.NO_IMAGE
        if slot in self.running:
            return Result.SLOT_RUNNING
        if record[SessionWord.PROMPT_COUNT] == 0:
            return Result.EMPTY_PROMPT
        if record[SessionWord.PROMPT_COUNT] > self.geometry.prompt:
            return Result.PROMPT_TOO_LONG
        if record[SessionWord.TOP_K] > self.geometry.top_k:
            return Result.TOP_K_TOO_LARGE
        record[SessionWord.STATUS] = Status.RUNNING
        for word in (SessionWord.CREDIT, SessionWord.GENERATED, SessionWord.REPORTED):
            record[word] = 0
        if not record[SessionWord.FLAGS] & CONTINUE_FLAG:
            record[SessionWord.POSITION] = 0
        self.running.add(slot)
        self.telling.discard(slot)
        return Result.OK

    def silent_end(self, slot: int) -> Finish:
        """How the session ends at its turn, or has ended since, without a job for the sequencer; NONE if it goes on."""
        if slot not in self.running or slot in self.in_flight:
            return Finish.NONE
        if slot in self.aborting:
            return Finish.ABORTED
        consumed = self._consumed(slot)
        if consumed < self.records[slot][SessionWord.PROMPT_COUNT]:
            return Finish.BAD_TOKEN if self.prompts[slot][consumed] >= self.vocabulary else Finish.NONE
        return Finish.NONE

    def settle(self, slot: int) -> bool:
        """Make the step of `silent_end`; whether there was one."""
        finish = self.silent_end(slot)
        if finish == Finish.NONE:
            return False
        self._finish(slot, finish)
        return True

    def next_job(self) -> dict[str, Any] | None:
        """The next job for the sequencer, or None while no session can go on; sessions that end on the way do so."""
        assert len(self.in_flight) < self.geometry.contexts
        for slot in self._turns(self.job_slot):
            record = self.records[slot]
            consumed = self._consumed(slot)
            if slot not in self.running or slot in self.in_flight or self.settle(slot):
                continue
            from_prompt = consumed < record[SessionWord.PROMPT_COUNT]
            if not from_prompt and record[SessionWord.GENERATED] - record[SessionWord.CREDIT] >= self.geometry.ring:
                continue
            last = consumed + 1 == record[SessionWord.PROMPT_COUNT]
            scale = record[SessionWord.INVERSE_TEMPERATURE]
            mantissa = scale & (1 << MANTISSA_BITS) - 1
            exponent = scale >> EXPONENT_SHIFT & (1 << EXPONENT_BITS) - 1
            self.in_flight[slot], self.job_slot = from_prompt, slot
            return {
                "slot": slot,
                "token": self.prompts[slot][consumed] if from_prompt else record[SessionWord.LAST_TOKEN],
                "state": slot * self.state_stride,
                "fresh": int(record[SessionWord.POSITION] == 0),
                "head": int(not from_prompt or (last and record[SessionWord.MAX_TOKENS] != 0)),
                "inverse_temperature": mantissa | exponent << MANTISSA_BITS,
                "top_k": record[SessionWord.TOP_K],
                "seed": record[SessionWord.SEED],
                "position": record[SessionWord.POSITION],
            }
        return None

    def done(self, slot: int, token: int, sampled: bool) -> None:
        """The job of a slot came back, with a token if it sampled one."""
        was_prompt = self.in_flight.pop(slot)
        record = self.records[slot]
        record[SessionWord.POSITION] += 1
        if was_prompt:
            record[SessionWord.STATUS] += 1 << 16
        if sampled:
            self.rings[slot][record[SessionWord.GENERATED] % self.geometry.ring] = token
            record[SessionWord.LAST_TOKEN] = token
            record[SessionWord.GENERATED] += 1
            self.telling.add(slot)
            if token in record[SessionWord.STOP : SessionWord.STOP + STOP_TOKENS]:
                return self._finish(slot, Finish.STOP)
            if record[SessionWord.GENERATED] == record[SessionWord.MAX_TOKENS]:
                return self._finish(slot, Finish.LENGTH)
        if slot in self.aborting:
            return self._finish(slot, Finish.ABORTED)
        if not sampled and self._consumed(slot) == record[SessionWord.PROMPT_COUNT]:
            return self._finish(slot, Finish.FED)
        return None

    def next_event(self) -> int | None:
        """The slot whose event is told next, or None when all is told."""
        return next((slot for slot in self._turns(self.event_slot) if slot in self.telling), None)

    def tell(self, slot: int) -> list[int]:
        """The words of an event of a slot, which the host then knows."""
        record = self.records[slot]
        first, generated = record[SessionWord.REPORTED], record[SessionWord.GENERATED]
        count = min(EVENT_TOKENS, generated - first)
        record[SessionWord.REPORTED] += count
        finish = Finish.NONE
        if first + count == generated:
            finish = Finish(record[SessionWord.STATUS] >> 8 & 0xFF)
            self.telling.discard(slot)
        self.event_slot = slot
        tag = record[SessionWord.FLAGS] >> TAG_SHIFT & 0xFF
        tokens = [self.rings[slot][index % self.geometry.ring] for index in range(first, first + count)]
        return [slot | count << 8 | tag << 16 | finish << 24, first, *pack_tokens(tokens)]

    def _consumed(self, slot: int) -> int:
        return self.records[slot][SessionWord.STATUS] >> 16

    def _turns(self, latest: int) -> list[int]:
        return [(latest + distance) % self.geometry.slots for distance in range(1, self.geometry.slots + 1)]

    def _finish(self, slot: int, reason: Finish) -> None:
        self.records[slot][SessionWord.STATUS] = Status.IDLE | reason << 8 | self._consumed(slot) << 16
        self.running.discard(slot)
        self.aborting.discard(slot)
        self.telling.add(slot)
