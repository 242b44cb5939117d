"""The decoder of the on-chip weight code: 3 trits from 5 bits."""

from __future__ import annotations

from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import CODE_BITS, TRITS_PER_CODE, ceil_div


class TritDecoder(wiring.Component):
    """Decodes the codes of ternlight.trits, five LUTs a code. Combinational.

    Parameters
    ----------
    lanes: trits of a word; the last code may hold fewer than three.

    Members
    -------
    codes: In(5 * ceil(lanes / 3)), code k from bit 5 k.
    nonzero, negative: Out(lanes). Lane i is +1 or -1 where `nonzero` is set, and -1 where both are;
        `negative` means nothing where `nonzero` is clear.
    """

    def __init__(self, *, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"lanes must be positive, not {lanes}")
        self.lanes = lanes
        self.codes_per_word = ceil_div(lanes, TRITS_PER_CODE)
        super().__init__(
            {
                "codes": In(CODE_BITS * self.codes_per_word),
                "nonzero": Out(lanes),
                "negative": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        nonzero, negative = [], []
        for index in range(self.codes_per_word):
            tag0, tag1, body0, body1, body2 = self.codes[CODE_BITS * index :][:CODE_BITS]
            escape = tag0 & tag1
            pair = ~escape
            # Body 0 and 1: only c; 2 and 3: only b, and the sign of either in bit 0; 4 to 7: both, b's sign in bit 1.
            nonzero += [
                (tag0 ^ tag1) | (escape & (body0 ^ body1)),
                pair & (body2 | body1),
                pair & (body2 | ~body1),
            ]
            negative += [
                (escape & body1) | (pair & tag1),
                (body2 & body1) | (~body2 & body0),
                body0,
            ]
        m.d.comb += [
            self.nonzero.eq(Cat(*nonzero[: self.lanes])),
            self.negative.eq(Cat(*negative[: self.lanes])),
        ]
        return m
