"""TritDecoder against ternlight.trits, every code at every position."""

from __future__ import annotations

import cocotb
import pytest
from cocotb.triggers import Timer

from ternlight.geometry import CODE_BITS, TRITS_PER_CODE
from ternlight.trits import decode
from ternlight_hw.engine.trit_decoder import TritDecoder
from ternlight_sim.bench import parameters, rng, simulate


@cocotb.test()
async def bench_decoder(dut):
    lanes, random = parameters()["lanes"], rng()
    codes = -(-lanes // TRITS_PER_CODE)
    for code in range(1 << CODE_BITS):
        word = [(code + 5 * position) % (1 << CODE_BITS) for position in range(codes)]
        if code % 2:
            random.shuffle(word)
        dut.codes.value = sum(value << CODE_BITS * position for position, value in enumerate(word))
        await Timer(1, "ns")
        expected = [trit for value in word for trit in decode(value)][:lanes]
        nonzero, negative = int(dut.nonzero.value), int(dut.negative.value)
        assert [(nonzero >> i & 1) * (-1 if negative >> i & 1 else 1) for i in range(lanes)] == expected


@pytest.mark.parametrize("lanes", [3, 8, 16])
def test_trit_decoder(lanes):
    simulate(TritDecoder(lanes=lanes), __file__, bench="bench_decoder", parameters={"lanes": lanes, "seed": lanes})


def test_trit_decoder_refuses():
    with pytest.raises(ValueError, match="lanes must be positive, not 0"):
        TritDecoder(lanes=0)
