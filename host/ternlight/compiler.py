"""From an image to what a device of some geometry holds: program, gains, weight words.

The program of a token is one list of instructions, layer after layer. A norm and the norm inside the next product are
folded: the vector is multiplied once by both gains and quantised by its own peak, and the root mean
squares enter only the product's output scale, a chain of scalar instructions off the critical path.

Scales. X is the residual in fixed point, A and G the gains a * 2**A.fraction and a * w * 2**G.fraction.
With the sums S2 (energy) and S1 (power) that STAT returns and the peak of v that GAIN returns, the product's scale is
    peak * beta / 127 * 2**(GAIN_SHIFT - G.fraction)
    * rsqrt(S2 / n * 2**(2 * (STAT_SHIFT - A.fraction)) + 1e-8 * S1 / n):
the block shift of X cancels. The epsilon of the outer norm is dropped where it only multiplies 1e-8.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .abi import VOCABULARY_MAX
from .assembler import Assembler, Reg
from .config import BIT_EPS
from .errors import FitError
from .formats import (
    ACTIVATION_MAX,
    ELEMENT_BITS,
    EMBED_SHIFT_MAX,
    GAIN_SHIFT,
    MLP_GAIN_BITS,
    MLP_GAIN_SHIFT,
    MLP_STAT_SHIFT,
    POWER_SHIFT,
    STAT_SHIFT,
    STATE_BITS,
)
from .geometry import Geometry, ceil_div
from .image import Image
from .isa import (
    ControlOp,
    EngineOp,
    ScalarOp,
    Unit,
    VectorOp,
    encode,
)
from .sigmoid import INPUT_FRACTION
from .weights import embedding_words, row_words

MARGIN_BITS = 2
"""Headroom of calibrated formats over the largest value seen in calibration; beyond it they saturate."""


@dataclass(frozen=True)
class CompiledModel:
    """What a device is loaded with.

    program: instructions as dictionaries (see isa); gains: (words, V) int16; store: (words, store_columns) uint32;
    state_stride: words of the state memory per session; macs: ternary weights of a token, without padding, of which
    head_macs belong to the head, which the tokens of a prompt skip.
    """

    geometry: Geometry
    vocabulary: int
    program: list[dict[str, Any]]
    gains: NDArray[np.int16]
    store: NDArray[np.uint32]
    state_stride: int
    macs: int
    head_macs: int

    @cached_property
    def identity(self) -> int:
        """A 32-bit number, never 0, that differs for every content: the device keeps it with what it has loaded."""
        digest = hashlib.sha256(repr((self.geometry, self.vocabulary, self.state_stride)).encode())
        for words in (self.program_words(), self.gains, self.store):
            digest.update(np.ascontiguousarray(words).data)
        return int.from_bytes(digest.digest()[:4], "little") or 1

    def program_words(self) -> NDArray[np.uint32]:
        """The encoded program, (instructions, 3)."""
        encoded = [encode(fields) for fields in self.program]
        return np.array([[word >> shift & 0xFFFFFFFF for shift in (0, 32, 64)] for word in encoded], np.uint32)


def compile_image(image: Image, geometry: Geometry) -> CompiledModel:
    """Compile an image for a geometry.

    Raises FitError naming what does not fit, the limit and the remedy, and ImageError for an image without calibration.
    """
    return _Compiler(image, geometry).compile()


def _exponent(value: float) -> int:
    """The smallest e with value <= 2**e (0 for 0)."""
    return math.ceil(math.log2(value)) if value > 0 else 0


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


class _Compiler(Assembler):
    """One compilation: memory allocation and the emission of instructions in issue order."""

    def __init__(self, image: Image, geometry: Geometry) -> None:
        super().__init__(image.config.name, geometry)
        self.image = image
        self.calibration = image.require_calibration()
        config = image.config
        self.hidden_beats = ceil_div(config.hidden, geometry.vector)
        self.inner_beats = ceil_div(config.intermediate, geometry.vector)
        # Vector memory: the residual, two gained vectors (one of them as long as the MLP), a scratch vector.
        self.x = 0
        self.v = self.x + self.hidden_beats
        self.w = self.v + max(self.hidden_beats, self.inner_beats)
        self.t = self.w + self.hidden_beats
        self.vector_words = self.t + self.hidden_beats
        self.macs = 0
        rows = np.ldexp(np.abs(image.embedding.astype(np.float64)).max(axis=1), -image.embedding_exponent.astype(int))
        residual = max(self.calibration.residual, float(rows.max()))
        self.residual_fraction = _clamp(ELEMENT_BITS - 1 - MARGIN_BITS - _exponent(residual), 0, ELEMENT_BITS - 1)

    def compile(self) -> CompiledModel:
        config, geometry = self.image.config, self.geometry
        self._check_limits()
        self._embedding()
        for layer in range(config.layers):
            self._attention(layer)
            self._mlp(layer)
        self._head()
        self.check_sizes()
        return CompiledModel(
            geometry=geometry,
            vocabulary=config.vocabulary,
            program=self.program,
            gains=np.concatenate(self.gains),
            store=np.concatenate(self.store),
            state_stride=config.layers * self.hidden_beats,
            macs=self.macs,
            head_macs=self.image.trits["head"].size,
        )

    # What a device must offer.

    def _check_limits(self) -> None:
        config, geometry = self.image.config, self.geometry
        if config.vocabulary > VOCABULARY_MAX:
            raise FitError(
                f"the vocabulary has {config.vocabulary} tokens, but token ids have 16 bits: train with fewer"
            )
        longest = max(config.hidden, config.intermediate)
        bits = (ACTIVATION_MAX * longest).bit_length() + 1
        if bits > geometry.accumulator:
            raise FitError(
                f"sums of {longest} products need {bits} bits, but the device accumulates {geometry.accumulator}: "
                f"rebuild it with accumulator={bits}"
            )
        self.check("vector memory", self.vector_words, geometry.vector_words, "vector_words")
        states = config.layers * self.hidden_beats * geometry.slots
        self.check(f"state memory of {geometry.slots} slots", states, geometry.state_words, "state_words")

    # What products share.

    def vector(self, op: VectorOp, **fields: int) -> None:
        """Append a vector operation, by default on a vector of the hidden width."""
        super().vector(op, **{"beats": self.hidden_beats} | fields)

    def _project(self, key: str, buffer: int) -> None:
        trits = self.image.trits[key]
        self.macs += trits.size
        self.matvec(trits, buffer)

    def _quantise(self, source: int, peak: Reg, qscale: Reg, buffer: int, beats: int) -> None:
        self.scalar(ScalarOp.QSCALE, qscale, peak)
        self.vector(VectorOp.QUANT, source=source, scale=qscale, buffer=buffer, beats=beats)

    def _rms(self, length: int, stat_fraction: int) -> None:
        """RMS = rsqrt(ENERGY / n * 2**(2 * (STAT_SHIFT - fraction)) + 1e-8 * POWER / n)."""
        energy = math.ldexp(1 / length, 2 * (STAT_SHIFT - stat_fraction))
        self.scalar(ScalarOp.MUL, Reg.ENERGY, Reg.ENERGY, energy)
        self.scalar(ScalarOp.MUL, Reg.POWER, Reg.POWER, BIT_EPS / length)
        self.scalar(ScalarOp.ADD, Reg.ENERGY, Reg.ENERGY, Reg.POWER)
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)

    def _scale(self, target: Reg, peak: Reg, key: str, exponent: int) -> None:
        """target = peak * beta / 127 * 2**exponent * RMS"""
        constant = math.ldexp(self.image.betas[key] / ACTIVATION_MAX, exponent)
        self.scalar(ScalarOp.MUL, target, peak, constant)
        self.scalar(ScalarOp.MUL, target, target, Reg.RMS)

    # The model.

    def _embedding(self) -> None:
        image = self.image
        exponents = self.residual_fraction - image.embedding_exponent.astype(np.int64)
        # A row far below the residual's resolution is rounded to it.
        excess = np.maximum(-exponents, 0)[:, None]
        rows = np.rint(np.ldexp(image.embedding.astype(np.float64), -excess)).astype(np.int8)
        shifts = np.clip(exponents, 0, EMBED_SHIFT_MAX)
        address = self.place_store(embedding_words(rows, shifts, self.geometry))
        beats = 1 + self.hidden_beats
        row = row_words(image.config.hidden, self.geometry)
        self.emit(Unit.ENGINE, EngineOp.EMBED, chunks=row, beats=beats, address=address)
        self.vector(VectorOp.EMBED, beats=beats, target=self.x, peak=Reg.PEAK)

    def _attention(self, layer: int) -> None:
        image, hidden = self.image, self.image.config.hidden
        norms, calibration = image.norms, self.calibration
        keys = {name: f"layers.{layer}.{name}" for name in "ifgo"}
        norm = norms[f"layers.{layer}.attn_norm"]
        outer = self.place_gains(norm)
        inner = {name: self.place_gains(norm * norms[keys[name]]) for name in "fig"}
        lower_bound = self.place_lower_bounds(image.lower_bounds[layer])
        fraction = _state_fraction(calibration.candidate[layer])
        shift = max(0, fraction + _exponent(calibration.gate[layer]) + MARGIN_BITS - (ELEMENT_BITS - 1))
        state = layer * self.hidden_beats
        beats = self.hidden_beats

        def gain(name: str, target: int, peak: Reg) -> None:
            self.vector(
                VectorOp.GAIN, source=self.x, gain=inner[name].address, target=target, scale=Reg.PEAK, peak=peak
            )

        # Forget gate, candidate, gate: the peak of one vector is found while another is gained or quantised. The scalar
        # chains stand where the engine is busy.
        gain("f", self.v, Reg.PEAK_V)
        gain("i", self.w, Reg.PEAK_W)
        self.vector(
            VectorOp.STAT, source=self.x, gain=outer.address, scale=Reg.PEAK, energy=Reg.ENERGY, power=Reg.POWER
        )
        self._quantise(self.v, Reg.PEAK_V, Reg.QSCALE_V, 0, beats)
        self._project(keys["f"], 0)
        self._quantise(self.w, Reg.PEAK_W, Reg.QSCALE_W, 1, beats)
        self._project(keys["i"], 1)
        gain("g", self.v, Reg.PEAK_T)
        self._rms(hidden, outer.fraction)
        self._scale(Reg.SCALE_V, Reg.PEAK_V, keys["f"], GAIN_SHIFT - inner["f"].fraction)
        self._scale(Reg.SCALE_W, Reg.PEAK_W, keys["i"], GAIN_SHIFT - inner["i"].fraction)
        self.vector(VectorOp.FORGET, gain=lower_bound, target=self.t, scale=Reg.SCALE_V)
        self._quantise(self.v, Reg.PEAK_T, Reg.QSCALE_V, 0, beats)
        self._project(keys["g"], 0)
        self.vector(VectorOp.STATE, source=self.t, state=state, scale=Reg.SCALE_W, fraction=fraction, fence=1)
        # The gate's own scale cancels in its norm: only accumulators are needed.
        self.vector(
            VectorOp.GATE,
            target=self.t,
            state=state,
            shift=shift,
            fraction=fraction,
            peak=Reg.PEAK_T,
            power=Reg.POWER,
            fence=1,
        )
        gated = self.place_gains(norms[f"layers.{layer}.g_norm"])
        output = self.place_gains(norms[f"layers.{layer}.g_norm"] * norms[keys["o"]])
        self.vector(VectorOp.GAIN, source=self.t, gain=output.address, target=self.v, scale=Reg.PEAK_T, peak=Reg.PEAK_V)
        # STAT's own power is not needed here: it goes to a register that is written next.
        self.vector(
            VectorOp.STAT, source=self.t, gain=gated.address, scale=Reg.PEAK_T, energy=Reg.ENERGY, power=Reg.RMS
        )
        self._quantise(self.v, Reg.PEAK_V, Reg.QSCALE_V, 1, beats)
        self._project(keys["o"], 1)
        # POWER counts squares of accumulators; the energy is in the block floating point of t.
        lift = shift - fraction
        self.scalar(ScalarOp.MUL, Reg.ENERGY, Reg.ENERGY, math.ldexp(1 / hidden, 2 * (STAT_SHIFT - gated.fraction)))
        self.scalar(ScalarOp.MUL, Reg.POWER, Reg.POWER, math.ldexp(BIT_EPS / hidden, 2 * (POWER_SHIFT - lift)))
        self.scalar(ScalarOp.LOWER, Reg.POWER, Reg.POWER, Reg.PEAK_T)
        self.scalar(ScalarOp.ADD, Reg.ENERGY, Reg.ENERGY, Reg.POWER)
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)
        self._scale(Reg.SCALE_V, Reg.PEAK_V, keys["o"], GAIN_SHIFT - output.fraction)
        self._residual()

    def _mlp(self, layer: int) -> None:
        image, config = self.image, self.image.config
        norms, calibration = image.norms, self.calibration
        gate, down = f"layers.{layer}.gate", f"layers.{layer}.down"
        norm = norms[f"layers.{layer}.mlp_norm"]
        outer = self.place_gains(norm)
        inner = self.place_gains(norm * norms[gate])
        product = self.place_gains(norms[down], bits=MLP_GAIN_BITS)
        fraction = _state_fraction(calibration.mlp_gate[layer])
        shift = max(0, fraction + _exponent(calibration.mlp[layer]) + MARGIN_BITS - (ELEMENT_BITS - 1))

        self.vector(VectorOp.GAIN, source=self.x, gain=inner.address, target=self.w, scale=Reg.PEAK, peak=Reg.PEAK_V)
        self.vector(
            VectorOp.STAT, source=self.x, gain=outer.address, scale=Reg.PEAK, energy=Reg.ENERGY, power=Reg.POWER
        )
        self._quantise(self.w, Reg.PEAK_V, Reg.QSCALE_V, 0, self.hidden_beats)
        self.macs += image.trits[gate].size
        self.matvec(self._interleave(image.trits[gate]), 0)
        self._rms(config.hidden, outer.fraction)
        self._scale(Reg.SCALE_G, Reg.PEAK_V, gate, GAIN_SHIFT - inner.fraction)
        self.vector(
            VectorOp.MLP,
            beats=2 * self.inner_beats,
            gain=product.address,
            target=self.v,
            scale=Reg.SCALE_G,
            shift=shift,
            fraction=fraction,
            peak=Reg.PEAK_W,
            energy=Reg.ENERGY,
        )
        self._quantise(self.v, Reg.PEAK_W, Reg.QSCALE_W, 1, self.inner_beats)
        self._project(down, 1)
        # rsqrt of (energy / m, in units of b's accumulator) + 1e-8 / scale(b)**2
        lift = shift - fraction
        length = config.intermediate
        self.scalar(ScalarOp.MUL, Reg.POWER, Reg.SCALE_G, Reg.SCALE_G)
        self.scalar(ScalarOp.RECIP, Reg.POWER, Reg.POWER)
        self.scalar(ScalarOp.MUL, Reg.POWER, Reg.POWER, BIT_EPS)
        self.scalar(ScalarOp.MUL, Reg.ENERGY, Reg.ENERGY, math.ldexp(1 / length, 2 * (MLP_STAT_SHIFT + lift)))
        self.scalar(ScalarOp.ADD, Reg.ENERGY, Reg.ENERGY, Reg.POWER)
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)
        self._scale(Reg.SCALE_V, Reg.PEAK_W, down, MLP_GAIN_SHIFT - product.fraction + lift)
        self._residual()

    def _residual(self) -> None:
        self.vector(
            VectorOp.RESID,
            source=self.x,
            target=self.x,
            scale=Reg.SCALE_V,
            fraction=self.residual_fraction,
            peak=Reg.PEAK,
        )

    def _interleave(self, trits: NDArray[np.int8]) -> NDArray[np.int8]:
        """The rows of both halves in alternating beats of V: a gate is followed by its value."""
        rows, inputs = trits.shape
        halves = np.zeros((2, self.inner_beats * self.geometry.vector, inputs), np.int8)
        halves[:, : rows // 2] = trits.reshape(2, rows // 2, inputs)
        beats = halves.reshape(2, self.inner_beats, self.geometry.vector, inputs)
        return beats.transpose(1, 0, 2, 3).reshape(-1, inputs)

    def _head(self) -> None:
        image, config = self.image, self.image.config
        self.emit(Unit.CONTROL, ControlOp.HEAD)
        outer = self.place_gains(image.norms["norm"])
        inner = self.place_gains(image.norms["norm"] * image.norms["head"])
        self.vector(VectorOp.GAIN, source=self.x, gain=inner.address, target=self.v, scale=Reg.PEAK, peak=Reg.PEAK_V)
        self.vector(
            VectorOp.STAT, source=self.x, gain=outer.address, scale=Reg.PEAK, energy=Reg.ENERGY, power=Reg.POWER
        )
        self._quantise(self.v, Reg.PEAK_V, Reg.QSCALE_V, 0, self.hidden_beats)
        self._project("head", 0)
        self._rms(config.hidden, outer.fraction)
        self._scale(Reg.SCALE_V, Reg.PEAK_V, "head", GAIN_SHIFT - inner.fraction)
        self.scalar(ScalarOp.MUL, Reg.SCALE_W, Reg.SCALE_V, Reg.TEMPERATURE)
        beats = ceil_div(config.vocabulary, self.geometry.vector)
        self.emit(Unit.CONTROL, ControlOp.SAMPLE, beats=beats, vocabulary=config.vocabulary, scale=Reg.SCALE_W)
        self.emit(Unit.CONTROL, ControlOp.END)


def _state_fraction(peak: float) -> int:
    """Fraction bits of a state with this calibrated peak; at most those of the sigmoid's input."""
    return _clamp(STATE_BITS - 1 - MARGIN_BITS - _exponent(peak), 0, INPUT_FRACTION)
