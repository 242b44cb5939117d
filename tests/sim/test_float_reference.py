"""The float reference against a second, plain writing of the published equations, and against published figures."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from ternlight.checkpoint import Checkpoint, quantise
from ternlight.image import Image
from ternlight.tokenizer import Tokenizer
from ternlight_sim.evaluate import bits_per_byte, compare, windows
from ternlight_sim.float_reference import FloatReference, Quantity
from ternlight_sim.random_model import random_checkpoint, random_config

SHARED = Path(__file__).parents[3] / "shared"
HELD_OUT = SHARED / "corpus" / "valid.txt"
MASTER_WEIGHTS = SHARED / "models" / "bedtime-1m"
EXCERPT = 20_000
PUBLISHED_BITS_PER_BYTE = 1.317
"""Of the shipped model on the first 20,000 characters of the held-out text, measured by its trainer."""


def bit_linear(x: np.ndarray, weight: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """BitLinear as in the published code: dequantised activations times dequantised weights."""
    y = x / np.sqrt((x**2).mean() + 1e-8) * gains
    scale = 127.0 / max(np.abs(y).max(), 1e-5)
    y = np.clip(np.round(y * scale), -128, 127) / scale
    weight_scale = 1.0 / max(np.abs(weight).mean(), 1e-5)
    w = np.clip(np.round(weight * weight_scale), -1, 1) / weight_scale
    return np.array([sum(a * b for a, b in zip(row, y, strict=True)) for row in w])


def plain_logits(checkpoint: Checkpoint, tokens: list[int]) -> np.ndarray:
    """Logits after each token, from a checkpoint's tensors by name."""
    tensors = {name: values.astype(np.float64) for name, values in checkpoint.tensors.items()}
    eps, layers = checkpoint.config.eps, checkpoint.config.layers
    learned = tensors["model.lower_bounds"]
    shares = np.exp(learned) / np.exp(learned).sum(axis=0)
    bounds = np.cumsum(shares, axis=0) - shares[0]

    def rms(x, name):
        return x / np.sqrt((x**2).mean() + eps) * tensors[name]

    def project(x, name):
        return bit_linear(x, tensors[f"{name}.weight"], tensors[f"{name}.norm.weight"])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    states = [np.zeros(checkpoint.config.hidden) for _ in range(layers)]
    logits = []
    for token in tokens:
        x = tensors["model.embeddings.weight"][token]
        for layer in range(layers):
            block = f"model.layers.{layer}"
            n = rms(x, f"{block}.attn_norm.weight")
            forget = sigmoid(project(n, f"{block}.attn.f_proj"))
            forget = bounds[layer] + (1 - bounds[layer]) * forget
            i = project(n, f"{block}.attn.i_proj")
            states[layer] = forget * states[layer] + i * sigmoid(i) * (1 - forget)
            h = states[layer]
            o = rms(project(n, f"{block}.attn.g_proj"), f"{block}.attn.g_norm.weight") * h * sigmoid(h)
            x = x + project(o, f"{block}.attn.o_proj")
            both = project(rms(x, f"{block}.mlp_norm.weight"), f"{block}.mlp.gate_proj")
            gate, value = both[: len(both) // 2], both[len(both) // 2 :]
            x = x + project(gate * sigmoid(gate) * value, f"{block}.mlp.down_proj")
        logits.append(project(rms(x, "model.norm.weight"), "lm_head"))
    return np.array(logits)


def read(model: FloatReference, rows: np.ndarray) -> np.ndarray:
    """Logits (batch, steps, vocabulary) over rows of tokens (batch, steps)."""
    state = model.initial_state(len(rows))
    logits = []
    for tokens in rows.T:
        step, state = model.step(tokens, state)
        logits.append(step)
    return np.stack(logits, axis=1)


@pytest.mark.parametrize("heavy_tailed", [True, False])
def test_equals_the_published_equations(heavy_tailed):
    checkpoint = random_checkpoint(random_config(layers=3), 1, heavy_tailed=heavy_tailed)
    tokens = np.random.default_rng(1).integers(61, size=(2, 6))
    logits = read(FloatReference.from_checkpoint(checkpoint), tokens)
    for row in range(2):
        # Float noise may move a value across a rounding tie, so the seeds are such that none is near one.
        np.testing.assert_allclose(logits[row], plain_logits(checkpoint, tokens[row].tolist()), rtol=1e-4, atol=1e-5)


def test_a_batch_equals_its_rows():
    checkpoint = random_checkpoint(random_config(), 2)
    model = FloatReference.from_checkpoint(checkpoint)
    tokens = np.random.default_rng(2).integers(61, size=(5, 4))
    batch = read(model, tokens)
    for row in range(5):
        np.testing.assert_allclose(read(model, tokens[row : row + 1])[0], batch[row], rtol=1e-9)


def test_a_step_leaves_its_input_state_alone():
    model = FloatReference.from_checkpoint(random_checkpoint(random_config(), 3))
    state = model.initial_state(2)
    _, after = model.step(np.array([3, 4]), state)
    assert not state.any()
    assert after.any()


def test_products_are_exact_integers():
    image = quantise(random_checkpoint(random_config(hidden=1500, intermediate=7, layers=1, vocabulary=5), 4))
    q = np.full((3, 1500), 127)
    q[1] *= -1
    q[2] = np.random.default_rng(4).integers(-127, 128, 1500)
    q[2, 0] = 127
    # Gains of one leave the activations as they are: the peak is 127, so the scale is one.
    image.norms["head"][:] = 1
    accumulators = FloatReference(image)._product("head", q.astype(np.float64)).accumulators
    np.testing.assert_array_equal(accumulators, q @ image.trits["head"].T.astype(np.int64))


def test_image_differs_from_the_checkpoint_by_the_embedding_only():
    checkpoint = random_checkpoint(random_config(), 5)
    image = quantise(checkpoint)
    tokens = np.random.default_rng(5).integers(61, size=(2, 4))
    exact = read(FloatReference.from_checkpoint(checkpoint), tokens)
    np.testing.assert_array_equal(read(FloatReference(image, embedding=checkpoint.embedding()), tokens), exact)
    assert not np.array_equal(read(FloatReference(image), tokens), exact)


def test_observer_is_told_of_every_quantity_and_layer():
    told = []
    config = random_config(layers=3)
    model = FloatReference(
        quantise(random_checkpoint(config, 6)),
        observe=lambda quantity, layer, values: told.append((quantity, layer, values)),
    )
    model.step(np.array([1, 2]), model.initial_state(2))
    assert {(quantity, layer) for quantity, layer, _ in told} == set(itertools.product(Quantity, range(3)))
    for quantity, _, values in told:
        width = config.intermediate if quantity in (Quantity.MLP, Quantity.MLP_GATE) else config.hidden
        assert values.shape[-2:] == (2, width)


def test_write_is_seeded():
    model = FloatReference.from_checkpoint(random_checkpoint(random_config(), 7))
    first = np.array([1, 1, 2])
    texts = [model.write(first, 12, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert texts[0].shape == (3, 12)
    np.testing.assert_array_equal(texts[0], texts[1])
    assert not np.array_equal(texts[0], texts[2])


def test_write_draws_from_the_softmax():
    model = FloatReference.from_checkpoint(random_checkpoint(random_config(vocabulary=5), 8, heavy_tailed=False))
    draws = 10_000
    logits, _ = model.step(np.array([1]), model.initial_state(1))
    expected = np.exp(logits[0]) / np.exp(logits[0]).sum()
    drawn = model.write(np.full(draws, 1), 1, np.random.default_rng(8))
    share = np.bincount(drawn[:, 0], minlength=5) / draws
    # Five standard deviations of a binomial share.
    np.testing.assert_array_less(np.abs(share - expected), 5 * np.sqrt(0.25 / draws))


@pytest.mark.skipif(not HELD_OUT.is_file(), reason="the held-out text is not beside the repository")
def test_published_bits_per_byte():
    text = HELD_OUT.read_text()[:EXCERPT]
    image = Image.default()
    tokens = np.array(Tokenizer(image.tokenizer).encode(text))
    assert bits_per_byte(FloatReference(image), tokens, EXCERPT, streams=1) == pytest.approx(
        PUBLISHED_BITS_PER_BYTE, abs=5e-4
    )


@pytest.mark.skipif(
    not (HELD_OUT.is_file() and MASTER_WEIGHTS.is_dir()), reason="text and master weights are not beside the repository"
)
def test_shipped_image_equals_the_checkpoint():
    checkpoint, shipped = Checkpoint.open(MASTER_WEIGHTS), Image.default()
    image = quantise(checkpoint)
    for key, trits in image.trits.items():
        np.testing.assert_array_equal(shipped.trits[key], trits)
    assert shipped.betas == image.betas
    text = HELD_OUT.read_text()[:EXCERPT]
    tokens = np.array(Tokenizer(shipped.tokenizer).encode(text))
    comparison = compare(FloatReference.from_checkpoint(checkpoint), FloatReference(shipped), windows(tokens), EXCERPT)
    assert abs(comparison.relative_difference) < 1e-3
    assert comparison.choices_differ < 0.04 * len(tokens)
