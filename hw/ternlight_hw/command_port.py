"""The device's end of a byte link: requests become accesses on the host's bus, answers and events become packets."""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.abi import AHEAD_MAX, MAX_DATA_WORDS, RECEIVE_BYTES, WINDOW_SHIFT, Kind, Op, Window, column_bits

from .bus import HostBus
from .byte_buffer import ByteBuffer
from .cobs import PACKET_BYTE, CobsDecoder, CobsEncoder
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
    """The address of the word after the one at `address`: the column wraps to the next row (combinational).

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
        with m.Switch(window):
            for key, columns in self.columns.items():
                bits = column_bits(columns)
                gap = (1 << bits) - columns
                if gap:
                    with m.Case(key), m.If(offset[:bits] == columns - 1):
                        m.d.comb += step.eq(1 + gap)
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

    Throughput: a word per bus acknowledgement, back to back; beside that at most 5 cycles per request, and the answer
    at the pace of `answer`. `bus` is idle between requests.

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
        m.submodules.loaded = loaded = StreamRegister(shape=PACKET_WORD)
        request, answer, bus = self.request, self.answer, self.bus
        word = request.payload.word
        header, reply = Signal(HEADER), Signal(HEADER)
        expected = Signal(8)
        synchronised = Signal()
        distance = Signal(8)  # from the expected sequence to the request's, modulo 256
        ahead = Signal()  # to be refused
        fresh = Signal()  # the words of this WRITE go to the bus
        outcome = Signal(FAILURE)
        address = Signal(WORD_BITS)
        index = Signal(range(MAX_DATA_WORDS + 1))
        m.d.comb += [
            distance.eq(header.sequence - expected),
            following.address.eq(address),
            bus.address.eq(address),
            bus.write_data.eq(word),
            store.addr.eq(index),
            load.addr.eq(index),
            load.en.eq(loaded.source.ready),
            store.data.eq(bus.read_data),
            loaded.source.payload.word.eq(load.data),
            loaded.source.payload.last.eq(index == reply.count),
            answer.valid.eq(loaded.sink.valid),
            answer.payload.eq(loaded.sink.payload),
            loaded.sink.ready.eq(answer.ready),
        ]
        m.d.comb += [outcomes.write.addr.eq(header.sequence), outcomes.read.addr.eq(header.sequence)]

        def reply_with(kind, count, sequence=header.sequence):
            return [reply.kind.eq(kind), reply.sequence.eq(sequence), reply.count.eq(count), index.eq(0)]

        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += request.ready.eq(1)
                with m.If(request.valid):
                    m.d.sync += header.eq(word)
                    m.next = "ADDRESS"
                    with m.If(request.payload.corrupt):
                        m.d.sync += reply_with(Kind.NAK, 0, expected)
                        m.next = "REPLY"
            with m.State("ADDRESS"):
                # The receiver has the whole request and passes it on without gaps: there is nothing to wait for.
                m.d.comb += request.ready.eq(1)
                m.d.sync += [
                    address.eq(word),
                    index.eq(0),
                    fresh.eq(synchronised & (distance == 0)),
                    ahead.eq(~synchronised | ((distance != 0) & (distance <= AHEAD_MAX))),
                ]
                m.next = "DECIDE"
            with m.State("DECIDE"):
                with m.If(fresh):
                    m.d.sync += expected.eq(expected + 1)
                m.d.sync += outcome.eq(0)
                with m.If(header.kind == Op.SYNC):
                    m.d.sync += [expected.eq(header.sequence + 1), synchronised.eq(1), *reply_with(Kind.ACK, 0)]
                    m.next = "REPLY"
                with m.Elif(ahead):
                    m.d.sync += reply_with(Kind.NAK, 0, expected)
                    m.next = "REPLY"
                    with m.If((header.kind == Op.WRITE) & (header.count != 0)):
                        m.next = "SKIP"
                with m.Elif(header.kind == Op.WRITE):
                    m.d.sync += reply_with(Kind.ACK, 0)
                    with m.If(~fresh):
                        m.d.sync += outcome.eq(outcomes.read.data)
                    m.next = "WRITE"
                    with m.If(header.count == 0):
                        m.next = "WRITTEN"
                with m.Elif((header.kind == Op.READ) & (header.count <= MAX_DATA_WORDS)):
                    m.d.sync += reply_with(Kind.DATA, header.count)
                    m.next = "READ"
                    with m.If(header.count == 0):
                        m.next = "REPLY"
                with m.Else():
                    m.d.sync += reply_with(Kind.ERROR, 1)
                    m.next = "REFUSE"
            with m.State("WRITE"):
                # The words of a repeated WRITE pass without the bus, up to the one that was refused.
                accepted, refused = Signal(), Signal()
                m.d.comb += [
                    bus.enable.eq(fresh & request.valid),
                    bus.write.eq(1),
                    accepted.eq(request.valid & (bus.ack | ~fresh)),
                    refused.eq(accepted & Mux(fresh, bus.error, outcome.failed & (outcome.index == index))),
                    request.ready.eq(accepted),
                ]
                with m.If(accepted):
                    m.d.sync += [address.eq(following.following), index.eq(index + 1)]
                    with m.If(request.payload.last):
                        m.d.sync += index.eq(0)
                        m.next = "WRITTEN"
                with m.If(refused):
                    # The address stays for the answer.
                    m.d.sync += [
                        address.eq(address),
                        outcome.failed.eq(1),
                        outcome.index.eq(index),
                        *reply_with(Kind.ERROR, 1),
                    ]
                    m.next = "WRITTEN"
                    with m.If(~request.payload.last):
                        m.next = "SKIP"
            with m.State("SKIP"):
                m.d.comb += request.ready.eq(1)
                with m.If(request.valid & request.payload.last):
                    m.next = "WRITTEN"
                    with m.If(reply.kind == Kind.NAK):
                        m.next = "REPLY"
            with m.State("WRITTEN"):
                m.d.comb += [
                    outcomes.write.data.index.eq(outcome.index),
                    outcomes.write.data.failed.eq(reply.kind == Kind.ERROR),
                    outcomes.write.en.eq(1),
                ]
                m.next = "REPLY"
                with m.If(reply.kind == Kind.ERROR):
                    m.next = "REFUSE"
            with m.State("READ"):
                m.d.comb += [bus.enable.eq(1), store.en.eq(bus.ack)]
                with m.If(bus.ack):
                    m.d.sync += [address.eq(following.following), index.eq(index + 1)]
                    with m.If(index + 1 == header.count):
                        m.d.sync += index.eq(0)
                        m.next = "REPLY"
                    with m.If(bus.error):
                        m.d.sync += [address.eq(address), *reply_with(Kind.ERROR, 1)]
                        m.next = "REFUSE"
            with m.State("REFUSE"):
                # The words of an answer come from the buffer: this one is the address.
                m.d.comb += [store.en.eq(1), store.data.eq(address)]
                m.next = "REPLY"
            with m.State("REPLY"), m.If(~loaded.sink.valid):
                # The last word of the answer before has left.
                m.d.comb += [
                    answer.valid.eq(1),
                    answer.payload.word.eq(reply),
                    answer.payload.last.eq(reply.count == 0),
                ]
                with m.If(answer.ready):
                    m.d.sync += index.eq(1)
                    m.next = "WORDS"
                    with m.If(reply.count == 0):
                        m.next = "HEADER"
            with m.State("WORDS"):
                m.d.comb += loaded.source.valid.eq(1)
                with m.If(loaded.source.ready):
                    m.d.sync += index.eq(index + 1)
                    with m.If(loaded.source.payload.last):
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
        m.submodules.coded = coded = StreamRegister(shape=unsigned(8))
        m.submodules.words = words = StreamRegister(shape=REQUEST_WORD)
        m.submodules.packets = packets = StreamRegister(shape=PACKET_WORD)
        m.submodules.bytes = bytes_ = StreamRegister(shape=PACKET_BYTE)
        connect(m, received.sink, coded.source)
        connect(m, coded.sink, decoder.frame)
        connect(m, decoder.packet, receiver.frame)
        connect(m, receiver.request, words.source)
        connect(m, words.sink, executor.request)
        connect(m, executor.bus, flipped(self.bus))
        connect(m, flipped(self.events), event_buffer.event)
        connect(m, executor.answer, multiplexer.first)
        connect(m, event_buffer.packet, multiplexer.second)
        connect(m, multiplexer.packet, packets.source)
        connect(m, packets.sink, transmitter.packet)
        connect(m, transmitter.data, bytes_.source)
        connect(m, bytes_.sink, encoder.packet)
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
