"""What a session's state machine works on: the bus to its words, its record in registers, and the choice of a turn."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import EVENT_TOKENS, TAG_SHIFT, TOKEN_BITS, SessionWord
from ternlight.geometry import Geometry

STATUS = data.StructLayout({"status": 8, "finish": 8, "consumed": 16})
"""SessionWord.STATUS, with the tokens of the prompt that were read."""


class SessionBus(wiring.Signature):
    """One word of a session window: held until `ack`, one cycle; `read_data` is valid with `ack`.

    offset: the word within the window. Writes of TOKENS are acknowledged without effect.
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


class Mark:
    """One bit of each slot; that of the record's slot becomes `value` when `change` is set."""

    def __init__(self, slots: int) -> None:
        self.slots = Signal(slots)
        self.change, self.value = Signal(), Signal()


class Record:
    """The part of the record of `slot` that the device works with, and what follows from it.

    The facts are in registers: they hold from the third cycle on after the last change of what they are about.

    offset: REPORTED for the task that tells, for the others CREDIT.
    """

    def __init__(self, geometry: Geometry, slot_bits: int) -> None:
        self._geometry = geometry
        self.slot = Signal(slot_bits)
        self._selected = Signal(geometry.slots)
        self.flags = Signal(TAG_SHIFT + 8)
        self.prompt_count, self.max_tokens = Signal(32), Signal(32)
        self.inverse_temperature, self.top_k, self.seed = Signal(32), Signal(16), Signal(32)
        self.status, self.generated, self.position = Signal(STATUS), Signal(32), Signal(32)
        self.last_token = Signal(TOKEN_BITS)
        self.offset = Signal(32)

        self.empty, self.too_long = Signal(), Signal()
        self.top_k_too_large = Signal()
        self.reading = Signal()  # the prompt has tokens left
        self.ends_prompt = Signal()  # one
        self.generates = Signal()
        self.fresh = Signal()
        self.generated_next = Signal(32)
        self.is_last = Signal()  # the next token is
        self._ahead = Signal(32)  # generated - offset
        self.is_full = Signal()  # the ring is
        self.fits_event = Signal()  # what was not told
        self.event_count = Signal(range(EVENT_TOKENS + 1))

    def derive(self, m: Module) -> None:
        """The facts."""
        consumed, prompt_count = self.status.consumed, self.prompt_count[:16]
        m.d.sync += [
            self._selected.eq(1 << self.slot),
            self.empty.eq(self.prompt_count == 0),
            self.too_long.eq(is_above(self.prompt_count, self._geometry.prompt)),
            self.reading.eq(consumed < prompt_count),
            self.ends_prompt.eq((consumed + 1)[:16] == prompt_count),
            self.generates.eq(self.max_tokens != 0),
            self.fresh.eq(self.position == 0),
            self.generated_next.eq(self.generated + 1),
            self.is_last.eq(self.generated_next == self.max_tokens),
            self._ahead.eq(self.generated - self.offset),
            self.is_full.eq(self._ahead[ceil_log2(self._geometry.ring) :].any()),
            self.fits_event.eq(~is_above(self._ahead, EVENT_TOKENS)),
            self.event_count.eq(Mux(is_above(self._ahead, EVENT_TOKENS), EVENT_TOKENS, self._ahead)),
        ]

    def load(self, m: Module, number: int, word: Value, *, tells: Value) -> None:
        """Take word `number` of the record."""
        named = {
            SessionWord.FLAGS: self.flags,
            SessionWord.PROMPT_COUNT: self.prompt_count,
            SessionWord.MAX_TOKENS: self.max_tokens,
            SessionWord.INVERSE_TEMPERATURE: self.inverse_temperature,
            SessionWord.TOP_K: self.top_k,
            SessionWord.SEED: self.seed,
            SessionWord.STATUS: self.status,
            SessionWord.GENERATED: self.generated,
            SessionWord.POSITION: self.position,
            SessionWord.LAST_TOKEN: self.last_token,
        }
        if number in named:
            m.d.sync += named[SessionWord(number)].eq(word)
        if number == SessionWord.TOP_K:
            m.d.sync += self.top_k_too_large.eq(is_above(word, self._geometry.top_k))
        if number in (SessionWord.CREDIT, SessionWord.REPORTED):
            with m.If(tells == (number == SessionWord.REPORTED)):
                m.d.sync += self.offset.eq(word)

    def stored(self) -> dict[SessionWord, Value]:
        """The words that change. Credit begins at none."""
        return {
            SessionWord.CREDIT: Const(0, 32),
            SessionWord.STATUS: self.status.as_value(),
            SessionWord.GENERATED: self.generated,
            SessionWord.POSITION: self.position,
            SessionWord.LAST_TOKEN: self.last_token,
            SessionWord.REPORTED: self.offset,
        }

    def of(self, mask: Value) -> Value:
        """The slot's bit of a mask of slots."""
        return (mask & self._selected).any()

    def mark(self, m: Module, mark: Mark) -> None:
        """Change the slot's mark when it is wanted."""
        for bit, selected in zip(mark.slots, self._selected, strict=True):
            with m.If(selected & mark.change):
                m.d.sync += bit.eq(mark.value)


def is_above(value: Value, limit: int) -> Value:
    """value > limit, of which all but a few bits are only looked at for a one."""
    bits = limit.bit_length()
    return value[bits:].any() | ~(value[:bits] < limit + 1)


def first_of(candidates: list[Value]) -> tuple[Value, list[Value]]:
    """Whether there is one, and the bits of the place of the first, as a tree."""
    if len(candidates) == 1:
        return candidates[0], []
    half = 1 << ceil_log2(len(candidates)) - 1
    (any_low, low), (any_high, high) = first_of(candidates[:half]), first_of(candidates[half:])
    high = [*high, *[Const(0, 1)] * (len(low) - len(high))]
    place = [Mux(any_low, low_bit, high_bit) for low_bit, high_bit in zip(low, high, strict=True)]
    return any_low | any_high, [*place, ~any_low]


def next_after(m: Module, mask: Signal, latest: Signal) -> tuple[Value, Value]:
    """A fair choice: whether the mask has a slot, and the first after the latest one, in a ring. One cycle late."""
    any_later, later = first_of([candidate & (latest < slot) for slot, candidate in enumerate(mask)])
    any_slot, first = first_of(list(mask))
    found, found_later = Signal(), Signal()
    place, place_later = Signal.like(latest), Signal.like(latest)
    m.d.sync += [
        found.eq(any_slot),
        found_later.eq(any_later),
        place.eq(Cat(first)),
        place_later.eq(Cat(later)),
    ]
    return found, Mux(found_later, place_later, place)
