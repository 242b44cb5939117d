"""GumbelNoise against the golden noise."""

from __future__ import annotations

import cocotb
import numpy as np
from cocotb.triggers import FallingEdge

from ternlight.gumbel import CONSTANTS, NOISE_BITS, ROTATE_X, ROTATE_Y, WORD_BITS
from ternlight_hw.gumbel import BLOCK, ID_BITS, GumbelNoise
from ternlight_sim.bench import parameters, rng, simulate, start
from ternlight_sim.golden.sampling import gumbel, random_bits

MASK = (1 << WORD_BITS) - 1


def rotate_right(value, distance):
    return (value >> distance | value << WORD_BITS - distance) & MASK


def blocks_with_bits(seed, bits, random):
    """(token, position) whose random bits are the given ones: the cipher run backwards, for any second word."""
    x, y = np.full(1 << 19, bits, np.int64), random.integers(0, 1 << WORD_BITS, 1 << 19)
    for constant in reversed(CONSTANTS):
        y = rotate_right(x ^ y, ROTATE_Y)
        x = rotate_right((x ^ seed ^ constant) - y & MASK, WORD_BITS - ROTATE_X)
    found = np.flatnonzero(x < 1 << ID_BITS)[:3]
    assert len(found) == 3
    return list(zip(x[found].tolist(), y[found].tolist(), strict=True))


def chosen_blocks(seed, random, count):
    """Both ends of every octave in either half, corners of the block, and random blocks."""
    ends = {(1 << octave) - 1 for octave in range(WORD_BITS)} | {1 << octave for octave in range(WORD_BITS - 1)}
    ends |= {MASK - end for end in ends}
    blocks = [block for end in sorted(ends) for block in blocks_with_bits(seed, end, random)]
    assert {int(random_bits(seed, position, token)) for token, position in blocks} == ends
    blocks += [(token, position) for token in (0, 1, (1 << ID_BITS) - 1) for position in (0, 1, MASK)]
    tokens, positions = random.integers(0, 1 << ID_BITS, count), random.integers(0, 1 << WORD_BITS, count)
    return blocks + list(zip(tokens.tolist(), positions.tolist(), strict=True))


@cocotb.test()
async def bench_noise(dut):
    random = rng()
    seed = parameters()["noise_seed"]
    blocks = chosen_blocks(seed, random, 2000)
    dut.block__valid.value = 0
    dut.seed.value = seed
    await start(dut)
    pending = [blocks[index] for index in random.permutation(len(blocks))]
    offered = []  # per cycle: the block, or None
    while pending or any(offered[-GumbelNoise.latency :]):
        # Long runs at full rate, and gaps.
        block = pending.pop() if pending and random.random() < (1.0 if len(pending) % 512 < 256 else 0.4) else None
        offered.append(block)
        dut.block__valid.value = int(block is not None)
        if block:
            dut.block__payload.value = BLOCK.const({"token": block[0], "position": block[1]}).as_value().value
        await FallingEdge(dut.clk)
        due = offered[-GumbelNoise.latency] if len(offered) >= GumbelNoise.latency else None
        assert int(dut.noise__valid.value) == int(due is not None)
        if due:
            token, position = due
            noise = int(dut.noise__payload.value)
            assert noise == int(gumbel(seed, position, token)) & (1 << NOISE_BITS) - 1, due


def test_noise():
    for noise_seed in (0, 0x9E3779B9, MASK):
        simulate(
            GumbelNoise(), __file__, bench="bench_noise", parameters={"noise_seed": noise_seed, "seed": noise_seed}
        )
