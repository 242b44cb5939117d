"""Serial port, 8N1: eight data bits, low bit first, one start bit (0) and one stop bit (1)."""

from __future__ import annotations

from amaranth import Cat, Module, Signal, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

DATA_BITS = 8
FRAME_BITS = DATA_BITS + 2
DIVISOR_MIN = 3
"""Below three cycles per bit there is no middle to sample."""


def _checked(divisor: int) -> int:
    if not isinstance(divisor, int) or divisor < DIVISOR_MIN:
        raise ValueError(f"divisor must be an integer of at least {DIVISOR_MIN} cycles per bit, not {divisor!r}")
    return divisor


class UartReceiver(wiring.Component):
    """Bytes from a serial line.

    The line passes two flip-flops, a start bit is checked in its middle, and every bit is sampled once, in its middle.
    Each byte finds its own start edge, so bytes may follow each other without a gap and errors of the sender's clock
    do not add up: 4 % are tolerated from 16 cycles per bit up. A byte whose stop bit is 0 is dropped, and so is what
    follows until the line is idle (1) again.

    Latency: the byte appears for one cycle, 3 cycles after the middle of its stop bit. A line cannot wait:
    `ready` is not looked at, and a byte that the consumer does not take in that cycle is lost.

    Parameters: divisor, clock cycles per bit, at least 3.
    Members: rx (In, the line, from any clock), data (Out, stream of bytes).
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _checked(divisor)
        super().__init__({"rx": In(1, init=1), "data": Out(stream.Signature(unsigned(DATA_BITS)))})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.synchroniser = FFSynchronizer(self.rx, line, init=1)
        timer = Signal(range(self.divisor))
        bits = Signal(range(DATA_BITS))
        sample = Signal()
        m.d.comb += sample.eq(timer == 0)
        m.d.sync += self.data.valid.eq(0)

        with m.FSM():
            with m.State("IDLE"), m.If(~line):
                m.d.sync += timer.eq(self.divisor // 2 - 1)
                m.next = "START"
            with m.State("START"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(sample):
                    m.d.sync += timer.eq(self.divisor - 1)
                    m.next = "DATA"
                    with m.If(line):  # a glitch
                        m.next = "IDLE"
            with m.State("DATA"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(sample):
                    m.d.sync += [
                        timer.eq(self.divisor - 1),
                        bits.eq(bits + 1),
                        self.data.payload.eq(Cat(self.data.payload[1:], line)),
                    ]
                    with m.If(bits == DATA_BITS - 1):
                        m.next = "STOP"
            with m.State("STOP"):
                m.d.sync += timer.eq(timer - 1)
                with m.If(sample):
                    m.d.sync += self.data.valid.eq(line)
                    m.next = "IDLE"
                    with m.If(~line):
                        m.next = "BREAK"
            with m.State("BREAK"), m.If(line):
                m.next = "IDLE"
        return m


class UartTransmitter(wiring.Component):
    """Bytes to a serial line.

    Throughput: one byte per 10 * divisor cycles; the next byte is taken in the last cycle of a stop bit, so that
    a waiting byte follows without a gap. Latency: the start bit begins one cycle after the byte is taken.

    Parameters: divisor, clock cycles per bit, at least 3.
    Members: data (In, stream of bytes), tx (Out, the line, from a flip-flop).
    """

    def __init__(self, *, divisor: int) -> None:
        self.divisor = _checked(divisor)
        super().__init__({"data": In(stream.Signature(unsigned(DATA_BITS))), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        timer = Signal(range(self.divisor))
        waiting = Signal(range(FRAME_BITS + 1))  # bits that follow the one on the line, and that one
        idle, final = Signal(init=1), Signal()  # no bit waits, one does
        ends = Signal()  # the last cycle of a bit
        rest = Signal(FRAME_BITS - 1, init=-1)
        m.d.comb += self.data.ready.eq(idle | (final & ends))
        m.d.sync += [timer.eq(timer - 1), ends.eq(timer == 1)]
        with m.If(ends | idle):
            m.d.sync += timer.eq(self.divisor - 1)
        with m.If(self.data.ready & self.data.valid):
            m.d.sync += [
                self.tx.eq(0),
                rest.eq(Cat(self.data.payload, 1)),
                waiting.eq(FRAME_BITS),
                idle.eq(0),
                final.eq(0),
            ]
        with m.Elif(ends & ~idle):
            m.d.sync += [
                self.tx.eq(rest[0]),
                rest.eq(Cat(rest[1:], 1)),
                waiting.eq(waiting - 1),
                idle.eq(final),
                final.eq(waiting == 2),
            ]
        return m
