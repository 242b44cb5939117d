"""The stages of the norm unit's pipe, and the control that goes with a beat through them.

A stage is named for what its registers hold, which are written at the end of the cycle before. A beat may wait in READ;
behind it, nothing ever stalls.

    READ      the addresses of a source and of its gains: the words are read
    FACTORS   source and gain
    PRODUCTS  two partial products of them
    GAINED    their sum, rounded down, and the half that rounds it: PEAK leaves
    ROUNDED   v, with the half of its narrowing added
    OPERANDS  v narrowed, or an accumulator: EMBED and RESID begin, in the cycle after their result's transfer
    PARTIALS  two partial products of operand and factor; only where an accumulator has more than 18 bits
    PRODUCT   their product; x is read
    SHIFTED   the product shifted, rounded down, and its half
    TOTAL     the same rounded, added to x, and written in this cycle; QUANT leaves
    ELEMENT   the same, saturated
    TERM      what is squared of it
"""

from __future__ import annotations

from amaranth import unsigned
from amaranth.lib import data

from ternlight.formats import BLOCK_SHIFT_MAX
from ternlight.geometry import ceil_div
from ternlight.isa import NORM_FIELDS

from ..layouts import BUFFER_BITS, CONTEXT_BITS, REGISTER, UFLOAT
from .scaling import FACTOR_BITS, SHIFT, STEP

LIFT_BITS = NORM_FIELDS["lift"]
SOURCE_BEAT = data.StructLayout(
    {
        "peak": 1,
        "quant": 1,
        "last": 1,
        "lift": LIFT_BITS,
        "buffer": BUFFER_BITS,
        "target": REGISTER,
        "scale": UFLOAT,
    }
)
"""A beat of PEAK, STAT or QUANT up to OPERANDS."""

NARROWING_BITS = BLOCK_SHIFT_MAX.bit_length()
HEAD = data.StructLayout(
    dict.fromkeys(("factors", "products", "gained", "rounded"), 1)
    | {
        "lift": LIFT_BITS,  # in FACTORS: steps by which the product is shifted less
        "magnitude": 1,  # in PRODUCTS: of PEAK
        "half": unsigned(BLOCK_SHIFT_MAX),  # in GAINED: of what narrowing drops
        "narrowing": unsigned(NARROWING_BITS),  # in ROUNDED: a right shift
        "above": unsigned(BLOCK_SHIFT_MAX),  # in ROUNDED: the bits from BLOCK_BITS - 1 up that it leaves above a block
    }
)
"""What the lanes must know of the stages up to ROUNDED: which hold a beat, and what to do with it."""

EXCESS_STEPS = ceil_div(FACTOR_BITS, STEP)
"""Of what the largest product has above an element."""
TAIL = data.StructLayout(
    dict.fromkeys(("operands", "partials", "product", "shifted", "total", "element"), 1)
    | {
        "steps": SHIFT["steps"].shape,  # in PRODUCT: of the right shift
        "above": EXCESS_STEPS,  # in PRODUCT: the bits, by steps, that it leaves above an element
        "adds": 1,  # in PRODUCT: x is added
    }
)
"""The same of the stages from OPERANDS on."""

WORD_BITS = CONTEXT_BITS + NORM_FIELDS["source"]
OPERAND_BEAT = data.StructLayout(
    {
        "updates": 1,  # is written, to this word of the residual memory
        "word": unsigned(WORD_BITS),
        "adds": 1,  # the word is read, and added
        "quant": 1,
        "buffer": BUFFER_BITS,
        "last": 1,
        "target": REGISTER,
        "factor": unsigned(FACTOR_BITS),
        "steps": SHIFT["steps"].shape,
    }
)
"""A beat from OPERANDS on."""
