"""The ports between the parts of the SDRAM's controller."""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.sdram import BURSTS, Command, SdramPart


class SdramPins(wiring.Signature):
    """What is on the pins in a cycle, seen from the controller; CS# is low and CKE high for ever.

    command: levels of RAS#, CAS#, WE#, as in Command. mask: both or all DQM. dq_i: what the memory drives, dq_o: what
    it is told while `dq_oe` is set.
    """

    def __init__(self, part: SdramPart) -> None:
        super().__init__(
            {
                "command": Out(unsigned(3), init=Command.NOP),
                "bank": Out(range(part.BANKS)),
                "address": Out(ceil_log2(part.rows)),
                "mask": Out(1, init=1),
                "dq_o": Out(part.width),
                "dq_oe": Out(1),
                "dq_i": In(part.width),
            }
        )


class WordAddress:
    """Words of one burst: a row's lie side by side, and the next row is in the next bank.

    So the banks take turns in a long read, and each opens its row behind the bursts of the one before.

    Parameters: part; burst, beats of a word.
    """

    def __init__(self, *, part: SdramPart, burst: int) -> None:
        if burst not in BURSTS[2:]:
            raise ValueError(f"burst must be 4 or 8 beats, which leave room for commands between, not {burst}")
        self.word_bits = part.width * burst
        self.words = part.size * 8 // self.word_bits
        self.row_words = part.columns // burst
        self.column_bits = ceil_log2(self.row_words)
        self.bank_bits = ceil_log2(part.BANKS)
        self.row_bits = ceil_log2(part.rows)
        self.bits = self.row_bits + self.bank_bits + self.column_bits
        self.count_bits = self.bits + 1


def run_layout(address: WordAddress) -> data.StructLayout:
    """Words of one row, at least one. count: so many, less one."""
    return data.StructLayout(
        {
            "write": 1,
            "column": unsigned(address.column_bits),
            "bank": unsigned(address.bank_bits),
            "row": unsigned(address.row_bits),
            "count": unsigned(address.column_bits),
        }
    )


def request_layout(address: WordAddress) -> data.StructLayout:
    """A read of `words`, at least 1, from word `first` on, all inside the memory."""
    return data.StructLayout({"first": unsigned(address.bits), "words": unsigned(address.count_bits)})


def write_layout(address: WordAddress) -> data.StructLayout:
    """A write of one word."""
    return data.StructLayout({"address": unsigned(address.bits), "word": unsigned(address.word_bits)})


def order_layout(address: WordAddress) -> data.StructLayout:
    """A request, or, if `write` is set, the address of a word that waits to be written."""
    return data.StructLayout({"write": 1, "request": request_layout(address)})
