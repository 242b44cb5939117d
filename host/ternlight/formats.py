"""Number formats of the machine: what compiler, golden model and gateware must agree on, to the bit.

Widths are of signed numbers with their sign bit. Beside these, ternlight.ufloat has the format of scalars,
ternlight.compact that of gains and states in memory, and ternlight.sigmoid that of the sigmoid.
Eighteen bits come again and again: one factor of an ECP5 multiplier.
"""

from __future__ import annotations

from .sigmoid import OUTPUT_FRACTION, Z_BITS
from .ufloat import MANTISSA_BITS

ACTIVATION_BITS = 8
ACTIVATION_MAX = (1 << ACTIVATION_BITS - 1) - 1
"""Activations are symmetric: -128 does not occur."""
ELEMENT_BITS = 24
"""An element of the vector memory."""
COMPACT_BITS = 16
"""A gain or a state in memory: a mantissa and, above it, an exponent (see ternlight.compact)."""
COMPACT_MANTISSA_BITS = 14
COMPACT_STEP = 2
"""Bits by which one exponent shifts."""
COMPACT_EXPONENT_BITS = COMPACT_BITS - COMPACT_MANTISSA_BITS
COMPACT_EXPONENT_MAX = (1 << COMPACT_EXPONENT_BITS) - 1
GAIN_BITS = COMPACT_MANTISSA_BITS + COMPACT_STEP * COMPACT_EXPONENT_MAX
"""A gain, as the norm unit multiplies by it."""
LOWER_BOUND_FRACTION = OUTPUT_FRACTION
"""FORGET reads plain fixed point from the state memory: close to 1, a lower bound must be fine."""
STATE_BITS = Z_BITS
FORGET_BITS = 18
"""What STATE reads of a forget gate."""

BLOCK_BITS = 18
"""What QUANT goes on with of a gained element, by the shift that the vector's peak asks for (block floating point)."""
BLOCK_FRACTION = BLOCK_BITS - 1 - MANTISSA_BITS
"""The block shift is the exponent of the peak, whose mantissa has MANTISSA_BITS, less this."""
BLOCK_SHIFT_MAX = ELEMENT_BITS - BLOCK_BITS + 1
"""The block shift of the largest peak, 2**23."""
QSCALE_FRACTION = 22
"""Fraction bits of a quantisation scale's mantissa, before the exponent of its vector's peak."""
QUANT_FRACTION = QSCALE_FRACTION + BLOCK_FRACTION
"""QUANT narrows its source by what the scale's exponent asks beyond these."""
SHIFT_MAX = 47
"""Largest shift of a product; larger ones give the same result."""

EMBEDDING_MANTISSA_BITS = 5
EMBEDDING_SHIFT_BITS = 5
EMBEDDING_SCALE_BITS = EMBEDDING_MANTISSA_BITS + EMBEDDING_SHIFT_BITS
"""The scale of an embedding row: mantissa m and, above it, shift s, which stand for (32 + m) * 2**(9 - s)."""
EMBEDDING_FACTOR_SHIFT = 9

SQUARE_BITS = 18
"""What is squared for a sum of squares, an energy or a power."""

# Right shifts, which the compiler makes up for in its scales.
GAIN_SHIFT = GAIN_BITS - 1
"""Element times gain, in an element: without a lift never larger than the element."""
LIFT_STEP = 2 * COMPACT_STEP
LIFT_MAX = 2
"""An operation may shift less by so many steps, where calibration says that the gained vector stays small."""
SQUARE_SHIFT = ELEMENT_BITS - SQUARE_BITS
"""An element, in a term of a sum of squares."""
POWER_SHIFT = 4
"""GATE: an accumulator, in a term of the power, which only weighs an epsilon."""
