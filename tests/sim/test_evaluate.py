"""Bits per byte: every token scored once whatever the windows, and models whose score is known in advance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ternlight.errors import RequestError
from ternlight.image import Image
from ternlight.tokenizer import Tokenizer
from ternlight_sim.evaluate import bits_per_byte, compare, evaluate, windows
from ternlight_sim.float_reference import FloatReference
from ternlight_sim.random_model import random_config, random_image

VOCABULARY = 11


class Bigram:
    """Logits that depend on the last `memory` tokens only; the state is those tokens."""

    def __init__(self, seed: int, memory: int = 1) -> None:
        self.table = np.random.default_rng(seed).normal(size=(memory, VOCABULARY, VOCABULARY))

    def initial_state(self, batch):
        return np.zeros((batch, len(self.table)), np.int64)

    def step(self, tokens, state):
        state = np.concatenate([tokens[:, None], state[:, :-1]], axis=1)
        return sum(table[state[:, age]] for age, table in enumerate(self.table)), state


class Uniform(Bigram):
    """Every token is as probable as the others."""

    def __init__(self) -> None:
        self.table = np.zeros((1, VOCABULARY, VOCABULARY))


def text(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(VOCABULARY, size=length)


@pytest.mark.parametrize("length", [2, 3, 7, 64, 65, 200])
@pytest.mark.parametrize("streams", [1, 2, 3, 64, 500])
@pytest.mark.parametrize("context", [1, 4, 300])
def test_every_token_but_the_first_is_scored_once(length, streams, context):
    cut = windows(np.arange(length), streams=streams, context=context)
    assert sorted(cut.tokens[cut.scored].tolist()) == list(range(1, length))
    assert len(cut.tokens) <= streams
    assert cut.scored.any(axis=1).all()
    for tokens, scored in zip(cut.tokens, cut.scored, strict=True):
        first, last = np.flatnonzero(scored)[[0, -1]]
        # Contiguous text up to the last scored token, and at least the context before the first.
        assert (np.diff(tokens[: last + 1]) == 1).all()
        assert first >= min(context, tokens[first])


def test_known_scores():
    tokens = text(100)
    assert bits_per_byte(Uniform(), tokens, 50) == pytest.approx(99 * math.log2(VOCABULARY) / 50)
    score = evaluate(Uniform(), windows(tokens), 50)
    assert score.nats_per_token == pytest.approx(math.log(VOCABULARY))
    assert score.perplexity == pytest.approx(VOCABULARY)
    assert score.tokens == 99


def test_score_is_the_cross_entropy():
    tokens, model = text(40), Bigram(1)
    expected = 0.0
    for before, token in itertools.pairwise(tokens):
        probability = np.exp(model.table[0, before]) / np.exp(model.table[0, before]).sum()
        expected -= math.log2(probability[token])
    assert bits_per_byte(model, tokens, 123, streams=1) == pytest.approx(expected / 123)


@pytest.mark.parametrize(("streams", "context"), [(1, 1), (2, 3), (7, 3), (64, 3), (64, 128)])
def test_windows_do_not_change_the_score_of_a_model_with_short_memory(streams, context):
    # Windows repeat at least as many tokens as the model remembers.
    model, tokens = Bigram(2, memory=min(context, 3)), text(150, seed=2)
    whole = bits_per_byte(model, tokens, 150, streams=1)
    assert bits_per_byte(model, tokens, 150, streams=streams, context=context) == pytest.approx(whole)


def test_large_logits_do_not_overflow():
    model = Bigram(3)
    model.table *= 1e4
    assert math.isfinite(bits_per_byte(model, text(50), 50))


def test_comparison():
    tokens = text(80, seed=4)
    same = compare(Bigram(4), Bigram(4), windows(tokens), 80)
    assert same.relative_difference == 0
    assert (same.choices_differ, same.agreement, same.logit_error) == (0, 1, 0)
    reference, candidate = Bigram(4), Bigram(5)
    other = compare(reference, candidate, windows(tokens, streams=8), 80)
    choices = [model.table[0].argmax(axis=-1)[tokens[:-1]] for model in (reference, candidate)]
    assert other.choices_differ == np.count_nonzero(choices[0] != choices[1])
    assert other.agreement == pytest.approx(np.mean(choices[0] == choices[1]))
    errors = np.abs(reference.table[0] - candidate.table[0])[tokens[:-1]]
    assert other.logit_error == pytest.approx(errors.max())
    ratio = bits_per_byte(candidate, tokens, 80) / bits_per_byte(reference, tokens, 80)
    assert other.relative_difference == pytest.approx(ratio - 1)


def test_progress_counts_to_the_end():
    told = []
    cut = windows(text(30), streams=2, context=4)
    evaluate(Uniform(), cut, 30, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, cut.tokens.shape[1] - 1) for step in range(1, cut.tokens.shape[1])]


def test_the_reference_prefers_its_own_text():
    image = random_image(random_config(vocabulary=VOCABULARY), 6)
    model = FloatReference(image)
    written = model.write(np.array([1]), 300, np.random.default_rng(6))[0]
    assert bits_per_byte(model, written, 300) < bits_per_byte(model, text(300), 300)


def test_the_shipped_model_knows_english():
    tokenizer = Tokenizer(Image.default().tokenizer)
    story = "Once upon a time there was a little girl, and she lived with her mother in a house in the woods. "
    tokens, scrambled = (np.array(tokenizer.encode(string)) for string in (story, story[::-1]))
    model = FloatReference(Image.default())
    assert bits_per_byte(model, tokens, len(story)) < 1.5 < 3 < bits_per_byte(model, scrambled, len(story))


@pytest.mark.parametrize(
    ("tokens", "sizes", "message"),
    [
        ([1], {}, "an evaluation needs a text of at least 2 tokens, not 1"),
        ([1, 2], {"streams": 0}, "streams and context must be positive, not 0 and 128"),
        ([1, 2], {"context": 0}, "streams and context must be positive, not 64 and 0"),
    ],
)
def test_refuses(tokens, sizes, message):
    with pytest.raises(RequestError, match=message):
        windows(np.array(tokens), **sizes)
