"""The vector unit: everything between the engine's products, V elements per cycle."""

from __future__ import annotations

from .unit import VectorUnit

__all__ = ["VectorUnit"]
