"""Data sheets in cycles: rounding, latencies, alternatives."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ternlight.errors import FitError
from ternlight.sdram import (
    GW2AR_18,
    IS42S16160G,
    MT48LC16M16A2,
    PARTS,
    POSTPONED_MAX,
    W9825G6KH,
    Time,
    either,
    mode_register,
)

MHZ = 1_000_000


@pytest.mark.parametrize(
    ("time", "clock_hz", "cycles"),
    [
        (Time(15), 100 * MHZ, 2),
        (Time(20), 100 * MHZ, 2),
        (Time(20.001), 100 * MHZ, 3),
        (Time(7.5), 133_333_333, 1),
        (Time(66), 133_333_333, 9),
        (Time(0, cycles=2), 133_333_333, 2),
        (Time(15, cycles=2), 50 * MHZ, 2),
        (Time(1), 1 * MHZ, 1),
        (Time(200_000), 100 * MHZ, 20_000),
    ],
)
def test_times_round_up(time, clock_hz, cycles):
    assert time.at(clock_hz) == cycles


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_part(part):
    """No time is shorter than the data sheet's, and none is longer by a cycle."""
    for clock_hz in (25 * MHZ, 100 * MHZ, 125 * MHZ, 133_333_333):
        timing = part.timing(clock_hz)
        for name in ("t_rcd", "t_rp", "t_ras", "t_rc", "t_rfc", "t_rrd", "t_wr", "t_mrd", "power_up"):
            time, cycles = getattr(part, name), getattr(timing, name)
            assert cycles >= time.cycles
            assert cycles * 1e9 / clock_hz >= time.ns - 1e-3
            assert cycles == time.cycles or (cycles - 1) * 1e9 / clock_hz < time.ns
        assert timing.t_ras_max * 1e9 / clock_hz <= part.t_ras_max.ns
        # The last row of a round that began late is still in time.
        assert (part.refreshes + POSTPONED_MAX) * timing.refresh / clock_hz <= part.t_ref_ms / 1000
    assert part.size == (8 if part.width == 32 else 32) << 20


@pytest.mark.parametrize(
    ("part", "clock_hz", "cas"),
    [
        (MT48LC16M16A2, 100 * MHZ, 2),
        (MT48LC16M16A2, 100 * MHZ + 1000, 3),
        (MT48LC16M16A2, 133_333_333, 3),
        (W9825G6KH, 133_333_333, 2),
        (W9825G6KH, 166_666_666, 3),
        (GW2AR_18, 133_333_333, 3),
    ],
)
def test_the_shortest_latency(part, clock_hz, cas):
    assert part.timing(clock_hz).cas == cas


def test_too_fast():
    with pytest.raises(FitError, match=r"MT48LC16M16A2-75 runs at up to 133\.3 MHz, not at 137\.5 MHz"):
        MT48LC16M16A2.timing(137_500_000)


def test_the_mode_register():
    assert mode_register(burst=8, cas=3) == 0b0_00_011_0_011
    assert mode_register(burst=4, cas=2) == 0b0_00_010_0_010


def test_alternatives():
    """What is right for one and for the other is right for either."""
    part = either(IS42S16160G, MT48LC16M16A2, W9825G6KH)
    assert part.name == "IS42S16160G-7 or MT48LC16M16A2-75 or W9825G6KH-6"
    timing = part.timing(100 * MHZ)
    for one in (IS42S16160G, MT48LC16M16A2, W9825G6KH):
        other = one.timing(100 * MHZ)
        for name in ("t_rcd", "t_rp", "t_ras", "t_rc", "t_rfc", "t_rrd", "t_wr", "t_mrd", "power_up", "cas"):
            assert getattr(timing, name) >= getattr(other, name)
        assert timing.t_ras_max <= other.t_ras_max
        assert part.power_up_refreshes >= one.power_up_refreshes
        assert (part.t_ac, part.t_oh) >= (one.t_ac, 0)
        assert part.t_oh <= one.t_oh
    assert dict(part.t_ck) == {2: 10, 3: 7.5}


def test_no_alternatives():
    with pytest.raises(FitError, match=r"are no alternatives: width is 16 and 32"):
        either(IS42S16160G, GW2AR_18)
    with pytest.raises(FitError, match=r"t_ref_ms is 64 and 32"):
        either(IS42S16160G, replace(IS42S16160G, t_ref_ms=32))
