"""Decodes host addresses onto registers, session memories and the wide memories."""

from __future__ import annotations

from amaranth import Module, Signal
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

    Cycles: 2 for an error and for a word of PROGRAM, GAINS or STORE; 3 to write and 4 to read a word of STATES; a
    register or a word of a session takes one more than behind the map. The wide memories belong to the fabric while a
    token is in progress (`hold`): their words wait. PROGRAM, GAINS and STORE are written only, and read as an error;
    so is every address beyond a window.

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
        inside = Signal()
        with m.Switch(window):
            with m.Case(Window.REGISTERS):
                m.d.comb += inside.eq(offset < 1 << OFFSET_BITS)
            for name in LOADED + SESSION_WINDOWS:
                with m.Case(name):
                    bits = column_bits(columns[name])
                    m.d.comb += inside.eq(((offset >> bits) < self.depths[name]) & (offset[:bits] < columns[name]))
        for name in LOADED:
            port = getattr(self, name.name.lower())
            bits = column_bits(columns[name])
            m.d.comb += [
                port.address.eq(offset >> bits),
                port.column.eq(offset[:bits]),
                port.data.eq(self.bus.write_data),
            ]

        with m.FSM():
            with m.State("IDLE"), m.If(self.bus.enable):
                m.next = "ERROR"
                with m.If(inside), m.Switch(window):
                    with m.Case(Window.REGISTERS):
                        m.next = "REGISTERS"
                    with m.Case(*SESSION_WINDOWS):
                        m.next = "SESSIONS"
                    with m.Case(Window.STATES):
                        m.next = "STATES"
                    with m.Default(), m.If(self.bus.write):
                        m.next = "LOAD"
            with m.State("ERROR"):
                m.d.comb += [self.bus.ack.eq(1), self.bus.error.eq(1)]
                m.next = "IDLE"
            with m.State("REGISTERS"):
                m.d.comb += [
                    self.registers.enable.eq(1),
                    self.bus.ack.eq(self.registers.ack),
                    self.bus.read_data.eq(self.registers.read_data),
                    self.bus.error.eq(self.registers.error),
                ]
                with m.If(self.bus.ack):
                    m.next = "IDLE"
            with m.State("SESSIONS"):
                m.d.comb += [
                    self.sessions.enable.eq(1),
                    self.bus.ack.eq(self.sessions.ack),
                    self.bus.read_data.eq(self.sessions.read_data),
                ]
                with m.If(self.bus.ack):
                    m.next = "IDLE"
            with m.State("LOAD"), m.If(~self.hold):
                m.d.comb += self.bus.ack.eq(1)
                with m.Switch(window):
                    for name in LOADED:
                        with m.Case(name):
                            m.d.comb += getattr(self, name.name.lower()).enable.eq(1)
                m.next = "IDLE"
            with m.State("STATES"):
                with m.If(self.bus.write):
                    m.next = "LOAD"
                with m.Elif(~self.hold):
                    m.d.comb += self.states_read.enable.eq(1)
                    m.next = "STATES_WAIT"
            with m.State("STATES_WAIT"):
                # The memory is registered: its stages advance with the enable.
                m.d.comb += self.states_read.enable.eq(1)
                m.next = "STATES_READ"
            with m.State("STATES_READ"):
                m.d.comb += [
                    self.bus.ack.eq(1),
                    self.bus.read_data.eq(self.states_read.data.word_select(state_column, 32)),
                ]
                m.next = "IDLE"
        return m
