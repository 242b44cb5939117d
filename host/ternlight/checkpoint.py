"""HuggingFace checkpoints of hgrn_bit: read tensor by tensor, checked, and quantised into an image."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import base3
from .config import HEAD, PRODUCTS, SCALE_MIN, ModelConfig, read_config
from .errors import CheckpointError
from .image import Image, quantise_embedding
from .tensorfile import TensorFile
from .tokenizer import Tokenizer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TOKENIZER_FILE = "tokenizer.json"

EMBEDDING = "model.embeddings.weight"
LOWER_BOUNDS = "model.lower_bounds"
LM_HEAD = "lm_head.weight"
NAMES_SHOWN = 3
BLOCK_ELEMENTS = 1 << 20
"""Large tensors are read and quantised in blocks of rows of about so many elements."""

Floats = NDArray[np.float32]


def product_name(key: str) -> str:
    """The checkpoint's module of a ternary product: `layers.0.i` is `model.layers.0.attn.i_proj`."""
    if key == HEAD:
        return "lm_head"
    layers, layer, product = key.split(".")
    return f"model.{layers}.{layer}.{'mlp' if product in ('gate', 'down') else 'attn'}.{product}_proj"


def norm_name(key: str) -> str:
    """The checkpoint's tensor of a gain vector: `layers.0.g_norm` is `model.layers.0.attn.g_norm.weight`."""
    last = key.split(".")[-1]
    if last in (*PRODUCTS, HEAD):
        return f"{product_name(key)}.norm.weight"
    if last == "g_norm":
        return f"model.{key.removesuffix(last)}attn.{last}.weight"
    return f"model.{key}.weight"


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with its shape, the head included when it is tied (it may then be absent)."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (config.vocabulary, config.hidden)}
    if config.lower_bound:
        shapes[LOWER_BOUNDS] = (config.layers, config.hidden)
    shapes |= {f"{product_name(key)}.weight": shape for key, shape in config.product_shapes().items()}
    return shapes | {norm_name(key): (length,) for key, length in config.norm_lengths().items()}


@dataclass(kw_only=True)
class Checkpoint:
    """A checkpoint's tensors by their published names, perhaps still on disk; construction checks the names.

    source: what messages call it.
    """

    config: ModelConfig
    tensors: Mapping[str, NDArray[Any]] = field(repr=False)
    tokenizer: bytes | None = field(default=None, repr=False)
    source: str = "checkpoint"

    def __post_init__(self) -> None:
        expected = tensor_shapes(self.config)
        optional = {LM_HEAD} if self.config.tied else set()
        missing = [name for name in expected if name not in self.tensors and name not in optional]
        if missing:
            raise CheckpointError(
                f"{self.source}: {_listed(missing)} missing: "
                f"the download is incomplete, or config.json is of another model"
            )
        unexpected = [name for name in self.tensors if name not in expected]
        if unexpected:
            raise CheckpointError(
                f"{self.source}: {_listed(unexpected)} not supported: "
                f"hgrn_bit models here have no biases, convolutions or further weights"
            )

    @classmethod
    def open(cls, directory: Path) -> Checkpoint:
        """The checkpoint in a directory, with tensors left on disk; raises CheckpointError."""
        if not directory.is_dir():
            raise CheckpointError(f"{directory} is not a directory: name the folder of a HuggingFace checkpoint")
        config = read_config(directory)
        tokenizer = directory / TOKENIZER_FILE
        return cls(
            config=config,
            tensors=_open_tensors(directory),
            tokenizer=tokenizer.read_bytes() if tokenizer.is_file() else None,
            source=str(directory),
        )

    def tensor(self, name: str) -> Floats:
        """A tensor in float32; raises CheckpointError for a wrong shape, and for values that are not finite."""
        return np.concatenate(list(self.blocks(name)))

    def blocks(self, name: str) -> Iterator[Floats]:
        """A tensor in blocks of rows, about BLOCK_ELEMENTS each; raises as `tensor` does."""
        shape, found = tensor_shapes(self.config)[name], _shape_of(self.tensors, name)
        if found != shape:
            raise CheckpointError(
                f"{self.source}: {name} must have shape {list(shape)} by config.json, not {list(found)}"
            )
        count = block_rows(shape)
        for start in range(0, shape[0], count):
            values = _rows_of(self.tensors, name, start, start + count)
            if values.dtype.kind != "f":
                raise CheckpointError(f"{self.source}: {name} must be floating point, not {values.dtype}")
            with np.errstate(over="ignore"):  # beyond single precision is not finite
                values = values.astype(np.float32, copy=False)
            if not np.isfinite(values).all():
                raise CheckpointError(f"{self.source}: {name} has values that are not finite: download it again")
            yield values

    def weight_blocks(self, key: str) -> Iterator[Floats]:
        """The master weights of a ternary product in blocks of rows."""
        name = f"{product_name(key)}.weight"
        if not (self.config.tied and name == LM_HEAD):
            yield from self.blocks(name)
            return
        head = self.blocks(LM_HEAD) if LM_HEAD in self.tensors else self.blocks(EMBEDDING)
        for own, embedding in zip(head, self.blocks(EMBEDDING), strict=True):
            if not np.array_equal(own, embedding):
                raise CheckpointError(
                    f"{self.source}: {LM_HEAD} differs from {EMBEDDING}, but config.json says tie_word_embeddings: "
                    f"set it to false if the head was trained on its own"
                )
            yield own

    def embedding(self) -> Floats:
        """The embedding (vocabulary, hidden)."""
        return self.tensor(EMBEDDING)

    def weight(self, key: str) -> Floats:
        """The master weights of a ternary product by its key."""
        return np.concatenate(list(self.weight_blocks(key)))

    def lower_bounds(self) -> Floats:
        """Lower bounds of the forget gates: the cumulated softmax over layers, less the first layer's share."""
        if not self.config.lower_bound:
            return np.zeros((self.config.layers, self.config.hidden), np.float32)
        learned = self.tensor(LOWER_BOUNDS).astype(np.float64)
        powers = np.exp(learned - learned.max(axis=0))
        shares = powers / powers.sum(axis=0)
        bounds: Floats = (np.cumsum(shares, axis=0) - shares[0]).astype(np.float32)
        return bounds


def weight_scale(blocks: Iterable[Floats]) -> float:
    """beta = max(mean|W|, 1e-5) in float32, of a matrix in blocks of rows."""
    total, count = 0.0, 0
    for block in blocks:
        total += float(np.abs(block).sum(dtype=np.float64))
        count += block.size
    return float(np.float32(max(total / count, SCALE_MIN)))


def ternarise(weight: Floats, beta: float) -> NDArray[np.int8]:
    """Trits clamp(round(W / beta), -1, 1), half to even."""
    scaled = weight / np.float32(beta)
    trits: NDArray[np.int8] = np.rint(scaled, out=scaled).clip(-1, 1, out=scaled).astype(np.int8)
    return trits


def quantise_weight(weight: Floats) -> tuple[NDArray[np.int8], float]:
    """Trits and beta of a matrix."""
    beta = weight_scale([weight])
    return ternarise(weight, beta), beta


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a tokenizer that is broken, or has tokens that the model has not."""
    if checkpoint.tokenizer is not None:
        tokens = Tokenizer(checkpoint.tokenizer).vocabulary
        if tokens > checkpoint.config.vocabulary:
            raise CheckpointError(
                f"{checkpoint.source}: {TOKENIZER_FILE} has {tokens} tokens, but vocab_size is "
                f"{checkpoint.config.vocabulary}: it belongs to another model"
            )


def quantise(checkpoint: Checkpoint) -> Image:
    """The checkpoint as an image without calibration, in memory; raises CheckpointError."""
    config = checkpoint.config
    check_tokenizer(checkpoint)
    quantised = {}
    for key in config.product_shapes():
        beta = weight_scale(checkpoint.weight_blocks(key))
        trits = [ternarise(block, beta) for block in checkpoint.weight_blocks(key)]
        quantised[key] = np.concatenate(trits), beta
    embedding, exponent = quantise_embedding(checkpoint.embedding())
    return Image(
        config=config,
        trits={key: trits for key, (trits, _) in quantised.items()},
        betas={key: beta for key, (_, beta) in quantised.items()},
        norms={key: checkpoint.tensor(norm_name(key)) for key in config.norm_lengths()},
        lower_bounds=checkpoint.lower_bounds(),
        embedding=embedding,
        embedding_exponent=exponent,
        tokenizer=checkpoint.tokenizer,
    )


def _listed(names: list[str]) -> str:
    """`a, b, c and 7 more are`, for messages."""
    shown = ", ".join(names[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"


def block_rows(shape: tuple[int, ...]) -> int:
    """Rows of a block: a multiple of 5, so that packed trits of blocks join without a gap."""
    row = math.prod(shape[1:])
    return max(BLOCK_ELEMENTS // row // base3.TRITS_PER_BYTE, 1) * base3.TRITS_PER_BYTE


def _shape_of(tensors: Mapping[str, NDArray[Any]], name: str) -> tuple[int, ...]:
    """A tensor's shape, without reading it where it is on disk."""
    return tensors.shape(name) if isinstance(tensors, TensorFile | _Shards) else tensors[name].shape


def _rows_of(tensors: Mapping[str, NDArray[Any]], name: str, start: int, stop: int) -> NDArray[Any]:
    """Some rows of a tensor, of which no others are read where it is on disk."""
    if isinstance(tensors, TensorFile | _Shards):
        return tensors.rows(name, start, stop)
    return tensors[name][start:stop]


def _open_tensors(directory: Path) -> Mapping[str, NDArray[Any]]:
    """All tensors of a directory: of one file, or of the shards that the index names."""
    index = directory / INDEX_FILE
    single = directory / WEIGHTS_FILE
    if single.is_file():
        return TensorFile(single, error=CheckpointError)
    if not index.is_file():
        raise CheckpointError(
            f"{directory} has neither {WEIGHTS_FILE} nor {INDEX_FILE}: convert the weights to safetensors"
        )
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        places = {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is not a valid index ({error!r}): download it again") from None
    shards = {file: TensorFile(directory / Path(file).name, error=CheckpointError) for file in set(places.values())}
    for name, file in places.items():
        if name not in shards[file]:
            raise CheckpointError(
                f"{directory / file} lacks {name}, which {INDEX_FILE} places there: download it again"
            )
    return _Shards(places, shards)


class _Shards(Mapping[str, NDArray[Any]]):
    """Tensors of several files, each read when it is asked for."""

    def __init__(self, places: dict[str, str], shards: dict[str, TensorFile]) -> None:
        self.places = places
        self.shards = shards

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.shards[self.places[name]][name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shards[self.places[name]].shape(name)

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        return self.shards[self.places[name]].rows(name, start, stop)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)
