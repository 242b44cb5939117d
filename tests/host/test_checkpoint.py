"""Checkpoints: every way of storing one reads the same, and every damage is one clear error."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy

from ternlight.checkpoint import (
    EMBEDDING,
    INDEX_FILE,
    LM_HEAD,
    LOWER_BOUNDS,
    WEIGHTS_FILE,
    Checkpoint,
    norm_name,
    quantise,
    quantise_weight,
    tensor_shapes,
)
from ternlight.config import CONFIG_FILE, SCALE_MIN
from ternlight.errors import CheckpointError
from ternlight.tensorfile import TensorFile, write_tensors
from ternlight_sim.random_model import byte_tokenizer, random_checkpoint, random_config, write_checkpoint

CONFIG = random_config()
F_PROJ = "model.layers.1.attn.f_proj.weight"


def changed(checkpoint: Checkpoint, **changes) -> dict[str, np.ndarray]:
    """The tensors with some replaced, added, or (None) left out; dots are written as two underscores."""
    tensors = dict(checkpoint.tensors) | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in tensors.items() if value is not None}


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The nearest bfloat16 by exact arithmetic: 8 significant bits, half to even."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(fraction * 256), exponent - 8).astype(np.float32)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_stored_forms_read_the_same(tmp_path, shards, dtype):
    stored = np.float16 if dtype == "float16" else np.float32
    checkpoint = random_checkpoint(CONFIG, 1, dtype=stored, tokenizer=byte_tokenizer() if shards == 1 else None)
    if checkpoint.tokenizer:
        checkpoint = random_checkpoint(random_config(vocabulary=300), 1, dtype=stored, tokenizer=byte_tokenizer())
    write_checkpoint(checkpoint, tmp_path / "random", shards=shards, bfloat16=dtype == "bfloat16")
    opened = Checkpoint.open(tmp_path / "random")
    assert opened.config == checkpoint.config
    assert opened.tokenizer == checkpoint.tokenizer
    assert set(opened.tensors) == set(checkpoint.tensors)
    for name in tensor_shapes(checkpoint.config):
        expected = checkpoint.tensor(name)
        if dtype == "bfloat16":
            expected = rounded_to_bfloat16(expected)
        values = opened.tensor(name)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected, err_msg=name)


def test_bfloat16_rounds_half_to_even(tmp_path):
    # The upper 16 bits of a float32 hold 8 significant bits: the next value after 1 is 1 + 2**-7.
    values = 1 + np.array([0, 1, 2, 3, 5, 6, 7], np.float32) * np.float32(2.0**-8)
    write_tensors(tmp_path / "file", {"values": np.concatenate([values, -values])}, bfloat16=True)
    steps = np.array([0, 0, 1, 2, 2, 3, 4])
    expected = 1 + steps * 2.0**-7
    stored = TensorFile(tmp_path / "file", error=CheckpointError)["values"]
    assert stored.tolist() == [*expected, *-expected]


def test_published_tensor_names():
    shapes = tensor_shapes(random_config(hidden=4, intermediate=6, layers=1, vocabulary=9))
    attention = {f"model.layers.0.attn.{name}_proj.weight": (4, 4) for name in "ifgo"}
    attention |= {f"model.layers.0.attn.{name}_proj.norm.weight": (4,) for name in "ifgo"}
    assert shapes == attention | {
        "model.embeddings.weight": (9, 4),
        "model.lower_bounds": (1, 4),
        "model.layers.0.attn_norm.weight": (4,),
        "model.layers.0.attn.g_norm.weight": (4,),
        "model.layers.0.mlp_norm.weight": (4,),
        "model.layers.0.mlp.gate_proj.weight": (12, 4),
        "model.layers.0.mlp.gate_proj.norm.weight": (4,),
        "model.layers.0.mlp.down_proj.weight": (4, 6),
        "model.layers.0.mlp.down_proj.norm.weight": (6,),
        "model.norm.weight": (4,),
        "lm_head.weight": (9, 4),
        "lm_head.norm.weight": (4,),
    }


def test_files_are_those_of_the_safetensors_package(tmp_path):
    checkpoint = random_checkpoint(CONFIG, 2)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write_tensors(ours, checkpoint.tensors, {"format": "pt"})
    safetensors.numpy.save_file(dict(checkpoint.tensors), theirs, {"format": "pt"})
    read_by_them, read_by_us = safetensors.numpy.load_file(ours), TensorFile(theirs, error=CheckpointError)
    assert read_by_us.metadata == {"format": "pt"}
    assert len(read_by_us) == len(checkpoint.tensors)
    for name, values in checkpoint.tensors.items():
        np.testing.assert_array_equal(read_by_them[name], values)
        np.testing.assert_array_equal(read_by_us[name], values)


def test_quantise_weight_rounds_half_to_even():
    # The mean magnitude is 1, so beta is 1 and ties are exact.
    weight = np.array([[0.5, -0.5, 1.5, -1.5], [0.75, -0.25, 2.5, -0.5]], np.float32)
    trits, beta = quantise_weight(weight)
    assert beta == 1.0
    assert trits.tolist() == [[0, 0, 1, -1], [1, 0, 1, 0]]


def test_quantise_weight_of_zeros_keeps_a_positive_scale():
    trits, beta = quantise_weight(np.zeros((2, 3), np.float32))
    assert beta == np.float32(SCALE_MIN)
    assert not trits.any()


def test_quantise_takes_every_tensor_to_its_place():
    checkpoint = random_checkpoint(CONFIG, 3)
    image = quantise(checkpoint)
    for key, name in {
        "layers.1.gate": "model.layers.1.mlp.gate_proj.weight",
        "layers.0.o": "model.layers.0.attn.o_proj.weight",
    }.items():
        weight = checkpoint.tensors[name].astype(np.float64)
        beta = np.abs(weight).mean()
        assert image.betas[key] == pytest.approx(beta, rel=1e-6)
        np.testing.assert_array_equal(image.trits[key], np.where(np.abs(weight) > beta / 2, np.sign(weight), 0))
    for key in CONFIG.norm_lengths():
        np.testing.assert_array_equal(image.norms[key], checkpoint.tensors[norm_name(key)])
    assert image.calibration is None


def test_lower_bounds():
    checkpoint = random_checkpoint(random_config(layers=4), 4)
    shares = np.exp(checkpoint.tensors[LOWER_BOUNDS].astype(np.float64))
    shares /= shares.sum(axis=0)
    bounds = checkpoint.lower_bounds()
    assert not bounds[0].any()
    for layer in range(1, 4):
        np.testing.assert_allclose(bounds[layer], shares[1 : layer + 1].sum(axis=0), rtol=1e-5)
    without = random_checkpoint(random_config(lower_bound=False), 4)
    assert LOWER_BOUNDS not in without.tensors
    assert not without.lower_bounds().any()


def test_tied_head_is_the_ternary_embedding():
    config = random_config(tied=True)
    checkpoint = random_checkpoint(config, 5)
    assert LM_HEAD not in checkpoint.tensors
    expected, beta = quantise_weight(checkpoint.embedding())
    for tensors in (checkpoint.tensors, changed(checkpoint, lm_head__weight=checkpoint.tensors[EMBEDDING])):
        image = quantise(Checkpoint(config=config, tensors=tensors))
        np.testing.assert_array_equal(image.trits["head"], expected)
        assert image.betas["head"] == beta
    other = changed(checkpoint, lm_head__weight=checkpoint.tensors[EMBEDDING] + 1)
    with pytest.raises(CheckpointError, match=r"lm_head.weight differs from model.embeddings.weight, but .* set it to"):
        quantise(Checkpoint(config=config, tensors=other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_head__weight": None}, "lm_head.weight is missing: the download is incomplete"),
        ({"model__norm__weight": None, "lm_head__weight": None}, "lm_head.weight, model.norm.weight are missing"),
        ({"lm_head__bias": np.zeros(61, np.float32)}, "lm_head.bias is not supported: .* no biases, convolutions"),
        ({F_PROJ.replace(".", "__"): np.zeros((37, 36), np.float32)}, r"must have shape \[37, 37\] .* not \[37, 36\]"),
        ({F_PROJ.replace(".", "__"): np.full((37, 37), np.nan, np.float32)}, "has values that are not finite"),
        ({F_PROJ.replace(".", "__"): np.full((37, 37), np.inf, np.float16)}, "has values that are not finite"),
        ({F_PROJ.replace(".", "__"): np.zeros((37, 37), np.int8)}, "must be floating point, not int8"),
    ],
)
def test_refuses_tensors(changes, message):
    checkpoint = random_checkpoint(CONFIG, 6)
    with pytest.raises(CheckpointError, match=f"^random: .*{message}"):
        quantise(Checkpoint(config=CONFIG, tensors=changed(checkpoint, **changes), source="random"))


def test_refuses_a_longer_tokenizer():
    checkpoint = random_checkpoint(CONFIG, 6, tokenizer=byte_tokenizer())
    with pytest.raises(CheckpointError, match=r"tokenizer\.json has 259 tokens, but vocab_size is 61"):
        quantise(checkpoint)


@pytest.fixture
def stored(tmp_path):
    """The directory of a small sharded checkpoint."""
    write_checkpoint(random_checkpoint(CONFIG, 7), tmp_path / "stored", shards=2)
    return tmp_path / "stored"


def test_refuses_directories(tmp_path, stored):
    with pytest.raises(CheckpointError, match="absent is not a directory: name the folder of a HuggingFace checkpoint"):
        Checkpoint.open(tmp_path / "absent")
    (stored / INDEX_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"has neither {WEIGHTS_FILE} nor {INDEX_FILE}: convert the weights"):
        Checkpoint.open(stored)
    (stored / CONFIG_FILE).unlink()
    with pytest.raises(CheckpointError, match=r"config\.json does not exist"):
        Checkpoint.open(stored)


@pytest.mark.parametrize("content", ["{", "[]", '{"metadata": {}}', '{"weight_map": [1]}'])
def test_refuses_a_broken_index(stored, content):
    (stored / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=f"{INDEX_FILE} is not a valid index"):
        Checkpoint.open(stored)


def test_refuses_missing_and_incomplete_shards(stored):
    index = json.loads((stored / INDEX_FILE).read_text())
    first, second = sorted(set(index["weight_map"].values()))
    name = next(name for name, file in index["weight_map"].items() if file == first)
    index["weight_map"][name] = second
    (stored / INDEX_FILE).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"{second} lacks {name}, which {INDEX_FILE} places there"):
        Checkpoint.open(stored)
    (stored / second).unlink()
    with pytest.raises(CheckpointError, match=f"{second} does not exist"):
        Checkpoint.open(stored)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"is truncated \(\d+ of \d+ bytes\): download"),
        (lambda data: data[:100], r"is truncated \(100 of \d+ bytes or more\): download"),
        (lambda data: data[:5], "is not a safetensors file"),
        (lambda data: b"\xff" * 16 + data, "is not a safetensors file"),
        (lambda data: data[:8] + b"[" + data[9:], "has a broken safetensors header"),
        (lambda data: data.replace(b'"F32"', b'"F3"', 1).replace(b'"shape"', b' "shape"', 1), "has dtype F3, not one"),
        (
            lambda data: data.replace(b'"shape":[37]', b'"shape":[36]', 1),
            r"has 148 bytes, but its shape \[36\] needs 144",
        ),
    ],
)
def test_refuses_broken_files(tmp_path, damage, message):
    write_checkpoint(random_checkpoint(CONFIG, 8), tmp_path)
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(tmp_path)
    assert str(path) in str(caught.value)


def test_tensors_stay_on_disk_until_asked_for(tmp_path):
    write_checkpoint(random_checkpoint(CONFIG, 9), tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match="became shorter while it was read"):
        quantise(checkpoint)
