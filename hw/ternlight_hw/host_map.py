"""Decodes host addresses onto registers, session memories and the wide memories."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.abi import WINDOW_SHIFT, Window, column_bits, window_columns, window_words
from ternlight.geometry import Geometry

from .bus import HostBus
from .memory import LoadPort, ReadPort
from .registers import OFFSET_BITS, RegisterBus
from .session_record import SessionBus

LOADED = (Window.PROGRAM, Window.GAINS, Window.STORE, Window.STATES)
SESSION_WINDOWS = (Window.SESSIONS, Window.PROMPTS, Window.TOKENS)


class HostMap(wiring.Component):
    """Target of the HostBus: one word at a time.

    Cycles: 3 for an error, 4 to write a word of a wide memory and 6 to read one of STATES; a register or a word of a
    session takes 3 more than behind the map. The wide memories belong to the fabric while a token is in progress
    (`hold`): their words wait. PROGRAM, GAINS and STORE are written only, and read as an error; so is every address
    beyond a window. The answers come from flip-flops.

    Parameters: geometry, session_offset_bits.
    Members:
        bus: In HostBus; registers: Out RegisterBus; sessions: Out SessionBus.
        program, gains, store, states: Out LoadPorts; states_read: Out ReadPort.
        hold: In(1).
    """

    def __init__(self, *, geometry: Geometry, session_offset_bits: int) -> None:
        self.geometry = geometry
        self.depths = {
            window: words // window_columns(geometry)[window] for window, words in window_words(geometry).items()
        }
        columns = window_columns(geometry)
        ports = {
            window.name.lower(): Out(
                LoadPort(address_bits=ceil_log2(self.depths[window]), column_bits=max(1, column_bits(columns[window])))
            )
            for window in LOADED
        }
        super().__init__(
            {
                "bus": In(HostBus()),
                "registers": Out(RegisterBus()),
                "sessions": Out(SessionBus(offset_bits=session_offset_bits)),
                "states_read": Out(
                    ReadPort(address_bits=ceil_log2(self.depths[Window.STATES]), data_bits=32 * geometry.state_columns)
                ),
                "hold": In(1),
            }
            | ports
        )

    def elaborate(self, platform):
        m = Module()
        offset = self.bus.address[:WINDOW_SHIFT]
        window = self.bus.address[WINDOW_SHIFT:]
        columns = window_columns(self.geometry)
        state_column_bits = column_bits(columns[Window.STATES])
        state_column = offset[:state_column_bits]
        m.d.comb += [
            self.registers.write.eq(self.bus.write),
            self.registers.offset.eq(offset),
            self.registers.write_data.eq(self.bus.write_data),
            self.sessions.write.eq(self.bus.write),
            self.sessions.window.eq(window),
            self.sessions.offset.eq(offset),
            self.sessions.write_data.eq(self.bus.write_data),
            self.states_read.address.eq(offset >> state_column_bits),
        ]
        # One bit per window, of the address of a cycle before: it stands still from the first cycle of an access on.
        inside = {window: Signal(name=f"in_{window.name.lower()}") for window in Window}
        m.d.sync += inside[Window.REGISTERS].eq((window == Window.REGISTERS) & (offset < 1 << OFFSET_BITS))
        for name in LOADED + SESSION_WINDOWS:
            bits = column_bits(columns[name])
            row, column = offset >> bits, offset[:bits]
            m.d.sync += inside[name].eq((window == name) & (row < self.depths[name]) & (column < columns[name]))
        loads = Signal()  # a word of a wide memory is written as soon as the fabric leaves it
        for name in LOADED:
            port = getattr(self, name.name.lower())
            bits = column_bits(columns[name])
            m.d.comb += [
                port.enable.eq(inside[name] & loads & ~self.hold),
                port.address.eq(offset >> bits),
                port.column.eq(offset[:bits]),
                port.data.eq(self.bus.write_data),
            ]

        with m.FSM():
            with m.State("IDLE"), m.If(self.bus.enable):
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += self.bus.error.eq(0)
                with m.If(inside[Window.REGISTERS]):
                    m.next = "REGISTERS"
                with m.Elif(Cat(inside[name] for name in SESSION_WINDOWS).any()):
                    m.next = "SESSIONS"
                with m.Elif(self.bus.write & Cat(inside[name] for name in LOADED).any()):
                    m.next = "LOAD"
                with m.Elif(inside[Window.STATES]):
                    m.next = "STATES"
                with m.Else():
                    m.d.sync += self.bus.error.eq(1)
                    m.next = "ACK"
            with m.State("REGISTERS"):
                m.d.comb += self.registers.enable.eq(1)
                m.d.sync += [self.bus.read_data.eq(self.registers.read_data), self.bus.error.eq(self.registers.error)]
                with m.If(self.registers.ack):
                    m.next = "ACK"
            with m.State("SESSIONS"):
                m.d.comb += self.sessions.enable.eq(1)
                m.d.sync += self.bus.read_data.eq(self.sessions.read_data)
                with m.If(self.sessions.ack):
                    m.next = "ACK"
            with m.State("LOAD"):
                m.d.comb += loads.eq(1)
                with m.If(~self.hold):
                    m.next = "ACK"
            with m.State("STATES"), m.If(~self.hold):
                m.d.comb += self.states_read.enable.eq(1)
                m.next = "STATES_WAIT"
            with m.State("STATES_WAIT"):
                # The memory is registered: its stages advance with the enable.
                m.d.comb += self.states_read.enable.eq(1)
                m.next = "STATES_READ"
            with m.State("STATES_READ"):
                m.d.sync += self.bus.read_data.eq(self.states_read.data.word_select(state_column, 32))
                m.next = "ACK"
            with m.State("ACK"):
                m.d.comb += self.bus.ack.eq(1)
                m.next = "IDLE"
        return m
