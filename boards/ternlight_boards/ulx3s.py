"""ULX3S, in its four sizes."""

from __future__ import annotations

from dataclasses import replace

from amaranth_boards.ulx3s import ULX3S_12F_Platform, ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform

from ternlight.geometry import Geometry

from .board import Board

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=2,
    store_words=2048,
    gain_words=512,
    vector_words=128,
    state_words=256,
    program_words=256,
    activations=128,
    accumulator=16,
    slots=2,
    prompt=64,
    ring=64,
    top_k=16,
    clock_hz=37_500_000,
)
"""For 24,000 LUT4: the LFE5U-25F, and the 12F, which is the same chip with half of it promised."""

MEDIUM = Geometry(
    inputs=16,
    rows=16,
    vector=2,
    store_words=2048,
    gain_words=1024,
    vector_words=256,
    state_words=512,
    program_words=512,
    activations=256,
    accumulator=18,
    slots=4,
    clock_hz=37_500_000,
)
"""For the LFE5U-45F."""

LARGE = replace(MEDIUM, store_words=4096, state_words=1024, slots=8)
"""For the LFE5U-85F."""

BOARDS = tuple(
    Board(name=f"ulx3s-{size}f", title=f"ULX3S {size}F", platform=platform, geometry=geometry, loader="ulx3s")
    for size, platform, geometry in (
        (12, ULX3S_12F_Platform, SMALL),
        (25, ULX3S_25F_Platform, SMALL),
        (45, ULX3S_45F_Platform, MEDIUM),
        (85, ULX3S_85F_Platform, LARGE),
    )
)
