"""When the SDRAM is to be refreshed."""

from __future__ import annotations

from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import ceil_div
from ternlight.sdram import POSTPONED_MAX, SdramPart, Timing


class Refresher(wiring.Component):
    """Counts the refreshes that are owed.

    They may wait for an idle memory until `urgent`, and then come in one batch: the rows are closed and opened once
    for all of them. `urgent` starts so early that after it two runs of a whole row can still end, the one that is
    read and the one whose row is open, and that no row is open for longer than t_ras_max. The refreshes of power-up
    are owed, and urgent, from the start.

    Parameters: part, timing; wait, the cycles from `urgent` to the first `done`, at most.
    Members: enable: In(1), time passes. done: In(1), a pulse per refresh. due: Out(1), one is owed. urgent: Out(1),
    from the first that cannot wait to the last that is owed.
    """

    def __init__(self, *, part: SdramPart, timing: Timing, wait: int) -> None:
        self.part = part
        self.timing = timing
        self.limit = min(
            POSTPONED_MAX - ceil_div(wait, timing.refresh),
            # Runs of one row may follow each other for ever, and only a refresh closes it.
            (timing.t_ras_max - wait) // timing.refresh,
        )
        if self.limit < 1:
            raise ValueError(f"refreshes of every {timing.refresh} cycles cannot wait for {wait}: raise the clock")
        super().__init__({"enable": In(1), "done": In(1), "due": Out(1), "urgent": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self.timing.refresh), init=self.timing.refresh - 1)
        tick = Signal()
        owed = Signal(range(max(POSTPONED_MAX, self.part.power_up_refreshes) + 1), init=self.part.power_up_refreshes)
        m.d.sync += tick.eq(0)
        with m.If(self.enable):
            with m.If(left == 0):
                m.d.sync += [left.eq(self.timing.refresh - 1), tick.eq(1)]
            with m.Else():
                m.d.sync += left.eq(left - 1)
        with m.If(tick & ~self.done):
            m.d.sync += owed.eq(owed + 1)
        with m.If(self.done & ~tick):
            m.d.sync += owed.eq(owed - 1)
        m.d.comb += self.due.eq(owed != 0)
        with m.If(owed >= self.limit):
            m.d.sync += self.urgent.eq(1)
        with m.Elif(~self.due):
            m.d.sync += self.urgent.eq(0)
        return m
