"""Differences between a device and the golden model are found and explained."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.abi import SessionWord, Window
from ternlight.device import Device
from ternlight.errors import RequestError
from ternlight.geometry import Geometry
from ternlight.isa import EngineOp, Unit
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.evaluate import evaluate, windows
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image
from ternlight_sim.verify import StateDifference, Verification, compare_states, read, verify

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
LAYERS = 3
IMAGE = random_image(random_config(hidden=13, intermediate=20, layers=LAYERS, vocabulary=40), 3, heavy_tailed=False)
WILD = Sampling(temperature=1.5, top_k=0, seed=11)
PROMPT = [5, 6, 7]


@pytest.fixture
def model():
    return DeviceModel(GEOMETRY)


@pytest.fixture
def device(model):
    device = Device(Port(model, clock=model.clock, seed=1))
    device.load(IMAGE)
    return device


def run(device, tokens=30, **options) -> Verification:
    return verify(device, PROMPT, tokens, WILD, layers=LAYERS, **options)


def spoil_store(model, device, product: int) -> None:
    """Flip weights in the device's own memory: in the first store word of a product."""
    program = device.require_model().program
    products = [fields for fields in program if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)]
    columns = GEOMETRY.store_columns
    first = products[product]["address"] * columns
    model.bus.memories[Window.STORE][first : first + columns] ^= 0x5A5A5A5A


def test_equal(device):
    told = []
    result = run(device, slot=1, progress=lambda done, total: told.append((done, total)))
    assert result.difference is None
    assert len(result.tokens) == 30
    assert told == [(done, 30) for done in range(1, 31)]


def test_a_stop_token_ends_both(device):
    stop = run(device).tokens[9]
    assert run(device, stop=[stop]).tokens[-1] == stop


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_wrong_weight_is_found_in_its_layer(model, device, layer):
    spoil_store(model, device, 6 * layer + 1)
    difference = run(device).difference
    assert difference.state.layer == layer
    assert difference.state.device != difference.state.golden


def test_a_wrong_head_leaves_the_states_equal(model, device):
    spoil_store(model, device, 6 * LAYERS)
    difference = run(device).difference
    assert difference.state is None
    assert difference.device != difference.golden
    assert not model.bus.sessions.running


def test_a_difference_in_the_final_state_alone(model, device):
    """The tokens agree: nothing was sampled after it."""

    def spoil():
        if not model.bus.sessions.running and model.bus.sessions.records[0][SessionWord.GENERATED] == 30:
            model.bus.memories[Window.STATES][GEOMETRY.gain_columns * 4 + 1] ^= 1 << 16
            model.before_read = lambda: None

    model.before_read = spoil
    result = run(device)
    assert len(result.tokens) == 30
    difference = result.difference
    assert (difference.index, difference.device, difference.golden) == (30, None, None)
    assert (difference.state.layer, difference.state.element) == (1, 3)
    assert difference.state.device == difference.state.golden ^ 1


def test_a_device_that_stops_too_early(model, device, monkeypatch):
    sessions = model.bus.sessions
    done = sessions.done
    monkeypatch.setattr(sessions, "done", lambda *job: done(*job) or _abort_at(sessions, 12))
    result = run(device)
    assert len(result.tokens) >= 12
    difference = result.difference
    assert (difference.index, difference.device, difference.state) == (len(result.tokens), None, None)
    assert difference.golden is not None


def _abort_at(sessions, count: int) -> None:
    if sessions.records[0][SessionWord.GENERATED] >= count:
        sessions.aborting |= sessions.running


def test_requests_are_checked(device):
    with pytest.raises(RequestError, match="token 40 is not in the vocabulary of 40"):
        verify(device, [40], 5, WILD, layers=LAYERS)


def test_compare_states():
    """In layer order, which is not the order of memory words with padding in between."""
    golden = np.arange(24, dtype=np.int16).reshape(6, 4)
    assert compare_states(golden, golden, 3) is None
    device = golden.copy()
    device[5, 3] = -1
    assert compare_states(device, golden, 3) == StateDifference(2, 7, -1, 23)
    device[2, 1] = 99
    assert compare_states(device, golden, 3) == StateDifference(1, 1, 99, 9)


def test_reading_a_text(model, device):
    tokens = np.random.default_rng(8).integers(40, size=12)
    reading = read(device, tokens, 30, layers=LAYERS, slot=1)
    machine = Machine(device.require_model())
    assert reading.score.nats == pytest.approx(evaluate(machine, windows(tokens, streams=1), 30).nats)
    assert (reading.score.tokens, reading.choices_differ, reading.state) == (11, 0, None)


def test_reading_finds_a_wrong_head(model, device):
    spoil_store(model, device, 6 * LAYERS)
    reading = read(device, np.random.default_rng(8).integers(40, size=40), 80, layers=LAYERS)
    assert reading.choices_differ > 0
    assert reading.state is None


def test_reading_finds_a_wrong_state(model, device):
    spoil_store(model, device, 1)
    assert read(device, np.arange(9), 30, layers=LAYERS).state.layer == 0
