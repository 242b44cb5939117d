"""ULX3S, in its four sizes."""

from __future__ import annotations

from dataclasses import replace

from amaranth_boards.ulx3s import ULX3S_12F_Platform, ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform

from ternlight.geometry import Geometry

from .board import Board

SMALL = Geometry(
    inputs=8,
    rows=16,
    vector=4,
    embedding_bits=8,
    store_words=1024,
    gain_words=512,
    residual_words=32,
    gated_words=64,
    state_words=512,
    program_words=256,
    activations=128,
    accumulator=16,
    contexts=1,
    slots=2,
    prompt=64,
    ring=64,
    top_k=16,
    clock_hz=62_500_000,
)
"""For 24,000 LUT4: the LFE5U-25F, and the 12F, which is the same chip with half of it promised."""

MEDIUM = replace(
    SMALL,
    inputs=16,
    rows=32,
    residual_words=64,
    gated_words=128,
    state_words=1024,
    program_words=512,
    activations=256,
    accumulator=18,
    contexts=2,
    slots=4,
    prompt=256,
    ring=256,
    top_k=64,
)
"""For the LFE5U-45F."""

LARGE = Geometry(
    inputs=32,
    rows=64,
    vector=16,
    embedding_bits=6,
    store_words=1024,
    gain_words=512,
    residual_words=10,
    gated_words=24,
    state_words=512,
    program_words=512,
    activations=384,
    accumulator=18,
    contexts=2,
    slots=4,
    prompt=128,
    ring=128,
    top_k=40,
    clock_hz=125_000_000,
)
"""For the LFE5U-85F: 2,048 lanes, and every block RAM in use. It holds the model that ships."""

BOARDS = tuple(
    Board(
        name=f"ulx3s-{size}f",
        title=f"ULX3S {size}F",
        platform=platform,
        geometry=geometry,
        loader="ulx3s",
        scarce_dsp=geometry is SMALL,
    )
    for size, platform, geometry in (
        (12, ULX3S_12F_Platform, SMALL),
        (25, ULX3S_25F_Platform, SMALL),
        (45, ULX3S_45F_Platform, MEDIUM),
        (85, ULX3S_85F_Platform, LARGE),
    )
)
