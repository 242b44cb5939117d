"""An SDRAM for simulations: its cells, and every rule of its data sheet.

It is a component, so that benches and whole simulated devices share one definition of the rules. Its cells are in
ARRAY, which a simulation adds to the design's Verilog.
"""

from __future__ import annotations

from enum import IntEnum, auto
from pathlib import Path

from amaranth import Cat, ClockSignal, Const, Instance, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.sdram import BURSTS, CAS_SHIFT, POSTPONED_MAX, PRECHARGE_BIT, Command, SdramPart
from ternlight_hw.sdram.ports import SdramPins

ARRAY = Path(__file__).parent / "cells/sdram_array.v"
JUNK = 0xA5C3_5A3C
"""What a bus reads as that nobody drives."""
MASK_LATENCY = 2
"""Cycles from DQM to the beat of a READ that it masks."""


class Rule(IntEnum):
    """What a controller can break; the place of its bit in `violations`."""

    POWER_UP = 0
    """A command before the clock was stable for so long."""
    START = auto()
    """ACTIVATE before all banks were closed, the refreshes done and the mode set."""
    MODE = auto()
    """A mode that is not these bursts, sequential, with a latency that the clock allows."""
    T_MRD = auto()
    T_RFC = auto()
    T_RCD = auto()
    T_RAS = auto()
    T_RAS_MAX = auto()
    T_RP = auto()
    T_RC = auto()
    T_RRD = auto()
    T_WR = auto()
    CLOSED = auto()
    """READ or WRITE of a bank whose row is closed, or is about to close itself."""
    OPEN = auto()
    """ACTIVATE of an open bank; REFRESH or MODE while any is open."""
    CUT = auto()
    """A command that ends a burst early. Data sheets allow it, this controller never means it."""
    REFRESH = auto()
    """More refreshes owed than may be."""
    BUS = auto()
    """Both sides drive the data, or one drives right after the other."""
    UNDRIVEN = auto()
    """A beat to write that the controller does not drive."""
    MASKED = auto()
    """A beat whose mask is set."""


def rules(violations: int) -> list[str]:
    """The names of the rules that were broken."""
    return [rule.name for rule in Rule if violations >> rule & 1]


class SdramModel(wiring.Component):
    """An SDRAM at one clock, which samples its pins at the clock's rising edge.

    A READ of a cycle drives its first beat in cycle `cas` after it, to be sampled at that cycle's end. `violations` has
    a bit for each Rule, set for good in the cycle after it was broken.

    Parameters: part, clock_hz; burst, the only one that is allowed.
    Members: pins (In, SdramPins). violations (Out).
    """

    def __init__(self, *, part: SdramPart, clock_hz: int, burst: int) -> None:
        self.part = part
        self.clock_hz = clock_hz
        self.burst = burst
        super().__init__({"pins": In(SdramPins(part)), "violations": Out(len(Rule))})

    def elaborate(self, platform):
        m = Module()
        part, burst, pins = self.part, self.burst, self.pins
        t = part.timing(self.clock_hz)
        broken = Signal(len(Rule))
        m.d.sync += self.violations.eq(self.violations | broken)

        def forbid(rule, condition):
            m.d.comb += broken[rule].eq(condition)

        def age_of(event, limit, name):
            """Cycles since an event, from 1 in the next; stays at the limit, where it starts."""
            age = Signal(range(limit + 1), init=limit, name=name)
            with m.If(event):
                m.d.sync += age.eq(1)
            with m.Elif(age != limit):
                m.d.sync += age.eq(age + 1)
            return age

        given = {command: Signal(name=command.name.lower()) for command in Command}
        for command, signal in given.items():
            m.d.comb += signal.eq(pins.command == command)
        activate, precharge, refresh = (
            given[command] for command in (Command.ACTIVATE, Command.PRECHARGE, Command.REFRESH)
        )
        read, write, set_mode = (given[command] for command in (Command.READ, Command.WRITE, Command.MODE))
        any_command, column = Signal(), Signal()
        auto_precharge, every_bank = Signal(), Signal()
        m.d.comb += [
            any_command.eq(~given[Command.NOP]),
            column.eq(read | write),
            auto_precharge.eq(column & pins.address[PRECHARGE_BIT]),
            every_bank.eq(precharge & pins.address[PRECHARGE_BIT]),
        ]

        # Banks.
        is_open, row = Signal(part.BANKS), [Signal(range(part.rows), name=f"row{bank}") for bank in range(part.BANKS)]
        closing = Signal(part.BANKS)
        since_write = age_of(self._last_written(m, write), t.t_wr, "since_write")
        last_write_bank = Signal(range(part.BANKS))
        with m.If(write):
            m.d.sync += last_write_bank.eq(pins.bank)
        checks = {rule: [] for rule in (Rule.T_RCD, Rule.T_RAS, Rule.T_RAS_MAX, Rule.T_RP, Rule.T_RC, Rule.T_WR)}
        for bank in range(part.BANKS):
            mine = pins.bank == bank
            activated, precharged = Signal(name=f"activated{bank}"), Signal(name=f"precharged{bank}")
            # An auto precharge waits for the end of the burst, and after writes for t_wr.
            wait = Signal(range(burst + t.t_wr + 1), name=f"wait{bank}")
            m.d.comb += [
                activated.eq(activate & mine),
                precharged.eq((precharge & (mine | every_bank)) | (closing[bank] & (wait == 0))),
            ]
            with m.If(wait != 0):
                m.d.sync += wait.eq(wait - 1)
            with m.If(auto_precharge & mine):
                m.d.sync += [closing[bank].eq(1), wait.eq(Mux(write, burst - 2 + t.t_wr, burst - 1))]
            with m.If(precharged):
                m.d.sync += [closing[bank].eq(0), is_open[bank].eq(0)]
            with m.If(activated):
                m.d.sync += [is_open[bank].eq(1), row[bank].eq(pins.address)]
            since_activate = age_of(activated, max(t.t_ras_max + 1, t.t_rc), f"since_activate{bank}")
            since_precharge = age_of(precharged, t.t_rp, f"since_precharge{bank}")
            checks[Rule.T_RCD].append(column & mine & (since_activate < t.t_rcd))
            checks[Rule.T_RAS].append(precharged & is_open[bank] & (since_activate < t.t_ras))
            checks[Rule.T_RAS_MAX].append(is_open[bank] & (since_activate > t.t_ras_max))
            checks[Rule.T_RP].append((activated | refresh | set_mode) & (since_precharge < t.t_rp))
            checks[Rule.T_RC].append((activated | refresh) & (since_activate < t.t_rc))
            checks[Rule.T_WR].append(
                precharge & (mine | every_bank) & (last_write_bank == bank) & (since_write < t.t_wr)
            )
        for rule, conditions in checks.items():
            forbid(rule, Cat(*conditions).any())
        forbid(Rule.T_RRD, activate & (age_of(activate, t.t_rrd, "since_any_activate") < t.t_rrd))
        forbid(Rule.T_MRD, any_command & (age_of(set_mode, t.t_mrd, "since_mode") < t.t_mrd))
        forbid(Rule.T_RFC, any_command & (age_of(refresh, t.t_rfc, "since_refresh") < t.t_rfc))
        forbid(Rule.CLOSED, column & (~is_open | closing).bit_select(pins.bank, 1))
        forbid(Rule.OPEN, (activate & is_open.bit_select(pins.bank, 1)) | ((refresh | set_mode) & is_open.any()))

        self._start(m, t, forbid, any_command, activate, every_bank, refresh, set_mode)
        self._refresh(m, t, forbid, activate, refresh)
        self._data(m, t, forbid, given, column, precharge, every_bank, is_open, row)
        return m

    def _last_written(self, m, write):
        """The cycle of a WRITE's last beat."""
        delayed = Signal(self.burst)
        m.d.sync += delayed.eq(Cat(write, delayed))
        return delayed[self.burst - 2]

    def _start(self, m, t, forbid, any_command, activate, every_bank, refresh, set_mode):
        """Power-up and the mode register."""
        time = Signal(range(t.power_up + 1))
        with m.If(time != t.power_up):
            m.d.sync += time.eq(time + 1)
        forbid(Rule.POWER_UP, any_command & (time != t.power_up))
        needed = self.part.power_up_refreshes
        closed, refreshes, mode = Signal(), Signal(range(needed + 1)), Signal()
        with m.If(every_bank):
            m.d.sync += closed.eq(1)
        with m.If(refresh & closed & (refreshes != needed)):
            m.d.sync += refreshes.eq(refreshes + 1)
        with m.If(set_mode & closed):
            m.d.sync += mode.eq(1)
        forbid(Rule.START, (activate & ~(mode & (refreshes == needed))) | ((refresh | set_mode) & ~closed))
        # All that is no burst length and no latency is 0: sequential, the same for writes, no test.
        value = self.pins.address
        latency = value[CAS_SHIFT:][:3]
        allowed = Cat(latency == cas for cas, _ in self.part.t_ck if cas >= t.cas).any()
        right = Cat(value[:3] == BURSTS.index(self.burst), allowed, ~value[3], ~value[CAS_SHIFT + 3 :].any())
        forbid(Rule.MODE, set_mode & ~(right.all() & (self.pins.bank == 0)))
        self.cas = Signal(3)
        with m.If(set_mode):
            m.d.sync += self.cas.eq(latency)

    def _refresh(self, m, t, forbid, activate, refresh):
        """From the first ACTIVATE on, one every so often, of which some may be owed; none counts that was not due."""
        interval = self.part.t_ref_ms * self.clock_hz // (1000 * self.part.refreshes)
        time, running = Signal(range(interval)), Signal()
        owed = Signal(range(POSTPONED_MAX + 3))
        with m.If(activate):
            m.d.sync += running.eq(1)
        tick = Signal()
        m.d.comb += tick.eq(time == interval - 1)
        m.d.sync += time.eq(Mux(tick | ~running, 0, time + 1))
        forbid(Rule.REFRESH, owed > POSTPONED_MAX)
        with m.If(tick & ~refresh & (owed <= POSTPONED_MAX)):
            m.d.sync += owed.eq(owed + 1)
        with m.Elif(refresh & ~tick & (owed != 0)):
            m.d.sync += owed.eq(owed - 1)

    def _data(self, m, t, forbid, given, column, precharge, every_bank, is_open, row):
        """Bursts, and who drives the data."""
        part, burst, pins = self.part, self.burst, self.pins
        read, write = given[Command.READ], given[Command.WRITE]
        column_bits = ceil_log2(part.columns)
        beats, writing = Signal(range(burst)), Signal()
        bank, line, place = Signal(range(part.BANKS)), Signal(range(part.rows)), Signal(column_bits)
        low = ceil_log2(burst)
        first = Signal(column_bits)
        rows = Signal(range(part.rows))
        with m.Switch(pins.bank):
            for number, value in enumerate(row):
                with m.Case(number):
                    m.d.comb += rows.eq(value)
        m.d.comb += first.eq(pins.address)
        with m.If(column):
            m.d.sync += [beats.eq(burst - 1), writing.eq(write), bank.eq(pins.bank), line.eq(rows)]
            m.d.sync += place.eq(Cat((first + 1)[:low], first[low:]))
        with m.Elif(beats != 0):
            m.d.sync += [beats.eq(beats - 1), place.eq(Cat((place + 1)[:low], place[low:]))]
        cuts = column | given[Command.TERMINATE] | (precharge & (every_bank | (pins.bank == bank)))
        forbid(Rule.CUT, (cuts & (beats != 0)) | given[Command.TERMINATE])

        # The beat of this cycle: a written one goes to the cells at its end, a read one on its way.
        beat = Signal(part.width)
        written = write | (writing & (beats != 0) & ~column)
        reading = read | (~writing & (beats != 0) & ~column)
        address = Mux(column, Cat(first, rows, pins.bank), Cat(place, line, bank))
        m.submodules.cells = Instance(
            "sdram_array",
            p_WIDTH=part.width,
            p_ADDRESS_BITS=len(address),
            i_clk=ClockSignal(),
            i_write=written & ~pins.mask,
            i_write_address=address,
            i_write_data=Mux(pins.dq_oe, pins.dq_o, Const(JUNK, 32)[: part.width]),
            i_read_address=address,
            o_read_data=beat,
        )
        # A latency of n is n stages; the mode chooses where a read enters.
        depth = max(cas for cas, _ in part.t_ck)
        drives = [Signal(name=f"drives{stage}") for stage in range(depth + 1)]
        values = [Signal(part.width, name=f"value{stage}") for stage in range(depth + 1)]
        for stage in range(depth):
            entering = reading & (self.cas == stage + 1)
            m.d.sync += [
                drives[stage].eq(drives[stage + 1] | entering),
                values[stage].eq(Mux(entering, beat, values[stage + 1])),
            ]
        drove = Signal()
        masks = Signal(MASK_LATENCY)
        m.d.sync += [drove.eq(drives[0]), masks.eq(Cat(pins.mask, masks))]
        m.d.comb += pins.dq_i.eq(Mux(drives[0], values[0], Const(JUNK, 32)[: part.width]))
        forbid(Rule.BUS, pins.dq_oe & (drives[0] | drove))
        forbid(Rule.UNDRIVEN, written & ~pins.dq_oe)
        forbid(Rule.MASKED, (written & pins.mask) | (drives[0] & masks[-1]))
