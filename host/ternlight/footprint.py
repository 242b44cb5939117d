"""Memory for inference by part, next to that of the model in 16-bit floating point: python -m ternlight.footprint.

What is counted: the packed weights and the embedding as an image holds them, what the compiler adds in its own
formats, and the buffers of a device. A 16-bit model needs two bytes per parameter and state; its activations, and
what a framework adds, are left out, so that the comparison does not flatter.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

import numpy as np

from . import base3
from .compiler import compile_image
from .config import PUBLISHED, ModelConfig
from .formats import ACTIVATION_BITS, COMPACT_BITS, ELEMENT_BITS
from .geometry import Geometry
from .image import Calibration, Image

SESSIONS = 4
CONTEXTS = 2
TOKENS = 512
"""Of a session's prompt buffer and output ring."""
TOKEN_BYTES = 2
HALF_BYTES = 2
"""Of a number in 16-bit floating point."""


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of a device by part.

    weights: five trits a byte. embedding: a byte per value, and an exponent per row. constants: the gains, with those
    of two norms in a row multiplied out, and the lower bounds of the forget gates. program: instructions. states: of
    all sessions, whatever the length of their texts. buffers: vectors of tokens in work, prompts and written tokens.
    """

    weights: int
    embedding: int
    constants: int
    program: int
    states: int
    buffers: int

    @property
    def total(self) -> int:
        """All parts."""
        return sum(getattr(self, field.name) for field in fields(self))


def footprint(config: ModelConfig, *, sessions: int = SESSIONS, contexts: int = CONTEXTS) -> Footprint:
    """The memory of a model on a device that serves so many sessions, and works on so many tokens at a time."""
    d, m, layers = config.hidden, config.intermediate, config.layers
    gains = layers * (8 * d + m) + 2 * d
    elements = (d + max(d, m)) * ELEMENT_BITS + 2 * max(d, m) * ACTIVATION_BITS
    return Footprint(
        weights=sum(base3.packed_size(rows * columns) for rows, columns in config.product_shapes().values()),
        embedding=config.vocabulary * (d + 1),
        constants=(gains + layers * d) * COMPACT_BITS // 8,
        program=compile_image(_skeleton(layers), Geometry(program_words=64 * (layers + 1))).program_words().nbytes,
        states=sessions * layers * d * COMPACT_BITS // 8,
        buffers=contexts * elements // 8 + sessions * TOKENS * TOKEN_BYTES,
    )


def half_precision_bytes(config: ModelConfig, *, sessions: int = SESSIONS) -> int:
    """Bytes of the parameters and the states of a model in 16-bit floating point."""
    products = sum(rows * columns for rows, columns in config.product_shapes().values())
    embedding = 0 if config.tied else config.vocabulary * config.hidden
    bounds = config.layers * config.hidden if config.lower_bound else 0
    states = sessions * config.layers * config.hidden
    return HALF_BYTES * (products + embedding + bounds + sum(config.norm_lengths().values()) + states)


def _skeleton(layers: int) -> Image:
    """A model of the smallest width: the program's length depends on layers alone."""
    config = ModelConfig(hidden=1, intermediate=1, layers=layers, vocabulary=1)
    ones = (1.0,) * layers
    return Image(
        config=config,
        trits={key: np.ones(shape, np.int8) for key, shape in config.product_shapes().items()},
        betas=dict.fromkeys(config.product_shapes(), 1.0),
        norms={key: np.ones(length, np.float32) for key, length in config.norm_lengths().items()},
        lower_bounds=np.zeros((layers, 1), np.float32),
        embedding=np.ones((1, 1), np.int8),
        embedding_exponent=np.zeros(1, np.int8),
        calibration=Calibration(
            residual=1.0,
            gained=dict.fromkeys(config.norm_lengths(), 1.0),
            candidate=ones,
            gate=ones,
            mlp_gate=ones,
            mlp=ones,
        ),
    )


def table(sessions: int) -> list[str]:
    """The lines of a table in Markdown: megabytes by part, for each published shape."""
    parts = [field.name for field in fields(Footprint)]
    lines = [
        f"| MB | 16-bit | {' | '.join(parts)} | in all | times less | not weights |",
        f"| --- |{' --: |' * (len(parts) + 4)}",
    ]
    for config in PUBLISHED.values():
        own, half = footprint(config, sessions=sessions), half_precision_bytes(config, sessions=sessions)
        cells = " | ".join(f"{getattr(own, part) / 1e6:,.2f}" for part in parts)
        lines.append(
            f"| {config.name} | {half / 1e6:,.1f} | {cells} | {own.total / 1e6:,.1f} | {half / own.total:.2f} | "
            f"{1 - own.weights / own.total:.1%} |"
        )
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Memory for inference of the published shapes, as a table.")
    parser.add_argument("--sessions", type=int, default=SESSIONS, metavar="N", help="default: %(default)s")
    args = parser.parse_args()
    if args.sessions < 1:
        parser.error(f"--sessions must be positive, not {args.sessions}")
    print("\n".join(table(args.sessions)))


if __name__ == "__main__":
    main()
