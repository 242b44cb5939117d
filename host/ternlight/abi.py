"""The contract between host and device: address map, registers, session records, packets and events.

Everything is made of 32-bit little-endian words. An address is window << 28 | offset. Windows onto wide memories have
offset = row << column_bits | column, where a row has `columns` words (ceil(log2 columns) = column_bits); in a burst the
column wraps to the next row, so that rows are sent without gaps.

Packets (COBS-coded, a zero byte between them, CRC-32 as in zlib over the words before it):
  request   op | sequence << 8 | count << 16,  address,  count words (WRITE),                crc
  response  kind | sequence << 8 | count << 16,          count words (DATA, EVENT, ERROR),   crc
A device executes requests in sequence order, modulo 256, and only the expected one: earlier ones (up to 127 back) are
answered again (writes are not executed again), later and corrupt ones are answered by NAK with the expected sequence.
SYNC is executed whatever its sequence, and makes the next one expected; after reset nothing else is. A WRITE that was
refused is refused again when it is repeated. EVENT packets come unasked, without sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

from .geometry import Geometry, ceil_div
from .isa import INSTRUCTION_COLUMNS

MAGIC = 0x544C4954
"""The word "TILT" in memory order."""
ABI_VERSION = 2

AHEAD_MAX = 128
"""A request up to so many sequences past the expected one is ahead; the others are repeated."""
REQUEST_HEADER_WORDS = 2
RESPONSE_HEADER_WORDS = 1
CRC_WORDS = 1
MAX_DATA_WORDS = 30
"""Data words of a packet: with header and address, or header and CRC, they fill small memories of 32 words."""
RECEIVE_BYTES = 1024
"""Bytes of requests that a device buffers: a host keeps its unanswered requests within it."""

WINDOW_SHIFT = 28
TOKEN_BITS = 16
TOKENS_PER_WORD = 32 // TOKEN_BITS
VOCABULARY_MAX = 1 << TOKEN_BITS


def pack_tokens(tokens: Sequence[int]) -> list[int]:
    """Tokens as words, the first in the low bits, as everywhere in prompts, rings and events."""
    groups = (tokens[at : at + TOKENS_PER_WORD] for at in range(0, len(tokens), TOKENS_PER_WORD))
    return [sum(token << TOKEN_BITS * place for place, token in enumerate(group)) for group in groups]


def unpack_tokens(words: Sequence[int]) -> list[int]:
    """The tokens of words, those of the last word's padding included."""
    return [word >> TOKEN_BITS * place & (1 << TOKEN_BITS) - 1 for word in words for place in range(TOKENS_PER_WORD)]


class Window(IntEnum):
    """Address windows: bits 31..28 of an address."""

    REGISTERS = 0
    PROGRAM = 1
    GAINS = 2
    STORE = 3
    STATES = 4
    SESSIONS = 5
    PROMPTS = 6
    TOKENS = 7


class Op(IntEnum):
    """Request packets."""

    READ = 1
    WRITE = 2
    SYNC = 3


class Kind(IntEnum):
    """Response packets: ACK for WRITE and SYNC, DATA for READ, ERROR for an address that does not exist."""

    ACK = 1
    DATA = 2
    NAK = 3
    EVENT = 4
    ERROR = 5


class Register(IntEnum):
    """Words of the window REGISTERS. Writing COMMAND (command | slot << 8) updates RESULT before it is acknowledged."""

    MAGIC = 0
    ABI_VERSION = 1
    BUILD_ID = 2
    GEOMETRY = 8  # one word per field of Geometry
    IMAGE_ID = 32  # written last by a host that loads an image; 0: no image
    VOCABULARY = 33  # tokens from here up are refused
    STATE_STRIDE = 34  # words of the state memory per session
    COMMAND = 40
    RESULT = 41
    COUNTERS = 64  # two words per Counter, low first; reading a low word latches the high one


class Counter(IntEnum):
    """Performance counters, 64 bits. While a session runs, each cycle is in exactly one of BUSY and the WAITs."""

    CYCLES = 0  # since reset
    TOKENS = 1  # that went through the model, prompts included
    GENERATED = 2  # that were sampled
    BUSY = 3  # the lanes take a weight word
    WAIT_WEIGHTS = 4  # a product waits for its weights only
    WAIT_VECTOR = 5  # ... for activations, or for its results to be taken
    WAIT_SCALAR = 6  # the next instruction waits for a scalar
    WAIT_CONTROL = 7  # sampling, and the change from token to token
    WAIT_LINK = 8  # all running sessions wait for the host to take tokens


class Command(IntEnum):
    """Written to COMMAND with the slot."""

    START = 1
    ABORT = 2


class Result(IntEnum):
    """What became of a command."""

    OK = 0
    UNKNOWN_COMMAND = 1
    NO_SUCH_SLOT = 2
    NO_IMAGE = 3
    SLOT_RUNNING = 4
    EMPTY_PROMPT = 5
    PROMPT_TOO_LONG = 6
    TOP_K_TOO_LARGE = 7


RESULT_TEXT = {
    Result.UNKNOWN_COMMAND: "it does not know the command",
    Result.NO_SUCH_SLOT: "it has no such session slot",
    Result.NO_IMAGE: "no image is loaded",
    Result.SLOT_RUNNING: "the session slot is running: abort it or wait for its end",
    Result.EMPTY_PROMPT: "the prompt is empty",
    Result.PROMPT_TOO_LONG: "the prompt is longer than the slot's buffer: feed it in parts",
    Result.TOP_K_TOO_LARGE: "top-k is larger than the device can keep",
}


class SessionWord(IntEnum):
    """The 16 words of a session's record; the host writes the first part before START, the device the second."""

    FLAGS = 0  # written first: what events have not yet told of the request before is dropped
    PROMPT_COUNT = 1
    MAX_TOKENS = 2  # 0: only read the prompt
    INVERSE_TEMPERATURE = 3  # ufloat: mantissa | exponent << EXPONENT_SHIFT
    TOP_K = 4  # 1: greedy; 0: the whole vocabulary
    SEED = 5
    STOP = 6  # four tokens; NO_TOKEN: none
    CREDIT = 10  # tokens of this request that the host has taken; may be written while the session runs
    STATUS = 11  # Status | Finish << 8 | prompt tokens read << 16
    GENERATED = 12  # tokens of this request
    POSITION = 13  # tokens that the state has seen; the host may set it before START with CONTINUE
    LAST_TOKEN = 14  # the latest sampled token (not yet seen by the state)
    REPORTED = 15  # tokens that events have told the host


SESSION_WORDS = 16
STOP_TOKENS = 4
EXPONENT_SHIFT = 16
NO_TOKEN = 0xFFFFFFFF


CONTINUE_FLAG = 1
"""Bit of SessionWord.FLAGS: keep state and position; otherwise both start from zero."""
TAG_SHIFT = 8
"""Bits 15..8 of SessionWord.FLAGS: the host's number for the request, told in its events."""


class Status(IntEnum):
    """State of a session."""

    IDLE = 0
    RUNNING = 1


class Finish(IntEnum):
    """Why a session ended."""

    NONE = 0
    LENGTH = 1  # MAX_TOKENS were generated
    STOP = 2  # a stop token was generated; it is the last token told
    ABORTED = 3
    FED = 4  # the prompt was read, and MAX_TOKENS is 0
    BAD_TOKEN = 5  # the prompt has a token beyond the vocabulary


EVENT_HEADER_WORDS = 2
EVENT_TOKENS = 32
"""Tokens of an event at most. Words: slot | count << 8 | tag << 16 | Finish << 24; index of the first; the tokens."""


def address(window: Window, offset: int = 0) -> int:
    """The address of a word in a window."""
    return window << WINDOW_SHIFT | offset


def window_columns(geometry: Geometry) -> dict[Window, int]:
    """Words per row of each window."""
    return {
        Window.REGISTERS: 1,
        Window.PROGRAM: INSTRUCTION_COLUMNS,
        Window.GAINS: geometry.gain_columns,
        Window.STORE: geometry.store_columns,
        Window.STATES: geometry.state_columns,
        Window.SESSIONS: 1,
        Window.PROMPTS: 1,
        Window.TOKENS: 1,
    }


def column_bits(columns: int) -> int:
    """Address bits of the column in a row of so many words."""
    return (columns - 1).bit_length()


def window_address(window: Window, word: int, geometry: Geometry) -> int:
    """The address of the word-th word of a window, rows counted without gaps."""
    columns = window_columns(geometry)[window]
    row, column = divmod(word, columns)
    return address(window, row << column_bits(columns) | column)


def window_words(geometry: Geometry) -> dict[Window, int]:
    """Words that each memory window holds."""
    columns = window_columns(geometry)
    return {
        Window.PROGRAM: geometry.program_words * columns[Window.PROGRAM],
        Window.GAINS: geometry.gain_words * columns[Window.GAINS],
        Window.STORE: geometry.store_words * columns[Window.STORE],
        Window.STATES: geometry.state_words * columns[Window.STATES],
        Window.SESSIONS: geometry.slots * SESSION_WORDS,
        Window.PROMPTS: geometry.slots * ceil_div(geometry.prompt, TOKENS_PER_WORD),
        Window.TOKENS: geometry.slots * ceil_div(geometry.ring, TOKENS_PER_WORD),
    }
