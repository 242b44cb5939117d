"""The datapath of one element, without a stall: what each stage of beat.py does."""

from __future__ import annotations

from amaranth import Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ternlight.formats import (
    ACTIVATION_BITS,
    ACTIVATION_MAX,
    BLOCK_BITS,
    COMPACT_BITS,
    ELEMENT_BITS,
    ENERGY_BITS,
    FORGET_BITS,
    GAIN_BITS,
    MLP_GAIN_BITS,
    MLP_GAIN_SHIFT,
    MLP_STAT_SHIFT,
    POWER_BITS,
    POWER_SHIFT,
    STATE_BITS,
)
from ternlight.isa import READS_RESULTS, VectorOp
from ternlight.sigmoid import OUTPUT_FRACTION, Z_BITS

from .arithmetic import (
    halves,
    named,
    partial_products,
    product,
    round_half,
    round_shift,
    saturate,
    shift_coarse,
    shift_fine,
)
from .beat import BEAT, ENTRY, LONG_EXIT, ROUNDED, SHORT_EXIT, is_one_of
from .compact import decode, encode
from .sigmoid import ONE, Sigmoid

FACTOR_BITS = 17
"""Unsigned: a mantissa, or 2**0..2**16 for an embedding."""
PRODUCT_BITS = 41

EXIT = data.StructLayout({"value": signed(ELEMENT_BITS), "energy": signed(ENERGY_BITS), "power": signed(POWER_BITS)})
"""An output, and what the reductions square of it."""


class Lane(wiring.Component):
    """One element of every vector operation, bit for bit ternlight_sim.golden.vector.

    Ten multipliers of 18x18 bits: two each for (acc | block) * mantissa or gain * block, acc * silu or (h - s) * f, and
    t * gain; one each for the sigmoid's interpolation and z * sigmoid; two square in Reduce.
    A stage writes its registers only for a valid beat. The stages up to ENTRY move with `advance`, the others always.

    Parameters
    ----------
    accumulator: bits of a result.

    Members
    -------
    beats: the beats in stages 0 to LONG_EXIT, in.
    advance: the stages up to ENTRY move, in.
    source (24 bits), gain, state (codes of 16 bits): the memories' words of stage 1, in.
    result: the engine's result for the beat in stage ENTRY, in.
    factor: the mantissa of the beat in stage ENTRY, or 2**exponent of an embedding (17 bits, unsigned), in.
    activation: QUANT's output in stage ROUNDED, out.
    short, long: the outputs in stages SHORT_EXIT and LONG_EXIT (EXIT), out.
    """

    def __init__(self, *, accumulator: int) -> None:
        if not 2 <= accumulator <= ELEMENT_BITS:
            raise ValueError(f"accumulator must be from 2 to {ELEMENT_BITS} bits, not {accumulator}")
        self.accumulator = accumulator
        super().__init__(
            {
                "beats": In(BEAT).array(LONG_EXIT + 1),
                "advance": In(1),
                "source": In(signed(ELEMENT_BITS)),
                "gain": In(signed(COMPACT_BITS)),
                "state": In(signed(COMPACT_BITS)),
                "result": In(signed(accumulator)),
                "factor": In(unsigned(FACTOR_BITS)),
                "activation": Out(signed(ACTIVATION_BITS)),
                "short": Out(EXIT),
                "long": Out(EXIT),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._carry(m)
        self._operands(m)
        self._first_product(m)
        self._short_exit(m)
        self._gate(m)
        self._second_product(m)
        self._long_exit(m)
        return m

    def _in(self, stage):
        """The condition under which the registers of the next stage are written."""
        valid = self.beats[stage].valid
        return valid & self.advance if stage <= ENTRY else valid

    def _carry(self, m):
        """Declare the values that travel along; each is written where its next form is chosen.

        keep: an operand until the second product: x, narrow x, f or acc.
        side: the gain, h (their codes in stage 3), or the lower bound; from stage 9 GATE's power term; from stage 16
        silu or f.
        """
        self.keep = {stage: Signal(signed(ELEMENT_BITS), name=f"keep_{stage}") for stage in range(4, 16)}
        self.side = {stage: Signal(signed(GAIN_BITS), name=f"side_{stage}") for stage in range(3, LONG_EXIT + 1)}
        self.z = {stage: Signal(signed(Z_BITS), name=f"z_{stage}") for stage in range(ROUNDED, 13)}
        chosen = {"keep": {4}, "side": {3, 4, 9, 16}, "z": {ROUNDED}}
        for name, here in chosen.items():
            values = getattr(self, name)
            for stage in values.keys() - here:
                with m.If(self._in(stage - 1)):
                    m.d.sync += values[stage].eq(values[stage - 1])

    def _operands(self, m):
        """Stages 2 to 4: register the memories' words, narrow the source, choose the first factors."""
        source, gain, state = (Signal.like(getattr(self, name)) for name in ("source", "gain", "state"))
        with m.If(self._in(1)):
            m.d.sync += [source.eq(self.source), gain.eq(self.gain), state.eq(self.state)]

        beat = self.beats[2]
        carried, shifted = Signal.like(source), Signal(signed(ELEMENT_BITS + 1))
        uses_state = is_one_of(beat.op, (VectorOp.STATE, VectorOp.GATE))
        with m.If(self._in(2)):
            m.d.sync += [
                carried.eq(source),
                shifted.eq(halves(source) >> beat.narrowing),
                self.side[3].eq(Mux(uses_state, Mux(beat.fresh, 0, state), gain)),
            ]

        op = self.beats[ENTRY].op
        narrow = named(m, saturate(named(m, round_half(shifted)), BLOCK_BITS))
        decoded = named(m, decode(self.side[3]))
        self.a, self.b = Signal(signed(ELEMENT_BITS)), Signal(signed(FACTOR_BITS + 1))
        with m.If(self._in(ENTRY)):
            with m.If(is_one_of(op, (VectorOp.STAT, VectorOp.GAIN))):
                m.d.sync += [self.a.eq(decoded), self.b.eq(narrow)]
            with m.Else():
                m.d.sync += [
                    self.a.eq(Mux(is_one_of(op, READS_RESULTS), self.result, narrow)),
                    self.b.eq(self.factor),
                ]
            m.d.sync += self.side[4].eq(Mux(op == VectorOp.FORGET, self.side[3], decoded))
            with m.Switch(op):
                with m.Case(VectorOp.STATE):
                    m.d.sync += self.keep[4].eq(saturate(carried, FORGET_BITS))
                with m.Case(VectorOp.RESID):
                    m.d.sync += self.keep[4].eq(carried)
                with m.Case(VectorOp.STAT):
                    m.d.sync += self.keep[4].eq(narrow)
                with m.Default():
                    m.d.sync += self.keep[4].eq(self.result)

    def _lower_bound(self, stage):
        """FORGET's operand, which is no code."""
        return self.side[stage][:COMPACT_BITS].as_signed()

    def _multiply(self, m, stage, a, b, amount):
        """Stages stage + 1 to stage + 3: a * b / 2**amount, with one bit below the point.

        The amounts are the fields of that name in the beats.
        """
        parts = partial_products(a, b)
        low, high = (Signal(part.shape()) for part in parts)
        with m.If(self._in(stage)):
            m.d.sync += [low.eq(parts[0]), high.eq(parts[1])]
        coarse, fine = (Signal(signed(PRODUCT_BITS + 1), name=f"{amount}_{part}") for part in ("coarse", "fine"))
        whole = named(m, product(low, high)[:PRODUCT_BITS].as_signed())
        with m.If(self._in(stage + 1)):
            m.d.sync += coarse.eq(shift_coarse(halves(whole), self.beats[stage + 1][amount]))
        with m.If(self._in(stage + 2)):
            m.d.sync += fine.eq(shift_fine(coarse, self.beats[stage + 2][amount]))
        return named(m, round_half(fine))

    def _first_product(self, m):
        """Stages 5 to 8: acc * mantissa, or gain * narrow, in the formats of what follows."""
        rounded = self._multiply(m, 4, self.a, self.b, "shift")
        self.rounded = Signal(signed(ELEMENT_BITS))
        activation = named(m, saturate(rounded, ACTIVATION_BITS))
        beat = self.beats[ROUNDED - 1]
        with m.If(self._in(ROUNDED - 1)):
            m.d.sync += self.rounded.eq(saturate(rounded, ELEMENT_BITS))
            with m.If(beat.op == VectorOp.QUANT):
                m.d.sync += self.activation.eq(Mux(activation == ~ACTIVATION_MAX, -ACTIVATION_MAX, activation))
            with m.If(beat.long):
                m.d.sync += self.z[ROUNDED].eq(
                    Mux(beat.op == VectorOp.GATE, saturate(self.side[ROUNDED - 1], Z_BITS), saturate(rounded, Z_BITS))
                )

    def _short_exit(self, m):
        """Stage 9: the residual's addition, STAT's terms; the power term of GATE."""
        beat = self.beats[ROUNDED]
        rounded, keep = self.rounded, self.keep[ROUNDED]
        total = named(m, rounded + Mux(beat.op == VectorOp.RESID, keep, 0))
        with m.If(self._in(ROUNDED) & ~beat.long):
            m.d.sync += [
                self.short.value.eq(saturate(total, ELEMENT_BITS)),
                self.short.energy.eq(saturate(rounded, ENERGY_BITS)),
                self.short.power.eq(keep),
            ]
        weight = saturate(named(m, round_shift(keep, POWER_SHIFT)), POWER_BITS)
        with m.If(self._in(ROUNDED)):
            m.d.sync += self.side[SHORT_EXIT].eq(Mux(beat.op == VectorOp.GATE, weight, self.side[ROUNDED]))

    def _gate(self, m):
        """Stages 9 to 15: silu(z), or the forget gate lb + (1 - lb) * sigmoid(z)."""
        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.d.comb += [
            sigmoid.input.valid.eq(self.beats[ROUNDED].valid & self.beats[ROUNDED].long),
            sigmoid.input.payload.z.eq(self.z[ROUNDED]),
            sigmoid.input.payload.lift.eq(self.beats[ROUNDED].lift),
        ]
        assert ROUNDED + sigmoid.latency == 13
        factor = Signal(signed(Z_BITS))
        with m.If(self._in(12)):
            m.d.sync += factor.eq(
                Mux(self.beats[12].op == VectorOp.FORGET, ONE - self._lower_bound(12), self.z[12]),
            )
        scaled = Signal(signed(Z_BITS + OUTPUT_FRACTION))
        with m.If(self._in(13)):
            m.d.sync += scaled.eq(factor * sigmoid.output.payload)
        # The forget gate lies between its lower bound and 1: it needs fewer bits.
        self.silu = Signal(signed(Z_BITS))
        bound = Mux(self.beats[14].op == VectorOp.FORGET, self._lower_bound(14), 0)
        gate = named(m, round_shift(scaled + (bound << OUTPUT_FRACTION), OUTPUT_FRACTION))
        with m.If(self._in(14)):
            m.d.sync += self.silu.eq(gate)

    def _second_product(self, m):
        """Stages 16 to 20: acc * silu, with MLP's silu held from the beat before, or (h - s) * f."""
        beat = self.beats[15]
        a, b, held = Signal(signed(ELEMENT_BITS)), Signal(signed(FORGET_BITS)), Signal.like(self.silu)
        with m.If(self._in(15)):
            with m.If(beat.op == VectorOp.STATE):
                m.d.sync += a.eq(self.side[15] - self.silu)
            with m.Else():
                m.d.sync += a.eq(self.keep[15])
            with m.If(beat.op == VectorOp.STATE):
                m.d.sync += b.eq(self.keep[15])
            with m.Elif((beat.op == VectorOp.MLP) & beat.odd):
                m.d.sync += b.eq(held)
            with m.Else():
                m.d.sync += [b.eq(self.silu), held.eq(self.silu)]
            with m.If(is_one_of(beat.op, (VectorOp.FORGET, VectorOp.STATE))):
                m.d.sync += self.side[16].eq(self.silu)
            with m.Else():
                m.d.sync += self.side[16].eq(self.side[15])
        rounded = self._multiply(m, 16, a, b, "second_shift")
        self.gated = Signal(signed(ELEMENT_BITS))
        with m.If(self._in(19)):
            m.d.sync += self.gated.eq(saturate(rounded, ELEMENT_BITS))

    def _long_exit(self, m):
        """Stages 21 and 22: t * gain of MLP; h' = s + f * (h - s) of STATE; t of GATE and f as they are."""
        gated, side = self.gated, self.side[20]
        parts = partial_products(gated, side[GAIN_BITS - MLP_GAIN_BITS :].as_signed())
        low, high = (Signal(part.shape()) for part in parts)
        weight = named(m, round_shift(gated, MLP_STAT_SHIFT))
        state = named(m, gated + side)
        other, energy = Signal(signed(ELEMENT_BITS)), Signal(signed(ENERGY_BITS))
        with m.If(self._in(20)), m.Switch(self.beats[20].op):
            with m.Case(VectorOp.MLP):
                m.d.sync += [
                    low.eq(parts[0]),
                    high.eq(parts[1]),
                    energy.eq(saturate(weight, ENERGY_BITS)),
                ]
            with m.Case(VectorOp.STATE):
                m.d.sync += other.eq(saturate(state, STATE_BITS))
            with m.Case(VectorOp.GATE):
                m.d.sync += other.eq(gated)
            with m.Default():
                m.d.sync += other.eq(side)
        m.d.comb += self.long.power.eq(self.side[LONG_EXIT])
        code = encode(m, other[:STATE_BITS].as_signed())
        gained = saturate(named(m, round_shift(product(low, high), MLP_GAIN_SHIFT)), ELEMENT_BITS)
        with m.If(self._in(21)):
            m.d.sync += self.long.energy.eq(energy)
            with m.Switch(self.beats[21].op):
                with m.Case(VectorOp.MLP):
                    m.d.sync += self.long.value.eq(gained)
                with m.Case(VectorOp.STATE):
                    m.d.sync += self.long.value.eq(code)
                with m.Default():
                    m.d.sync += self.long.value.eq(other)
        return m
