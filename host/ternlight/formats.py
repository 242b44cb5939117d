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
"""A gain, as GAIN and STAT read it."""
MLP_GAIN_BITS = 18
"""The upper bits of a gain, as MLP reads it."""
LOWER_BOUND_FRACTION = OUTPUT_FRACTION
"""FORGET reads the gain memory as plain fixed point: close to 1, a lower bound must be fine."""
STATE_BITS = Z_BITS
FORGET_BITS = 18
"""What STATE reads of a forget gate."""

BLOCK_BITS = 18
"""What STAT, GAIN and QUANT read of an element, through the shift that its vector's peak asks for (block floating
point)."""
BLOCK_FRACTION = BLOCK_BITS - 1 - MANTISSA_BITS
"""The block shift is the exponent of the peak, whose mantissa has MANTISSA_BITS, less this."""
BLOCK_SHIFT_MAX = 15
QSCALE_FRACTION = 22
"""Fraction bits of a quantisation scale's mantissa, before the exponent of its vector's peak."""
QUANT_FRACTION = QSCALE_FRACTION + BLOCK_FRACTION
"""QUANT narrows its source by what the scale's exponent asks beyond these."""
SHIFT_MAX = 47
"""Largest shift of a product; larger ones give the same result."""
EMBED_SHIFT_MAX = 16
"""Largest left shift of an embedding row."""

ENERGY_BITS = 18
"""An element whose square is summed as energy."""
POWER_BITS = 18
"""An element whose square is summed as power."""

# Right shifts after products, which the compiler makes up for in its scales.
GAIN_SHIFT = BLOCK_BITS + GAIN_BITS - 1 - ELEMENT_BITS
"""GAIN: block times gain, in an element."""
STAT_SHIFT = BLOCK_BITS + GAIN_BITS - 1 - ENERGY_BITS
"""STAT: block times gain, in a term of the energy."""
MLP_STAT_SHIFT = ELEMENT_BITS - ENERGY_BITS
"""MLP: an element, in a term of the energy."""
MLP_GAIN_SHIFT = MLP_GAIN_BITS - 1
"""MLP: element times gain, in an element."""
POWER_SHIFT = 4
"""GATE: an accumulator, in a term of the power, which only weighs an epsilon."""
