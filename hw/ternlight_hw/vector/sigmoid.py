"""The sigmoid, interpolated from ternlight.sigmoid's table; no block RAM."""

from __future__ import annotations

from itertools import pairwise

from amaranth import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.sigmoid import INPUT_FRACTION, OUTPUT_FRACTION, SEGMENT_BITS, SEGMENTS, TABLE, Z_BITS

from ..pipeline import Flow, Pipeline
from .arithmetic import named
from .chain import carry_sum
from .multiplier import multiplied

MAGNITUDE_BITS = Z_BITS - 1
ONE = 1 << OUTPUT_FRACTION

_STEPS = [right - left for left, right in pairwise(TABLE)]
STEP_BITS = max(_STEPS).bit_length()
SEGMENT = data.StructLayout({"rest": unsigned(OUTPUT_FRACTION), "step": unsigned(STEP_BITS)})
"""What the sigmoid lacks of one at a segment's left end, as a table of small numbers is small, and its rise."""

# Where the table reaches one: the last step there is one unit, and half of it rounds up.
_FULL = 2 * TABLE.index(ONE) - 1
assert _STEPS[TABLE.index(ONE) - 1] == 1

ARGUMENT = data.StructLayout(
    {
        "magnitude": unsigned(MAGNITUDE_BITS),
        "over": 1,  # the magnitude is larger than it can tell
        "negative": 1,
        "lift": unsigned(INPUT_FRACTION.bit_length()),
        "limit": unsigned(INPUT_FRACTION),
    }
)
"""|z| with INPUT_FRACTION - lift fraction bits; `limit` marks the upper bits of the magnitude that the lift loses."""


def limit_of(lift: int) -> int:
    """The `limit` of a lift."""
    return ((1 << lift) - 1) << (INPUT_FRACTION - lift)


class Sigmoid(wiring.Component):
    """sigmoid(saturate(z << lift, 18)) of Q4.13 as U0.15: ternlight_sim.golden.vector.sigmoid.

    Latency 4 cycles, one value per cycle; one multiplier of 10x10 bits.

    Attributes: latency.
    Members: input: Flow of ARGUMENT, in. output: Flow of U0.15 (15 bits), out.
    """

    latency = 4

    def __init__(self) -> None:
        super().__init__(
            {
                "input": In(Flow(ARGUMENT)),
                "output": Out(Flow(unsigned(OUTPUT_FRACTION))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Looked up in LUTs: half of the entries are alike, and block RAM belongs to the weights.
        m.submodules.table = table = Memory(
            shape=SEGMENT,
            depth=SEGMENTS,
            init=[{"rest": ONE - left, "step": step} for left, step in zip(TABLE[:-1], _STEPS, strict=True)],
            attrs={"rom_style": "logic"},
        )
        segment = table.read_port(domain="comb")

        z = self.input.payload
        pipe = Pipeline(m, self.input.valid)
        over = named(m, z.over | (z.magnitude[-INPUT_FRACTION:] & z.limit).any())
        argument = self._saturated(m, pipe.valid, over, (z.magnitude << z.lift)[:MAGNITUDE_BITS])
        (negative,) = pipe.stage(negative=z.negative)

        m.d.comb += segment.addr.eq(argument[SEGMENT_BITS:])
        rest, step, position, negative, full = pipe.stage(
            rest=segment.data.rest,
            step=segment.data.step,
            position=argument[:SEGMENT_BITS],
            negative=negative,
            full=argument[SEGMENT_BITS - 1 :] >= _FULL,
        )
        zero = Const(0, OUTPUT_FRACTION)
        product = multiplied(m, platform, step, position, enable=pipe.valid)
        base, negative, full = pipe.stage(
            base=carry_sum(m, platform, zero, lambda x, positive: x ^ positive, rest, ~negative, carry=~negative),
            negative=negative,
            full=full & ~negative,
        )
        # base + product, or base - product, the product rounded half up: its inverse takes the inverse bit as carry.
        # A sum of one would be out of range: it is `full`.
        value = carry_sum(
            m,
            platform,
            base,
            lambda x, negative: x ^ negative,
            Cat(product[SEGMENT_BITS:], Const(0, OUTPUT_FRACTION - STEP_BITS)),
            negative,
            carry=product[SEGMENT_BITS - 1] ^ negative,
        )
        output = self._saturated(m, pipe.valid, full, value)
        pipe.stage()
        assert pipe.depth == self.latency
        m.d.comb += [self.output.valid.eq(pipe.valid), self.output.payload.eq(output)]
        return m

    @staticmethod
    def _saturated(m, valid, full, value):
        """A register of the value, or of all ones: an ECP5's flip-flops begin with what their own reset sets."""
        ones = (1 << len(value)) - 1
        register = Signal(len(value), init=ones, reset_less=True, src_loc_at=1)
        with m.If(valid):
            m.d.sync += register.eq(Mux(full, ones, value))
        return register
