"""The whole accelerator behind its host bus, against the golden machine: random models of odd shapes with outliers.

Several sessions run at once. Every scalar that a unit writes back is compared as well, so that a difference names the
first instruction.
"""

from __future__ import annotations

import cocotb
import numpy as np
import pytest
from cocotb.triggers import FallingEdge, RisingEdge

from ternlight.abi import SESSION_WORDS, Command, Register, SessionWord, Window, address, window_address
from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight.sampling import Sampling, stop_words
from ternlight_hw.core import Core
from ternlight_hw.layouts import REGISTER, UFLOAT, WRITEBACK
from ternlight_hw.sequencer import TOKEN_JOB
from ternlight_sim.bench import parameters, rng, simulate, start
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image

SMALL = {
    "inputs": 8,
    "rows": 8,
    "vector": 4,
    "store_words": 4096,
    "gain_words": 1024,
    "residual_words": 32,
    "gated_words": 32,
    "state_words": 512,
    "program_words": 512,
    "activations": 128,
    "accumulator": 16,
    "contexts": 2,
    "slots": 3,
    "prompt": 16,
    "ring": 16,
    "top_k": 8,
}


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
        first = model.lower_bound_word * self.geometry.state_columns
        await self.write_window(Window.STATES, first, model.lower_bounds.view("<u4"))
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

    async def token(self, slot, index):
        where = slot * self.geometry.ring // 2 + index // 2
        return await self.access(window_address(Window.TOKENS, where, self.geometry)) >> 16 * (index % 2) & 0xFFFF

    async def states(self, slot, model):
        count = model.state_stride * self.geometry.state_columns
        words = [
            await self.access(window_address(Window.STATES, slot * count + index, self.geometry))
            for index in range(count)
        ]
        return np.array(words, "<u4").view("<i2").reshape(model.state_stride, self.geometry.half)


class Writebacks:
    """The values that units write back: for each slot and token, those of every register in order."""

    def __init__(self, dut, geometry):
        self.sequencer = dut.sequencer
        self.contexts = [getattr(dut.sequencer, f"context_{number}") for number in range(geometry.contexts)]
        self.tokens = {slot: [] for slot in range(geometry.slots)}
        self.together = 0

    async def watch(self, clk):
        current = [None] * len(self.contexts)
        while True:
            await RisingEdge(clk)
            for unit in ("norm", "gate", "scalar"):
                if getattr(self.sequencer, f"{unit}_result__valid").value:
                    written = split(WRITEBACK, int(getattr(self.sequencer, f"{unit}_result__payload").value))
                    target, value = split(REGISTER, written["target"]), split(UFLOAT, written["value"])
                    exponent = (value["exponent"] ^ 512) - 512
                    values = current[target["context"]].setdefault(target["number"], [])
                    values.append((value["mantissa"], exponent))
            for number, context in enumerate(self.contexts):
                if context.job__valid.value and context.job__ready.value:
                    slot = split(TOKEN_JOB, int(context.job__payload.value))["slot"]
                    current[number] = {}
                    self.tokens[slot].append(current[number])
            self.together += all(context.active.value for context in self.contexts)


def split(layout, word):
    """The fields of a payload as unsigned integers."""
    return {name: word >> field.offset & (1 << field.width) - 1 for name, field in layout}


class Expected:
    """What a golden session writes: for each token, (register, value, instruction) in order."""

    def __init__(self):
        self.tokens = []

    def trace(self, index, fields, written):
        if index == 0:
            self.tokens.append([])
        for register, value in written:
            self.tokens[-1].append((register, (int(value.mantissa[0]), int(value.exponent[0])), fields))

    def compare(self, tokens):
        assert len(tokens) == len(self.tokens)
        for place, (values, wanted) in enumerate(zip(tokens, self.tokens, strict=True)):
            for register, value, fields in wanted:
                assert values[register].pop(0) == value, (place, fields)
            assert not any(values.values())


@cocotb.test()
async def bench_core(dut):
    values, random = parameters(), rng()
    geometry = Geometry(**values["geometry"])
    config = random_config(**values["shape"])
    model = compile_image(random_image(config, values["seed"]), geometry)
    machine = Machine(model)
    dut.events__ready.value = 1
    await start(dut)
    host = BusHost(dut, geometry)
    await host.load(model)
    writebacks = Writebacks(dut, geometry)
    cocotb.start_soon(writebacks.watch(dut.clk))
    choices = (Sampling(temperature=0), Sampling(seed=9, top_k=0), Sampling(top_k=5, temperature=1.5))
    for active in values["active"]:
        requests = []
        for slot in range(active):
            prompt = random.integers(config.vocabulary, size=int(random.integers(1, 6))).tolist()
            tokens = int(random.integers(1, 8))
            requests.append((slot, prompt, tokens, choices[(slot + active) % len(choices)]))
        for request in requests:
            await host.start_session(*request)
        for slot, *_ in requests:
            record = slot * SESSION_WORDS
            while await host.access(window_address(Window.SESSIONS, record + SessionWord.STATUS, geometry)) & 0xFF:
                pass
        for slot, prompt, tokens, sampling in requests:
            expected = Expected()
            golden = GoldenSession(machine, trace=expected.trace)
            chosen = list(golden.generate(prompt, tokens, sampling))
            expected.compare(writebacks.tokens[slot])
            writebacks.tokens[slot].clear()
            words = [await host.token(slot, index) for index in range(tokens)]
            np.testing.assert_array_equal(await host.states(slot, model), golden.states)
            assert words == chosen
    assert writebacks.together > 100


SHAPES = [
    ({"hidden": 37, "intermediate": 53, "layers": 2, "vocabulary": 61}, {}),
    ({"hidden": 5, "intermediate": 3, "layers": 1, "vocabulary": 5}, {"contexts": 1}),
    # Products of more rows than the engine's queue of results holds.
    ({"hidden": 96, "intermediate": 112, "layers": 1, "vocabulary": 128}, {"inputs": 16, "accumulator": 20}),
    ({"hidden": 21, "intermediate": 100, "layers": 4, "vocabulary": 33}, {"contexts": 3, "slots": 4}),
    ({"hidden": 9, "intermediate": 17, "layers": 3, "vocabulary": 1024}, {"vector": 8, "contexts": 4, "slots": 4}),
]


@pytest.mark.parametrize(("shape", "sizes"), SHAPES, ids=lambda values: "-".join(map(str, values.values())))
def test_core(shape, sizes):
    sizes = SMALL | sizes
    simulate(
        Core(geometry=Geometry(**sizes)),
        __file__,
        bench="bench_core",
        parameters={"geometry": sizes, "shape": shape, "seed": 7, "active": [1, 2, sizes["slots"]]},
    )
