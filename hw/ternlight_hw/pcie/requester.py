"""Requests to the host's memory as TLPs."""

from __future__ import annotations

from amaranth import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .tlp import DWORD, DWORD_BITS, HEAD, ID_BITS, MEMORY_COMMAND, REQUEST, Kind, byte_swap

WHOLE = 0b1111


class TlpRequester(wiring.Component):
    """Header, address and data of memory reads and writes of whole words.

    The address has two words only where it needs them, as the specification demands. A command must not cross a
    boundary of 4 KiB, nor exceed the maximum payload or read request.

    Cycles per command: 3, or 4 above 4 GiB, and one more per word written. `command` is taken with the last word.
    Members: command (In, stream of MEMORY_COMMAND), data (In, stream of the words to write), identity (In, the
    requester's), dwords (Out, stream of DWORD).
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "command": In(stream.Signature(MEMORY_COMMAND)),
                "data": In(stream.Signature(DWORD_BITS)),
                "identity": In(ID_BITS),
                "dwords": Out(stream.Signature(DWORD)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        command, out = self.command.payload, self.dwords
        low, high = command.address[: DWORD_BITS - 2] << 2, command.address[DWORD_BITS - 2 :]
        head, second = Signal(HEAD), Signal(REQUEST)
        left = Signal.like(command.length)
        m.d.comb += [
            head.kind.eq(Kind.MEMORY),
            head.has_data.eq(command.write),
            head.wide.eq(high != 0),
            head.length.eq(command.length),
            second.requester.eq(self.identity),
            second.tag.eq(command.tag),
            second.first_enable.eq(WHOLE),
            second.last_enable.eq(Mux(command.length == 1, 0, WHOLE)),
        ]
        with m.FSM():
            with m.State("HEAD"):
                m.d.comb += [out.valid.eq(self.command.valid), out.payload.dword.eq(head)]
                m.d.sync += left.eq(command.length)
                with m.If(out.valid & out.ready):
                    m.next = "SECOND"
            with m.State("SECOND"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(second)]
                with m.If(out.ready):
                    m.next = "LOW"
                    with m.If(head.wide):
                        m.next = "HIGH"
            with m.State("HIGH"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(high)]
                with m.If(out.ready):
                    m.next = "LOW"
            with m.State("LOW"):
                m.d.comb += [out.valid.eq(1), out.payload.dword.eq(low), out.payload.last.eq(~command.write)]
                with m.If(out.ready):
                    m.d.comb += self.command.ready.eq(~command.write)
                    m.next = "HEAD"
                    with m.If(command.write):
                        m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [
                    out.valid.eq(self.data.valid),
                    self.data.ready.eq(out.ready),
                    out.payload.dword.eq(byte_swap(self.data.payload)),
                    out.payload.last.eq(left == 1),
                ]
                with m.If(out.valid & out.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.d.comb += self.command.ready.eq(1)
                        m.next = "HEAD"
        return m
