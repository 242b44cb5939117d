"""The golden machine: the same bits in every geometry and batch, and close to the float reference on mild models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight.isa import REDUCES, EngineOp, NormOp, ScalarOp, Unit
from ternlight.trits import pack_store_words
from ternlight.weights import embedding_words, matvec_words
from ternlight_sim.float_reference import FloatReference
from ternlight_sim.golden import vector
from ternlight_sim.machine import Machine, matrix
from ternlight_sim.random_model import random_config, random_image

SMALL = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=8192,
    gain_words=1024,
    residual_words=64,
    gated_words=64,
    state_words=1024,
    program_words=512,
    activations=256,
    accumulator=16,
)
GEOMETRIES = [
    SMALL,
    replace(SMALL, inputs=4, rows=12, slots=1, contexts=1),
    replace(SMALL, inputs=24, rows=8, vector=8, activations=240),
    replace(SMALL, inputs=64, rows=16, vector=16, contexts=4),
    replace(SMALL, inputs=20, rows=60, vector=20, activations=240),
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
        elif fields["op"] in REDUCES.get(fields["unit"], ()):
            assert [register for register, _ in writes] == [fields["reduction"]]
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


def test_matrices_are_read_group_by_group():
    """Word group * chunks + chunk holds C inputs of R rows; lane = row * inputs + input."""
    for geometry in GEOMETRIES:
        random = np.random.default_rng(geometry.lanes)
        chunks, groups = 3, 2
        trits = random.integers(-1, 2, (groups * geometry.rows, chunks * geometry.inputs)).astype(np.int8)
        lanes = np.array(
            [
                [
                    trits[group * geometry.rows + row, chunk * geometry.inputs + column]
                    for row in range(geometry.rows)
                    for column in range(geometry.inputs)
                ]
                for group in range(groups)
                for chunk in range(chunks)
            ]
        )
        np.testing.assert_array_equal(matvec_words(trits, geometry), lanes)
        np.testing.assert_array_equal(matrix(pack_store_words(lanes, geometry), chunks, groups, geometry), trits)


@pytest.mark.parametrize("bits", range(4, 9))
def test_embedding_rows_come_back_from_the_store(image, bits):
    """In fixed point, exact with 8 bits, as an image has them; else within half a step of the smallest scale."""
    for geometry in GEOMETRIES:
        machine = Machine(compile_image(image, replace(geometry, embedding_bits=bits)))
        program = machine.model.program
        (embed,) = (fields for fields in program if (fields["unit"], fields["op"]) == (Unit.ENGINE, EngineOp.EMBED))
        fraction = next(f["fraction"] for f in program if (f["unit"], f["op"]) == (Unit.NORM, NormOp.RESID))
        order = np.random.default_rng(bits).permutation(CONFIG.vocabulary)
        x, _ = vector.embed(*machine.embedding_row(embed, order))
        wanted = np.ldexp(image.embedding_rows()[order].astype(float), fraction)
        # The smallest scale is above the finest that would do by less than 1 in 32.
        steps = np.abs(wanted).max(axis=1, keepdims=True) / ((1 << bits - 1) - 1) * 33 / 32
        assert (np.abs(x[:, : CONFIG.hidden] - wanted) <= (0.5 if bits == 8 else steps / 2 + 0.5)).all()
        assert not x[:, CONFIG.hidden :].any()
        one, _ = vector.embed(*machine.embedding_row(embed, order[:1]))
        np.testing.assert_array_equal(one, x[:1])


def test_one_flipped_bit_is_seen():
    """Of a gain, a trit, an embedding, a lower bound, a constant: the machine reads what it was given."""
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
    lower_bounds = model.lower_bounds.copy()
    lower_bounds[len(lower_bounds) // CONFIG.layers, 1] ^= 1 << 13
    values, scales = np.zeros((CONFIG.vocabulary, CONFIG.hidden), np.int8), np.zeros(CONFIG.vocabulary, np.int64)
    values[steps[0, 0], CONFIG.hidden - 1] = 64
    flipped = embedding_words(values, scales, SMALL) ^ embedding_words(np.zeros_like(values), scales, SMALL)
    embedding = model.store.copy()
    embedding[: len(flipped)] ^= flipped
    assert np.count_nonzero(flipped) == 1
    changes = {"gains": gains, "lower_bounds": lower_bounds, "program": program}
    for changed in (
        *(replace(model, **{name: value}) for name, value in changes.items()),
        replace(model, store=store),
        replace(model, store=embedding),
    ):
        found = outcome(changed)
        assert any((one != two).any() for one, two in zip(expected, found, strict=True))
