"""The compact format's expressions against their golden functions."""

from __future__ import annotations

import cocotb
import numpy as np
from amaranth import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.triggers import Timer

from ternlight import compact
from ternlight.formats import COMPACT_BITS, GAIN_BITS, STATE_BITS
from ternlight_hw.vector.compact import decode, encode
from ternlight_sim.bench import rng, simulate


class Codec(wiring.Component):
    """Both directions, without a clock."""

    def __init__(self):
        super().__init__(
            {
                "value": In(signed(STATE_BITS)),
                "encoded": Out(signed(COMPACT_BITS)),
                "code": In(signed(COMPACT_BITS)),
                "decoded": Out(signed(GAIN_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.encoded.eq(encode(m, self.value)), self.decoded.eq(decode(self.code))]
        return m


@cocotb.test()
async def bench_codec(dut):
    limit = 1 << STATE_BITS - 1
    near = np.arange(-20, 20)
    powers = (1 << np.arange(STATE_BITS))[:, None] + near
    values = np.concatenate([powers.flatten(), -powers.flatten(), rng().integers(-limit, limit, 4000)])
    values = values[(values >= -limit) & (values < limit)]
    codes = compact.encode(values)
    decoded = compact.decode(values.astype(np.int16))
    for value, code, expected in zip(values.tolist(), codes.tolist(), decoded.tolist(), strict=True):
        dut.value.value = value & (1 << STATE_BITS) - 1
        dut.code.value = value & (1 << COMPACT_BITS) - 1
        await Timer(1, "ns")
        assert int(dut.encoded.value) == code & (1 << COMPACT_BITS) - 1, value
        assert int(dut.decoded.value) == expected & (1 << GAIN_BITS) - 1, value


def test_codec():
    simulate(Codec(), __file__, bench="bench_codec")
