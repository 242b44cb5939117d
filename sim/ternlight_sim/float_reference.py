"""The float reference: the published equations of hgrn_bit in numpy, over a batch, token by token or layer by layer.

It is what the integer golden model is measured against. Ternary products are exact integers; the rest is in
double precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ternlight.checkpoint import Checkpoint, quantise
from ternlight.config import BIT_EPS, HEAD, SCALE_MIN
from ternlight.image import Image

BLOCK_ROWS = 512
"""Rows of trits that a compact reference widens at a time."""

Reals = NDArray[np.float64]
Tokens = NDArray[np.integer[Any]]
Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""


class Quantity(StrEnum):
    """Values that an observer is told of, as fields of ternlight.image.Calibration."""

    RESIDUAL = "residual"
    CANDIDATE = "candidate"
    GATE = "gate"
    MLP_GATE = "mlp_gate"
    MLP = "mlp"


Observer = Callable[[Quantity, int, Reals], None]
"""Called with a quantity, the layer, and the values (..., batch, width)."""
GainObserver = Callable[[str, Reals], None]
"""Called with the key of a norm and the batch's vector times its gains (and those of the norm before), not divided."""


def rms_norm(x: Reals, gains: NDArray[np.float32], eps: float) -> Reals:
    """x / sqrt(mean(x**2) + eps) * gains, over the last axis."""
    result: Reals = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gains
    return result


def sigmoid(z: Reals) -> Reals:
    """1 / (1 + exp(-z)), by the hyperbolic tangent, which cannot overflow."""
    result: Reals = 0.5 + 0.5 * np.tanh(0.5 * z)
    return result


class Product(NamedTuple):
    """A ternary product: integer accumulators, and the scale per token that makes them real."""

    accumulators: Reals
    scale: Reals

    def real(self) -> Reals:
        """The product in real numbers."""
        return self.accumulators * self.scale


def exact(values: Reals) -> Reals:
    """The values as they are."""
    return values


@dataclass(frozen=True, kw_only=True)
class Formats:
    """What values become where a device has a format for them; by default all stay exact.

    sigmoid: the function itself. forget: of the forget gates. state: of a layer's states, as the memory keeps them.
    residual: likewise, of the embedding's rows and after each addition.
    """

    sigmoid: Callable[[Reals], Reals] = sigmoid
    forget: Callable[[Reals], Reals] = exact
    state: Callable[[int, Reals], Reals] = lambda layer, h: h
    residual: Callable[[Reals], Reals] = exact


class FloatReference:
    """A model as the published code computes it.

    Parameters: image gives the ternary weights and norms; embedding (vocabulary, hidden) replaces the image's quantised
    one; observe and observe_gained are told what calibration needs. compact: leave the trits as bytes, and widen blocks
    of them for each product, which is slower. formats: to round what a device would round. An image may lack what is
    not used.
    The state is an array (batch, layers, hidden).
    """

    def __init__(
        self,
        image: Image,
        *,
        embedding: NDArray[np.float32] | None = None,
        observe: Observer | None = None,
        observe_gained: GainObserver | None = None,
        compact: bool = False,
        formats: Formats | None = None,
    ) -> None:
        self.config = image.config
        self._norms = image.norms
        self._betas = image.betas
        self._lower_bounds = image.lower_bounds.astype(np.float64)
        self._embedding = image.embedding_rows() if embedding is None else embedding
        # Single precision is exact for |T q| < 2**24, that is for up to 131,072 inputs, and twice as fast.
        self._rows = BLOCK_ROWS if compact else None
        self._trits: dict[str, NDArray[Any]] = dict(image.trits)
        if not compact:
            self._trits = {key: np.ascontiguousarray(trits.T, np.float32) for key, trits in image.trits.items()}
        self._formats = formats or Formats()
        self._observe = observe
        self._observe_gained = observe_gained

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> FloatReference:
        """The checkpoint itself, with its embedding as it is: the reference for bits per byte."""
        return cls(quantise(checkpoint), embedding=checkpoint.embedding())

    def initial_state(self, batch: int) -> Reals:
        """The state before the first token."""
        return np.zeros((batch, self.config.layers, self.config.hidden))

    def step(self, tokens: Tokens, state: Reals) -> tuple[Reals, Reals]:
        """Feed one token per sequence: (batch,) to logits (batch, vocabulary), and the new state."""
        x: Reals = self._formats.residual(self._embedding[tokens].astype(np.float64))
        new_state = np.empty_like(state)
        self._tell(Quantity.RESIDUAL, 0, x)
        for layer in range(self.config.layers):
            steps, new_state[:, layer] = self.layer(layer, x[None], state[:, layer])
            x = steps[0]
        self.tell_end(x)
        return self._product(HEAD, self._norm("norm", x)).real(), new_state

    def layer(self, layer: int, x: Reals, h: Reals) -> tuple[Reals, Reals]:
        """One layer for some steps: residual (steps, batch, hidden) and state (batch, hidden) to those after it."""
        mixed, h = self._attention(layer, x, h)
        x = self._formats.residual(x + mixed)
        self._tell(Quantity.RESIDUAL, layer, x)
        x = self._formats.residual(x + self._mlp(layer, x))
        self._tell(Quantity.RESIDUAL, layer, x)
        return x, h

    def tell_end(self, x: Reals) -> None:
        """Tell of the residual after all layers."""
        self._tell_gained(x, "norm", HEAD)

    def write(
        self,
        first: Tokens,
        steps: int,
        rng: np.random.Generator,
        *,
        progress: Progress | None = None,
    ) -> Tokens:
        """Text of the model's own (batch, steps) after the tokens `first` (batch,), drawn at temperature 1."""
        state = self.initial_state(len(first))
        written = np.empty((len(first), steps), np.int64)
        tokens = first
        for step in range(steps):
            logits, state = self.step(tokens, state)
            # The Gumbel-max trick: the largest of the noisy logits is a draw from their softmax.
            written[:, step] = tokens = np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1)
            if progress is not None:
                progress(step + 1, steps)
        return written

    def _attention(self, layer: int, x: Reals, h: Reals) -> tuple[Reals, Reals]:
        key = f"layers.{layer}"
        self._tell_gained(x, f"{key}.attn_norm", f"{key}.f", f"{key}.i", f"{key}.g")
        n = self._norm(f"{key}.attn_norm", x)
        lower_bound = self._lower_bounds[layer]
        gate = self._formats.sigmoid(self._product(f"{key}.f", n).real())
        forget = self._formats.forget(lower_bound + (1 - lower_bound) * gate)
        candidate = self._product(f"{key}.i", n).real()
        source = (1 - forget) * self._silu(candidate)
        states = np.empty_like(forget)
        for step in range(len(x)):
            states[step] = h = self._formats.state(layer, forget[step] * h + source[step])
        g = self._product(f"{key}.g", n)
        active = self._silu(states)
        self._tell(Quantity.CANDIDATE, layer, candidate)
        self._tell(Quantity.CANDIDATE, layer, states)
        self._tell(Quantity.GATE, layer, g.accumulators * active)
        self._tell_gained(g.accumulators * active, f"{key}.g_norm", f"{key}.o")
        gated = self._norm(f"{key}.g_norm", g.real()) * active
        return self._product(f"{key}.o", gated).real(), h

    def _mlp(self, layer: int, x: Reals) -> Reals:
        key = f"layers.{layer}"
        self._tell_gained(x, f"{key}.mlp_norm", f"{key}.gate")
        both = self._product(f"{key}.gate", self._norm(f"{key}.mlp_norm", x))
        gate, value = np.split(both.accumulators, 2, axis=-1)
        active = self._silu(gate * both.scale)
        self._tell(Quantity.MLP_GATE, layer, gate * both.scale)
        self._tell(Quantity.MLP, layer, value * active)
        self._tell_gained(value * active, f"{key}.down")
        return self._product(f"{key}.down", active * (value * both.scale)).real()

    def _silu(self, z: Reals) -> Reals:
        return z * self._formats.sigmoid(z)

    def _norm(self, key: str, x: Reals) -> Reals:
        return rms_norm(x, self._norms[key], self.config.eps)

    def _product(self, key: str, v: Reals) -> Product:
        """The norm, the quantisation to 8 bits per token, and the ternary product."""
        y = rms_norm(v, self._norms[key], BIT_EPS)
        scale = 127 / np.maximum(np.abs(y).max(axis=-1, keepdims=True), SCALE_MIN)
        q = np.rint(y * scale).clip(-128, 127)
        flat = q.reshape(-1, q.shape[-1]).astype(np.float32)
        trits = self._trits[key]
        if self._rows is None:
            product = flat @ trits
        else:
            blocks = (trits[row : row + self._rows].T.astype(np.float32) for row in range(0, len(trits), self._rows))
            product = np.concatenate([flat @ block for block in blocks], axis=-1)
        accumulators = product.reshape(*q.shape[:-1], -1).astype(np.float64)
        return Product(accumulators, self._betas[key] / scale)

    def _tell(self, quantity: Quantity, layer: int, values: Reals) -> None:
        if self._observe is not None:
            self._observe(quantity, layer, values)

    def _tell_gained(self, source: Reals, outer: str, *inner: str) -> None:
        """Of a vector times the gains of a norm, and times those of each norm behind it as well."""
        if self._observe_gained is not None:
            gained = source * self._norms[outer]
            self._observe_gained(outer, gained)
            for key in inner:
                self._observe_gained(key, gained * self._norms[key])
