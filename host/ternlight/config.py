"""The shape of an hgrn_bit model: what config.json says, checked, and the tensors that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError

MODEL_TYPE = "hgrn_bit"
CONFIG_FILE = "config.json"
BIT_EPS = 1e-8
"""Epsilon of the norm inside every ternary product."""
SCALE_MIN = 1e-5
"""Smallest scale of a weight matrix and smallest peak of an activation vector, before they divide."""
HEAD = "head"
PRODUCTS = ("i", "f", "g", "o", "gate", "down")
"""Ternary products of a layer, in order of use; HEAD follows the last layer."""
LAYER_NORMS = ("attn_norm", "g_norm", "mlp_norm")

REQUIRED_VALUES = {"num_heads": 1, "expand_ratio": 1, "use_short_conv": False}
ACTIVATIONS = ("swish", "silu")
FIELD_MULTIPLE = 256
"""The MLP's width is rounded up to a multiple of this where config.json leaves it out."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and constants of a model. Construction checks nothing; `parse_config` and `read_config` do.

    hidden: width d of the residual. intermediate: width m of the MLP. vocabulary: tokens.
    eps: epsilon of the norms outside the products. name: for people only.
    lower_bound: the forget gates have learned lower bounds. tied: the head is the ternary embedding.
    """

    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    eps: float = 1e-6
    name: str = "model"
    bos: int | None = 1
    eos: int | None = 2
    lower_bound: bool = True
    tied: bool = False

    def product_shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of every ternary product by key: `layers.N.P` for P of PRODUCTS, and HEAD."""
        d, m = self.hidden, self.intermediate
        shapes = {"i": (d, d), "f": (d, d), "g": (d, d), "o": (d, d), "gate": (2 * m, d), "down": (d, m)}
        keys = {f"layers.{layer}.{product}": shapes[product] for layer in range(self.layers) for product in PRODUCTS}
        return keys | {HEAD: (self.vocabulary, d)}

    def norm_lengths(self) -> dict[str, int]:
        """Length of every gain vector by key: `layers.N.P` for LAYER_NORMS, `norm`, and each product's own norm."""
        lengths = {f"layers.{layer}.{norm}": self.hidden for layer in range(self.layers) for norm in LAYER_NORMS}
        inputs = {key: columns for key, (_, columns) in self.product_shapes().items()}
        return lengths | {"norm": self.hidden} | inputs


PUBLISHED = {
    "370M": ModelConfig(hidden=1024, intermediate=2816, layers=24, vocabulary=32_000, name="MMfreeLM-370M"),
    "1.3B": ModelConfig(hidden=2048, intermediate=5632, layers=24, vocabulary=32_000, name="MMfreeLM-1.3B"),
    "2.7B": ModelConfig(hidden=2560, intermediate=6912, layers=32, vocabulary=32_000, name="MMfreeLM-2.7B"),
}
"""The published checkpoints' shapes."""


def read_config(directory: Path) -> ModelConfig:
    """The configuration of the checkpoint in a directory; raises CheckpointError."""
    path = directory / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} does not exist: name the folder of a HuggingFace checkpoint, which holds {CONFIG_FILE}"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}): download it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(values).__name__}: download it again")
    return parse_config(values, file=str(path), name=directory.resolve().name)


def parse_config(values: Mapping[str, Any], *, file: str = CONFIG_FILE, name: str = "model") -> ModelConfig:
    """The configuration in the values of a config.json; absent ones have the published defaults.

    Raises CheckpointError, naming `file`, for other architectures and for values out of range.
    """
    if values.get("model_type") != MODEL_TYPE:
        raise CheckpointError(
            f'{file}: model_type must be "{MODEL_TYPE}", not {values.get("model_type")!r}: '
            f"only MatMul-free language models can be imported"
        )
    for key, required in REQUIRED_VALUES.items():
        # isinstance, because True == 1 would pass for num_heads.
        value = values.get(key, required)
        if value != required or isinstance(value, bool) != isinstance(required, bool):
            raise CheckpointError(
                f"{file}: {key} must be {json.dumps(required)}, not {value!r}: the accelerator has no other form"
            )
    activation = values.get("hidden_act", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise CheckpointError(
            f"{file}: hidden_act must be {' or '.join(ACTIVATIONS)}, not {activation!r}: the accelerator has no other"
        )
    hidden = _size(values, "hidden_size", file)
    ratio = values.get("hidden_ratio")
    ratio = 4 if ratio is None else ratio
    if values.get("intermediate_size") is not None:
        intermediate = _size(values, "intermediate_size", file)
    elif isinstance(ratio, bool) or not isinstance(ratio, int | float) or not ratio > 0:
        raise CheckpointError(f"{file}: hidden_ratio must be a positive number, not {ratio!r}")
    else:
        intermediate = math.ceil(int(hidden * ratio * 2 / 3) / FIELD_MULTIPLE) * FIELD_MULTIPLE
    eps = values.get("rms_norm_eps", 1e-6)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise CheckpointError(f"{file}: rms_norm_eps must be a number between 0 and 1, not {eps!r}")
    vocabulary = _size(values, "vocab_size", file)
    return ModelConfig(
        hidden=hidden,
        intermediate=intermediate,
        layers=_size(values, "num_hidden_layers", file),
        vocabulary=vocabulary,
        eps=float(eps),
        name=name,
        bos=_token(values, "bos_token_id", 1, vocabulary, file),
        eos=_token(values, "eos_token_id", 2, vocabulary, file),
        lower_bound=_flag(values, "use_lower_bound", True, file),
        tied=_flag(values, "tie_word_embeddings", False, file),
    )


def config_values(config: ModelConfig) -> dict[str, Any]:
    """The values of a config.json that `parse_config` reads back to the same configuration (the name apart)."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["HGRNBitForCausalLM"],
        **REQUIRED_VALUES,
        "hidden_act": ACTIVATIONS[0],
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "vocab_size": config.vocabulary,
        "rms_norm_eps": config.eps,
        "bos_token_id": config.bos,
        "eos_token_id": config.eos,
        "use_lower_bound": config.lower_bound,
        "tie_word_embeddings": config.tied,
    }


def _size(values: Mapping[str, Any], key: str, file: str) -> int:
    if key not in values:
        raise CheckpointError(f"{file}: {key} is missing: download the file again")
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{file}: {key} must be a positive integer, not {value!r}")
    return value


def _token(values: Mapping[str, Any], key: str, default: int, vocabulary: int, file: str) -> int | None:
    value = values.get(key, default if default < vocabulary else None)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < vocabulary:
        raise CheckpointError(f"{file}: {key} must be a token from 0 to {vocabulary - 1} or null, not {value!r}")
    return value


def _flag(values: Mapping[str, Any], key: str, default: bool, file: str) -> bool:
    value = values.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"{file}: {key} must be true or false, not {value!r}")
    return value
