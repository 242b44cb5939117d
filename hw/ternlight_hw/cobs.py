"""Consistent overhead byte stuffing: packets of any bytes as frames without zeros, each ended by a zero.

A frame is made of blocks: a code byte n, then n - 1 bytes, then a zero that is not sent, unless n is 255 or the packet
ends there (Cheshire and Baker, 1999). The same bytes as the Python package `cobs`.
"""

from __future__ import annotations

from amaranth import Module, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .small_memory import SmallMemory

DELIMITER = 0
CODE_FULL = 255
BLOCK_BYTES = CODE_FULL - 1

PACKET_BYTE = data.StructLayout({"data": 8, "last": 1})
"""A byte of a packet that is sent."""

DECODED = data.StructLayout({"data": 8, "end": 1, "error": 1})
"""A decoded byte; or, with `end`, the end of a frame (`data` means nothing then), cut short if `error` is set."""


class CobsDecoder(wiring.Component):
    """Frames to packets.

    Each input byte gives at most one output: a byte, or the end of the frame. Empty frames (zeros in a row) give
    nothing. A zero inside a block ends the frame with `error`, and the next byte begins a new frame.
    A frame of code bytes only is a packet of one zero less than its codes: 01 alone is the empty packet, an end only.

    Throughput: one byte per two cycles; latency 1 cycle. No path leads through: output and `ready` are flip-flops.
    Members: frame (In, stream of bytes), packet (Out, stream of DECODED).
    """

    def __init__(self) -> None:
        super().__init__({"frame": In(stream.Signature(unsigned(8))), "packet": Out(stream.Signature(DECODED))})

    def elaborate(self, platform):
        m = Module()
        first = Signal(init=1)  # no byte of the frame was seen
        left = Signal(range(CODE_FULL))  # bytes of the block to come
        code = Signal(init=1)  # there are none: the next byte is a code
        full = Signal()  # no zero follows this block
        byte = self.frame.payload
        delimiter = Signal()
        m.d.comb += [delimiter.eq(byte == DELIMITER), self.frame.ready.eq(~self.packet.valid)]
        with m.If(self.packet.valid):
            m.d.sync += self.packet.valid.eq(~self.packet.ready)
        with m.Elif(self.frame.valid):
            m.d.sync += [
                first.eq(delimiter),
                self.packet.payload.data.eq(byte),
                self.packet.payload.end.eq(delimiter),
                self.packet.payload.error.eq(delimiter & ~code),
            ]
            with m.If(delimiter):
                m.d.sync += [self.packet.valid.eq(~first), left.eq(0), code.eq(1)]
            with m.Elif(code):
                # The code of the next block shows that the zero after the last one belongs to the packet.
                m.d.sync += [self.packet.valid.eq(~first & ~full), self.packet.payload.data.eq(0)]
                m.d.sync += [left.eq(byte - 1), code.eq(byte == 1), full.eq(byte == CODE_FULL)]
            with m.Else():
                m.d.sync += [self.packet.valid.eq(1), left.eq(left - 1), code.eq(left == 1)]
        return m


class CobsEncoder(wiring.Component):
    """Packets to frames, each followed by its delimiter.

    The code byte comes before the block that it counts, so a block of up to 254 bytes is gathered, then sent; input
    waits meanwhile. Throughput: a block takes one cycle per byte in, then one for its code, two per byte out and one
    more. `ready` and the output come from flip-flops.

    Parameters: packet_bytes, of the longest packet.
    Members: packet (In, stream of PACKET_BYTE; a packet has at least one byte), frame (Out, stream of bytes).
    """

    def __init__(self, *, packet_bytes: int) -> None:
        if packet_bytes < 2:
            raise ValueError(f"packet_bytes must be at least 2, not {packet_bytes}")
        self.packet_bytes = packet_bytes
        self.block_bytes = min(packet_bytes, BLOCK_BYTES)
        super().__init__({"packet": In(stream.Signature(PACKET_BYTE)), "frame": Out(stream.Signature(unsigned(8)))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = SmallMemory(shape=unsigned(8), depth=self.block_bytes)
        write, read = memory.write, memory.read
        count = Signal(range(self.block_bytes + 1))  # bytes of the block that are not sent
        sent = Signal(range(self.block_bytes + 1))
        full = Signal()  # the next byte is the last one of a block
        empty, final = Signal(init=1), Signal()  # no byte, one byte is not sent
        zero, last = Signal(), Signal()  # the block was ended by a zero; by the end of the packet
        byte = self.packet.payload
        m.d.comb += [
            write.addr.eq(count),
            write.data.eq(byte.data),
            read.addr.eq(sent),
            self.frame.payload.eq(read.data),
        ]
        with m.FSM():
            with m.State("GATHER"):
                m.d.comb += self.packet.ready.eq(1)
                with m.If(self.packet.valid):
                    m.d.sync += [zero.eq(byte.data == 0), last.eq(byte.last)]
                    with m.If(byte.data != 0):
                        m.d.comb += write.en.eq(1)
                        m.d.sync += [count.eq(count + 1), empty.eq(0), full.eq(count == BLOCK_BYTES - 2)]
                    with m.If((byte.data == 0) | byte.last | full):
                        m.next = "CODE"
            with m.State("CODE"):
                m.d.comb += [self.frame.valid.eq(1), self.frame.payload.eq(count + 1)]
                with m.If(self.frame.ready):
                    m.next = "FETCH"
                    with m.If(empty):
                        m.next = "END"
            with m.State("FETCH"):
                m.d.sync += final.eq(count == 1)
                m.next = "SEND"
            with m.State("SEND"):
                m.d.comb += self.frame.valid.eq(1)
                with m.If(self.frame.ready):
                    m.d.sync += [count.eq(count - 1), sent.eq(sent + 1)]
                    m.next = "FETCH"
                    with m.If(final):
                        m.next = "END"
            with m.State("END"):
                m.d.sync += [sent.eq(0), full.eq(0), empty.eq(1)]
                m.next = "GATHER"
                with m.If(last & zero):
                    # A packet that ends with a zero has an empty block after it.
                    m.d.sync += zero.eq(0)
                    m.next = "CODE"
                with m.Elif(last):
                    m.next = "DELIMITER"
            with m.State("DELIMITER"):
                m.d.comb += [self.frame.valid.eq(1), self.frame.payload.eq(DELIMITER)]
                with m.If(self.frame.ready):
                    m.next = "GATHER"
        return m
