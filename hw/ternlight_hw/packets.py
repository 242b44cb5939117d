"""Packets of 32-bit words (ternlight.abi): checked on their way in, guarded by a CRC on their way out."""

from __future__ import annotations

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.crc import catalog
from amaranth.lib.wiring import In, Out

from ternlight.abi import (
    CRC_WORDS,
    EVENT_HEADER_WORDS,
    EVENT_TOKENS,
    MAX_DATA_WORDS,
    REQUEST_HEADER_WORDS,
    RESPONSE_HEADER_WORDS,
    TOKENS_PER_WORD,
    Kind,
    Op,
)

from .cobs import DECODED, PACKET_BYTE
from .small_memory import SmallMemory

WORD_BITS = 32
WORD_BYTES = WORD_BITS // 8

HEADER = data.StructLayout({"kind": 8, "sequence": 8, "count": 16})
"""The first word of every packet; `kind` is an Op or a Kind."""

PACKET_WORD = data.StructLayout({"word": WORD_BITS, "last": 1})
"""A word of a packet, without the CRC."""

REQUEST_WORD = data.StructLayout({"word": WORD_BITS, "last": 1, "corrupt": 1})
"""A word of a verified request, without the CRC; or one word with `corrupt` and `last` for a frame that is none."""

REQUEST_WORDS_MAX = REQUEST_HEADER_WORDS + MAX_DATA_WORDS
"""Words of a request without the CRC, as REQUEST_WORD."""
EVENT_WORDS_MAX = EVENT_HEADER_WORDS + EVENT_TOKENS // TOKENS_PER_WORD
RESPONSE_BYTES_MAX = WORD_BYTES * (RESPONSE_HEADER_WORDS + max(MAX_DATA_WORDS, EVENT_WORDS_MAX) + CRC_WORDS)
"""Bytes of the longest packet that is sent."""


def crc32():
    """The CRC of zlib.crc32, a byte per cycle."""
    return catalog.CRC32_ETHERNET(data_width=8).create()


class RequestReceiver(wiring.Component):
    """Decoded frames to requests: nothing leaves before the whole frame was found good.

    A frame is good if its bytes make whole words, its length is that of its header (two words and the CRC, and for
    WRITE `count` data words, at most MAX_DATA_WORDS) and its CRC is right. Any other frame gives one corrupt word.

    Throughput: one byte per cycle in; then, with the input waiting, one word per two cycles out.
    Latency: the first word follows the end of the frame by 5 cycles. Both sides' handshakes come from flip-flops.
    Members: frame (In, stream of DECODED), request (Out, stream of REQUEST_WORD).
    """

    def __init__(self) -> None:
        super().__init__({"frame": In(stream.Signature(DECODED)), "request": Out(stream.Signature(REQUEST_WORD))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = crc32()
        m.submodules.memory = memory = SmallMemory(shape=unsigned(WORD_BITS), depth=REQUEST_WORDS_MAX)
        write, read = memory.write, memory.read
        item = self.frame.payload
        lane = Signal(range(WORD_BYTES))  # place of the next byte in its word
        words = Signal(range(REQUEST_WORDS_MAX + CRC_WORDS + 1))  # whole words so far; then the index of the last one
        overlong, broken = Signal(), Signal()
        word = Signal(WORD_BITS - 8)  # the bytes before the last one of a word
        index = Signal(range(REQUEST_WORDS_MAX))
        last = Signal()
        m.d.comb += [
            crc.data.eq(item.data),
            crc.valid.eq(self.frame.valid & self.frame.ready & ~item.end),
            write.addr.eq(words),
            write.data.eq(Cat(word, item.data)),
            read.addr.eq(index),
            self.request.payload.word.eq(read.data),
            self.request.payload.last.eq(last),
        ]
        # Found a step a cycle, while a frame is waited for and judged: `index` is that of its header then.
        header = data.View(HEADER, read.data)
        complete, expected, plausible, good = Signal(), Signal.like(words), Signal(), Signal()
        is_write = header.kind == Op.WRITE
        m.d.sync += [
            complete.eq(words == REQUEST_WORDS_MAX + CRC_WORDS),
            expected.eq(Mux(is_write, header.count[: len(words)], 0) + REQUEST_HEADER_WORDS + CRC_WORDS),
            plausible.eq(~is_write | (header.count <= MAX_DATA_WORDS)),
            good.eq(plausible & (words == expected) & (lane == 0) & ~overlong & ~broken & crc.match_detected),
        ]

        with m.FSM():
            with m.State("RECEIVE"):
                m.d.comb += self.frame.ready.eq(1)
                with m.If(self.frame.valid & item.end):
                    m.d.sync += broken.eq(item.error)
                    m.next = "HEADER"
                with m.Elif(self.frame.valid):
                    m.d.sync += [lane.eq(lane + 1), word.eq(Cat(word[8:], item.data))]
                    with m.If(complete):
                        # A single byte too many is found by its lane.
                        m.d.sync += overlong.eq(1)
                    with m.Elif(lane == WORD_BYTES - 1):
                        # Beyond the longest request there is only its CRC, of which nothing is kept.
                        m.d.comb += write.en.eq(words != REQUEST_WORDS_MAX)
                        m.d.sync += words.eq(words + 1)
            with m.State("HEADER"):
                m.next = "LENGTH"
            with m.State("LENGTH"):
                m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [words.eq(words - CRC_WORDS - 1), lane.eq(0), overlong.eq(0)]
                m.next = "FETCH"
                with m.If(~good):
                    m.next = "CORRUPT"
            with m.State("FETCH"):
                m.d.sync += last.eq(index == words)
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += self.request.valid.eq(1)
                with m.If(self.request.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "FETCH"
                    with m.If(last):
                        m.d.sync += [index.eq(0), words.eq(0)]
                        m.next = "RECEIVE"
            with m.State("CORRUPT"):
                m.d.comb += [
                    self.request.valid.eq(1),
                    self.request.payload.last.eq(1),
                    self.request.payload.corrupt.eq(1),
                ]
                with m.If(self.request.ready):
                    m.d.sync += words.eq(0)
                    m.next = "RECEIVE"
        return m


class EventBuffer(wiring.Component):
    """Holds one EVENT while the wire is busy, and puts its header before it.

    `event` is ready only while the buffer is empty or filling: an event that has begun passes at one word per cycle,
    up to EVENT_WORDS_MAX words. The packet is offered from the second cycle after the event's last word, and takes two
    cycles per word.

    Members: event (In, stream of PACKET_WORD), packet (Out, stream of PACKET_WORD).
    """

    def __init__(self) -> None:
        super().__init__({"event": In(stream.Signature(PACKET_WORD)), "packet": Out(stream.Signature(PACKET_WORD))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = SmallMemory(shape=unsigned(WORD_BITS), depth=EVENT_WORDS_MAX)
        write, read = memory.write, memory.read
        count = Signal(range(EVENT_WORDS_MAX + 1))  # words that wait
        index = Signal(range(EVENT_WORDS_MAX))
        final = Signal()
        header = Signal(HEADER)
        m.d.comb += [
            header.kind.eq(Kind.EVENT),
            header.count.eq(count),
            write.addr.eq(count),
            write.data.eq(self.event.payload.word),
            read.addr.eq(index),
            self.packet.payload.word.eq(read.data),
        ]
        with m.FSM():
            with m.State("FILL"):
                m.d.comb += [self.event.ready.eq(1), write.en.eq(self.event.valid)]
                with m.If(self.event.valid):
                    m.d.sync += count.eq(count + 1)
                    with m.If(self.event.payload.last):
                        m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [self.packet.valid.eq(1), self.packet.payload.word.eq(header)]
                with m.If(self.packet.ready):
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += [final.eq(count == 1), count.eq(count - 1)]
                m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += [self.packet.valid.eq(1), self.packet.payload.last.eq(final)]
                with m.If(self.packet.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "FETCH"
                    with m.If(final):
                        m.d.sync += index.eq(0)
                        m.next = "FILL"
        return m


class PacketMultiplexer(wiring.Component):
    """Two sources of packets on one stream, whole packets at a time; when both wait, they alternate.

    Latency 0 within a packet, one cycle between packets.
    Members: first, second (In), packet (Out), all streams of PACKET_WORD.
    """

    def __init__(self) -> None:
        words = stream.Signature(PACKET_WORD)
        super().__init__({"first": In(words), "second": In(words), "packet": Out(words)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.packet.payload.eq(self.first.payload)
        with m.FSM():
            with m.State("AFTER_SECOND"):
                with m.If(self.first.valid):
                    m.next = "FIRST"
                with m.Elif(self.second.valid):
                    m.next = "SECOND"
            with m.State("AFTER_FIRST"):
                with m.If(self.second.valid):
                    m.next = "SECOND"
                with m.Elif(self.first.valid):
                    m.next = "FIRST"
            for name, source in (("FIRST", self.first), ("SECOND", self.second)):
                with m.State(name):
                    m.d.comb += [self.packet.valid.eq(source.valid), source.ready.eq(self.packet.ready)]
                    if source is self.second:
                        m.d.comb += self.packet.payload.eq(source.payload)
                    with m.If(source.valid & source.ready & source.payload.last):
                        m.next = f"AFTER_{name}"
        return m


class PacketTransmitter(wiring.Component):
    """Packets to bytes, low byte of a word first, with the CRC after the last word.

    Throughput: one byte per two cycles, with one cycle between packets. Latency 1 cycle; the output is from flip-flops.
    Members: packet (In, stream of PACKET_WORD), data (Out, stream of PACKET_BYTE).
    """

    def __init__(self) -> None:
        super().__init__({"packet": In(stream.Signature(PACKET_WORD)), "data": Out(stream.Signature(PACKET_BYTE))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.crc = crc = crc32()
        lane = Signal(range(WORD_BYTES))
        final, byte = Signal(), self.data.payload
        m.d.comb += [final.eq(lane == WORD_BYTES - 1), crc.data.eq(byte.data)]
        with m.FSM():
            with m.State("WORD"), m.If(self.packet.valid):
                m.d.sync += [byte.data.eq(self.packet.payload.word.word_select(lane, 8)), byte.last.eq(0)]
                m.next = "WORD_BYTE"
            with m.State("WORD_BYTE"):
                m.d.comb += self.data.valid.eq(1)
                with m.If(self.data.ready):
                    m.d.comb += [crc.valid.eq(1), self.packet.ready.eq(final)]
                    m.d.sync += lane.eq(lane + 1)
                    m.next = "WORD"
                    with m.If(final & self.packet.payload.last):
                        m.next = "CRC"
            with m.State("CRC"):
                m.d.sync += [byte.data.eq(crc.crc.word_select(lane, 8)), byte.last.eq(final)]
                m.next = "CRC_BYTE"
            with m.State("CRC_BYTE"):
                m.d.comb += self.data.valid.eq(1)
                with m.If(self.data.ready):
                    m.d.sync += lane.eq(lane + 1)
                    m.next = "CRC"
                    with m.If(final):
                        m.next = "RESTART"
            with m.State("RESTART"):
                m.d.comb += crc.start.eq(1)
                m.next = "WORD"
        return m
