"""The packed image: a quantised model in one file, independent of any device's geometry.

The file is in safetensors format: the calibration and the norms in float32, the embedding in signed bytes with an
exponent per row, trits five to a byte, and the tokenizer compressed. Its metadata names the format, its version, and
a SHA-256 of the content; the content's first word is the identity by which a device knows what is loaded.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import base3
from .config import ModelConfig
from .errors import ImageError, TernlightError
from .tensorfile import TensorFile, write_tensors

FORMAT = "ternlight-image"
FORMAT_VERSION = "2"
DEFAULT_FILE = "bedtime-1m.ternlight"
"""The image that ships within the package."""
EMBEDDING_MAX = 127
EMBEDDING_SPREAD = 16
"""Exponents of an embedding's rows differ by at most so much: a device shifts rows left by 0 to 16."""
EXPONENT_LIMIT = 64
"""Row exponents stay within plus or minus this, whatever the embedding."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Largest magnitudes that the float reference met; the compiler chooses fixed-point formats by them.

    residual: |x| over all layers. gained: by the keys of `ModelConfig.norm_lengths`, of what the norm divides, times
    its gains and those of the norm before it: x, or the products that gate and mlp are of. Per layer:
    candidate: of the input of silu in the candidate, and of the state. gate: of the g product's accumulator (an
    integer) times silu(state). mlp_gate: of the input of silu in the MLP. mlp: of the accumulator of the
    MLP's value half (an integer) times silu of its gate half.
    """

    residual: float
    gained: dict[str, float]
    candidate: tuple[float, ...]
    gate: tuple[float, ...]
    mlp_gate: tuple[float, ...]
    mlp: tuple[float, ...]


LAYER_MAXIMA = ("candidate", "gate", "mlp_gate", "mlp")


@dataclass(frozen=True, kw_only=True, eq=False)
class Image:
    """A quantised model.

    trits: matrices of -1, 0, +1 (rows, columns) by the keys of `ModelConfig.product_shapes`.
    betas: the scale of each matrix, by the same keys.
    norms: gain vectors by the keys of `ModelConfig.norm_lengths`; those of a product's key act before the product.
    lower_bounds: (layers, hidden), of the forget gates; zero where the model has none.
    embedding, embedding_exponent: row t is embedding[t] * 2.0 ** -embedding_exponent[t].
    calibration: None until the model was calibrated.
    tokenizer: the content of tokenizer.json.
    """

    config: ModelConfig
    trits: dict[str, NDArray[np.int8]]
    betas: dict[str, float]
    norms: dict[str, Floats]
    lower_bounds: Floats
    embedding: NDArray[np.int8]
    embedding_exponent: NDArray[np.int8]
    calibration: Calibration | None = None
    tokenizer: bytes | None = field(default=None, repr=False)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything in the image, in hexadecimal; of the content, not of a file's bytes."""
        return content_hash(self.config, self.tokenizer, self._tensors())

    @property
    def identity(self) -> int:
        """A 32-bit number, never 0, that differs for every content: the device keeps it with a loaded image."""
        return int(self.content_hash[:8], 16) or 1

    def require_calibration(self) -> Calibration:
        """The calibration; raises ImageError for an image without."""
        if self.calibration is None:
            raise ImageError(f"{self.config.name} is not calibrated: make the image with `ternlight import`")
        return self.calibration

    def embedding_rows(self) -> Floats:
        """The embedding as real numbers (vocabulary, hidden)."""
        return np.ldexp(self.embedding.astype(np.float32), -self.embedding_exponent[:, None].astype(np.int32))

    def save(self, path: Path) -> None:
        """Write the image; equal images give equal files."""
        tensors = self._tensors()
        if self.tokenizer is not None:
            tensors["tokenizer"] = compressed(self.tokenizer)
        try:
            write_tensors(path, tensors, image_metadata(self.config, self.content_hash))
        except OSError as error:
            raise ImageError(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Image:
        """Read an image; raises ImageError for a file that is missing, broken, or of another version."""
        tensors = TensorFile(path, error=ImageError)
        if tensors.metadata.get("format") != FORMAT:
            raise ImageError(f"{path} is not a ternlight image: make one with `ternlight import`")
        version = tensors.metadata.get("version")
        if version != FORMAT_VERSION:
            raise ImageError(f"{path} has image version {version}, not {FORMAT_VERSION}: import the checkpoint again")
        try:
            image = cls._from_tensors(ModelConfig(**json.loads(tensors.metadata["config"])), tensors)
        except TernlightError:
            raise
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise ImageError(f"{path} is damaged ({error}): import the checkpoint again") from None
        if image.content_hash != tensors.metadata.get("sha256"):
            raise ImageError(f"{path} is damaged (its content does not match its hash): import the checkpoint again")
        return image

    @classmethod
    def default(cls) -> Image:
        """The image that ships within the package."""
        with resources.as_file(resources.files(__package__) / "data" / DEFAULT_FILE) as path:
            return cls.load(path)

    def _tensors(self) -> dict[str, NDArray[Any]]:
        """Everything but configuration and tokenizer, as stored."""
        products = self.config.product_shapes()
        tensors: dict[str, NDArray[Any]] = {}
        if self.calibration is not None:
            # In double precision, or a maximum could be rounded below a value that was met.
            tensors["calibration.residual"] = np.array([self.calibration.residual], np.float64)
            gained = [self.calibration.gained[key] for key in self.config.norm_lengths()]
            tensors["calibration.gained"] = np.array(gained, np.float64)
            for name in LAYER_MAXIMA:
                tensors[f"calibration.{name}"] = np.array(getattr(self.calibration, name), np.float64)
        tensors["betas"] = np.array([self.betas[key] for key in products], np.float32)
        tensors["lower_bounds"] = self.lower_bounds
        tensors |= {f"norms.{key}": self.norms[key] for key in self.config.norm_lengths()}
        tensors["embedding"] = self.embedding
        tensors["embedding_exponent"] = self.embedding_exponent
        return tensors | {f"trits.{key}": base3.pack(self.trits[key]) for key in products}

    @classmethod
    def _from_tensors(cls, config: ModelConfig, tensors: Mapping[str, NDArray[Any]]) -> Image:
        products = config.product_shapes()
        calibration = None
        if "calibration.residual" in tensors:
            maxima = {name: tuple(map(float, tensors[f"calibration.{name}"])) for name in LAYER_MAXIMA}
            gained = dict(zip(config.norm_lengths(), map(float, tensors["calibration.gained"]), strict=True))
            residual = float(tensors["calibration.residual"][0])
            calibration = Calibration(residual=residual, gained=gained, **maxima)
        return cls(
            config=config,
            trits={key: base3.unpack(tensors[f"trits.{key}"], shape) for key, shape in products.items()},
            betas=dict(zip(products, map(float, tensors["betas"]), strict=True)),
            norms={key: tensors[f"norms.{key}"] for key in config.norm_lengths()},
            lower_bounds=tensors["lower_bounds"],
            embedding=tensors["embedding"],
            embedding_exponent=tensors["embedding_exponent"],
            calibration=calibration,
            tokenizer=zlib.decompress(tensors["tokenizer"].tobytes()) if "tokenizer" in tensors else None,
        )


def content_hash(config: ModelConfig, tokenizer: bytes | None, tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of an image's content, in hexadecimal; tensors, which may lie on disk, are read one at a time."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(hashlib.sha256(tokenizer or b"").digest())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()


def image_metadata(config: ModelConfig, content: str) -> dict[str, str]:
    """The metadata of an image file; content: its hash."""
    return {"format": FORMAT, "version": FORMAT_VERSION, "config": json.dumps(asdict(config)), "sha256": content}


def compressed(tokenizer: bytes) -> NDArray[np.uint8]:
    """The tokenizer as an image file holds it."""
    return np.frombuffer(zlib.compress(tokenizer, 9), np.uint8)


def quantise_embedding(embedding: Floats) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Rows of signed bytes and their exponents: row = bytes * 2.0 ** -exponent, rounded half to even."""
    exponent = embedding_exponents(np.abs(embedding).max(axis=1))
    return quantise_rows(embedding, exponent), exponent


def quantise_rows(embedding: Floats, exponent: NDArray[np.int8]) -> NDArray[np.int8]:
    """Rows of an embedding as signed bytes, by their exponents."""
    rows = np.rint(np.ldexp(embedding.astype(np.float64), exponent[:, None].astype(np.int32)))
    return rows.clip(-EMBEDDING_MAX, EMBEDDING_MAX).astype(np.int8)


def embedding_exponents(peaks: Floats) -> NDArray[np.int8]:
    """The exponents of an embedding's rows, by the largest magnitude of each.

    A row's exponent is the largest for which it fits in -127..127, within EXPONENT_LIMIT and within EMBEDDING_SPREAD
    of the largest row's.
    """
    peak = peaks.astype(np.float64)
    _, power = np.frexp(peak)
    # peak = fraction * 2**power with fraction in [1/2, 1): below 128 when scaled by 7 - power, yet it may round to 128.
    exponent = 7 - power
    exponent -= np.rint(np.ldexp(peak, exponent)) > EMBEDDING_MAX
    exponent = np.where(peak == 0, EXPONENT_LIMIT, exponent)
    exponent = np.minimum(exponent, min(int(exponent.min()) + EMBEDDING_SPREAD, EXPONENT_LIMIT))
    exponent = np.maximum(exponent, -EXPONENT_LIMIT)
    narrow: NDArray[np.int8] = exponent.astype(np.int8)
    return narrow
