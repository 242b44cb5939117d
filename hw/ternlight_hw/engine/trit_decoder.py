"""The decoder of the on-chip weight code: 3 trits from 5 bits."""

from __future__ import annotations

from amaranth import Cat, Const, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ternlight.geometry import CODE_BITS, TRITS_PER_CODE, ceil_div
from ternlight.trits import NONZERO, UNREAD


class TritDecoder(wiring.Component):
    """Decodes the codes of ternlight.trits, one LUT a trit. Combinational.

    Parameters
    ----------
    lanes: trits of a word; the last code may hold fewer than three.

    Members
    -------
    codes: In(5 * ceil(lanes / 3)), code k from bit 5 k.
    nonzero, negative: Out(lanes). Trit i is +1 or -1 where `nonzero` is set, and -1 where both are;
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
            code = self.codes[CODE_BITS * index :][:CODE_BITS]
            for unread, flags in zip(UNREAD, NONZERO, strict=True):
                read = Cat(code[:unread], code[unread + 1 :])
                nonzero.append(Const(flags, 1 << CODE_BITS - 1).bit_select(read, 1))
            negative.append(code[:TRITS_PER_CODE])
        m.d.comb += [self.nonzero.eq(Cat(*nonzero)), self.negative.eq(Cat(*negative))]
        return m
