"""The whole accelerator behind its host bus, against the golden machine: random models of odd shapes with outliers.

Every scalar that a unit writes back is compared as well, so that a difference names the first instruction.
"""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight import isa
from ternlight.abi import SESSION_WORDS, Command, Register, SessionWord, Window, address, window_address
from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight.sampling import Sampling, stop_words
from ternlight_hw.core import Core
from ternlight_sim.bench import parameters, rng, simulate, start
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=4096,
    gain_words=1024,
    vector_words=128,
    state_words=256,
    program_words=512,
    activations=128,
    accumulator=16,
    slots=2,
    prompt=16,
    ring=16,
    top_k=8,
)


class BusHost:
    """The host's end of the bus, one word at a time."""

    def __init__(self, dut, geometry):
        self.dut = dut
        self.geometry = geometry
        dut.bus__enable.value = 0

    async def access(self, where, data=None):
        dut = self.dut
        dut.bus__enable.value = 1
        dut.bus__write.value = int(data is not None)
        dut.bus__address.value = where
        dut.bus__write_data.value = int(data or 0)
        while True:
            await RisingEdge(dut.clk)
            done, value, error = (int(getattr(dut, f"bus__{name}").value) for name in ("ack", "read_data", "error"))
            await FallingEdge(dut.clk)
            if done:
                dut.bus__enable.value = 0
                assert not error, hex(where)
                return value

    async def write_window(self, window, first, words):
        for index, word in enumerate(np.asarray(words).reshape(-1).tolist()):
            await self.access(window_address(window, first + index, self.geometry), word)

    async def load(self, model):
        await self.write_window(Window.PROGRAM, 0, model.program_words())
        await self.write_window(Window.GAINS, 0, model.gains.view("<u4"))
        await self.write_window(Window.STORE, 0, model.store)
        registers = {
            Register.VOCABULARY: model.vocabulary,
            Register.STATE_STRIDE: model.state_stride,
            Register.IMAGE_ID: model.identity,
        }
        for register, value in registers.items():
            await self.access(address(Window.REGISTERS, register), value)

    async def start_session(self, slot, prompt, tokens, sampling, stop=()):
        padded = [*prompt, 0]
        words = [padded[at] | padded[at + 1] << 16 for at in range(0, len(prompt), 2)]
        await self.write_window(Window.PROMPTS, slot * self.geometry.prompt // 2, words)
        record = [0, len(prompt), tokens, *sampling.words(), *stop_words(stop)]
        await self.write_window(Window.SESSIONS, slot * SESSION_WORDS, record)
        await self.access(address(Window.REGISTERS, Register.COMMAND), Command.START | slot << 8)

    async def states(self, slot, model):
        count = model.state_stride * self.geometry.gain_columns
        words = [
            await self.access(window_address(Window.STATES, slot * count + index, self.geometry))
            for index in range(count)
        ]
        return np.array(words, "<u4").view("<i2").reshape(model.state_stride, self.geometry.vector)


async def watch_writebacks(dut, seen):
    """Append (target, mantissa, exponent) of every value that vector and scalar unit write back."""
    while True:
        await RisingEdge(dut.clk)
        for unit, prefix in seen:
            names = ("valid", "payload")
            valid, payload = (int(getattr(dut.sequencer, f"{prefix}__{name}").value) for name in names)
            if valid:
                seen[unit, prefix].append((payload & 15, payload >> 4 & 0x7FFF, (payload >> 19 ^ 512) - 512))


@cocotb.test()
async def bench_core(dut):
    values, random = parameters(), rng()
    geometry = Geometry.from_words(values["geometry"])
    config = random_config(**values["shape"])
    model = compile_image(random_image(config, values["seed"]), geometry)
    machine = Machine(model)
    dut.events__ready.value = 1
    await start(dut)
    host = BusHost(dut, geometry)
    await host.load(model)
    seen = {(isa.Unit.VECTOR, "vector_result"): [], (isa.Unit.SCALAR, "scalar_result"): []}
    cocotb.start_soon(watch_writebacks(dut, seen))
    for request in range(values["requests"]):
        slot = request % geometry.slots
        prompt = random.integers(config.vocabulary, size=int(random.integers(1, 6))).tolist()
        sampling = (Sampling(temperature=0), Sampling(seed=9, top_k=0), Sampling(top_k=5, temperature=1.5))[request % 3]
        tokens = values["tokens"]
        await host.start_session(slot, prompt, tokens, sampling)
        record = slot * SESSION_WORDS
        while await host.access(window_address(Window.SESSIONS, record + SessionWord.STATUS, geometry)) & 0xFF:
            pass
        writes = {unit: [] for unit, _ in seen}

        def trace(index, fields, written, writes=writes):
            for register, value in written:
                where = (register, int(value.mantissa[0]), int(value.exponent[0]))
                writes[fields["unit"]].append((where, fields))

        golden = GoldenSession(machine, trace=trace)
        expected = list(golden.generate(prompt, tokens, sampling))
        for (unit, _), found in seen.items():
            for got, (wanted, fields) in zip(found, writes[unit], strict=True):
                assert got == wanted, fields
            found.clear()
        ring = slot * geometry.ring // 2
        words = [
            await host.access(window_address(Window.TOKENS, ring + index // 2, geometry)) >> 16 * (index % 2) & 0xFFFF
            for index in range(tokens)
        ]
        states = await host.states(slot, model)
        np.testing.assert_array_equal(states, golden.states)
        assert words == expected


SHAPES = [
    {"hidden": 37, "intermediate": 53, "layers": 2, "vocabulary": 61},
    {"hidden": 5, "intermediate": 3, "layers": 1, "vocabulary": 5},
    {"hidden": 64, "intermediate": 96, "layers": 1, "vocabulary": 128},
    {"hidden": 21, "intermediate": 100, "layers": 4, "vocabulary": 33},
    {"hidden": 9, "intermediate": 17, "layers": 3, "vocabulary": 1024},
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
def test_core(shape):
    simulate(
        Core(geometry=SMALL),
        __file__,
        bench="bench_core",
        parameters={"geometry": SMALL.words(), "shape": shape, "seed": 7, "requests": 4, "tokens": 8},
    )
