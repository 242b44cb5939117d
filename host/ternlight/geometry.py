"""The sizes of one build of the accelerator: the only thing that a bitstream fixes about models."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import FitError
from .formats import ACTIVATION_BITS, COMPACT_BITS, ELEMENT_BITS

COLUMN_BITS = 32
"""Width of the host's data words: wide memories are loaded in columns of so many bits."""

TRITS_PER_CODE = 3
CODE_BITS = 5


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded up."""
    return -(-numerator // denominator)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a device. Every field is one 32-bit word of the identity, in this order.

    inputs: activations of a chunk (C): one weight word multiplies so many.
    rows: outputs of a row group (R): lanes = inputs * rows.
    vector: elements per cycle of the vector unit (V); divides inputs and rows; even.
    block: row groups that pass while a chunk is held (accumulators per row).
    store_words: weight words; each holds inputs * rows trits.
    gain_words, vector_words, state_words: words of V gains, V elements, V states (all slots together).
    program_words: instructions.
    activations: elements of one activation buffer (there are two).
    accumulator: bits of an accumulator.
    slots: sessions.
    prompt: tokens of a slot's prompt buffer.
    ring: tokens of a slot's output ring.
    top_k: candidates that the sampler can keep.
    clock_hz: the clock of the device, for speeds.
    """

    inputs: int = 32
    rows: int = 16
    vector: int = 8
    block: int = 16
    store_words: int = 4096
    gain_words: int = 2048
    vector_words: int = 256
    state_words: int = 512
    program_words: int = 512
    activations: int = 1024
    accumulator: int = 20
    slots: int = 4
    prompt: int = 256
    ring: int = 256
    top_k: int = 64
    clock_hz: int = 100_000_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < 1:
                raise FitError(f"{field.name} must be a positive integer, not {value!r}")
        if self.vector % 2 or not 2 <= self.vector <= 64:
            raise FitError(f"vector must be an even number from 2 to 64, not {self.vector}")
        for name in ("inputs", "rows"):
            if getattr(self, name) % self.vector:
                raise FitError(f"{name} must be a multiple of vector ({self.vector}), not {getattr(self, name)}")
        if self.activations % self.inputs:
            raise FitError(f"activations must be a multiple of inputs ({self.inputs}), not {self.activations}")
        if not 12 <= self.accumulator <= ELEMENT_BITS:
            raise FitError(f"accumulator must be from 12 to {ELEMENT_BITS} bits, not {self.accumulator}")
        if not 2 <= self.block <= 64:
            raise FitError(f"block must be from 2 to 64 row groups, not {self.block}")
        for name in ("prompt", "ring"):
            value = getattr(self, name)
            if value & (value - 1) or not 16 <= value <= 4096:
                raise FitError(f"{name} must be a power of two from 16 to 4096, not {value}")
        if self.slots > 64:
            raise FitError(f"slots must be at most 64, not {self.slots}")
        if self.store_bits < ACTIVATION_BITS * self.vector:
            raise FitError(
                f"a store word of {self.store_bits} bits does not hold {self.vector} embedding values: "
                f"raise inputs or rows"
            )

    @property
    def lanes(self) -> int:
        """Ternary weights that are accumulated per cycle."""
        return self.inputs * self.rows

    @property
    def store_bits(self) -> int:
        """Bits of a weight word: 3 trits in 5 bits, rounded up to whole columns."""
        code_bits = ceil_div(self.lanes, TRITS_PER_CODE) * CODE_BITS
        return ceil_div(code_bits, COLUMN_BITS) * COLUMN_BITS

    @property
    def store_columns(self) -> int:
        """32-bit columns of a weight word."""
        return self.store_bits // COLUMN_BITS

    @property
    def embedding_beats(self) -> int:
        """Groups of V signed bytes that one store word holds (embedding rows are stored so)."""
        return self.store_bits // (ACTIVATION_BITS * self.vector)

    @property
    def gain_columns(self) -> int:
        """32-bit columns of a word of V gains (and of V states)."""
        return self.vector * COMPACT_BITS // COLUMN_BITS

    def words(self) -> list[int]:
        """The identity's words, in field order."""
        return [getattr(self, field.name) for field in fields(self)]

    @classmethod
    def from_words(cls, words: list[int]) -> Geometry:
        """The geometry that a device states; raises FitError if it is impossible."""
        names = [field.name for field in fields(cls)]
        if len(words) != len(names):
            raise FitError(f"a geometry has {len(names)} words, not {len(words)}")
        return cls(**dict(zip(names, words, strict=True)))
