"""The golden machine against the float reference on models with outliers: gains spread over three decades.

Such models are chaotic: a change of one activation by one step may change all that follows. So the measure of the
machine's rounding is the same float reference with noise on its residual.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from ternlight.compiler import compile_image
from ternlight.geometry import Geometry
from ternlight_sim.float_reference import FloatReference
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import random_config, random_image

GEOMETRY = Geometry(store_words=8192, program_words=1024)
BATCH, STEPS = 256, 12
NOISE = 2.0**-10
"""Relative to each element, after each addition to the residual."""
TAIL = 1.2
"""Few tokens make the mean: it varies by several per cent from sample to sample."""
DIVERGED = 0.5
"""Nats from which on two predictions have nothing in common: a few tokens of many nats must not decide the mean."""


class NoisyReference(FloatReference):
    """The float reference with relative noise on the residual."""

    def __init__(self, image, noise, seed):
        super().__init__(image)
        self.noise = noise
        self.rng = np.random.default_rng(seed)

    def _noise(self, x):
        return self.noise * x * self.rng.standard_normal(x.shape)

    def _attention(self, layer, x, h):
        mixed, state = super()._attention(layer, x, h)
        return mixed + self._noise(x + mixed), state

    def _mlp(self, layer, x):
        mixed = super()._mlp(layer, x)
        return mixed + self._noise(x + mixed)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def predictions(model, tokens):
    """Log probabilities (steps, batch, vocabulary)."""
    state, found = model.initial_state(len(tokens)), []
    for token in tokens.T:
        logits, state = model.step(token, state)
        found.append(log_softmax(logits))
    return np.array(found)


class Divergence(NamedTuple):
    """Kullback-Leibler divergence of the predictions, in nats; that of each is limited in the mean."""

    mean: float
    median: float


def divergence(reference, candidate):
    nats = (np.exp(reference) * (reference - candidate)).sum(axis=-1)
    return Divergence(mean=np.minimum(nats, DIVERGED).mean(), median=np.median(nats))


@pytest.mark.parametrize("seed", range(4))
def test_outliers(seed):
    """All of the machine's rounding together costs no more than noise of 2**-10 on the residual alone."""
    config = random_config(hidden=64 + 37 * seed, intermediate=100 + 61 * seed, layers=4, vocabulary=101)
    image = random_image(config, seed)
    rng = np.random.default_rng(seed)
    tokens = rng.integers(config.vocabulary, size=(BATCH, STEPS))
    exact = predictions(FloatReference(image), tokens)
    noisy = divergence(exact, predictions(NoisyReference(image, NOISE, seed), tokens))
    golden = divergence(exact, predictions(Machine(compile_image(image, GEOMETRY)), tokens))
    assert golden.median < noisy.median
    assert golden.mean < TAIL * noisy.mean
