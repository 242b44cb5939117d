"""Reductions over the beats of an operation: the largest magnitude, and the sum of squares."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ternlight.formats import ELEMENT_BITS, SQUARE_BITS
from ternlight.ufloat import MANTISSA_BITS

from ..layouts import REGISTER, WRITEBACK
from ..pipeline import Flow
from .arithmetic import named, select
from .chain import carry_sum
from .multiplier import multiplied
from .normalise import SUM_BITS, Normaliser, leading_zeros

MAGNITUDE = data.StructLayout({"plus": 1, "floor": unsigned(ELEMENT_BITS)})
"""A magnitude, floor + plus. Two of them compare as their bits do, so that only the largest needs the addition."""

BEYOND = data.StructLayout({"below": 1, "above": 1})
"""What a magnitude is of saturates: at the lowest element, or at the highest."""


class Peak(wiring.Component):
    """max(magnitude) over all beats of an operation, as ufloat: the reduction of ternlight_sim.golden.vector.peak.

    One beat per cycle, the operations back to back. The peak is written back `latency` cycles after the last beat.

    Parameters
    ----------
    lanes: elements per beat.

    Attributes: latency.

    Members
    -------
    valid, last: a beat is here; it is the last of its operation, in.
    target: the register that the peak goes to, with the last beat, in.
    magnitudes: MAGNITUDE each, in.
    beyond: BEYOND each, in the cycle after, in: then the magnitude is the greatest, whatever its value.
    writeback: Flow of layouts.WRITEBACK, out.
    busy: a beat is on its way, out.
    """

    def __init__(self, *, lanes: int) -> None:
        if lanes < 3:
            raise ValueError(f"lanes must be at least 3, not {lanes}")
        self.lanes = lanes
        # The last two of a beat are compared with the largest so far in the same cycle.
        self.latency = ceil_log2(lanes) + 2
        super().__init__(
            {
                "valid": In(1),
                "last": In(1),
                "target": In(REGISTER),
                "magnitudes": In(data.ArrayLayout(MAGNITUDE, lanes)),
                "beyond": In(data.ArrayLayout(BEYOND, lanes)),
                "writeback": Out(Flow(WRITEBACK)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        tag = _Tag(m, self)
        values = [magnitude.as_value() for magnitude in self.magnitudes]
        beyond = Signal(BEYOND)
        m.d.comb += [beyond[side].eq(Cat(lane[side] for lane in self.beyond).any()) for side in ("below", "above")]
        while len(values) > 2:
            groups = [_larger(m, platform, values[index : index + 2]) for index in range(0, len(values), 2)]
            values = [Signal(MAGNITUDE.size, name=f"stage_{tag.stage}_{index}") for index in range(len(groups))]
            with m.If(tag.valid):
                m.d.sync += [value.eq(group) for value, group in zip(values, groups, strict=True)]
            tag.advance()
            # Of `beyond`, which is a cycle late, the first stage is its own arrival.
            if tag.stage > 1:
                later = Signal(BEYOND)
                m.d.sync += later.eq(beyond)
                beyond = later

        # Between the beats of an operation, the largest so far: all three are compared at once.
        peak, first = Signal(MAGNITUDE), Signal(init=1)
        saturates = Signal(BEYOND)
        candidates = values[0], values[-1]
        ahead = _exceeds(m, platform, *candidates)
        exceeds = [first | _exceeds(m, platform, value, peak.as_value()) for value in candidates]
        with m.If(tag.valid):
            m.d.sync += first.eq(tag.last)
            for side in ("below", "above"):
                m.d.sync += saturates[side].eq(beyond[side] | (saturates[side] & ~first))
        # Also when there is no beat: the one before comes again, and does no harm once the peak is taken.
        with m.If(exceeds[0] & ahead):
            m.d.sync += peak.as_value().eq(candidates[0])
        with m.Elif(exceeds[1] & ~ahead):
            m.d.sync += peak.as_value().eq(candidates[1])
        tag.advance()

        # The zeros are counted before the addition: one too many if it makes a power of two of ones alone.
        floor, plus = peak.floor, peak.plus
        value, zeros = Signal(ELEMENT_BITS), Signal(range(ELEMENT_BITS + 1))
        carried, empty, extreme = Signal(), Signal(), Signal(BEYOND)
        with m.If(tag.valid):
            m.d.sync += [
                value.eq(floor + plus),
                zeros.eq(leading_zeros(m, floor)),
                carried.eq(plus & ~(floor[1:] & ~floor[:-1]).any()),
                empty.eq(peak.as_value() == 0),
                extreme.eq(saturates),
            ]
        tag.advance()

        normal = named(m, (value << zeros)[:ELEMENT_BITS][-MANTISSA_BITS:])
        result = self.writeback.payload
        m.d.sync += self.writeback.valid.eq(tag.valid & tag.last)
        with m.If(tag.valid & tag.last):
            m.d.sync += [
                result.target.eq(tag.target),
                result.value.mantissa.eq(Cat(normal[:-1], normal[-1] | carried)),
                result.value.exponent.eq(Mux(empty, 0, ELEMENT_BITS - MANTISSA_BITS - zeros + carried)),
            ]
            # The magnitudes of the lowest and of the highest element: a power of two, and, truncated, ones alone.
            with m.If(extreme.below):
                m.d.sync += [
                    result.value.mantissa.eq(1 << MANTISSA_BITS - 1),
                    result.value.exponent.eq(ELEMENT_BITS - MANTISSA_BITS),
                ]
            with m.Elif(extreme.above):
                m.d.sync += [
                    result.value.mantissa.eq((1 << MANTISSA_BITS) - 1),
                    result.value.exponent.eq(ELEMENT_BITS - 1 - MANTISSA_BITS),
                ]
        m.d.comb += self.busy.eq(tag.busy | self.writeback.valid)
        return m


class SquareSum(wiring.Component):
    """sum(term**2) over all beats of an operation, as ufloat.

    One beat per cycle, the operations back to back; those of different ways may alternate. The sum is written back
    `latency` cycles after the last beat. It has SUM_BITS: up to 2**13 terms never overflow.

    Parameters
    ----------
    lanes: terms per beat.
    ways: operations that may be in progress at the same time.

    Attributes: latency.

    Members
    -------
    valid, last: a beat is here; it is the last of its operation, in.
    way: which of the operations in progress it belongs to, in.
    target: the register that the sum goes to, with the last beat, in.
    terms: SQUARE_BITS each, signed, in.
    writeback: Flow of layouts.WRITEBACK, out.
    busy: a beat is on its way, out.
    """

    def __init__(self, *, lanes: int, ways: int = 1) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be positive, not {lanes}")
        if ways < 1:
            raise ValueError(f"ways must be positive, not {ways}")
        self.lanes = lanes
        self.ways = ways
        self.latency = 2 + ceil_log2(lanes) + Normaliser.latency
        super().__init__(
            {
                "valid": In(1),
                "last": In(1),
                "way": In(range(ways)),
                "target": In(REGISTER),
                "terms": In(data.ArrayLayout(signed(SQUARE_BITS), lanes)),
                "writeback": Out(Flow(WRITEBACK)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.normaliser = normaliser = Normaliser()
        tag = _Tag(m, self)
        # The square of the lowest term has one bit less than the product of any two.
        bits = 2 * SQUARE_BITS - 1
        values = [multiplied(m, platform, term, term, enable=tag.valid)[:bits] for term in self.terms]
        tag.advance()
        while len(values) > 1:
            bits += 1
            sums = [_sum(values[index : index + 2]) for index in range(0, len(values), 2)]
            values = [Signal(bits, name=f"stage{tag.stage + 1}_{index}") for index in range(len(sums))]
            with m.If(tag.valid):
                m.d.sync += [value.eq(total) for value, total in zip(values, sums, strict=True)]
            tag.advance()

        so_far = Signal(data.ArrayLayout(SUM_BITS, self.ways))
        total = self._accumulated(m, platform, values[0], so_far, tag.way)
        with m.If(tag.valid):
            m.d.sync += so_far[tag.way].eq(Mux(tag.last, 0, total))
        complete = Signal(SUM_BITS)
        with m.If(tag.valid):
            m.d.sync += complete.eq(total)
        tag.advance()
        m.d.comb += [
            normaliser.input.valid.eq(tag.valid & tag.last),
            normaliser.input.payload.target.eq(tag.target),
            normaliser.input.payload.value.eq(complete),
            self.writeback.valid.eq(normaliser.output.valid),
            self.writeback.payload.eq(normaliser.output.payload),
            self.busy.eq(tag.busy | normaliser.busy),
        ]
        return m

    def _accumulated(self, m, platform, value, so_far, way):
        """The value added to the sum so far of its operation; which of two sums costs no multiplexer."""
        if self.ways > 2:
            return named(m, (so_far[way] + value)[:SUM_BITS])
        wide = Signal(SUM_BITS)
        m.d.comb += wide.eq(value)
        if self.ways == 1:
            return carry_sum(m, platform, wide, lambda sum: sum, so_far[0])
        return carry_sum(m, platform, wide, select, way, so_far[0], so_far[1])


class _Tag:
    """The control that goes with the beats of a reduction, from stage to stage."""

    def __init__(self, m: Module, ports: Peak | SquareSum) -> None:
        self._m = m
        self.stage = 0
        self.valid, self.last, self.target = ports.valid, ports.last, ports.target
        self.way = getattr(ports, "way", Const(0, 0))
        self.busy = ports.valid

    def advance(self) -> None:
        """Go on to the next stage."""
        self.stage += 1
        before = {name: getattr(self, name) for name in ("last", "target", "way")}
        after = {name: Signal.like(value, name=f"{name}_{self.stage}") for name, value in before.items()}
        valid = Signal(name=f"valid_{self.stage}")
        self._m.d.sync += valid.eq(self.valid)
        with self._m.If(self.valid):
            self._m.d.sync += [after[name].eq(value) for name, value in before.items()]
        self.valid, self.busy = valid, self.busy | valid
        self.last, self.target, self.way = after.values()


def _exceeds(m: Module, platform: Any, value: Value, other: Value) -> Value:
    """Whether one unsigned value is larger than another: the carry of a difference."""
    return carry_sum(m, platform, Cat(value, Const(0, 1)), lambda bit: ~bit, Cat(other, Const(1, 1)))[-1]


def _larger(m: Module, platform: Any, values: list[Value]) -> Value:
    """The larger of two unsigned values, or the one that there is."""
    if len(values) == 1:
        return values[0]
    return Mux(_exceeds(m, platform, *values), *values)


def _sum(values: list[Value]) -> Value:
    """The sum of one or two values."""
    return values[0] + values[1] if len(values) == 2 else values[0]
