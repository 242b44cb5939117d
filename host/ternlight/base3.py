"""Dense packing of trits for storage: five trits in a byte, base 3 (1.6 bits a trit)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TRITS_PER_BYTE = 5
_WEIGHTS = np.array([1, 3, 9, 27, 81], np.uint8)
BYTE_MAX = int(2 * _WEIGHTS.sum())
"""The byte of five times +1; larger ones are no code."""

_DIGITS = (np.arange(BYTE_MAX + 1)[:, None] // _WEIGHTS % 3 - 1).astype(np.int8)


def packed_size(trits: int) -> int:
    """Bytes that hold so many trits."""
    return -(-trits // TRITS_PER_BYTE)


def pack(trits: NDArray[np.int8]) -> NDArray[np.uint8]:
    """The bytes sum((trit + 1) * 3**k) of an array of -1, 0, +1 in C order; zero trits pad the last byte."""
    padded = np.ones(packed_size(trits.size) * TRITS_PER_BYTE, np.uint8)
    padded[: trits.size] = trits.reshape(-1) + 1
    packed: NDArray[np.uint8] = padded.reshape(-1, TRITS_PER_BYTE) @ _WEIGHTS
    return packed


def unpack(packed: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """The inverse of `pack`; raises ValueError for a wrong length or for bytes that are no code."""
    count = int(np.prod(shape))
    if packed.shape != (packed_size(count),):
        raise ValueError(f"{count} trits need {packed_size(count)} bytes, not {packed.size}")
    if packed.size and int(packed.max()) > BYTE_MAX:
        raise ValueError(f"a byte of five trits must be at most {BYTE_MAX}, not {int(packed.max())}")
    return _DIGITS[packed].reshape(-1)[:count].reshape(shape)
