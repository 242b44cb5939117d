"""The gate unit: forget gates, the recurrence and the gated products, H elements per cycle."""

from __future__ import annotations

from .unit import GateUnit

__all__ = ["GateUnit"]
