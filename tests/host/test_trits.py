"""The weight code: every triple, every code word, and packing at every alignment."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from ternlight.geometry import CODE_BITS, Geometry
from ternlight.trits import decode, encode, pack_store_words, unpack_store_words

TRIPLES = list(product((-1, 0, 1), repeat=3))


def test_every_triple_has_a_code_of_its_own():
    codes = [encode(*triple) for triple in TRIPLES]
    assert len(set(codes)) == len(TRIPLES)
    assert all(0 <= code < 1 << CODE_BITS for code in codes)
    assert [decode(code) for code in codes] == TRIPLES


def test_unused_codes_read_as_zeros_beside_their_first_trit():
    """The five codes that no triple has are copies of others: hardware decodes them without a case of their own."""
    used = {encode(*triple) for triple in TRIPLES}
    unused = set(range(1 << CODE_BITS)) - used
    assert len(unused) == 5
    assert all(decode(code)[1:] == (0, 0) for code in unused)


@pytest.mark.parametrize(("inputs", "rows", "vector"), [(2, 2, 2), (4, 6, 2), (8, 8, 4), (10, 20, 10), (32, 16, 8)])
def test_store_words(inputs, rows, vector):
    geometry = Geometry(inputs=inputs, rows=rows, vector=vector, activations=4 * inputs)
    trits = np.random.default_rng(inputs).integers(-1, 2, (50, geometry.lanes)).astype(np.int8)
    words = pack_store_words(trits, geometry)
    assert words.shape == (50, geometry.store_columns)
    assert words.dtype == np.dtype("<u4")
    np.testing.assert_array_equal(unpack_store_words(words, geometry), trits)
    # Code k lies in bits 5 k and up of the whole word.
    whole = sum(int(column) << 32 * index for index, column in enumerate(words[7]))
    for code in range(geometry.lanes // 3):
        triple = tuple(trits[7, 3 * code : 3 * code + 3].tolist())
        assert decode(whole >> CODE_BITS * code & (1 << CODE_BITS) - 1) == triple
