"""The on-chip weight code: 3 trits in 5 bits, with an escape code that decodes in few LUTs.

Code word, bit 0 first: tag[1:0], body[4:2].
  tag 0, 1, 2: trit a is 0, +1, -1; body is one of the 8 nonzero pairs (b, c), in the order of PAIRS.
  tag 3: b = c = 0; body[1:0] is trit a as 0, 1 (+1), 2 (-1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .geometry import CODE_BITS, COLUMN_BITS, TRITS_PER_CODE, Geometry

TRIT_CODES = {0: 0, 1: 1, -1: 2}
"""Two-bit code of one trit: bit 0 set for +1, bit 1 set for -1."""

ESCAPE = 3

PAIRS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""The nonzero pairs (b, c) by body value."""


def encode(a: int, b: int, c: int) -> int:
    """The 5-bit code of three trits."""
    if b == 0 and c == 0:
        return ESCAPE | TRIT_CODES[a] << 2
    return TRIT_CODES[a] | PAIRS.index((b, c)) << 2


def decode(code: int) -> tuple[int, int, int]:
    """The three trits of a 5-bit code; the unused escape body 3 (and its copies) reads as zeros."""
    trits = {value: trit for trit, value in TRIT_CODES.items()}
    tag, body = code & 3, code >> 2
    if tag == ESCAPE:
        return trits.get(body & 3, 0), 0, 0
    return (trits[tag], *PAIRS[body])


_ENCODE = np.zeros(27, np.uint8)
for _a in (-1, 0, 1):
    for _b in (-1, 0, 1):
        for _c in (-1, 0, 1):
            _ENCODE[9 * (_a + 1) + 3 * (_b + 1) + (_c + 1)] = encode(_a, _b, _c)


def pack_store_words(trits: NDArray[np.int8], geometry: Geometry) -> NDArray[np.uint32]:
    """Weight words as 32-bit columns.

    trits: (words, lanes) of -1, 0, +1; lane = row * inputs + input.
    Returns (words, store_columns); column 0 holds the low bits, code k the bits from 5 k.
    """
    words, lanes = trits.shape
    codes = -(-lanes // TRITS_PER_CODE)
    padded = np.zeros((words, codes * TRITS_PER_CODE), np.int8)
    padded[:, :lanes] = trits
    triples = padded.reshape(words, codes, TRITS_PER_CODE) + 1
    coded = _ENCODE[triples @ np.array([9, 3, 1])]
    bits = (coded[:, :, None] >> np.arange(CODE_BITS)) & 1
    flat = np.zeros((words, geometry.store_columns * COLUMN_BITS), np.uint8)
    flat[:, : codes * CODE_BITS] = bits.reshape(words, -1)
    return np.packbits(flat, axis=1, bitorder="little").view("<u4")


_DECODE = np.array([decode(code) for code in range(1 << CODE_BITS)], np.int8)


def unpack_store_words(words: NDArray[np.uint32], geometry: Geometry) -> NDArray[np.int8]:
    """The inverse of pack_store_words: (words, lanes) of -1, 0, +1."""
    codes = -(-geometry.lanes // TRITS_PER_CODE)
    bits = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), axis=1, bitorder="little")
    coded = bits[:, : codes * CODE_BITS].reshape(len(words), codes, CODE_BITS) @ (1 << np.arange(CODE_BITS))
    return _DECODE[coded].reshape(len(words), -1)[:, : geometry.lanes]
