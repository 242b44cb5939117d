"""Random hgrn_bit models of any shape, with outliers: for tests of everything that reads, compiles or runs a model."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ternlight.checkpoint import (
    EMBEDDING,
    INDEX_FILE,
    LM_HEAD,
    LOWER_BOUNDS,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    quantise,
    tensor_shapes,
)
from ternlight.config import CONFIG_FILE, ModelConfig, config_values
from ternlight.image import Image
from ternlight.tensorfile import write_tensors

from .calibrate import calibrate

GAIN_DECADES = 3.0
"""Gains are log-normal, with so many decades between minus and plus two standard deviations."""
WEIGHT_DEVIATION = 0.3
"""Standard deviation of the master weights, about that of the shipped model: products reach the bends of the gates."""
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTE_TOKENS = len(SPECIAL_TOKENS) + 256


def random_config(
    *, hidden: int = 37, intermediate: int = 53, layers: int = 2, vocabulary: int = 61, **others: Any
) -> ModelConfig:
    """A small configuration whose sizes divide by nothing."""
    return ModelConfig(
        hidden=hidden,
        intermediate=intermediate,
        layers=layers,
        vocabulary=vocabulary,
        **{"name": "random", "eos": 2 if vocabulary > 2 else None, **others},
    )


def byte_tokenizer() -> bytes:
    """A tokenizer.json with a token per byte after three special ones: BYTE_TOKENS tokens, which encode any text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str().encode()


def llama_tokenizer(vocabulary: int) -> bytes:
    """A tokenizer.json with the layout of LLaMA's: BPE over characters, \u2581 for spaces, and bytes to fall back on.

    Its words are made up: all pairs of letters, then all triples, as far as the vocabulary goes.
    """
    letters = ["\u2581", *"etaoinshrdlcumwfgypbvkjxqz"]
    tokens = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    known, merges = set(tokens), []
    pairs = itertools.chain(
        itertools.product(letters, letters), (("".join(pair), c) for *pair, c in itertools.product(letters, repeat=3))
    )
    pairs = itertools.chain(pairs, ((a + b, c + d) for a, b, c, d in itertools.product(letters, repeat=4)))
    for left, right in pairs:
        if len(tokens) == vocabulary:
            break
        if left + right not in known:
            merges.append((left, right))
            tokens.append(left + right)
            known.add(left + right)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=merges,
            unk_token=SPECIAL_TOKENS[0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = tokenizers.normalizers.Replace(" ", letters[0])
    tokenizer.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Prepend(letters[0]), space])
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace(letters[0], " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer.to_str().encode()


def random_checkpoint(
    config: ModelConfig,
    seed: int,
    *,
    heavy_tailed: bool = True,
    dtype: type[np.floating[Any]] = np.float32,
    tokenizer: bytes | None = None,
) -> Checkpoint:
    """A checkpoint in memory. heavy_tailed: spread the gains over three decades; otherwise they are close to 1."""
    rng = np.random.default_rng(seed)
    deviation = GAIN_DECADES * math.log(10) / 4 if heavy_tailed else 0.05
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        if len(shape) == 1:
            values = rng.lognormal(0.0, deviation, shape) * rng.choice([-1.0, 1.0], shape, p=[0.1, 0.9])
        elif name in (EMBEDDING, LOWER_BOUNDS):
            values = rng.normal(0.0, 1.0, shape)
        else:
            values = rng.normal(0.0, WEIGHT_DEVIATION, shape)
        tensors[name] = values.astype(dtype)
    if config.tied:
        del tensors[LM_HEAD]
    return Checkpoint(config=config, tensors=tensors, tokenizer=tokenizer, source=config.name)


def random_image(config: ModelConfig, seed: int, *, heavy_tailed: bool = True, tokenizer: bytes | None = None) -> Image:
    """A random checkpoint, quantised and calibrated on a few tokens of its own."""
    checkpoint = random_checkpoint(config, seed, heavy_tailed=heavy_tailed, tokenizer=tokenizer)
    return calibrate(quantise(checkpoint), streams=8, steps=16, seed=seed)


def write_checkpoint(checkpoint: Checkpoint, directory: Path, *, shards: int = 1, bfloat16: bool = False) -> None:
    """Write a checkpoint as a HuggingFace directory, in as many files as asked for."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG_FILE).write_text(json.dumps(config_values(checkpoint.config), indent=1))
    if checkpoint.tokenizer is not None:
        (directory / TOKENIZER_FILE).write_bytes(checkpoint.tokenizer)
    if shards == 1:
        write_tensors(directory / WEIGHTS_FILE, checkpoint.tensors, bfloat16=bfloat16)
        return
    places: dict[str, str] = {}
    names = list(checkpoint.tensors)
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part: dict[str, NDArray[Any]] = {name: checkpoint.tensors[name] for name in names[shard::shards]}
        write_tensors(directory / file, part, bfloat16=bfloat16)
        places |= dict.fromkeys(part, file)
    (directory / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1))
