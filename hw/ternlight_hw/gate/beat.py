"""A beat of H elements on its way through the pipe: the control that goes with it, and the numbers of the stages.

A stage is named for what its registers hold; they are written at the end of the stage before.

     0  the result at the port, addresses at the state memory     7  interpolation product
     1  factors of the first product                               8  sigmoid, and its factor
     2  first product; the state memory's word                     9  their product; forget gates at their memory
     3  shifted                                                    10  factors of the second product; new forget gates
     4  magnitude of z                                             11  second product
     5  argument of the sigmoid                                    12  shifted; the new state
     6  table entry                                                13  t; the state's mantissa, not rounded
                                                                   14  what is squared; the state's code
"""

from __future__ import annotations

from amaranth.lib import data

from ternlight.formats import ELEMENT_BITS, STATE_BITS
from ternlight.geometry import Geometry
from ternlight.isa import GATE_FIELDS
from ternlight.sigmoid import INPUT_FRACTION
from ternlight.ufloat import MANTISSA_BITS

from ..layouts import CONTEXT_BITS, REGISTER, STATE_ADDRESS_BITS

WORD = 2
"""The state memory's word of a beat is here; it was asked for in stage 0."""
FORGET_READ = 9
FORGET_WRITE = 10
GATED_WRITE = 13
STATE_WRITE = 14
SQUARE = 14
LAST = 14

FACTOR_BITS = MANTISSA_BITS + 1
"""The first product is shifted by even amounts: its factor has one bit more than the mantissa for that."""
STEP_BITS = 4
NARROWING = data.StructLayout(
    {
        "steps": STEP_BITS,  # right shift of the first product, in steps of two bits
        "deep": 1,  # by 32 bits more
        "void": 1,  # by so much that nothing is left
    }
)


def steps_max(accumulator: int) -> int:
    """The largest shift of the first product that leaves something of it, in steps of two bits."""
    return (accumulator + MANTISSA_BITS) // 2


def second_bits(accumulator: int) -> int:
    """Bits of the second product's shift: the compiler narrows acc * silu, less two bits of headroom, to an element."""
    return (accumulator + STATE_BITS - ELEMENT_BITS + 2).bit_length()


def beat_layout(accumulator: int) -> data.StructLayout:
    """What the lanes must know of a beat."""
    return data.StructLayout(
        {
            "valid": 1,
            "forget": 1,
            "state": 1,
            "gate": 1,
            "fresh": 1,  # the state counts as zero
            "lift": INPUT_FRACTION.bit_length(),  # left shift of z to the sigmoid's format
            "limit": INPUT_FRACTION,  # the upper bits of z that this shift would lose
            "second": second_bits(accumulator),  # right shift of the second product
        }
    )


def forget_words(geometry: Geometry) -> int:
    """Words of H forget gates of a context."""
    return 2 * geometry.residual_words


def route_layout(geometry: Geometry) -> data.StructLayout:
    """Where a beat's outputs go."""
    return data.StructLayout(
        {
            "mlp": 1,
            "last": 1,  # of the operation
            "context": CONTEXT_BITS,
            "upper": 1,  # half of the gated word
            "address": max(STATE_ADDRESS_BITS, GATE_FIELDS["target"]),  # the word of states or of the gated memory
            "forget": range(geometry.contexts * forget_words(geometry)),  # word of the forget memory
            "reduction": REGISTER["number"].shape,
        }
    )
