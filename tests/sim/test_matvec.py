"""The golden product against integer arithmetic, where single and double precision take turns."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight_sim.golden.matvec import FLOAT32_EXACT, matvec


@pytest.mark.parametrize("inputs", [1, 160, FLOAT32_EXACT // 128, FLOAT32_EXACT // 128 + 1])
def test_product_is_exact(inputs):
    random = np.random.default_rng(inputs)
    matrix = random.integers(-1, 2, (3, inputs)).astype(np.int8)
    q = random.integers(-128, 128, (2, 2, inputs))
    # The largest sum, one off a power of two where rounding would show.
    matrix[0], q[0, 0] = -1, -128
    q[0, 0, 0] = -127
    product = matvec(matrix, q)
    assert product.dtype == np.int64
    assert (product == np.einsum("ri,abi->abr", matrix.astype(np.int64), q)).all()
    assert product[0, 0, 0] == 128 * inputs - 1


def test_what_an_accumulator_may_not_hold_is_refused():
    trits = np.array([[1] * 16, [1, -1] * 8], np.int8)
    q = np.full(16, -128)
    assert matvec(trits, q, bits=13).tolist() == [-2048, 0]
    # The second row sums to zero, but on the way it may pass the limit.
    with pytest.raises(OverflowError, match="a product may reach 2048, beyond an accumulator of 12 bits"):
        matvec(trits[1:], q, bits=12)


@pytest.mark.parametrize("value", [-129, 128])
def test_what_is_no_byte_is_refused(value):
    with pytest.raises(ValueError, match=f"activations must be from -128 to 127, not {value} to {value}"):
        matvec(np.ones((1, 1), np.int8), np.array([value]))
