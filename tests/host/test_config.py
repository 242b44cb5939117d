"""ModelConfig: the published configurations, and one clear error for each that is not supported."""

from __future__ import annotations

import json

import pytest

from ternlight.config import CONFIG_FILE, ModelConfig, config_values, parse_config, read_config
from ternlight.errors import CheckpointError

VALUES = {"model_type": "hgrn_bit", "hidden_size": 1024, "num_hidden_layers": 24, "vocab_size": 32000}


def test_defaults_are_the_published_ones():
    assert parse_config(VALUES, name="370M") == ModelConfig(
        hidden=1024, intermediate=2816, layers=24, vocabulary=32000, eps=1e-6, name="370M", bos=1, eos=2
    )


@pytest.mark.parametrize(
    ("hidden", "ratio", "intermediate"),
    [(1024, 4, 2816), (2048, 4, 5632), (2560, 4, 6912), (2560, None, 6912), (96, 4, 256), (97, 1.5, 256)],
)
def test_intermediate_size_by_rule(hidden, ratio, intermediate):
    values = VALUES | {"hidden_size": hidden, "hidden_ratio": ratio, "intermediate_size": None}
    assert parse_config(values).intermediate == intermediate


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(hidden=37, intermediate=53, layers=3, vocabulary=5, eps=1e-5, name="a", bos=None, eos=4),
        ModelConfig(hidden=8, intermediate=1, layers=1, vocabulary=9, name="a", lower_bound=False, tied=True),
    ],
)
def test_values_round_trip(config):
    assert parse_config(json.loads(json.dumps(config_values(config))), name="a") == config


def test_small_vocabulary_has_no_default_end_token():
    config = parse_config(VALUES | {"vocab_size": 2})
    assert (config.bos, config.eos) == (1, None)


def test_keys_and_shapes():
    config = ModelConfig(hidden=4, intermediate=6, layers=2, vocabulary=9)
    products, norms = config.product_shapes(), config.norm_lengths()
    assert list(products)[:6] == [f"layers.0.{name}" for name in ("i", "f", "g", "o", "gate", "down")]
    assert (products["layers.1.gate"], products["layers.1.down"], products["head"]) == ((12, 4), (4, 6), (9, 4))
    assert len(products) == 13
    assert len(norms) == 13 + 2 * 3 + 1
    assert (norms["layers.0.down"], norms["layers.1.g_norm"], norms["norm"], norms["head"]) == (6, 4, 4, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type must be \"hgrn_bit\", not 'llama': only MatMul-free"),
        ({"num_heads": 2}, "num_heads must be 1, not 2: the accelerator has no other form"),
        ({"num_heads": True}, "num_heads must be 1, not True"),
        ({"expand_ratio": 2}, "expand_ratio must be 1, not 2"),
        ({"use_short_conv": True}, "use_short_conv must be false, not True"),
        ({"hidden_act": "gelu"}, "hidden_act must be swish or silu, not 'gelu'"),
        ({"hidden_size": 0}, "hidden_size must be a positive integer, not 0"),
        ({"hidden_size": 10.5}, "hidden_size must be a positive integer, not 10.5"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive integer, not True"),
        ({"vocab_size": "many"}, "vocab_size must be a positive integer, not 'many'"),
        ({"intermediate_size": -1}, "intermediate_size must be a positive integer, not -1"),
        ({"hidden_ratio": 0}, "hidden_ratio must be a positive number, not 0"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a number between 0 and 1, not 0"),
        ({"rms_norm_eps": "1e-6"}, "rms_norm_eps must be a number between 0 and 1, not '1e-6'"),
        ({"bos_token_id": 32000}, "bos_token_id must be a token from 0 to 31999 or null, not 32000"),
        ({"eos_token_id": [2]}, r"eos_token_id must be a token from 0 to 31999 or null, not \[2\]"),
        ({"use_lower_bound": 1}, "use_lower_bound must be true or false, not 1"),
        ({"tie_word_embeddings": None}, "tie_word_embeddings must be true or false, not None"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(CheckpointError, match=f"^some/config.json: {message}"):
        parse_config(VALUES | changes, file="some/config.json")


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_refuses_missing_sizes(key):
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        parse_config({name: value for name, value in VALUES.items() if name != key})


def test_read_names_the_model_by_its_folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / CONFIG_FILE).write_text(json.dumps(VALUES))
    assert read_config(folder).name == "tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: name the folder of a HuggingFace checkpoint"),
        ('{"model_type": ', "is not valid JSON"),
        (b"\xff\xfe", "is not valid JSON"),
        ("[]", "must hold a JSON object, not list"),
    ],
)
def test_read_refuses(tmp_path, content, message):
    if content is not None:
        (tmp_path / CONFIG_FILE).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        read_config(tmp_path)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)
