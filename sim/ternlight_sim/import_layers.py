"""Importing a checkpoint of any size: read, quantised, calibrated and written layer by layer, in bounded memory.

Of the model a layer's trits, a block of master weights and the residual of all calibration tokens are in memory, never
more. Layer after layer reads the same tokens, so the calibration text must be known beforehand: a text of the caller's,
or random tokens, which meet more of the embedding than a text, but no order that the model knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ternlight import base3
from ternlight.checkpoint import (
    EMBEDDING,
    Checkpoint,
    block_rows,
    check_tokenizer,
    norm_name,
    tensor_shapes,
    ternarise,
    weight_scale,
)
from ternlight.config import HEAD, ModelConfig
from ternlight.errors import ImageError, RequestError
from ternlight.image import (
    LAYER_MAXIMA,
    Image,
    compressed,
    content_hash,
    embedding_exponents,
    image_metadata,
    quantise_rows,
)
from ternlight.tensorfile import TensorFile, TensorWriter, dtype_name

from .calibrate import Maxima
from .float_reference import FloatReference, Progress, Quantity, Tokens

STREAMS = 16
STEPS = 32
"""Calibration tokens are STREAMS x STEPS at most, from all over a text."""
CHUNK = 4
"""Steps that a layer computes at once."""


def calibration_tokens(config: ModelConfig, text: Tokens | None, seed: int = 0) -> NDArray[np.int64]:
    """Tokens (steps, streams) to calibrate on: of a text, or random; raises RequestError for too short a text."""
    if text is None:
        return np.random.default_rng(seed).integers(config.vocabulary, size=(STEPS, STREAMS))
    length = len(text) // STREAMS
    if length == 0:
        raise RequestError(f"calibration needs a text of at least {STREAMS} tokens, not {len(text)}")
    return np.asarray(text, np.int64)[: STREAMS * length].reshape(STREAMS, length)[:, :STEPS].T


def image_layout(config: ModelConfig, tokenizer: NDArray[np.uint8] | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes in a calibrated image's file, in its order."""
    layers = config.layers
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        "calibration.residual": ("F64", (1,)),
        "calibration.gained": ("F64", (len(config.norm_lengths()),)),
    }
    layout |= {f"calibration.{name}": ("F64", (layers,)) for name in LAYER_MAXIMA}
    layout["betas"] = ("F32", (len(config.product_shapes()),))
    layout["lower_bounds"] = ("F32", (layers, config.hidden))
    layout |= {f"norms.{key}": ("F32", (length,)) for key, length in config.norm_lengths().items()}
    layout["embedding"] = ("I8", (config.vocabulary, config.hidden))
    layout["embedding_exponent"] = ("I8", (config.vocabulary,))
    for key, (rows, columns) in config.product_shapes().items():
        layout[f"trits.{key}"] = ("U8", (base3.packed_size(rows * columns),))
    return layout if tokenizer is None else layout | {"tokenizer": (dtype_name(tokenizer), tokenizer.shape)}


def import_layers(
    checkpoint: Checkpoint,
    path: Path,
    text: Tokens | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write the image of a checkpoint, calibrated on a text or on random tokens; progress counts weights.

    Raises CheckpointError, RequestError or ImageError; then nothing stays of the file.
    """
    config = checkpoint.config
    check_tokenizer(checkpoint)
    tokens = calibration_tokens(config, text, seed)
    tokenizer = None if checkpoint.tokenizer is None else compressed(checkpoint.tokenizer)
    part = path.with_name(path.name + ".part")
    metadata = image_metadata(config, "0" * 64)
    try:
        with TensorWriter(part, image_layout(config, tokenizer), metadata) as writer:
            _Import(checkpoint, writer, progress).run(tokens)
            if tokenizer is not None:
                writer.append("tokenizer", tokenizer)
            writer.flush()
            stored = _Content(TensorFile(part, error=ImageError))
            writer.finish(image_metadata(config, content_hash(config, checkpoint.tokenizer, stored)))
        part.replace(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


class _Content(dict[str, Any]):
    """The content of an image file, for its hash: each tensor is read when it is asked for."""

    def __init__(self, file: TensorFile) -> None:
        super().__init__({name: None for name in file if name != "tokenizer"})
        self.file = file

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.file[name]


class _Import:
    """One import, on its way."""

    def __init__(self, checkpoint: Checkpoint, writer: TensorWriter, progress: Progress | None) -> None:
        self.checkpoint = checkpoint
        self.config = checkpoint.config
        self.writer = writer
        self.progress = progress
        self.maxima = Maxima(self.config)
        self.lower_bounds = checkpoint.lower_bounds()
        self.betas: dict[str, float] = {}
        self.done = 0
        products = self.config.product_shapes().values()
        self.total = self.config.vocabulary * self.config.hidden + sum(rows * columns for rows, columns in products)

    def run(self, tokens: NDArray[np.int64]) -> None:
        """Everything but the tokenizer."""
        config, writer = self.config, self.writer
        x = self._embedding(tokens)
        self.maxima.quantity(Quantity.RESIDUAL, 0, x)
        for layer in range(config.layers):
            x = self._layer(layer, x)
        norms = {key: self._norm(key) for key in ("norm", HEAD)}
        last = self._reference({}, norms)
        for step in x:
            last.tell_end(step)
        for trits in self._trits(HEAD):
            writer.append(f"trits.{HEAD}", base3.pack(trits))
        writer.append("betas", np.array([self.betas[key] for key in config.product_shapes()], np.float32))
        writer.append("lower_bounds", self.lower_bounds)
        calibration = self.maxima.calibration()
        writer.append("calibration.residual", np.array([calibration.residual]))
        gained = [calibration.gained[key] for key in config.norm_lengths()]
        writer.append("calibration.gained", np.array(gained, np.float64))
        for name in LAYER_MAXIMA:
            writer.append(f"calibration.{name}", np.array(getattr(calibration, name), np.float64))

    def _embedding(self, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Quantise the embedding; the rows of tokens (steps, streams, hidden)."""
        peaks = [np.abs(block).max(axis=1) for block in self.checkpoint.blocks(EMBEDDING)]
        exponents = embedding_exponents(np.concatenate(peaks))
        x = np.empty((*tokens.shape, self.config.hidden))
        count = block_rows(tensor_shapes(self.config)[EMBEDDING])
        for number, block in enumerate(self.checkpoint.blocks(EMBEDDING)):
            first = number * count
            own = exponents[first : first + count]
            rows = quantise_rows(block, own)
            self.writer.append("embedding", rows)
            here = (tokens >= first) & (tokens < first + count)
            chosen = tokens[here] - first
            x[here] = np.ldexp(rows[chosen].astype(np.float32), -own[chosen, None].astype(np.int32))
            self._tell(block.size)
        self.writer.append("embedding_exponent", exponents)
        return x

    def _layer(self, layer: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Quantise, calibrate and write a layer; the residual after it."""
        prefix = f"layers.{layer}."
        trits = {}
        for key in self.config.product_shapes():
            if key.startswith(prefix):
                trits[key] = np.concatenate(list(self._trits(key)))
        norms = {key: self._norm(key) for key in self.config.norm_lengths() if key.startswith(prefix)}
        reference = self._reference(trits, norms)
        h = np.zeros(x.shape[1:])
        for step in range(0, len(x), CHUNK):
            x[step : step + CHUNK], h = reference.layer(layer, x[step : step + CHUNK], h)
        for key, matrix in trits.items():
            count = block_rows(matrix.shape)
            for row in range(0, len(matrix), count):
                self.writer.append(f"trits.{key}", base3.pack(matrix[row : row + count]))
        return x

    def _trits(self, key: str) -> Iterator[NDArray[np.int8]]:
        """The trits of a product in blocks of rows."""
        self.betas[key] = beta = weight_scale(self.checkpoint.weight_blocks(key))
        for block in self.checkpoint.weight_blocks(key):
            yield ternarise(block, beta)
            self._tell(block.size)

    def _norm(self, key: str) -> NDArray[np.float32]:
        gains = self.checkpoint.tensor(norm_name(key))
        self.writer.append(f"norms.{key}", gains)
        return gains

    def _reference(self, trits: dict[str, NDArray[np.int8]], norms: dict[str, NDArray[np.float32]]) -> FloatReference:
        """A reference of part of the model, which tells the maxima."""
        part = Image(
            config=self.config,
            trits=trits,
            betas={key: self.betas[key] for key in trits},
            norms=norms,
            lower_bounds=self.lower_bounds,
            embedding=np.zeros((0, self.config.hidden), np.int8),
            embedding_exponent=np.zeros(0, np.int8),
        )
        return FloatReference(part, observe=self.maxima.quantity, observe_gained=self.maxima.gained, compact=True)

    def _tell(self, weights: int) -> None:
        self.done += weights
        if self.progress is not None:
            self.progress(self.done, self.total)
