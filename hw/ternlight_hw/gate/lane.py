"""The datapath of one element, without a stall: what each stage of beat.py does."""

from __future__ import annotations

from functools import partial

from amaranth import Cat, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import (
    COMPACT_BITS,
    COMPACT_EXPONENT_BITS,
    COMPACT_MANTISSA_BITS,
    COMPACT_STEP,
    ELEMENT_BITS,
    POWER_SHIFT,
    SQUARE_BITS,
    SQUARE_SHIFT,
    STATE_BITS,
)
from ternlight.sigmoid import OUTPUT_FRACTION

from ..vector.arithmetic import LOW_BITS, named, product, saturate
from ..vector.chain import carry_sum
from ..vector.multiplier import FACTOR_BITS as MULTIPLIER_BITS
from ..vector.multiplier import multiplied
from ..vector.sigmoid import MAGNITUDE_BITS, Sigmoid
from .beat import (
    FACTOR_BITS,
    GATED_WRITE,
    LAST,
    NARROWING,
    WORD,
    beat_layout,
    steps_max,
)

FORGET_BITS = OUTPUT_FRACTION + 1
"""A forget gate, from 0 to 1, both included."""
MANTISSA_MAX = (1 << COMPACT_MANTISSA_BITS - 1) - 1


class Lane(wiring.Component):
    """One element of every operation, bit for bit ternlight_sim.golden.vector, GATED_WRITE stages after its result.

    Five multipliers of 18x18 bits with accumulators of up to 18 bits, else seven: for acc * mantissa, the sigmoid's
    interpolation, z * sigmoid(z), and acc * silu or (h - s) * f; one squares what `square` gives.
    Values between a shift and its rounding are kept as magnitudes, or rather as inverses where they are negative:
    rounding then makes a magnitude of them, or the number itself, in the same addition.

    A stage writes its registers only for a valid beat.

    Parameters
    ----------
    accumulator: bits of a result.

    Members
    -------
    beats: the beats in stages 1 to LAST (that of stage 0 is not read), in.
    advance: the registers of stage 1 may be written, in.
    low, high: results of the beat in stage 0, in. uses_high: `high` is the first factor; keeps_high: `high` is the
        second's factor, or the power's term, in.
    factor: of the beat in stage 1: the mantissa, or twice it for a shift by an odd amount; 0 for GATE, in.
    narrowing: of the beat in stage 2, in.
    word: the state memory's word of stage WORD: a code of STATE_BITS at most, or a lower bound, in.
    forget_read: the forget gate of stage FORGET_READ, in. forget_write: that of stage FORGET_WRITE, out.
    state: the code of stage STATE_WRITE, out. value: t of stage GATED_WRITE, out. square: of stage SQUARE, out.
    """

    def __init__(self, *, accumulator: int) -> None:
        if not 2 <= accumulator <= ELEMENT_BITS:
            raise ValueError(f"accumulator must be from 2 to {ELEMENT_BITS} bits, not {accumulator}")
        self.accumulator = accumulator
        super().__init__(
            {
                "beats": In(beat_layout(accumulator)).array(LAST + 1),
                "advance": In(1),
                "low": In(signed(accumulator)),
                "high": In(signed(accumulator)),
                "uses_high": In(1),
                "keeps_high": In(1),
                "factor": In(unsigned(FACTOR_BITS)),
                "narrowing": In(NARROWING),
                "word": In(COMPACT_BITS),
                "forget_read": In(FORGET_BITS),
                "forget_write": Out(FORGET_BITS),
                "state": Out(COMPACT_BITS),
                "value": Out(signed(ELEMENT_BITS)),
                "square": Out(signed(SQUARE_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._sum = partial(carry_sum, m, platform)
        self._product = partial(multiplied, m, platform)
        self._entry(m)
        self._first_product(m)
        self._silu(m)
        self._second_factors(m)
        self._gated(m)
        self._state(m)
        self._square(m)
        return m

    def _after(self, m, stage):
        """The registers of the next stage are written."""
        return m.If(self.beats[stage].valid)

    def _delayed(self, m, value: Value, first: int, last: int, name: str) -> dict[int, Value]:
        """A value of stage `first` in all stages up to `last`."""
        stages = {first: value}
        for stage in range(first, last):
            stages[stage + 1] = Signal.like(value, name=f"{name}_{stage + 1}", reset_less=True)
            with self._after(m, stage):
                m.d.sync += stages[stage + 1].eq(stages[stage])
        return stages

    def _entry(self, m):
        """Stage 1: the results."""
        self.first, kept = _register(signed(self.accumulator)), _register(signed(self.accumulator))
        with m.If(self.advance):
            m.d.sync += [
                self.first.eq(Mux(self.uses_high, self.high, self.low)),
                kept.eq(Mux(self.keeps_high, self.high, self.low)),
            ]
        self.kept = self._delayed(m, kept, 1, 3, "kept")

    def _multiply(self, m, stage, a, b):
        """The product of this stage's factors, in the next stage."""
        valid = self.beats[stage].valid
        if len(a) <= MULTIPLIER_BITS:
            return self._product(a, b, enable=valid)
        low, high = (self._product(part, b, enable=valid) for part in (a[:LOW_BITS], a[LOW_BITS:].as_signed()))
        return named(m, product(low, high)[: len(a) + len(b)].as_signed())

    def _first_product(self, m):
        """Stages 2 to 4: |acc * scale|, or |h| for GATE."""
        scaled = self._multiply(m, 1, self.first, Cat(self.factor, Const(0, 1)).as_signed())[:-1].as_signed()

        beat = self.beats[WORD]
        # A lower bound is no code: an exponent that states do not have passes its inverse, but for the top bit.
        exponent = named(m, self.word[COMPACT_MANTISSA_BITS:] | beat.forget.replicate(COMPACT_EXPONENT_BITS))
        decoded = named(m, _decode(self.word[:COMPACT_MANTISSA_BITS].as_signed(), exponent))
        top = COMPACT_MANTISSA_BITS
        passed = Cat(decoded[:top], Mux(beat.forget, ~self.word[top], decoded[top]), decoded[top + 1 :])
        side = _register(signed(STATE_BITS))
        with self._after(m, WORD):
            m.d.sync += side.eq(Mux(beat.fresh, 0, passed))
        # From here on, what the second product needs: h, the inverse of lb, or acc.
        line = _register(signed(max(self.accumulator, STATE_BITS)))
        with self._after(m, 3):
            m.d.sync += line.eq(Mux(self.beats[3].forget | self.beats[3].state, side, self.kept[3]))
        self.line = self._delayed(m, line, 4, GATED_WRITE, "line")

        narrow, sign, excess = _narrow(m, scaled, self.narrowing.steps, step=2, bits=MAGNITUDE_BITS)
        narrowing = self.narrowing
        usual, over, negative = _register(MAGNITUDE_BITS + 1), _register(1), _register(1)
        with self._after(m, 2):
            m.d.sync += [
                usual.eq(Mux(narrowing.deep, 0, narrow)),
                over.eq(excess & ~narrowing.deep),
                negative.eq(sign),
            ]
        shifted = usual
        # Shifts by 32 and more leave a few bits only.
        further = steps_max(self.accumulator) - (1 << len(narrowing.steps))
        if further >= 0:
            left = scaled[31:].as_signed() >> (narrowing.steps[: further.bit_length()] << 1)
            few = _register(len(left) - 1)
            with self._after(m, 2):
                m.d.sync += few.eq(Mux(narrowing.deep & ~narrowing.void, left[:-1] ^ sign.replicate(len(few)), 0))
            shifted = named(m, usual | few)
        # The product of a GATE is zero: its state takes its place.
        gate = self.beats[3].gate
        below = named(m, side[-1] & gate)
        magnitude = self._sum(
            Cat(shifted[1:], Const(0, 1)),
            lambda state, negative, gate: (state ^ negative) & gate,
            side,
            below,
            gate,
            carry=shifted[0] | below,
        )
        self.magnitude, carried, beyond, sign = (_register(bits) for bits in (MAGNITUDE_BITS, 1, 1, 1))
        with self._after(m, 3):
            m.d.sync += [
                Cat(self.magnitude, carried).eq(magnitude),
                beyond.eq(over),
                sign.eq(negative | below),
            ]
        self.over = named(m, beyond | carried)
        self.negative = self._delayed(m, sign, 4, 6, "negative")

    def _silu(self, m):
        """Stages 5 to 9: sigmoid(z), times z or, for FORGET, 1 - lb."""
        beat = self.beats[4]
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.d.comb += [
            sigmoid.input.valid.eq(beat.valid),
            sigmoid.input.payload.magnitude.eq(self.magnitude),
            sigmoid.input.payload.over.eq(self.over),
            sigmoid.input.payload.negative.eq(self.negative[4]),
            sigmoid.input.payload.lift.eq(beat.lift),
            sigmoid.input.payload.limit.eq(beat.limit),
        ]
        assert 4 + sigmoid.latency == 8
        # The lowest z counts as the next, as in the sigmoid: both times their sigmoid are zero.
        largest = (1 << MAGNITUDE_BITS) - 1
        magnitudes = [_register(MAGNITUDE_BITS, largest), _register(MAGNITUDE_BITS), _register(MAGNITUDE_BITS)]
        with self._after(m, 4):
            m.d.sync += magnitudes[0].eq(Mux(self.over, largest, self.magnitude))
        negative = _register(1)
        with self._after(m, 5):
            m.d.sync += magnitudes[1].eq(Mux(self.beats[5].forget, 0, magnitudes[0]))
        with self._after(m, 6):
            m.d.sync += [magnitudes[2].eq(magnitudes[1]), negative.eq(self.negative[6] & ~self.beats[6].forget)]
        # z, or 1 - lb: the line has its inverse.
        forget = self.beats[7].forget
        chosen = self._sum(
            _extended(self.line[7][:OUTPUT_FRACTION].as_unsigned(), STATE_BITS),
            lambda magnitude, negative: magnitude ^ negative,
            _extended(magnitudes[2], STATE_BITS),
            negative,
            mask=forget,
            carry=forget | negative,
        )
        factor = _register(signed(STATE_BITS))
        with self._after(m, 7):
            m.d.sync += factor.eq(chosen)
        self.weighted = self._product(factor, sigmoid.output.payload, enable=self.beats[8].valid)

    def _second_factors(self, m):
        """Stage 10: s = silu, or the forget gate; h - s for STATE; what is multiplied."""
        beat = self.beats[9]
        line, bits = self.line[9], max(self.accumulator, STATE_BITS + 1)
        whole, half = self.weighted[OUTPUT_FRACTION:].as_signed(), self.weighted[OUTPUT_FRACTION - 1]
        bound = _extended(line[:OUTPUT_FRACTION].as_unsigned(), STATE_BITS)
        inside = Const((1 << OUTPUT_FRACTION) - 1, STATE_BITS)
        silu = self._sum(
            whole, lambda x, forget, inside: ~x & forget & inside, bound, beat.forget, inside, carry=half
        ).as_signed()
        first = self._sum(
            _extended(line, bits),
            lambda x, state: ~x & state,
            _extended(whole, bits),
            beat.state,
            carry=~half & beat.state,
        )
        # A multiplier takes all but the top bit of a difference.
        self.a = _register(signed(self.accumulator if self.accumulator > MULTIPLIER_BITS else MULTIPLIER_BITS))
        self.b, self.silu, self.beyond = _register(signed(STATE_BITS)), _register(signed(STATE_BITS)), _register(2)
        with self._after(m, 9):
            m.d.sync += [
                self.a.eq(first),
                self.b.eq(Mux(beat.state, self.forget_read, silu)),
                self.silu.eq(silu),
                self.beyond.eq(first[STATE_BITS - 1 :]),
            ]
        m.d.comb += self.forget_write.eq(self.silu)

    def _gated(self, m):
        """Stages 11 to 13: acc * silu / 2**shift."""
        self.product = self._multiply(m, 10, self.a, self.b)
        narrow, sign, over = _narrow(m, self.product, self.beats[11].second, step=1, bits=ELEMENT_BITS - 1)
        ones = (1 << ELEMENT_BITS) - 1
        shifted, negative = _register(ELEMENT_BITS, ones), _register(1)
        with self._after(m, 11):
            m.d.sync += [shifted.eq(Mux(over, ones, narrow)), negative.eq(sign)]
        largest = shifted[1:].all() & ~negative
        carry = named(m, (shifted[0] ^ negative) & ~largest)
        whole = Cat(shifted[1:], Const(0, 1))
        value = _register(signed(ELEMENT_BITS))
        with self._after(m, 12):
            m.d.sync += value.eq(
                self._sum(Const(0, ELEMENT_BITS), lambda x, negative: x ^ negative, whole, negative, carry=carry)
            )
        m.d.comb += self.value.eq(value)

    def _state(self, m):
        """Stages 11 to 14: h' = s + f * (h - s), and its code. It lies between s and h: it never saturates."""
        start = _register(signed(STATE_BITS))
        if len(self.a) > STATE_BITS:
            corrected = self.silu
        else:
            # Where the difference does not fit, its bits in the multiplier are 2**18 off: so is f, in eighths.
            below, beyond = self.beyond
            away = named(m, below ^ beyond)
            upper = self._sum(
                self.silu[3:],
                lambda forget, beyond, away: (forget ^ beyond) & away,
                self.b[:OUTPUT_FRACTION],
                beyond,
                away,
                carry=beyond & away,
            )
            corrected = Cat(self.silu[:3], upper)
        with self._after(m, 10):
            m.d.sync += start.eq(corrected)
        state = _register(signed(STATE_BITS))
        change, half = self.product[OUTPUT_FRACTION:][:STATE_BITS], self.product[OUTPUT_FRACTION - 1]
        with self._after(m, 11):
            m.d.sync += state.eq(self._sum(start, lambda x: x, change, carry=half))

        fits = [named(m, _same(state[COMPACT_MANTISSA_BITS - 1 + COMPACT_STEP * step :])) for step in range(2)]
        mantissa, carry = _register(signed(COMPACT_MANTISSA_BITS)), _register(1)
        exponent = _register(COMPACT_EXPONENT_BITS)
        with self._after(m, 12):
            for step, chosen in enumerate((fits[0], ~fits[0] & fits[1], ~fits[1])):
                low = COMPACT_STEP * step
                with m.If(chosen):
                    m.d.sync += [
                        mantissa.eq(state[low : low + COMPACT_MANTISSA_BITS]),
                        carry.eq(state[low - 1] if low else 0),
                        exponent.eq(step),
                    ]
        rounded = self._sum(
            Const(0, COMPACT_MANTISSA_BITS), lambda x: x, mantissa, carry=carry & (mantissa != MANTISSA_MAX)
        )
        code = _register(COMPACT_BITS)
        with self._after(m, 13):
            m.d.sync += code.eq(Cat(rounded, exponent))
        m.d.comb += self.state.eq(code)

    def _square(self, m):
        """Stage 14: acc of GATE, or t, in a term of a sum of squares."""
        beat, spare = self.beats[GATED_WRITE], SQUARE_SHIFT - POWER_SHIFT
        acc = Cat(Const(0, spare), saturate(self.line[GATED_WRITE], ELEMENT_BITS - spare)).as_signed()
        sources = [_extended(acc, ELEMENT_BITS), self.value]
        wholes = [source[SQUARE_SHIFT:] for source in sources]
        # Half up, but for the largest number.
        halves = [
            source[SQUARE_SHIFT - 1] & ~(whole[:-1].all() & ~whole[-1])
            for source, whole in zip(sources, wholes, strict=True)
        ]
        total = self._sum(
            Const(0, SQUARE_BITS),
            lambda acc, value, gate: (gate & acc) | (~gate & value),
            *wholes,
            beat.gate,
            carry=Mux(beat.gate, *halves),
        )
        square = _register(signed(SQUARE_BITS))
        with self._after(m, GATED_WRITE):
            m.d.sync += square.eq(total)
        m.d.comb += self.square.eq(square)


def _register(shape, init: int = 0) -> Signal:
    """A signal that needs no reset: what it holds counts only with a valid beat.

    One that is at times set to a constant by the flip-flops' own reset must begin with it on ECP5.
    """
    return Signal(shape, init=init, src_loc_at=1, reset_less=True)


def _extended(value: Value, bits: int) -> Value:
    """A value in more bits, by its sign if it has one."""
    return Cat(value, value[-1].replicate(bits - len(value)) if value.shape().signed else Const(0, bits - len(value)))


def _same(bits: Value) -> Value:
    """Whether all bits are alike."""
    return bits.all() | ~bits.any()


def _decode(mantissa: Value, exponent: Value) -> Value:
    """The value of a code of STATE_BITS, whose exponent is never the largest: with that, its mantissa's inverse."""
    values = [(mantissa << COMPACT_STEP * step)[:STATE_BITS] if step else mantissa for step in range(3)]
    wide = [Cat(value, value[-1].replicate(STATE_BITS - len(value))) for value in values]
    upper, lower = Mux(exponent[0], ~wide[0], wide[2]), Mux(exponent[0], wide[1], wide[0])
    return Mux(exponent[1], upper, lower)[:STATE_BITS].as_signed()


def _narrow(
    m: Module,
    value: Value,
    amount: Value,
    *,
    step: int,
    bits: int,
) -> tuple[Value, Value, Value]:
    """A signed value / 2**(amount * step) in so many bits, inverted where it is negative.

    Returns this, above the bit that rounds it, its sign, and whether more bits are needed.
    """
    current, sign, over = Cat(Const(0, 1), value), value[-1], Const(0, 1)
    for level in reversed(range(len(amount))):
        # What further levels can still bring down.
        width = bits + 1 + step * ((1 << level) - 1)
        distance = step << level
        kept = max(0, len(current) - distance)
        shifted = Cat(current[distance:], sign.replicate(len(current) - kept))
        chosen = named(m, Mux(amount[level], shifted, current))
        if width < len(chosen):
            over = over | named(m, (chosen[width:] ^ sign.replicate(len(chosen) - width)).any())
        current = named(m, Cat(chosen, sign.replicate(max(0, width - len(chosen))))[:width])
    return named(m, current ^ sign.replicate(len(current))), sign, over
