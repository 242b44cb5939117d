"""Transaction layer packets: the words of their headers, and the streams that carry them.

A TLP is a sequence of 32-bit words ("dwords"), in which byte 0 of the link is in bits 31..24: headers read as in the
specification (PCI Express Base 3.0, 2.2), and the bytes of data words are swapped, since memory is little-endian.
"""

from __future__ import annotations

from enum import IntEnum

from amaranth import Cat, unsigned
from amaranth.lib import data

DWORD_BITS = 32
ID_BITS = 16
"""Bus, device and function."""
TAG_BITS = 8
LENGTH_BITS = 10
LENGTH_MAX = 1 << LENGTH_BITS
"""Words of a TLP at most; the header says 0 for it."""
PAYLOAD_WORDS_MIN = 32
"""The least that MAX_PAYLOAD and MAX_READ can be: 128 bytes, also the boundary at which completions are cut."""
PAGE_WORDS = 1024
"""No request crosses a boundary of 4 KiB."""
BAR_WORD_BITS = 12
"""Address bits of a word in the BAR."""


class Kind(IntEnum):
    """The field `type`; with data or without it, a memory request is a write or a read."""

    MEMORY = 0b00000
    COMPLETION = 0b01010
    COMPLETION_LOCKED = 0b01011
    MESSAGE = 0b10000  # and the seven that follow, which say how it is routed
    LOCKED = 0b00001


class Completion(IntEnum):
    """The field `status` of a completion; all others are failures too."""

    SUCCESS = 0
    UNSUPPORTED = 1


HEAD = data.StructLayout(
    {
        "length": LENGTH_BITS,
        "translation": 2,
        "attributes": 2,
        "poisoned": 1,
        "digest": 1,  # a word follows the data
        "hints": 2,
        "ordering": 1,  # the third attribute
        "_reserved": 1,
        "traffic_class": 3,
        "_tag": 1,
        "kind": 5,
        "wide": 1,  # four words of header, for addresses of 64 bits
        "has_data": 1,
        "prefix": 1,
    }
)
"""Word 0 of every TLP."""

REQUEST = data.StructLayout({"first_enable": 4, "last_enable": 4, "tag": TAG_BITS, "requester": ID_BITS})
"""Word 1 of a request; then its address, the high word first if it is wide."""

COMPLETION = data.StructLayout({"byte_count": 12, "modified": 1, "status": 3, "completer": ID_BITS})
"""Word 1 of a completion."""

COMPLETION_END = data.StructLayout({"lower_address": 7, "_reserved": 1, "tag": TAG_BITS, "requester": ID_BITS})
"""Word 2 of a completion."""

BEAT = data.StructLayout({"data": 2 * DWORD_BITS, "keep": 2, "last": 1})
"""Two words of a TLP, the first in the low half; `keep` has a bit per word, and is 1 or 3."""

DWORD = data.StructLayout({"dword": DWORD_BITS, "last": 1})
"""A word of a TLP."""

CONFIGURATION = data.StructLayout(
    {"requester": ID_BITS, "max_payload": 3, "max_read": 3, "master": 1, "interrupt": 1},
)
"""What the hard block knows of the configuration space, with the bits of pcie_map.Link."""

READ_REQUEST = data.StructLayout(
    {
        "requester": ID_BITS,
        "tag": TAG_BITS,
        "traffic_class": 3,
        "attributes": 2,
        "ordering": 1,
        "first_enable": 4,
        "last_enable": 4,
        "length": LENGTH_BITS,
        "address": BAR_WORD_BITS,
        "memory": 1,
        "locked": 1,
        "supported": 1,
    }
)
"""A request that must be answered by a completion; `length` and `address` in words."""

COMPLETION_HEADER = data.StructLayout(
    {
        "requester": ID_BITS,
        "tag": TAG_BITS,
        "status": 3,
        "byte_count": 12,
        "length": LENGTH_BITS,
        "has_data": 1,
        "poisoned": 1,
        "locked": 1,
    }
)
"""What a completion says before its data."""

MEMORY_COMMAND = data.StructLayout(
    {"write": 1, "address": 64 - 2, "length": unsigned(LENGTH_BITS + 1), "tag": TAG_BITS},
)
"""A request to the host's memory, in words; LENGTH_MAX of them at most."""


def byte_swap(dword):
    """A word of memory as a word of a TLP, and back."""
    return Cat(dword.word_select(byte, 8) for byte in reversed(range(DWORD_BITS // 8)))
