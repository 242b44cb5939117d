"""A session on the golden machine means what a session of the driver means."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight.sampling import Sampling
from ternlight_sim.golden.sampling import sample
from ternlight_sim.golden.scalar import UFloat
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=1)
WILD = Sampling(temperature=1.5, top_k=0, seed=11)
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def machine():
    return Machine(compile_image(random_image(random_config(hidden=13, intermediate=20, layers=2), 3), GEOMETRY))


def test_tokens_are_the_samples_of_the_logits(machine):
    """The definition, step by step: sampled at the position of the token that was read."""
    state, token = machine.initial_state(1), 4
    expected = []
    for position in range(20):
        logits = machine.run(np.array([token]), state, inverse_temperature=WILD.inverse_temperature)
        scale = UFloat(logits.scale.mantissa[0], logits.scale.exponent[0])
        token = int(sample(logits.accumulators[0], scale, 0, WILD.seed, position))
        expected.append(token)
    session = GoldenSession(machine)
    assert list(session.generate([4], 20, WILD)) == expected
    np.testing.assert_array_equal(session.states, state.states[0])
    assert session.position == 20


def test_greedy_takes_the_largest(machine):
    state = machine.initial_state(1)
    logits = machine.run(np.array([7]), state)
    assert next(GoldenSession(machine).generate([7], 1, GREEDY)) == logits.accumulators[0].argmax()


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_prompt_in_parts(machine, cut):
    prompt = [5, 9, 1, 3, 44, 2, 8, 60, 7, 7]
    whole, parts = GoldenSession(machine), GoldenSession(machine)
    expected = list(whole.generate(prompt, 9, WILD))
    assert list(parts.generate(prompt[:cut], 0, WILD)) == []
    assert list(parts.generate(prompt[cut:], 9, WILD, keep_state=True)) == expected
    np.testing.assert_array_equal(parts.states, whole.states)


def test_a_continued_request(machine):
    """The last sampled token was not read yet: it begins the next prompt."""
    whole, parts = GoldenSession(machine), GoldenSession(machine)
    expected = list(whole.generate([5, 9], 12, WILD))
    head = list(parts.generate([5, 9], 5, WILD))
    assert head + list(parts.generate(head[-1:], 7, WILD, keep_state=True)) == expected
    assert parts.position == whole.position == 13


def test_a_stop_token_is_the_last(machine):
    session = GoldenSession(machine)
    free = list(session.generate([5], 30, WILD))
    stop = free[10]
    assert list(session.generate([5], 30, WILD, stop=[stop])) == free[: free.index(stop) + 1]


def test_a_new_request_starts_from_nothing(machine):
    session = GoldenSession(machine)
    first = list(session.generate([5, 6], 6, WILD))
    assert list(session.generate([5, 6], 6, WILD)) == first
    assert session.position == 7
