"""The ternary engine: products of trits and activations, and embedding rows, out of the weight store."""

from .arrivals import ClaimPort
from .unit import Engine

__all__ = ["ClaimPort", "Engine"]
