"""The simulated device that ships with ternlight: large enough for the default model, and quick to simulate."""

from __future__ import annotations

from ternlight.geometry import Geometry

GEOMETRY = Geometry(
    inputs=32,
    rows=16,
    vector=8,
    store_words=5120,
    gain_words=1024,
    residual_words=20,
    gated_words=48,
    state_words=1024,
    program_words=512,
    activations=384,
    accumulator=18,
    contexts=2,
    slots=4,
    clock_hz=100_000_000,
)
DIVISOR = 3
"""Clock cycles per bit of the serial line: as few as the receiver can sample with margin."""
