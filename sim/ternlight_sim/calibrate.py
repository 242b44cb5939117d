"""Calibration: the largest magnitudes that the float reference meets, over a text or over what the model writes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ternlight.config import ModelConfig
from ternlight.errors import RequestError
from ternlight.image import LAYER_MAXIMA, Calibration, Image

from .float_reference import FloatReference, Progress, Quantity, Reals, Tokens

STREAMS = 16
SAMPLED_STEPS = 128
TEXT_STEPS = 1024
"""Steps over a text: at most STREAMS times so many tokens, from all over it."""


class Maxima:
    """The observers of the float reference: they keep the largest magnitude of all that they are told of."""

    def __init__(self, config: ModelConfig) -> None:
        self.maxima = {quantity: [0.0] * config.layers for quantity in Quantity}
        self.gained_maxima = dict.fromkeys(config.norm_lengths(), 0.0)

    def gained(self, key: str, values: Reals) -> None:
        """Of a vector times the gains of a norm."""
        self.gained_maxima[key] = max(self.gained_maxima[key], float(np.abs(values).max()))

    def quantity(self, quantity: Quantity, layer: int, values: Reals) -> None:
        layers = self.maxima[quantity]
        layers[layer] = max(layers[layer], float(np.abs(values).max()))

    def calibration(self) -> Calibration:
        """What was met so far; the residual has one format, so one maximum over the layers."""
        layers = {name: tuple(self.maxima[Quantity(name)]) for name in LAYER_MAXIMA}
        return Calibration(residual=max(self.maxima[Quantity.RESIDUAL]), gained=self.gained_maxima, **layers)


def calibrate(
    image: Image,
    tokens: Tokens | None = None,
    *,
    streams: int = STREAMS,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Image:
    """The image with its calibration, measured on its own quantised embedding.

    tokens: a text; `streams` equal parts of it are read side by side, the first `steps` tokens of each.
    Without it the model writes the text: `streams` sequences from random tokens on, drawn with `seed`.
    """
    maxima = Maxima(image.config)
    model = FloatReference(image, observe=maxima.quantity, observe_gained=maxima.gained)
    if tokens is None:
        rng = np.random.default_rng(seed)
        first = rng.integers(image.config.vocabulary, size=streams)
        model.write(first, SAMPLED_STEPS if steps is None else steps, rng, progress=progress)
    else:
        length = len(tokens) // streams
        if length == 0:
            raise RequestError(f"calibration needs a text of at least {streams} tokens, not {len(tokens)}")
        rows = np.asarray(tokens)[: streams * length].reshape(streams, length)
        steps = min(length, TEXT_STEPS if steps is None else steps)
        state = model.initial_state(streams)
        for step in range(steps):
            _, state = model.step(rows[:, step], state)
            if progress is not None:
                progress(step + 1, steps)
    return replace(image, calibration=maxima.calibration())
