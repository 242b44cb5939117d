"""The on-chip weight code: 3 trits in 5 bits, which one LUT a trit decodes.

Bits 0 to 2 of a code are the signs of trits a, b and c: set for -1, and of no meaning for 0. Whether a trit is
nonzero is a function of four bits of the code. That such functions exist for all 27 triples was found by search;
nothing else distinguishes these.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from .geometry import CODE_BITS, TRITS_PER_CODE, Geometry, ceil_div
from .store_word import from_columns, lane_order, to_columns

UNREAD = (0, 0, 1)
"""The bit of the code on which the trit's nonzero flag does not depend."""
NONZERO = (0x8DE3, 0x1E7F, 0xDF0B)
"""The nonzero flags: bit i for the value i of the other four bits of the code."""


def decode(code: int) -> tuple[int, ...]:
    """The three trits of a code."""
    trits = []
    for position, (unread, flags) in enumerate(zip(UNREAD, NONZERO, strict=True)):
        index = code & (1 << unread) - 1 | code >> unread + 1 << unread
        sign = -1 if code >> position & 1 else 1
        trits.append(sign if flags >> index & 1 else 0)
    return tuple(trits)


_DECODE = np.array([decode(code) for code in range(1 << CODE_BITS)], np.int8)
_ENCODE = {decode(code): code for code in reversed(range(1 << CODE_BITS))}


def encode(a: int, b: int, c: int) -> int:
    """The 5-bit code of three trits, the smallest of those that mean them."""
    return _ENCODE[a, b, c]


_CODES = np.array([encode(*triple) for triple in product((-1, 0, 1), repeat=TRITS_PER_CODE)], np.uint8)


def pack_store_words(trits: NDArray[np.int8], geometry: Geometry) -> NDArray[np.uint32]:
    """Weight words as the host's columns, (words, store_columns).

    trits: (words, lanes) of -1, 0, +1; lane = row * inputs + input. Code k, bits from 5 k, holds three lanes in the
    order of ternlight.store_word.
    """
    words, lanes = trits.shape
    codes = ceil_div(lanes, TRITS_PER_CODE)
    ordered = np.zeros((words, codes * TRITS_PER_CODE), np.int8)
    ordered[:, :lanes] = trits[:, lane_order(geometry)]
    coded = _CODES[(ordered.reshape(words, codes, TRITS_PER_CODE) + 1) @ np.array([9, 3, 1])]
    bits = np.zeros((words, geometry.store_bits), np.uint8)
    bits[:, : codes * CODE_BITS] = (coded[:, :, None] >> np.arange(CODE_BITS) & 1).reshape(words, -1)
    return to_columns(bits, geometry)


def unpack_store_words(words: NDArray[np.uint32], geometry: Geometry) -> NDArray[np.int8]:
    """The inverse of pack_store_words: (words, lanes) of -1, 0, +1."""
    codes = ceil_div(geometry.lanes, TRITS_PER_CODE)
    bits = from_columns(words, geometry)[:, : codes * CODE_BITS].reshape(len(words), codes, CODE_BITS)
    ordered = _DECODE[bits @ (1 << np.arange(CODE_BITS))].reshape(len(words), -1)
    trits = np.empty((len(words), geometry.lanes), np.int8)
    trits[:, lane_order(geometry)] = ordered[:, : geometry.lanes]
    return trits
