"""The weight code: every triple, every code word, and packing in the order of the lanes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ternlight.geometry import CODE_BITS, STORE_BLOCK_BITS, Geometry
from ternlight.store_word import from_columns, lane_order
from ternlight.trits import NONZERO, UNREAD, decode, encode, pack_store_words, unpack_store_words

TRIPLES = list(product((-1, 0, 1), repeat=3))


def test_every_triple_has_a_code_of_its_own():
    codes = [encode(*triple) for triple in TRIPLES]
    assert len(set(codes)) == len(TRIPLES)
    assert all(0 <= code < 1 << CODE_BITS for code in codes)
    assert [decode(code) for code in codes] == TRIPLES


def test_codes_decode_in_one_lut_a_trit():
    """A sign is a bit of the code, and whether a trit is nonzero depends on four bits."""
    for code in range(1 << CODE_BITS):
        for position, trit in enumerate(decode(code)):
            assert trit == 0 or (trit < 0) == bool(code >> position & 1)
            assert (decode(code ^ 1 << UNREAD[position])[position] != 0) == (trit != 0)
    assert all(flags < 1 << 2 ** (CODE_BITS - 1) for flags in NONZERO)


def test_codes_without_a_triple_of_their_own_are_copies():
    """A store that was never written holds trits, too."""
    used = {encode(*triple) for triple in TRIPLES}
    unused = set(range(1 << CODE_BITS)) - used
    assert len(unused) == 5
    assert all(decode(code) in TRIPLES for code in unused)


@pytest.mark.parametrize(("inputs", "rows", "vector"), [(4, 8, 4), (8, 8, 8), (12, 24, 4), (20, 20, 20), (32, 16, 8)])
def test_store_words(inputs, rows, vector):
    geometry = Geometry(inputs=inputs, rows=rows, vector=vector, activations=4 * inputs, embedding_bits=5)
    trits = np.random.default_rng(inputs).integers(-1, 2, (50, geometry.lanes)).astype(np.int8)
    words = pack_store_words(trits, geometry)
    assert words.shape == (50, geometry.store_columns)
    assert words.dtype == np.dtype("<u4")
    np.testing.assert_array_equal(unpack_store_words(words, geometry), trits)
    # Code k lies in bits 5 k and up of the word.
    bits = from_columns(words, geometry)
    assert bits.shape == (50, geometry.store_blocks * STORE_BLOCK_BITS)
    order = lane_order(geometry)
    for code in range(geometry.lanes // 3):
        value = int(bits[7, CODE_BITS * code :][:CODE_BITS] @ (1 << np.arange(CODE_BITS)))
        assert decode(value) == tuple(trits[7, order[3 * code :][:3]].tolist())
