"""A beat on its way through the pipe: the control that goes with V elements, and the numbers of the stages.

A stage is named for what its registers hold; they are written at the end of the stage before.

     0  addresses at the memories         12  interpolation product
     1  the memories' words               13  sigmoid
     2  the same, registered              14  silu product
     3  source, shifted; waits for acc    15  silu, or the forget gate
     4  factors of the first product      16  factors of the second product
     5  its partial products              17  its partial products
     6  product, shifted by 16s           18  product, shifted by 16s
     7  shifted by 1s                     19  shifted by 1s
     8  rounded                           20  rounded
     9  short operations leave            21  partial products of the gain
     9-11  sigmoid: magnitude, lifted,    22  long operations leave
           table entry
"""

from __future__ import annotations

from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ternlight.isa import VectorOp
from ternlight.ufloat import MANTISSA_BITS

ENTRY = 3
"""Up to here beats stall, as a whole, until the one in this stage has its result; from here they always move."""
ROUNDED = 8
"""Quantised beats leave here."""
SHORT_EXIT = 9
LONG_EXIT = 22

LONG = (VectorOp.FORGET, VectorOp.STATE, VectorOp.GATE, VectorOp.MLP)
"""Operations that leave at LONG_EXIT; the others leave at SHORT_EXIT."""
WRITES_VECTOR = (VectorOp.EMBED, VectorOp.GAIN, VectorOp.FORGET, VectorOp.GATE, VectorOp.MLP, VectorOp.RESID)

BEAT = data.StructLayout(
    {
        "valid": 1,
        "op": VectorOp,
        "long": 1,
        "odd": 1,  # the second beat of a pair (MLP)
        "fresh": 1,  # the state counts as zero
        "narrowing": 5,  # right shift of the source to its block
        "shift": 6,  # right shift of the first product
        "lift": 4,  # left shift of z to the sigmoid's format
        "second_shift": 6,  # right shift of the second product
    }
)
"""What the lanes must know of a beat."""

ROUTE = data.StructLayout(
    {
        "header": 1,  # carries the exponent of an embedding row, no data
        "produces": 1,  # has an output: not a header, nor the first of a pair
        "first": 1,  # output of the operation
        "last": 1,
        "mantissa": MANTISSA_BITS,  # of the scale
        "buffer": 1,
        "target": 16,  # word of the vector memory, or of the state memory
        "peak": 4,
        "energy": 4,
        "power": 4,
    }
)
"""What comes of a beat's outputs."""


def is_one_of(op, ops):
    """Whether an opcode is in a collection."""
    return op.matches(*sorted(ops))


class Pulse(wiring.Signature):
    """A stream that is never stalled: `payload` counts in the cycles with `valid`."""

    def __init__(self, payload) -> None:
        super().__init__({"payload": Out(payload), "valid": Out(1)})
