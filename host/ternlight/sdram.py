"""SDR SDRAM: commands, the parts that boards carry, and their data sheets' times in cycles of a clock.

Controller, model and host take everything about a part from here.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import reduce

from .errors import FitError

PRECHARGE_BIT = 10
"""The address bit that precharges: after the burst with READ and WRITE, all banks with PRECHARGE."""
BURSTS = (1, 2, 4, 8)
"""Beats of a burst; the code of each in the mode register is its index."""
CAS_SHIFT = 4
"""Where the mode register has the CAS latency."""
POSTPONED_MAX = 8
"""Refreshes that may be owed."""


class Command(IntEnum):
    """The levels of RAS#, CAS# and WE#, RAS# first, while CS# is low."""

    MODE = 0b000
    REFRESH = 0b001
    PRECHARGE = 0b010
    ACTIVATE = 0b011
    WRITE = 0b100
    READ = 0b101
    TERMINATE = 0b110
    NOP = 0b111


@dataclass(frozen=True, order=True)
class Time:
    """A data sheet's time: so many ns, and so many cycles, whichever is longer."""

    ns: float
    cycles: int = 1

    def at(self, clock_hz: int) -> int:
        """In cycles, rounded up."""
        return max(self.cycles, -(-round(self.ns * 1000) * clock_hz // 10**12))


@dataclass(frozen=True, kw_only=True)
class Timing:
    """A part's times in cycles of a clock, named as in SdramPart; all are minima but t_ras_max.

    cas: the CAS latency, the shortest that the part has at the clock.
    refresh: between refreshes on average, so short that every row is in time even if it is POSTPONED_MAX of them late.
    """

    t_rcd: int
    t_rp: int
    t_ras: int
    t_ras_max: int
    t_rc: int
    t_rfc: int
    t_rrd: int
    t_wr: int
    t_mrd: int
    power_up: int
    cas: int
    refresh: int


@dataclass(frozen=True, kw_only=True)
class SdramPart:
    """An SDRAM of four banks.

    width: data bits. rows, columns: of a bank.
    t_ck: by CAS latency, the shortest clock period in ns.
    t_rcd: ACTIVATE to READ or WRITE. t_rp: PRECHARGE to ACTIVATE or REFRESH.
    t_ras, t_ras_max: ACTIVATE to PRECHARGE. t_rc: ACTIVATE to ACTIVATE of the same bank. t_rrd: of another bank.
    t_rfc: REFRESH to anything. t_wr: last data written to PRECHARGE. t_mrd: MODE to anything.
    power_up: stable clock to the first command. power_up_refreshes: before the first access.
    t_ref_ms: within which every row is refreshed, with a REFRESH for each of `refreshes`.
    t_ac, t_oh: clock to data valid, and to data lost, at the latency of the fastest clock.
    """

    name: str
    width: int
    rows: int
    columns: int
    t_ck: tuple[tuple[int, float], ...]
    t_rcd: Time
    t_rp: Time
    t_ras: Time
    t_ras_max: Time
    t_rc: Time
    t_rfc: Time
    t_rrd: Time
    t_wr: Time
    t_mrd: Time
    power_up: Time
    power_up_refreshes: int
    refreshes: int
    t_ref_ms: int
    t_ac: float
    t_oh: float

    BANKS = 4

    @property
    def size(self) -> int:
        """Capacity in bytes."""
        return self.BANKS * self.rows * self.columns * self.width // 8

    def timing(self, clock_hz: int) -> Timing:
        """Everything in cycles; raises FitError for a clock that the part does not stand."""
        period_ns = 1e9 / clock_hz
        latencies = [cas for cas, shortest in self.t_ck if shortest <= period_ns + 1e-6]
        if not latencies:
            fastest = 1e3 / min(shortest for _, shortest in self.t_ck)
            raise FitError(
                f"{self.name} runs at up to {fastest:.1f} MHz, not at {clock_hz / 1e6:g} MHz: lower the clock"
            )
        times = {
            field.name: getattr(self, field.name).at(clock_hz)
            for field in fields(Timing)
            if field.name not in ("t_ras_max", "cas", "refresh")
        }
        return Timing(
            **times,
            t_ras_max=int(self.t_ras_max.ns * clock_hz / 1e9),
            cas=min(latencies),
            refresh=self.t_ref_ms * clock_hz // (1000 * (self.refreshes + POSTPONED_MAX)),
        )


def mode_register(*, burst: int, cas: int) -> int:
    """The mode register for sequential bursts of so many beats, in both directions."""
    return BURSTS.index(burst) | cas << CAS_SHIFT


def either(*parts: SdramPart) -> SdramPart:
    """What is right for any of several parts of one shape: the longer of every time, the slower clock."""
    return reduce(_both, parts)


def _both(one: SdramPart, other: SdramPart) -> SdramPart:
    same = ("width", "rows", "columns", "refreshes", "t_ref_ms")
    for name in same:
        if getattr(one, name) != getattr(other, name):
            raise FitError(
                f"{one.name} and {other.name} are no alternatives: {name} is {getattr(one, name)} and "
                f"{getattr(other, name)}"
            )
    shorter = ("t_ras_max", "t_oh")
    worst = {
        field.name: (min if field.name in shorter else max)(getattr(one, field.name), getattr(other, field.name))
        for field in fields(SdramPart)
        if field.name not in (*same, "name", "t_ck")
    }
    periods = dict(other.t_ck)
    t_ck = tuple((cas, max(ns, periods[cas])) for cas, ns in one.t_ck if cas in periods)
    return replace(one, name=f"{one.name} or {other.name}", t_ck=t_ck, **worst)


IS42S16160G = SdramPart(
    name="IS42S16160G-7",
    width=16,
    rows=8192,
    columns=512,
    t_ck=((2, 10), (3, 7)),
    t_rcd=Time(15),
    t_rp=Time(15),
    t_ras=Time(42),
    t_ras_max=Time(100_000),
    t_rc=Time(63),
    t_rfc=Time(63),
    t_rrd=Time(14),
    t_wr=Time(14, cycles=2),
    t_mrd=Time(14, cycles=2),
    power_up=Time(200_000),
    power_up_refreshes=8,
    refreshes=8192,
    t_ref_ms=64,
    t_ac=5.4,
    t_oh=2.5,
)
MT48LC16M16A2 = replace(
    IS42S16160G,
    name="MT48LC16M16A2-75",
    t_ck=((2, 10), (3, 7.5)),
    t_rcd=Time(20),
    t_rp=Time(20),
    t_ras=Time(44),
    t_rc=Time(66),
    t_rfc=Time(66),
    t_rrd=Time(15),
    t_wr=Time(15, cycles=2),
    power_up=Time(100_000),
    power_up_refreshes=2,
    t_oh=2.7,
)
W9825G6KH = replace(
    IS42S16160G,
    name="W9825G6KH-6",
    t_ck=((2, 7.5), (3, 6)),
    t_rc=Time(60),
    t_rfc=Time(60),
    t_rrd=Time(0, cycles=2),
    t_wr=Time(0, cycles=2),
    t_mrd=Time(0, cycles=2),
    t_ac=5,
    t_oh=3,
)
GW2AR_18 = replace(
    IS42S16160G,
    # Gowin names no part: the times are those of AS4C2M32S-7, of the same organisation.
    name="GW2AR-18's SDRAM",
    width=32,
    rows=2048,
    columns=256,
    t_rcd=Time(21),
    t_rp=Time(21),
    refreshes=4096,
)
"""In the FPGA's package."""

PARTS = (IS42S16160G, MT48LC16M16A2, W9825G6KH, GW2AR_18)
