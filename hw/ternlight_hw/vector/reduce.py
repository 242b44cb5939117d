"""Reductions over the outputs of an operation: the maximum, and two sums of squares."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.formats import ELEMENT_BITS, ENERGY_BITS, POWER_BITS
from ternlight.isa import WRITES_ENERGY, WRITES_PEAK, WRITES_POWER, VectorOp

from ..layouts import WRITEBACK
from .beat import ROUTE, Pulse, is_one_of
from .normalise import SUM_BITS, TOTAL, Normaliser

TERM = data.StructLayout(
    {
        "peak": unsigned(ELEMENT_BITS),
        "energy": unsigned(SUM_BITS),
        "power": unsigned(SUM_BITS),
    }
)
"""What one element, several elements, or all so far add to the reductions."""

TAG = data.StructLayout(
    dict.fromkeys(("valid", "first", "last", "has_peak", "has_energy", "has_power"), 1)
    | {name: ROUTE[name].shape for name in ("peak", "energy", "power")}
)
"""The control that goes with terms."""


class Reduce(wiring.Component):
    """max(|value|), sum(energy**2) and sum(power**2) over all beats of an operation, as ufloat.

    Which of them an operation has is in isa.WRITES_PEAK, WRITES_ENERGY and WRITES_POWER; at most two.
    One beat per cycle. The first reduction is written back `latency` cycles after the last beat, the second one
    cycle later, in the order peak, energy, power. The last beats of operations must be two cycles apart.
    The sums have 48 bits: up to 2**13 elements never overflow.

    Parameters
    ----------
    lanes: elements per beat.

    Attributes: latency.

    Members
    -------
    valid, op, route: the operation of the elements and their place in it, in.
    values: 24-bit elements; energies and powers: 18 bits; signed, in.
    writeback: pulses of layouts.WRITEBACK, out.
    busy: a beat or a reduction is here, out.
    """

    def __init__(self, *, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be positive, not {lanes}")
        self.lanes = lanes
        self.latency = 2 + ceil_log2(lanes) + Normaliser.latency
        super().__init__(
            {
                "valid": In(1),
                "op": In(VectorOp),
                "route": In(ROUTE),
                "values": In(data.ArrayLayout(signed(ELEMENT_BITS), lanes)),
                "energies": In(data.ArrayLayout(signed(ENERGY_BITS), lanes)),
                "powers": In(data.ArrayLayout(signed(POWER_BITS), lanes)),
                "writeback": Out(Pulse(WRITEBACK)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.normaliser = normaliser = Normaliser()

        tag = Signal(TAG)
        m.d.comb += [
            tag.has_peak.eq(self.valid & is_one_of(self.op, WRITES_PEAK)),
            tag.has_energy.eq(self.valid & is_one_of(self.op, WRITES_ENERGY)),
            tag.has_power.eq(self.valid & is_one_of(self.op, WRITES_POWER)),
            tag.valid.eq(tag.has_peak | tag.has_energy | tag.has_power),
            *(tag[name].eq(self.route[name]) for name in ("first", "last", "peak", "energy", "power")),
        ]
        started = tag.valid
        terms = [Signal(TERM, name=f"term_{lane}") for lane in range(self.lanes)]
        for term, value, energy, power in zip(terms, self.values, self.energies, self.powers, strict=True):
            with m.If(tag.has_peak):
                m.d.sync += term.peak.eq(Mux(value < 0, -value, value))
            with m.If(tag.has_energy):
                m.d.sync += term.energy.eq((energy * energy)[: 2 * ENERGY_BITS - 1])
            with m.If(tag.has_power):
                m.d.sync += term.power.eq((power * power)[: 2 * POWER_BITS - 1])
        tag = self._delay(m, tag)
        while len(terms) > 1:
            terms = [self._join(m, tag, terms[index : index + 2]) for index in range(0, len(terms), 2)]
            tag = self._delay(m, tag)

        beat, sums, total = terms[0], Signal(TERM), Signal(TERM)
        with m.If(tag.first):
            m.d.comb += total.eq(beat)
        with m.Else():
            m.d.comb += [
                total.peak.eq(Mux(beat.peak > sums.peak, beat.peak, sums.peak)),
                total.energy.eq(beat.energy + sums.energy),
                total.power.eq(beat.power + sums.power),
            ]
        with m.If(tag.valid):
            m.d.sync += sums.eq(total)

        # The first reduction leaves as it is formed, the second from the sums: the next beat may overwrite them then.
        leave = Signal(TOTAL)
        leaving, second, second_is_power = Signal(), Signal(), Signal()
        target = Signal.like(tag.energy)
        m.d.sync += [leaving.eq(0), second.eq(0)]
        with m.If(tag.valid & tag.last):
            m.d.sync += [
                leaving.eq(1),
                leave.target.eq(Mux(tag.has_peak, tag.peak, tag.energy)),
                leave.value.eq(Mux(tag.has_peak, total.peak, total.energy)),
                second.eq(tag.has_power | (tag.has_peak & tag.has_energy)),
                second_is_power.eq(tag.has_power),
                target.eq(Mux(tag.has_power, tag.power, tag.energy)),
            ]
        with m.Elif(second):
            m.d.sync += [
                leaving.eq(1),
                leave.target.eq(target),
                leave.value.eq(Mux(second_is_power, sums.power, sums.energy)),
            ]
        m.d.comb += [
            normaliser.input.valid.eq(leaving),
            normaliser.input.payload.eq(leave),
            self.writeback.valid.eq(normaliser.output.valid),
            self.writeback.payload.eq(normaliser.output.payload),
        ]
        # Counts the cycles since the last beat until its second writeback has left.
        pending = Signal(range(self.latency + 2))
        with m.If(started):
            m.d.sync += pending.eq(self.latency + 1)
        with m.Elif(pending != 0):
            m.d.sync += pending.eq(pending - 1)
        m.d.comb += self.busy.eq(pending != 0)
        return m

    @staticmethod
    def _delay(m, tag):
        """The tag, one cycle later."""
        later = Signal(TAG)
        with m.If(tag.valid | later.valid):
            m.d.sync += later.eq(tag)
        return later

    @staticmethod
    def _join(m, tag, pair):
        """One register for one or two terms."""
        joined = Signal(TERM)
        first, other = pair[0], pair[-1]
        with m.If(tag.has_peak):
            m.d.sync += joined.peak.eq(Mux(other.peak > first.peak, other.peak, first.peak))
        for name, enable in (("energy", tag.has_energy), ("power", tag.has_power)):
            with m.If(enable):
                m.d.sync += joined[name].eq(first[name] + other[name] if len(pair) == 2 else first[name])
        return joined
