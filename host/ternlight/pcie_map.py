"""The PCIe function: its identity, the registers and windows of BAR 0, and what it leaves in the host's memory.

Packets are those of ternlight.abi without COBS and CRC, for PCIe guards its own: 32-bit words, one packet behind the
other. Requests go through one ring of words, answers and events through another. An index counts words from the reset
of the rings on, modulo 2**16, and word `index` of a ring of so many words lies at `index % words`. An index
may stand within a packet.

Without DMA both rings are windows of the BAR, of WINDOW_WORDS: the host writes requests, then REQUEST_HEAD; it reads
ANSWER_HEAD, then answers, then writes ANSWER_TAIL. With DMA both are in the host's memory, of RING_WORDS: the device
fetches requests up to REQUEST_HEAD, writes answers up to ANSWER_TAIL + RING_WORDS, and keeps the status block there:

    word 0   ANSWER_HEAD | REQUEST_TAIL << 16
    word 1   STATUS

A fault stays until the reset, and no request is taken meanwhile.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

VENDOR_ID = 0x10EE
"""The FPGA's maker's: the project has none of its own, and BAR 0 begins with MAGIC."""
DEVICE_ID = 0x544C
CLASS_CODE = 0x120000
"""Processing accelerator."""

MAGIC = 0x45494350
"""The word "PCIE" in memory order."""
MAP_VERSION = 1

BAR_BYTES = 0x4000
REQUEST_WINDOW = 0x1000
ANSWER_WINDOW = 0x2000
WINDOW_WORDS = 1024
RING_WORDS = 4096
"""Words of each ring in the host's memory, which begins at any address of a word and has no gaps."""
INDEX_BITS = 16
STATUS_WORDS = 2
"""The status block begins at an address that 8 divides."""
TIMEOUT_UNIT = 1024
"""Clock cycles that a step of TIMEOUT stands for."""
TIMEOUT_DEFAULT = 4096
"""Steps: 42 ms at 100 MHz. A root complex may take 50 microseconds to 50 milliseconds."""


class PcieRegister(IntEnum):
    """32-bit registers from the start of the BAR, by number; what is not named reads as 0."""

    MAGIC = 0
    VERSION = 1
    CONTROL = 2
    STATUS = 3
    REQUEST_HEAD = 4
    REQUEST_TAIL = 5
    ANSWER_HEAD = 6
    ANSWER_TAIL = 7
    REQUEST_BASE = 8  # two words, low first, as the next two
    ANSWER_BASE = 10
    STATUS_BASE = 12
    TIMEOUT = 14
    LINK = 15
    COUNTERS = 32  # one word per PcieCounter


REGISTER_TEXT = {
    PcieRegister.MAGIC: f"{MAGIC:#010x}",
    PcieRegister.VERSION: f"of this map: {MAP_VERSION}",
    PcieRegister.CONTROL: "rw; the bits of Control",
    PcieRegister.STATUS: "the bits of Fault",
    PcieRegister.REQUEST_HEAD: "rw; requests up to here are in the ring",
    PcieRegister.REQUEST_TAIL: "the device has taken the words before",
    PcieRegister.ANSWER_HEAD: "the device has written answers up to here",
    PcieRegister.ANSWER_TAIL: "rw; the host has taken the words before",
    PcieRegister.REQUEST_BASE: "rw; two words, low first: where the host's memory has the ring of requests",
    PcieRegister.ANSWER_BASE: "rw; ... the ring of answers",
    PcieRegister.STATUS_BASE: "rw; ... the status block",
    PcieRegister.TIMEOUT: f"rw; for a completion, in {TIMEOUT_UNIT} cycles; {TIMEOUT_DEFAULT} after a reset",
    PcieRegister.LINK: "what the root complex has configured, the fields of Link",
    PcieRegister.COUNTERS: "the counters, since power-up; they wrap",
}


class Control(IntFlag):
    """Bits of CONTROL. A reset lets what is under way come to an end, and then clears all that the host has written.

    RESET reads as 1 until it is complete: what is written before that is lost.
    """

    ENABLE = 1  # take requests
    DMA = 2  # the rings are in the host's memory
    INTERRUPT = 4  # an MSI tells of new answers and faults
    RESET = 8


class Fault(IntFlag):
    """Bits of STATUS: what has stopped the requests."""

    READ_REFUSED = 1  # the host's memory answered a read with another status than success
    READ_POISONED = 2  # ... with data that are marked as wrong
    READ_BROKEN = 4  # ... with other words than were asked for
    READ_TIMEOUT = 8  # ... not at all
    WRITE_POISONED = 16  # the host wrote data that are marked as wrong
    WRITE_BROKEN = 32  # a write was shorter or longer than its header said
    BAD_REQUEST = 64  # a request has more words than any: where the next one begins is not known


FAULT_TEXT = {
    Fault.READ_REFUSED: "the host's memory refused a read: the ring is not mapped for the device",
    Fault.READ_POISONED: "the host's memory sent data that are marked as wrong",
    Fault.READ_BROKEN: "the host's memory sent other words than the device asked for",
    Fault.READ_TIMEOUT: "the host's memory did not answer a read in time",
    Fault.WRITE_POISONED: "a write to the device arrived marked as wrong",
    Fault.WRITE_BROKEN: "a write to the device was not as long as its header said",
    Fault.BAD_REQUEST: "the ring holds what is no request",
}


class Link(IntEnum):
    """Lowest bits of the fields of LINK."""

    REQUESTER = 0  # 16 bits: bus, device and function
    MAX_PAYLOAD = 16  # 3 bits: 128 bytes << so many
    MAX_READ = 19  # 3 bits, the same
    MASTER = 22  # the function may read and write the host's memory
    INTERRUPT = 23  # MSI is on


class PcieCounter(IntEnum):
    """Counters of 32 bits."""

    RECEIVED = 0
    SENT = 1
    WORDS_WRITTEN = 2
    READS = 3
    UNSUPPORTED = 4
    PARTIAL = 5
    IGNORED = 6
    POISONED = 7
    BROKEN = 8
    UNEXPECTED = 9
    FETCHES = 10
    FETCHED_WORDS = 11
    FAILED = 12
    TIMEOUTS = 13
    BURSTS = 14
    SENT_WORDS = 15
    REPORTS = 16
    INTERRUPTS = 17


COUNTER_TEXT = {
    PcieCounter.RECEIVED: "packets of the link (TLPs) that came",
    PcieCounter.SENT: "TLPs that were sent",
    PcieCounter.WORDS_WRITTEN: "words that the host wrote, to registers and windows",
    PcieCounter.READS: "requests of the host that were answered with data",
    PcieCounter.UNSUPPORTED: "requests of the host that were answered as unsupported",
    PcieCounter.PARTIAL: "words that the host wrote with some byte enables only: they are ignored",
    PcieCounter.IGNORED: "messages",
    PcieCounter.POISONED: "TLPs that were marked as wrong",
    PcieCounter.BROKEN: "TLPs that were not as long as their header said",
    PcieCounter.UNEXPECTED: "completions that nothing waited for: late ones, after a timeout or a reset",
    PcieCounter.FETCHES: "reads of the host's memory",
    PcieCounter.FETCHED_WORDS: "words that came of them",
    PcieCounter.FAILED: "completions that were not what was asked for",
    PcieCounter.TIMEOUTS: "times that the completions did not come",
    PcieCounter.BURSTS: "writes of answers to the host's memory",
    PcieCounter.SENT_WORDS: "words in them",
    PcieCounter.REPORTS: "writes of the status block",
    PcieCounter.INTERRUPTS: "MSIs",
}


def tables() -> str:
    """Registers, faults and counters as docs/pcie.md has them."""
    registers = [(f"{4 * register:#05x}", register.name, text) for register, text in REGISTER_TEXT.items()]
    faults = [(str(fault.bit_length() - 1), fault.name, text) for fault, text in FAULT_TEXT.items()]
    first = PcieRegister.COUNTERS
    counters = [(f"{4 * (first + counter):#05x}", counter.name, text) for counter, text in COUNTER_TEXT.items()]
    parts = ((("offset", "register"), registers), (("bit", "fault"), faults), (("offset", "counter"), counters))
    pages = []
    for (place, what), rows in parts:
        head = [f"| {place} | {what} | |", "|---|---|---|"]
        pages.append("\n".join(head + [f"| {at} | {name} | {text} |" for at, name, text in rows]))
    return "\n\n".join(pages) + "\n"


if __name__ == "__main__":
    print(tables(), end="")
