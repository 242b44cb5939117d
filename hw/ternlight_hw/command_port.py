"""The device's end of a byte link: requests become accesses on the host's bus, answers and events become packets."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.abi import AHEAD_MAX, MAX_DATA_WORDS, RECEIVE_BYTES, WINDOW_SHIFT, Kind, Op, Window, column_bits

from .bus import HostBus
from .byte_buffer import ByteBuffer
from .cobs import CobsDecoder, CobsEncoder
from .packets import (
    HEADER,
    PACKET_WORD,
    REQUEST_WORD,
    RESPONSE_BYTES_MAX,
    EventBuffer,
    PacketMultiplexer,
    PacketTransmitter,
    RequestReceiver,
)
from .small_memory import SmallMemory
from .stream_register import StreamRegister
from .uart import UartReceiver, UartTransmitter

WORD_BITS = 32
REMEMBERED = 256 - AHEAD_MAX

FAILURE = data.StructLayout({"failed": 1, "index": range(MAX_DATA_WORDS)})
"""What became of a WRITE: whether a word of it was refused, and which."""


class NextAddress(wiring.Component):
    """The address of the word after the one at `address`: the column wraps to the next row.

    It is right from the second cycle of an address on.
    Parameters: columns, words per row of each window; a window that is not named has rows of one word.
    Members: address (In, 32 bits), following (Out, 32 bits).
    """

    def __init__(self, *, columns: Mapping[Window, int]) -> None:
        for window, count in columns.items():
            if count < 1:
                raise ValueError(f"columns of {Window(window).name} must be positive, not {count}")
        self.columns = dict(columns)
        super().__init__({"address": In(unsigned(WORD_BITS)), "following": Out(unsigned(WORD_BITS))})

    def elaborate(self, platform):
        m = Module()
        offset, window = self.address[:WINDOW_SHIFT], self.address[WINDOW_SHIFT:]
        step = Signal(range(max(self.columns.values(), default=1) + 1), init=1)
        following = Signal(WINDOW_SHIFT)
        m.d.sync += step.eq(1)
        with m.Switch(window):
            for key, columns in self.columns.items():
                bits = column_bits(columns)
                gap = (1 << bits) - columns
                if gap:
                    with m.Case(key), m.If(offset[:bits] == columns - 1):
                        m.d.sync += step.eq(1 + gap)
        m.d.comb += [following.eq(offset + step), self.following.eq(Cat(following, window))]
        return m


class RequestExecutor(wiring.Component):
    """Executes requests in sequence order and answers each (ternlight.abi).

    * The expected request is executed; SYNC always is. READ answers DATA, WRITE and SYNC answer ACK.
    * A repeated READ is executed again. A repeated WRITE is not, and gets the answer that it got at first.
    * A request that is ahead, or a corrupt one, is answered by one NAK with the expected sequence.
    * ERROR tells the first address that the bus refused: the words of a WRITE before it were written, those after it
      are not. A READ of more than MAX_DATA_WORDS and an unknown op are answered by ERROR with the request's address.

    After reset everything is answered by NAK until the first SYNC: the requests of a host that has not noticed the
    reset must not pass for repeated ones.

    No cycle does much, since links are slow: beside what `request`, `bus` and `answer` take, a request takes up to 7
    cycles, 2 more per word of the bus, and 1 more per word of its answer. `bus` is idle between words.

    Parameters: columns, words per row of each window.
    Members: request (In, stream of REQUEST_WORD), answer (Out, stream of PACKET_WORD), bus (Out, HostBus).
    """

    def __init__(self, *, columns: Mapping[Window, int]) -> None:
        self.columns = dict(columns)
        self._next = NextAddress(columns=columns)
        super().__init__(
            {
                "request": In(stream.Signature(REQUEST_WORD)),
                "answer": Out(stream.Signature(PACKET_WORD)),
                "bus": Out(HostBus()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.next = following = self._next
        m.submodules.buffer = buffer = SmallMemory(shape=unsigned(WORD_BITS), depth=MAX_DATA_WORDS)
        m.submodules.outcomes = outcomes = SmallMemory(shape=FAILURE, depth=REMEMBERED)  # by sequence
        store, load = buffer.write, buffer.read
        request, answer, bus = self.request, self.answer, self.bus
        word = request.payload.word
        header, reply = Signal(HEADER), Signal(HEADER)
        kind = Signal(Kind)  # of the answer
        expected = Signal(8)
        synchronised = Signal()
        ahead = Signal()  # to be refused
        fresh = Signal()  # the request is the expected one
        on_bus = Signal()  # its words go to the bus
        refused = Signal()  # a word was
        last = Signal()  # of the answer
        outcome = Signal(FAILURE)
        address = Signal(WORD_BITS)
        index = Signal(range(MAX_DATA_WORDS))

        # From flip-flops: true of the header, the index and the outcome of a cycle before.
        final = header.count[: len(index)] == index + 1
        distance = Signal(8)  # from the expected sequence to the request's, modulo 256
        is_sync, is_write, is_read, is_bare, is_final, was_refused = (Signal() for _ in range(6))
        m.d.sync += [
            distance.eq(header.sequence - expected),
            is_sync.eq(header.kind == Op.SYNC),
            is_write.eq(header.kind == Op.WRITE),
            is_read.eq((header.kind == Op.READ) & (header.count <= MAX_DATA_WORDS)),
            is_bare.eq(header.count == 0),
            is_final.eq(final),
            was_refused.eq(outcome.failed & (outcome.index == index)),
        ]

        is_data, is_error = kind == Kind.DATA, kind == Kind.ERROR
        m.d.comb += [
            following.address.eq(address),
            bus.address.eq(address),
            bus.write.eq(is_write),
            bus.write_data.eq(word),
            store.addr.eq(index),
            store.data.eq(bus.read_data),
            load.addr.eq(index),
            answer.payload.word.eq(load.data),
            answer.payload.last.eq(last),
            reply.kind.eq(kind),
            reply.sequence.eq(Mux(kind == Kind.NAK, expected, header.sequence)),
            reply.count.eq(Mux(is_data, header.count, is_error)),
            outcomes.read.addr.eq(header.sequence),
            outcomes.write.addr.eq(header.sequence),
            outcomes.write.data.index.eq(outcome.index),
            outcomes.write.data.failed.eq(is_error),
        ]
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += request.ready.eq(1)
                with m.If(request.valid):
                    m.d.sync += [header.eq(word), index.eq(0)]
                    m.next = "ADDRESS"
                    with m.If(request.payload.corrupt):
                        m.d.sync += kind.eq(Kind.NAK)
                        m.next = "ANSWER"
            with m.State("ADDRESS"):
                m.d.comb += request.ready.eq(1)
                with m.If(request.valid):
                    m.d.sync += address.eq(word)
                    m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += [
                    fresh.eq(synchronised & (distance == 0)),
                    ahead.eq(~synchronised | ((distance != 0) & (distance <= AHEAD_MAX))),
                ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += [on_bus.eq(fresh | is_read), outcome.eq(0)]
                with m.If(fresh):
                    m.d.sync += expected.eq(expected + 1)
                with m.If(is_sync):
                    m.d.sync += [expected.eq(header.sequence + 1), synchronised.eq(1), kind.eq(Kind.ACK)]
                    m.next = "ANSWER"
                with m.Elif(ahead):
                    m.d.sync += kind.eq(Kind.NAK)
                    m.next = "ANSWER"
                    with m.If(is_write & ~is_bare):
                        m.next = "SKIP"
                with m.Elif(is_write):
                    m.d.sync += kind.eq(Kind.ACK)
                    with m.If(~fresh):
                        m.d.sync += outcome.eq(outcomes.read.data)
                    m.next = "WORD"
                    with m.If(is_bare):
                        m.next = "WRITTEN"
                with m.Elif(is_read):
                    m.d.sync += kind.eq(Kind.DATA)
                    m.next = "WORD"
                    with m.If(is_bare):
                        m.next = "ANSWER"
                with m.Else():
                    m.d.sync += kind.eq(Kind.ERROR)
                    m.next = "REFUSE"
            with m.State("WORD"), m.If(is_read | request.valid):
                m.next = "ACCESS"
            with m.State("ACCESS"):
                # The words of a repeated WRITE pass without the bus, up to the one that was refused.
                m.d.comb += [bus.enable.eq(on_bus), store.en.eq(is_read & bus.ack)]
                with m.If(bus.ack | ~on_bus):
                    m.d.sync += refused.eq(Mux(on_bus, bus.error, was_refused))
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.comb += request.ready.eq(is_write)
                m.d.sync += index.eq(index + 1)
                m.next = "WORD"
                with m.If(is_final | refused):
                    m.d.sync += index.eq(0)
                    m.next = "ANSWER"
                    with m.If(is_write):
                        m.next = "WRITTEN"
                with m.If(refused):
                    # The address stays for the answer.
                    m.d.sync += [outcome.failed.eq(1), outcome.index.eq(index), kind.eq(Kind.ERROR)]
                    with m.If(is_read):
                        m.next = "REFUSE"
                    with m.Elif(~is_final):
                        m.next = "SKIP"
                with m.Else():
                    m.d.sync += address.eq(following.following)
            with m.State("SKIP"):
                m.d.comb += request.ready.eq(1)
                with m.If(request.valid & request.payload.last):
                    m.next = "WRITTEN"
                    with m.If(kind == Kind.NAK):
                        m.next = "ANSWER"
            with m.State("WRITTEN"):
                m.d.comb += outcomes.write.en.eq(1)
                m.next = "ANSWER"
                with m.If(is_error):
                    m.next = "REFUSE"
            with m.State("REFUSE"):
                # The words of an answer come from the buffer: this one is the address.
                m.d.comb += [store.en.eq(1), store.data.eq(address)]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.sync += last.eq(~is_error & (~is_data | is_bare))
                m.next = "REPLY"
            with m.State("REPLY"):
                m.d.comb += [answer.valid.eq(1), answer.payload.word.eq(reply)]
                with m.If(answer.ready):
                    m.next = "FETCH"
                    with m.If(last):
                        m.next = "HEADER"
            with m.State("FETCH"):
                m.d.sync += last.eq(final | is_error)
                m.next = "WORDS"
            with m.State("WORDS"):
                m.d.comb += answer.valid.eq(1)
                with m.If(answer.ready):
                    m.d.sync += index.eq(index + 1)
                    m.next = "FETCH"
                    with m.If(last):
                        m.next = "HEADER"
        return m


class CommandPort(wiring.Component):
    """The protocol over any link of bytes: frames in, frames out, and the host's bus and the events inside.

    Up to RECEIVE_BYTES bytes of requests wait for execution; a byte that is sent while `rx` is not ready must be sent
    again or is lost, which the protocol repairs. Answers and events alternate when both wait for the wire.

    Parameters: columns, words per row of each window (ternlight.abi.window_columns).
    Members: rx (In), tx (Out), streams of bytes; events (In, stream of PACKET_WORD: the words of one EVENT up to
    `last`, ready while the whole event fits, see EventBuffer); bus (Out, HostBus).
    """

    def __init__(self, *, columns: Mapping[Window, int]) -> None:
        self.columns = dict(columns)
        self._executor = RequestExecutor(columns=columns)
        super().__init__(
            {
                "rx": In(stream.Signature(unsigned(8))),
                "tx": Out(stream.Signature(unsigned(8))),
                "events": In(stream.Signature(PACKET_WORD)),
                "bus": Out(HostBus()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.received = received = ByteBuffer(depth=RECEIVE_BYTES)
        m.submodules.decoder = decoder = CobsDecoder()
        m.submodules.receiver = receiver = RequestReceiver()
        m.submodules.executor = executor = self._executor
        m.submodules.event_buffer = event_buffer = EventBuffer()
        m.submodules.multiplexer = multiplexer = PacketMultiplexer()
        m.submodules.transmitter = transmitter = PacketTransmitter()
        m.submodules.encoder = encoder = CobsEncoder(packet_bytes=RESPONSE_BYTES_MAX)
        connect(m, flipped(self.rx), received.source)
        m.submodules.packets = packets = StreamRegister(shape=PACKET_WORD)
        connect(m, received.sink, decoder.frame)
        connect(m, decoder.packet, receiver.frame)
        connect(m, receiver.request, executor.request)
        connect(m, executor.bus, flipped(self.bus))
        connect(m, flipped(self.events), event_buffer.event)
        connect(m, executor.answer, multiplexer.first)
        connect(m, event_buffer.packet, multiplexer.second)
        connect(m, multiplexer.packet, packets.source)
        connect(m, packets.sink, transmitter.packet)
        connect(m, transmitter.data, encoder.packet)
        connect(m, encoder.frame, flipped(self.tx))
        return m


class HostLink(wiring.Component):
    """The command port on a serial line.

    Parameters: divisor, clock cycles per bit, at least 3; columns, words per row of each window.
    Members: rx (In), tx (Out), the lines; events (In, stream of PACKET_WORD); bus (Out, HostBus).
    """

    def __init__(self, *, divisor: int, columns: Mapping[Window, int]) -> None:
        self.divisor = divisor
        self.columns = dict(columns)
        self._receiver = UartReceiver(divisor=divisor)
        self._transmitter = UartTransmitter(divisor=divisor)
        self._port = CommandPort(columns=columns)
        super().__init__(
            {
                "rx": In(1, init=1),
                "tx": Out(1, init=1),
                "events": In(stream.Signature(PACKET_WORD)),
                "bus": Out(HostBus()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = self._receiver
        m.submodules.transmitter = transmitter = self._transmitter
        m.submodules.port = port = self._port
        # A serial line cannot wait: bytes beyond the port's buffer are lost, and the protocol asks for them again.
        connect(m, receiver.data, port.rx)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]
        connect(m, port.tx, transmitter.data)
        connect(m, flipped(self.events), port.events)
        connect(m, port.bus, flipped(self.bus))
        return m
