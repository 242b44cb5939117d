"""Ternary products: exact integers through floating-point matrix libraries, where those are exact."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .integer import Ints

FLOAT32_EXACT = 1 << 24
"""Integers up to this magnitude, and so their sums in any order, are exact in single precision."""


def matvec(trits: NDArray[Any], q: Ints, *, bits: int | None = None) -> Ints:
    """T q for trits (rows, inputs) and signed bytes q (..., inputs), as (..., rows).

    Trits may come as float32, which saves their conversion at each call.

    bits: width of the accumulator that must hold the sum after every input, in whatever order they come;
    raises OverflowError when the values allow a sum outside it.
    """
    if q.size and (q.min() < -128 or q.max() > 127):
        raise ValueError(f"activations must be from -128 to 127, not {q.min()} to {q.max()}")
    # |T| |q| bounds each partial sum; 128 per input bounds that.
    exact = np.float32 if 128 * trits.shape[1] <= FLOAT32_EXACT else np.float64
    weights: NDArray[Any] = trits.astype(exact, copy=False)
    activations: NDArray[Any] = q.astype(exact)
    product: Ints = (activations @ weights.T).astype(np.int64)
    if bits is not None:
        limit = 1 << bits - 1
        reach = np.abs(activations) @ np.abs(weights).T
        if reach.size and reach.max() >= limit:
            raise OverflowError(f"a product may reach {int(reach.max())}, beyond an accumulator of {bits} bits")
    return product
