"""The datapath of one element: what each stage of beat.py does."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import (
    ACTIVATION_BITS,
    BLOCK_BITS,
    COMPACT_BITS,
    COMPACT_EXPONENT_MAX,
    COMPACT_MANTISSA_BITS,
    COMPACT_STEP,
    ELEMENT_BITS,
    GAIN_SHIFT,
    LIFT_MAX,
    LIFT_STEP,
    SQUARE_BITS,
    SQUARE_SHIFT,
)

from ..vector.arithmetic import LOW_BITS, named, product, saturate, select
from ..vector.chain import carry_sum
from ..vector.multiplier import FACTOR_BITS as MULTIPLIER_BITS
from ..vector.multiplier import multiplied
from ..vector.reduce import BEYOND, MAGNITUDE
from .beat import HEAD, TAIL
from .scaling import FACTOR_BITS, STEP

GAIN_FACTOR_BITS = COMPACT_MANTISSA_BITS + COMPACT_STEP
"""A gain's mantissa, shifted by the lower bit of its exponent; the upper bit shifts the product."""
LIFTS = 1 + COMPACT_EXPONENT_MAX // 2 + LIFT_MAX
"""Shifts of a product, in steps: the upper bit of a gain's exponent is one of them, the others are the operation's."""
GAINED_BITS = ELEMENT_BITS + 1 + LIFT_MAX * LIFT_STEP
"""v before it is saturated; the negative of the lowest element has one bit more."""


def partial_products(m: Module, platform: Any, a: Value, b: Value, *, enable: Value) -> tuple[Signal, Signal]:
    """The registers of the products of a's LOW_BITS and of those above with b: of one multiplier each."""
    parts = a[:LOW_BITS], a[LOW_BITS:].as_signed()
    low, high = (multiplied(m, platform, part, b, enable=enable) for part in parts)
    return low, high


def limit(negative: Value, bits: int) -> Value:
    """The lowest or the highest signed value of so many bits."""
    return Cat((~negative).replicate(bits - 1), negative).as_signed()


def shift_by_steps(m: Module, value: Value, steps: Value) -> Value:
    """The right shift by so many steps: the largest first, as fewer bits are left for the others."""
    for bit in reversed(range(len(steps))):
        value = named(m, Mux(steps[bit], value >> (STEP << bit), value))
    return value


class Lane(wiring.Component):
    """One element of every operation, bit for bit ternlight_sim.golden.vector.

    Three multipliers of 18x18 bits: two for source * gain, one for operand * factor, or two if accumulators have more
    than 18 bits. Another one squares in the reduction. A stage loads its registers only for a valid beat.

    Parameters
    ----------
    accumulator: bits of a result.

    Attributes: wide: there is a stage PARTIALS.

    Members
    -------
    head, tail: the control of the stages, in.
    source (24 bits), gain (a code of 16 bits): the memories' words in READ, in.
    result: the engine's result at its transfer, in.
    factor: of the beat in OPERANDS, in.
    old: x in PRODUCT, in.
    magnitude: |v| of PEAK in GAINED (MAGNITUDE), out: as many bits of it as an element has. beyond: in the cycle after,
        whether v has more (BEYOND).
    activation: QUANT's output in TOTAL, out.
    element: x in TOTAL, out. term: what is squared, in TERM, out.
    """

    def __init__(self, *, accumulator: int) -> None:
        if not 2 <= accumulator <= ELEMENT_BITS:
            raise ValueError(f"accumulator must be from 2 to {ELEMENT_BITS} bits, not {accumulator}")
        self.accumulator = accumulator
        self.wide = accumulator > MULTIPLIER_BITS
        super().__init__(
            {
                "head": In(HEAD),
                "tail": In(TAIL),
                "source": In(signed(ELEMENT_BITS)),
                "gain": In(signed(COMPACT_BITS)),
                "result": In(signed(accumulator)),
                "factor": In(FACTOR_BITS),
                "old": In(signed(ELEMENT_BITS)),
                "magnitude": Out(MAGNITUDE),
                "beyond": Out(BEYOND),
                "activation": Out(signed(ACTIVATION_BITS)),
                "element": Out(signed(ELEMENT_BITS)),
                "term": Out(signed(SQUARE_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        narrow = self._narrow(m, platform, *self._gained(m, platform))
        whole = self._product(m, platform, narrow)
        self._total(m, platform, *self._shifted(m, whole))
        self._element(m, platform)
        return m

    def _gained(self, m, platform):
        """FACTORS to GAINED: source * gain, shifted and rounded down; what rounds it up goes with it.

        Of PEAK both are complemented where v is negative: -v = ~floor + ~plus.
        """
        mantissa, exponent = self.gain[:COMPACT_MANTISSA_BITS].as_signed(), self.gain[COMPACT_MANTISSA_BITS:]
        source, gain = Signal(signed(ELEMENT_BITS)), Signal(signed(GAIN_FACTOR_BITS))
        lifted, steps = Signal(), Signal(range(LIFTS))
        # Loaded in every cycle: whether the beat in READ moves is known late.
        m.d.sync += [
            source.eq(self.source),
            gain.eq(Mux(exponent[0], mantissa << COMPACT_STEP, mantissa)),
            lifted.eq(exponent[1]),
        ]
        low, high = partial_products(m, platform, source, gain, enable=self.head.factors)
        with m.If(self.head.factors):
            m.d.sync += steps.eq(self.head.lift + lifted)

        # One bit below the point.
        whole = named(m, Cat(low[:LOW_BITS], low[LOW_BITS:].as_signed() + high).as_signed())
        least = GAIN_SHIFT - 1 - LIFT_STEP * (LIFTS - 1)
        scaled = whole[least:].as_signed()
        for bit in (1, 0):
            scaled = named(m, Mux(steps[bit], scaled, scaled >> (LIFT_STEP << bit)))
        negate = named(m, self.head.magnitude & whole[-1])
        floor, plus, negative = Signal(signed(GAINED_BITS)), Signal(), Signal()
        with m.If(self.head.products):
            m.d.sync += [
                Cat(plus, floor).eq(scaled ^ negate.replicate(GAINED_BITS + 1)),
                negative.eq(whole[-1]),
            ]
        m.d.comb += [self.magnitude.floor.eq(floor), self.magnitude.plus.eq(plus)]
        return floor, plus, negative

    def _narrow(self, m, platform, floor, plus, negative):
        """ROUNDED, and what OPERANDS loads: v, saturated, in block floating point: v / 2**narrowing."""
        above = floor[ELEMENT_BITS - 1 :]
        over = named(m, above.any() & ~above.all())
        edge = ~above.any() & floor[: ELEMENT_BITS - 1].all() & plus
        half, value, bound = (Signal(signed(ELEMENT_BITS + 1)) for _ in range(3))
        m.d.comb += [half.eq(self.head.half), value.eq(floor), bound.eq(limit(negative, ELEMENT_BITS))]
        # A bound that is rounded up is one too large: narrowed and saturated, it makes no difference.
        total = carry_sum(m, platform, half, select, over, value, bound, carry=plus)
        rounded = Signal.like(half)
        with m.If(self.head.gained):
            m.d.sync += [
                rounded.eq(total),
                self.beyond.below.eq((over | edge) & negative),
                self.beyond.above.eq((over | edge) & ~negative),
            ]
        narrow = (rounded >> self.head.narrowing)[:BLOCK_BITS].as_signed()
        sign = rounded[-1]
        excess = (rounded[BLOCK_BITS - 1 : -1] ^ sign.replicate(len(self.head.above))) & self.head.above
        return Mux(named(m, excess.any()), limit(sign, BLOCK_BITS), narrow)

    def _product(self, m, platform, narrow):
        """OPERANDS to PRODUCT: operand * factor."""
        bits = max(self.accumulator, BLOCK_BITS)
        operand = Signal(signed(bits))
        m.d.sync += operand.eq(Mux(self.head.rounded, narrow, self.result))
        if not self.wide:
            return multiplied(m, platform, operand, self.factor, enable=self.tail.operands)
        low, high = partial_products(m, platform, operand, self.factor, enable=self.tail.operands)
        whole = Signal(signed(bits + FACTOR_BITS))
        with m.If(self.tail.partials):
            m.d.sync += whole.eq(product(low, high))
        return whole

    def _shifted(self, m, whole):
        """SHIFTED: whole / 2**(STEP * steps) rounded down, its half, and whether it has more than ELEMENT_BITS."""
        steps = self.tail.steps
        halves = Cat(Const(0, 1), whole).as_signed()
        above = whole[ELEMENT_BITS - 1 : -1] ^ whole[-1].replicate(len(whole) - ELEMENT_BITS)
        groups = [above[place : place + STEP].any() for place in range(0, len(above), STEP)]
        excess = [group & self.tail.above[step] for step, group in enumerate(groups)]
        value, half = Signal(signed(ELEMENT_BITS)), Signal()
        over, negative = Signal(), Signal()
        with m.If(self.tail.product):
            m.d.sync += [
                Cat(half, value).eq(shift_by_steps(m, halves, steps)[: ELEMENT_BITS + 1]),
                over.eq(Cat(excess).any()),
                negative.eq(whole[-1]),
            ]
        return value, half, over, negative

    def _total(self, m, platform, value, half, over, negative):
        """TOTAL: x plus the product, not yet saturated; an activation."""
        old = Signal(signed(ELEMENT_BITS))
        with m.If(self.tail.product):
            m.d.sync += old.eq(Mux(self.tail.adds, self.old, 0))
        highest = ~value[-1] & value[:-1].all()
        up = named(m, half & ~over & ~highest)
        total, wide_old, wide_value, wide_limit = (Signal(signed(ELEMENT_BITS + 1)) for _ in range(4))
        m.d.comb += [wide_old.eq(old), wide_value.eq(value), wide_limit.eq(limit(negative, ELEMENT_BITS))]
        bounded = carry_sum(m, platform, wide_old, select, over, wide_value, wide_limit, carry=up)

        near = named(m, value[:ACTIVATION_BITS].as_signed() + half)
        beyond = value[ACTIVATION_BITS - 1 :]
        far = over | (beyond.any() & ~beyond.all()) | (near[-2] & ~near[-1])
        lowest = near[-2] & ~near[:-2].any()
        with m.If(self.tail.shifted):
            m.d.sync += [
                total.eq(bounded),
                # Activations are symmetric.
                self.activation.eq(Mux(far, limit(negative, ACTIVATION_BITS) | 1, near[:-1] | lowest)),
            ]
        m.d.comb += self.element.eq(saturate(total, ELEMENT_BITS))

    def _element(self, m, platform):
        """ELEMENT and TERM: the element, rounded to SQUARE_BITS."""
        element = Signal(signed(ELEMENT_BITS))
        with m.If(self.tail.total):
            m.d.sync += element.eq(self.element)
        floor, half = element[SQUARE_SHIFT:].as_signed(), element[SQUARE_SHIFT - 1]
        highest = ~floor[-1] & floor[:-1].all()
        rounded = carry_sum(m, platform, floor, lambda: 0, carry=named(m, half & ~highest))
        with m.If(self.tail.element):
            m.d.sync += self.term.eq(rounded)
