"""The SDRAM's model: every rule is broken by a cycle, and kept without it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cocotb
import pytest
from cocotb.triggers import ClockCycles, FallingEdge

from ternlight.sdram import IS42S16160G, MT48LC16M16A2, PRECHARGE_BIT, Command, Time, either, mode_register
from ternlight_sim.bench import simulate, start
from ternlight_sim.sdram_model import ARRAY, MASK_LATENCY, Rule, SdramModel, rules

CLOCK_HZ = 133_333_333
BURST = 8
# t_rc longer than t_ras and t_rp together, and t_ras_max shorter than what refreshes may wait, to meet each alone.
PART = replace(
    either(IS42S16160G, MT48LC16M16A2), power_up=Time(1000), t_rc=Time(90), t_ras_max=Time(50_000), name="test"
)
T = PART.timing(CLOCK_HZ)
MODE = mode_register(burst=BURST, cas=T.cas)
ALL = 1 << PRECHARGE_BIT
INTERVAL = PART.t_ref_ms * CLOCK_HZ // (1000 * PART.refreshes)


@dataclass
class Script:
    """Pins by cycle, from the end of the reset."""

    now: int = 0
    commands: dict[int, tuple[Command, int, int]] = field(default_factory=dict)
    driven: set[int] = field(default_factory=set)
    masked: set[int] = field(default_factory=set)

    def after(self, cycles, command, bank=0, address=0):
        """A command so many cycles after the last; WRITE drives its beats."""
        self.now += cycles
        self.commands[self.now] = (command, bank, address)
        if command == Command.WRITE:
            self.driven |= set(range(self.now, self.now + BURST))
        return self

    def closed(self):
        return self.after(T.power_up, Command.PRECHARGE, address=ALL)

    def refreshed(self, count=PART.power_up_refreshes):
        self.after(T.t_rp, Command.REFRESH)
        for _ in range(count - 1):
            self.after(T.t_rfc, Command.REFRESH)
        return self

    def started(self):
        return self.closed().refreshed().after(T.t_rfc, Command.MODE, address=MODE)

    def opened(self, bank=0):
        """With a row that can be closed, and after which another can be opened."""
        return self.started().after(T.t_mrd, Command.ACTIVATE, bank=bank)


def power_up(early):
    return Script().after(T.power_up - early, Command.PRECHARGE, address=ALL)


def start_without_mode(early):
    script = Script().closed().refreshed()
    if not early:
        script.after(T.t_rfc, Command.MODE, address=MODE)
    return script.after(T.t_rfc, Command.ACTIVATE)


def start_with_few_refreshes(early):
    script = Script().closed().refreshed(PART.power_up_refreshes - early)
    return script.after(T.t_rfc, Command.MODE, address=MODE).after(T.t_mrd, Command.ACTIVATE)


def start_with_open_banks(early):
    script = Script()
    if early:
        return script.after(T.power_up, Command.REFRESH)
    return script.closed().refreshed()


def mode(wrong):
    def script(early):
        value = wrong if early else MODE
        return Script().closed().refreshed().after(T.t_rfc, Command.MODE, address=value)

    return script


def mode_of_another_bank(early):
    return Script().closed().refreshed().after(T.t_rfc, Command.MODE, bank=early, address=MODE)


def t_mrd(early):
    return Script().started().after(T.t_mrd - early, Command.ACTIVATE)


def t_rfc(early):
    return Script().started().after(T.t_mrd, Command.REFRESH).after(T.t_rfc - early, Command.ACTIVATE)


def t_rcd(early):
    return Script().opened().after(T.t_rcd - early, Command.READ)


def t_ras(early):
    return Script().opened().after(T.t_ras - early, Command.PRECHARGE)


def t_ras_max(early):
    return Script().opened().after(T.t_ras_max + early, Command.PRECHARGE)


def t_rp(early):
    return Script().opened().after(T.t_rc, Command.PRECHARGE).after(T.t_rp - early, Command.ACTIVATE)


def t_rp_before_refresh(early):
    return Script().opened().after(T.t_rc, Command.PRECHARGE).after(T.t_rp - early, Command.REFRESH)


def t_rp_after_read(early):
    script = Script().opened().after(T.t_rc, Command.READ, address=ALL)
    return script.after(BURST + T.t_rp - early, Command.ACTIVATE)


def t_rp_after_write(early):
    script = Script().opened().after(T.t_rc, Command.WRITE, address=ALL)
    return script.after(BURST - 1 + T.t_wr + T.t_rp - early, Command.ACTIVATE)


def t_rc(early):
    return Script().opened().after(T.t_ras, Command.PRECHARGE).after(T.t_rc - T.t_ras - early, Command.ACTIVATE)


def t_rrd(early):
    return Script().opened().after(T.t_rrd - early, Command.ACTIVATE, bank=1)


def t_wr(early):
    return Script().opened().after(T.t_rc, Command.WRITE).after(BURST - 1 + T.t_wr - early, Command.PRECHARGE)


def closed_never_opened(early):
    return Script().opened().after(T.t_rcd, Command.READ, bank=early)


def closed_again(early):
    return Script().opened().after(T.t_rc, Command.PRECHARGE, bank=1 - early).after(T.t_rp, Command.READ)


def closed_soon(early):
    """The row closes itself behind the write."""
    script = Script().opened().after(T.t_rcd, Command.WRITE, address=ALL * early)
    return script.after(BURST, Command.READ)


def open_twice(early):
    return Script().opened().after(T.t_rc, Command.ACTIVATE, bank=1 - early)


def open_at_refresh(early):
    script = Script().opened().after(T.t_rc, Command.PRECHARGE, bank=early)
    return script.after(T.t_rp, Command.REFRESH)


def open_at_mode(early):
    script = Script().opened().after(T.t_rc, Command.PRECHARGE, bank=early)
    return script.after(T.t_rp, Command.MODE, address=MODE)


def cut_by_read(early):
    return Script().opened().after(T.t_rcd, Command.READ).after(BURST - early, Command.READ)


def cut_by_precharge(early):
    return Script().opened().after(T.t_rcd, Command.READ).after(BURST - early, Command.PRECHARGE)


def cut_by_terminate(early):
    script = Script().opened().after(T.t_rcd, Command.READ)
    return script.after(BURST, Command.TERMINATE if early else Command.NOP)


def refresh(early):
    """In one place `early` is late: the ninth that is owed."""
    script = Script().opened().after(T.t_rc, Command.PRECHARGE)
    return script.after(9 * INTERVAL - T.t_rc - 2 + 5 * early, Command.REFRESH)


def bus_after_read(early):
    return Script().opened().after(T.t_rcd, Command.READ).after(T.cas + BURST + 1 - early, Command.WRITE)


def bus_both(early):
    script = Script().opened().after(T.t_rcd, Command.READ)
    script.driven.add(script.now + (T.cas if early else 1))
    return script


def undriven(early):
    script = Script().opened().after(T.t_rcd, Command.WRITE)
    if early:
        script.driven.remove(script.now + BURST - 1)
    return script


def masked_write(early):
    script = Script().opened().after(T.t_rcd, Command.WRITE)
    script.masked.add(script.now + BURST - early)
    return script


def masked_read(early):
    script = Script().opened().after(T.t_rcd, Command.READ)
    script.masked.add(script.now + T.cas + BURST - MASK_LATENCY - early)
    return script


INTERLEAVED, TEST, SINGLE_WRITES = MODE | 1 << 3, MODE | 1 << 7, MODE | 1 << 9
SCRIPTS = {
    Rule.POWER_UP: [power_up],
    Rule.START: [start_without_mode, start_with_few_refreshes, start_with_open_banks],
    Rule.MODE: [
        *map(mode, (INTERLEAVED, TEST, SINGLE_WRITES)),
        mode(mode_register(burst=BURST // 2, cas=T.cas)),
        mode(mode_register(burst=BURST, cas=T.cas - 1)),
        mode(mode_register(burst=BURST, cas=T.cas + 1)),
        mode_of_another_bank,
    ],
    Rule.T_MRD: [t_mrd],
    Rule.T_RFC: [t_rfc],
    Rule.T_RCD: [t_rcd],
    Rule.T_RAS: [t_ras],
    Rule.T_RAS_MAX: [t_ras_max],
    Rule.T_RP: [t_rp, t_rp_before_refresh, t_rp_after_read, t_rp_after_write],
    Rule.T_RC: [t_rc],
    Rule.T_RRD: [t_rrd],
    Rule.T_WR: [t_wr],
    Rule.CLOSED: [closed_never_opened, closed_again, closed_soon],
    Rule.OPEN: [open_twice, open_at_refresh, open_at_mode],
    Rule.CUT: [cut_by_read, cut_by_precharge, cut_by_terminate],
    Rule.REFRESH: [refresh],
    Rule.BUS: [bus_after_read, bus_both],
    Rule.UNDRIVEN: [undriven],
    Rule.MASKED: [masked_write, masked_read],
}


async def play(dut, script):
    """The rules that a script breaks, from a reset on."""
    idle = (Command.NOP, 0, 0)
    dut.pins__command.value, dut.pins__dq_oe.value, dut.pins__mask.value = Command.NOP, 0, 0
    dut.rst.value = 1
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    now = 0
    tail = T.cas + 2 * BURST
    events = {*script.commands, *script.driven, *script.masked}
    for cycle in sorted({*events, *(event + 1 for event in events), script.now + tail}):
        if cycle > now:
            await ClockCycles(dut.clk, cycle - now)
            await FallingEdge(dut.clk)
            now = cycle
        command, bank, address = script.commands.get(cycle, idle)
        dut.pins__command.value, dut.pins__bank.value, dut.pins__address.value = command, bank, address
        dut.pins__dq_oe.value, dut.pins__mask.value = cycle in script.driven, cycle in script.masked
    return rules(int(dut.violations.value))


@cocotb.test()
async def bench_rules(dut):
    """Each script, a cycle early and in time."""
    dut.pins__command.value = Command.NOP
    await start(dut)
    assert set(SCRIPTS) == set(Rule)
    dut.pins__dq_o.value = 0
    for rule, scripts in SCRIPTS.items():
        for number, script in enumerate(scripts):
            assert await play(dut, script(0)) == [], f"{rule.name} {number} is kept"
            assert await play(dut, script(1)) == [rule.name], f"{rule.name} {number} is broken"


def test_rules():
    simulate(SdramModel(part=PART, clock_hz=CLOCK_HZ, burst=BURST), __file__, bench="bench_rules", sources=[ARRAY])


@pytest.mark.parametrize("rule", Rule)
def test_names(rule):
    assert rules(1 << rule) == [rule.name]
