"""The golden machine: the same bits in every geometry and batch, and close to the float reference on mild models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight.isa import EngineOp, ScalarOp, Unit, VectorOp
from ternlight_sim.float_reference import FloatReference
from ternlight_sim.machine import Machine, matrix
from ternlight_sim.random_model import random_config, random_image

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=8192,
    gain_words=1024,
    vector_words=256,
    state_words=1024,
    program_words=512,
    activations=256,
    accumulator=16,
)
GEOMETRIES = [
    SMALL,
    replace(SMALL, inputs=2, rows=6, vector=2, block=2),
    replace(SMALL, inputs=24, rows=8, block=64, activations=240),
    replace(SMALL, inputs=64, rows=16, vector=16, block=3),
    replace(SMALL, inputs=10, rows=30, vector=10, activations=250),
]
CONFIG = random_config(hidden=37, intermediate=53, layers=3, vocabulary=61)


@pytest.fixture(scope="module")
def image():
    return random_image(CONFIG, 5)


@pytest.fixture(scope="module")
def machine(image):
    return Machine(compile_image(image, SMALL))


def tokens(steps: int, batch: int, seed: int = 0, vocabulary: int = CONFIG.vocabulary):
    return np.random.default_rng(seed).integers(vocabulary, size=(steps, batch))


def layers_of(states, machine):
    """States (batch, layer, element), without padding."""
    return states.reshape(len(states), CONFIG.layers, -1)[:, :, : CONFIG.hidden]


@pytest.mark.parametrize("geometry", GEOMETRIES[1:], ids=lambda geometry: f"{geometry.inputs}x{geometry.rows}")
def test_results_do_not_depend_on_the_geometry(image, machine, geometry):
    other = Machine(compile_image(image, geometry))
    states = machine.initial_state(3), other.initial_state(3)
    for step in tokens(12, 3):
        first, second = machine.run(step, states[0]), other.run(step, states[1])
        np.testing.assert_array_equal(first.accumulators, second.accumulators)
        for one, two in zip(first.scale, second.scale, strict=True):
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(layers_of(states[0].states, machine), layers_of(states[1].states, other))


def test_padding_stays_zero(image):
    """Of states, so that snapshots of one session do not depend on what was there before."""
    machine = Machine(compile_image(image, GEOMETRIES[3]))
    state = machine.initial_state(2)
    for step in tokens(5, 2):
        machine.run(step, state)
    assert not state.states.reshape(2, CONFIG.layers, -1)[:, :, CONFIG.hidden :].any()


def test_a_batch_is_many_sessions(machine):
    steps = tokens(10, 4)
    together = machine.initial_state(4)
    alone = [machine.initial_state(1) for _ in range(4)]
    for step in steps:
        logits = machine.run(step, together)
        for session in range(4):
            own = machine.run(step[session : session + 1], alone[session])
            np.testing.assert_array_equal(logits.accumulators[session], own.accumulators[0])
            assert logits.scale.mantissa[session] == own.scale.mantissa[0]
            np.testing.assert_array_equal(together.states[session], alone[session].states[0])


def test_a_fresh_session_forgets(machine):
    """At position 0 whatever the state memory holds is read as zero, as after a power-up on a device."""
    (first, second) = tokens(2, 3)
    clean, dirty = machine.initial_state(3), machine.initial_state(3)
    dirty.states[:] = np.random.default_rng(1).integers(-32768, 32768, dirty.states.shape)
    for step in (first, second):
        np.testing.assert_array_equal(machine.run(step, clean).accumulators, machine.run(step, dirty).accumulators)
    np.testing.assert_array_equal(clean.states, dirty.states)
    assert clean.position == dirty.position == 2


def test_the_state_is_what_counts_of_the_past(machine):
    state = machine.initial_state(2)
    (first, second) = tokens(2, 2)
    machine.run(first, state)
    kept = state.states.copy()
    expected = machine.run(second, state).accumulators
    state.states[:], state.position = kept, 1
    np.testing.assert_array_equal(machine.run(second, state).accumulators, expected)
    state.states[:], state.position = kept, 0
    assert (machine.run(second, state).accumulators != expected).any()


def test_a_prompt_token_stops_before_the_head(machine):
    whole, prompt = machine.initial_state(2), machine.initial_state(2)
    seen = []
    (step,) = tokens(1, 2)
    machine.run(step, whole)
    assert machine.run(step, prompt, head=False, trace=lambda index, fields, writes: seen.append(fields)) is None
    np.testing.assert_array_equal(whole.states, prompt.states)
    assert prompt.position == 1
    products = [fields for fields in seen if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)]
    assert len(products) == 6 * CONFIG.layers


def test_the_trace_tells_every_write(machine):
    """Registers written, in order: what a device writes back."""
    written = []
    machine.run(tokens(1, 1)[0], machine.initial_state(1), trace=lambda *told: written.append(told))
    assert [index for index, _, _ in written] == list(range(len(machine.model.program) - 1))
    for _, fields, writes in written:
        if fields["unit"] == Unit.SCALAR:
            assert [register for register, _ in writes] == [fields["target"]]
        elif fields["unit"] == Unit.VECTOR:
            counts = {VectorOp.STAT: 2, VectorOp.GATE: 2, VectorOp.MLP: 2}
            counts |= dict.fromkeys((VectorOp.EMBED, VectorOp.GAIN, VectorOp.RESID), 1)
            assert len(writes) == counts.get(fields["op"], 0)
        else:
            assert not writes


def test_the_temperature_scales_the_logits_alone(machine):
    step = tokens(1, 2)[0]
    plain = machine.run(step, machine.initial_state(2))
    halved = machine.run(step, machine.initial_state(2), inverse_temperature=(1 << 14, -15))
    np.testing.assert_array_equal(plain.accumulators, halved.accumulators)
    np.testing.assert_array_equal(plain.real(), 2 * halved.real())


def test_step_is_run_in_real_numbers(machine):
    step = tokens(1, 2)[0]
    state = machine.initial_state(2)
    logits, same = machine.step(step, state)
    assert same is state
    np.testing.assert_array_equal(logits, machine.run(step, machine.initial_state(2)).real())


@pytest.mark.parametrize("seed", range(4))
def test_mild_models_follow_the_float_reference(seed):
    """Gains close to 1: the formats alone cost up to 0.0014 nats per token here (measured), a wrong one far more."""
    config = random_config(hidden=40 + 7 * seed, intermediate=96, layers=1 + seed, vocabulary=80)
    image = random_image(config, seed, heavy_tailed=False)
    reference = FloatReference(image)
    machine = Machine(compile_image(image, SMALL))
    expected_state, state = reference.initial_state(16), machine.initial_state(16)
    divergences = []
    for step in tokens(24, 16, seed, config.vocabulary):
        expected, expected_state = reference.step(step, expected_state)
        logits = machine.run(step, state).real()
        wanted, found = (value - np.logaddexp.reduce(value, axis=-1, keepdims=True) for value in (expected, logits))
        divergences.append((np.exp(wanted) * (wanted - found)).sum(axis=-1))
        np.testing.assert_array_less(0.99, np.corrcoef(expected.ravel(), logits.ravel())[0, 1])
    assert np.mean(divergences) < 0.002


def test_matrices_come_back_from_the_store(image):
    """The engine's order of words, inverted: the trits of each product, padded with zeros."""
    for geometry in GEOMETRIES:
        model = compile_image(image, geometry)
        fields = [
            fields for fields in model.program if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)
        ]
        for key, product in zip(("f", "i", "g", "o"), fields, strict=False):
            trits = image.trits[f"layers.0.{key}"]
            words = model.store[product["address"] : product["address"] + product["chunks"] * product["groups"]]
            whole = matrix(words, product["chunks"], product["groups"], geometry)
            rows, inputs = trits.shape
            np.testing.assert_array_equal(whole[:rows, :inputs], trits)
            assert not whole[rows:].any()
            assert not whole[:, inputs:].any()


def test_one_flipped_bit_is_seen():
    """Of a gain, a trit, a constant: the machine reads what it was given."""
    model = compile_image(random_image(CONFIG, 5, heavy_tailed=False), SMALL)
    steps = tokens(6, 2)

    def outcome(model):
        runner = Machine(model)
        state = runner.initial_state(2)
        logits = [runner.run(step, state) for step in steps]
        return [*(one.accumulators for one in logits), *(one.scale.mantissa for one in logits), state.states]

    expected = outcome(model)
    gains, store, program = model.gains.copy(), model.store.copy(), list(model.program)
    gains[3, 1] ^= 1 << 12
    products = [fields for fields in program if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.MATVEC)]
    store[products[2]["address"], 0] ^= 1
    scalars = [index for index, fields in enumerate(program) if fields["unit"] == Unit.SCALAR]
    place = next(index for index in scalars if program[index]["op"] == ScalarOp.MUL and program[index]["immediate"])
    program[place] = program[place] | {"exponent": program[place]["exponent"] + 1}
    for changed in (replace(model, gains=gains), replace(model, store=store), replace(model, program=program)):
        found = outcome(changed)
        assert any((one != two).any() for one, two in zip(expected, found, strict=True))
