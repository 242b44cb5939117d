"""What a session's state machine works on: the bus to its words, its record in registers, and the choice of a turn."""

from __future__ import annotations

from amaranth import Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.abi import STOP_TOKENS, SessionWord

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


class Record:
    """The working copy of the record of `slot`, a word at a time in its own register."""

    def __init__(self, slot_bits: int) -> None:
        self.slot = Signal(slot_bits)
        self.flags, self.prompt_count, self.max_tokens = Signal(32), Signal(32), Signal(32)
        self.inverse_temperature, self.top_k, self.seed = Signal(32), Signal(32), Signal(32)
        self.stops = [Signal(32, name=f"stop_{index}") for index in range(STOP_TOKENS)]
        self.credit, self.status, self.generated = Signal(32), Signal(STATUS), Signal(32)
        self.position, self.last_token, self.reported = Signal(32), Signal(32), Signal(32)
        named = {word: getattr(self, word.name.lower()) for word in SessionWord if word != SessionWord.STOP}
        stops = {SessionWord.STOP + index: stop for index, stop in enumerate(self.stops)}
        self.words = [word for _, word in sorted((named | stops).items())]

    def of(self, mask):
        """The slot's bit of a mask of slots."""
        return mask.bit_select(self.slot, 1)


def next_after(m, mask, latest):
    """A fair choice: the first slot of the mask after the latest one, in a ring."""
    chosen = Signal.like(latest)
    later = [candidate & (latest < slot) for slot, candidate in enumerate(mask)]
    # The last assignment holds: to the lowest of the later slots, or else to the lowest of all.
    for candidates in (mask, later):
        for slot in reversed(range(len(mask))):
            with m.If(candidates[slot]):
                m.d.comb += chosen.eq(slot)
    return chosen
