"""The sizes of one build of the accelerator: the only thing that a bitstream fixes about models."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import FitError
from .formats import ACTIVATION_BITS, COMPACT_BITS, ELEMENT_BITS, EMBEDDING_SCALE_BITS

COLUMN_BITS = 32
"""Width of the host's data words: wide memories are loaded in columns of so many bits."""

TRITS_PER_CODE = 3
CODE_BITS = 5
CONTEXTS_MAX = 4

STORE_BLOCK_BITS = 18
"""The weight store is made of blocks of so many bits, one block RAM each."""
BLOCK_LOW_BITS = 16
"""Bits of a block of which an embedding's row is read by address; the other two are a block RAM's ninth bits."""
SET_BLOCKS = 14
"""Blocks whose upper bits the host writes in one column, before their lower bits, two blocks a column."""


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient rounded up."""
    return -(-numerator // denominator)


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a device. Every field is one 32-bit word of the identity, in this order.

    inputs: activations of a chunk (C): one weight word multiplies so many.
    rows: outputs of a row group (R): lanes = inputs * rows.
    vector: elements per cycle of the norm unit (V); divides inputs and rows. The gate unit takes half as many.
    embedding_bits: of a value of an embedding row in the weight store.
    store_words: weight words; each holds inputs * rows trits.
    gain_words: words of V gains.
    residual_words, gated_words: words of V elements per context, of the residual and of the gate unit's outputs.
    state_words: words of V / 2 states of all slots together, and of the lower bounds.
    program_words: instructions.
    activations: elements of one activation buffer; a context has two.
    accumulator: bits of an accumulator.
    contexts: tokens of different sessions that are worked on at the same time.
    slots: sessions.
    prompt: tokens of a slot's prompt buffer.
    ring: tokens of a slot's output ring.
    top_k: candidates that the sampler can keep.
    clock_hz: the clock of the device, for speeds.
    """

    inputs: int = 32
    rows: int = 16
    vector: int = 8
    embedding_bits: int = 8
    store_words: int = 4096
    gain_words: int = 2048
    residual_words: int = 64
    gated_words: int = 128
    state_words: int = 1024
    program_words: int = 512
    activations: int = 1024
    accumulator: int = 20
    contexts: int = 2
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
        if self.vector % 4 or not 4 <= self.vector <= 64:
            raise FitError(f"vector must be a multiple of 4 from 4 to 64, not {self.vector}")
        for name in ("inputs", "rows"):
            if getattr(self, name) % self.vector:
                raise FitError(f"{name} must be a multiple of vector ({self.vector}), not {getattr(self, name)}")
        if self.activations % self.inputs:
            raise FitError(f"activations must be a multiple of inputs ({self.inputs}), not {self.activations}")
        if not 12 <= self.accumulator <= ELEMENT_BITS:
            raise FitError(f"accumulator must be from 12 to {ELEMENT_BITS} bits, not {self.accumulator}")
        if not 4 <= self.embedding_bits <= ACTIVATION_BITS:
            raise FitError(f"embedding_bits must be from 4 to {ACTIVATION_BITS}, not {self.embedding_bits}")
        if self.contexts > CONTEXTS_MAX:
            raise FitError(f"contexts must be at most {CONTEXTS_MAX}, not {self.contexts}")
        for name in ("prompt", "ring"):
            value = getattr(self, name)
            if value & (value - 1) or not 16 <= value <= 4096:
                raise FitError(f"{name} must be a power of two from 16 to 4096, not {value}")
        if self.slots > 64:
            raise FitError(f"slots must be at most 64, not {self.slots}")
        if not self.cells:
            raise FitError(
                f"a store word of {self.store_bits} bits does not hold {self.vector} embedding values and their scale "
                f"({self.cell_bits} bits): raise inputs or rows"
            )

    @property
    def lanes(self) -> int:
        """Ternary weights that are accumulated per cycle."""
        return self.inputs * self.rows

    @property
    def store_blocks(self) -> int:
        """Blocks of a weight word: 3 trits in 5 bits."""
        return ceil_div(ceil_div(self.lanes, TRITS_PER_CODE) * CODE_BITS, STORE_BLOCK_BITS)

    @property
    def store_bits(self) -> int:
        """Bits of a weight word."""
        return self.store_blocks * STORE_BLOCK_BITS

    @property
    def store_columns(self) -> int:
        """32-bit columns in which the host writes a weight word (see ternlight.store_word)."""
        return ceil_div(self.store_blocks, SET_BLOCKS) + ceil_div(self.store_blocks, 2)

    @property
    def buffer_chunks(self) -> int:
        """Chunks of an activation buffer."""
        return self.activations // self.inputs

    @property
    def group_beats(self) -> int:
        """Beats of V results of a row group."""
        return self.rows // self.vector

    @property
    def cell_bits(self) -> int:
        """Bits of an embedding cell: V values of one token, and the scale of its row."""
        return self.vector * self.embedding_bits + EMBEDDING_SCALE_BITS

    def cell_low_bits(self, cells: int) -> int:
        """Bits of a cell that so many cells, a power of two, find in the lower bits of the blocks."""
        if cells > BLOCK_LOW_BITS:
            return self.store_blocks // (cells // BLOCK_LOW_BITS)
        return self.store_blocks * (BLOCK_LOW_BITS // cells)

    @property
    def cells(self) -> int:
        """Tokens of which one store word holds a cell each: a power of two, or 0 if not even one fits."""
        cells = 1 << self.store_bits.bit_length()
        while cells and self.cell_low_bits(cells) + 2 * self.store_blocks // cells < self.cell_bits:
            cells >>= 1
        return cells

    @property
    def gain_columns(self) -> int:
        """32-bit columns of a word of V gains."""
        return self.vector * COMPACT_BITS // COLUMN_BITS

    @property
    def half(self) -> int:
        """Elements per cycle of the gate unit (H): half a vector."""
        return self.vector // 2

    @property
    def state_columns(self) -> int:
        """32-bit columns of a word of H states."""
        return self.half * COMPACT_BITS // COLUMN_BITS

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
