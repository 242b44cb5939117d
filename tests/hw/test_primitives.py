"""The choice of primitives."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ternlight_hw.primitives import BlockRam, SharedBlockRam, block_ram_width, is_ecp5


@pytest.mark.parametrize(
    ("platform", "answer"),
    [
        (None, False),
        (SimpleNamespace(), False),
        (SimpleNamespace(device="GW2AR-LV18"), False),
        (SimpleNamespace(device="LFE5U-45F"), True),
        (SimpleNamespace(device="LFE5UM-85F"), True),
    ],
)
def test_is_ecp5(platform, answer):
    assert is_ecp5(platform) == answer


@pytest.mark.parametrize(
    ("depth", "width"),
    [(1, 36), (512, 36), (513, 18), (1024, 18), (2048, 9), (2049, 4), (8192, 2), (16384, 1), (16385, None)],
)
def test_block_ram_width(depth, width):
    assert block_ram_width(depth) == width


def test_block_ram_refuses():
    with pytest.raises(ValueError, match=r"width must be one of \[1, 2, 4, 9, 18, 36\], not 32"):
        BlockRam(width=32)


def test_shared_block_ram_refuses():
    with pytest.raises(ValueError, match="part must be 1, 2, 4, 9 or 18 bits, not 8"):
        SharedBlockRam(part=8)
