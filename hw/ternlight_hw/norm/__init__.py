"""The norm unit: the residual, and what products take from it and from the gated vector; V elements per cycle."""

from __future__ import annotations

from .unit import NormUnit

__all__ = ["NormUnit"]
