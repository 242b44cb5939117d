"""From an image to what a device of some geometry holds: program, gains, weight words.

The program of a token is one list of instructions, layer after layer. A norm and the norm inside the next product are
folded: the vector is multiplied once by both gains and quantised by its own peak, and the root mean
squares enter only the product's output scale, a chain of scalar instructions off the critical path.

Scales. X is the residual in fixed point, A and G the gains a * 2**A.fraction and a * w * 2**G.fraction.
With the energy S2 of STAT and the power S1 of X (both in units of 4**SQUARE_SHIFT), and the peak of v that PEAK
returns, the product's scale is
    peak * beta / 127 * 2**(GAIN_SHIFT - G.fraction)
    * rsqrt(4**SQUARE_SHIFT / n * (S2 * 4**(GAIN_SHIFT - A.fraction) + 1e-8 * S1)):
the fraction of X cancels. The epsilon of the outer norm is dropped where it only multiplies 1e-8.

The order of instructions is that of issue: what a unit waits for is started before, and chains of scalars stand where
the units are busy.
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
from .assembler import Assembler, Gains, Reg
from .config import BIT_EPS
from .errors import FitError
from .formats import (
    ACTIVATION_BITS,
    ACTIVATION_MAX,
    ELEMENT_BITS,
    EMBEDDING_FACTOR_SHIFT,
    EMBEDDING_MANTISSA_BITS,
    EMBEDDING_SHIFT_BITS,
    POWER_SHIFT,
    SQUARE_SHIFT,
    STATE_BITS,
)
from .geometry import Geometry, ceil_div
from .image import Image
from .isa import (
    INSTRUCTION_COLUMNS,
    ControlOp,
    EngineOp,
    GateOp,
    NormOp,
    ScalarOp,
    Unit,
    encode,
)
from .sigmoid import INPUT_FRACTION
from .weights import embedding_words

MARGIN_BITS = 2
"""Headroom of calibrated formats over the largest value seen in calibration; beyond it they saturate."""


@dataclass(frozen=True)
class CompiledModel:
    """What a device is loaded with.

    program: instructions as dictionaries (see isa); gains: (words, V) int16; store: (words, store_columns) uint32;
    lower_bounds: (words, V / 2) int16, which lie in the state memory behind the states of all slots;
    state_stride: words of the state memory per session; macs: ternary weights of a token, without padding, of which
    head_macs belong to the head, which the tokens of a prompt skip.
    """

    geometry: Geometry
    vocabulary: int
    program: list[dict[str, Any]]
    gains: NDArray[np.int16]
    lower_bounds: NDArray[np.int16]
    store: NDArray[np.uint32]
    state_stride: int
    macs: int
    head_macs: int

    @cached_property
    def identity(self) -> int:
        """A 32-bit number, never 0, that differs for every content: the device keeps it with what it has loaded."""
        digest = hashlib.sha256(repr((self.geometry, self.vocabulary, self.state_stride)).encode())
        for words in (self.program_words(), self.gains, self.lower_bounds, self.store):
            digest.update(np.ascontiguousarray(words).data)
        return int.from_bytes(digest.digest()[:4], "little") or 1

    @property
    def lower_bound_word(self) -> int:
        """The first word of the lower bounds in the state memory."""
        return self.geometry.slots * self.state_stride

    def program_words(self) -> NDArray[np.uint32]:
        """The encoded program, (instructions, INSTRUCTION_COLUMNS)."""
        encoded = [encode(fields) for fields in self.program]
        return np.array(encoded, "<u8").view("<u4").reshape(-1, INSTRUCTION_COLUMNS)


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
        self.inner_beats = ceil_div(config.intermediate, geometry.half)  # of pairs
        self.gated_beats = ceil_div(config.intermediate, geometry.vector)
        self.state_stride = config.layers * 2 * self.hidden_beats
        self.lower_bound_word = geometry.slots * self.state_stride
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
            lower_bounds=np.concatenate(self.lower_bounds),
            store=np.concatenate(self.store),
            state_stride=self.state_stride,
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
        self.check("residual memory", self.hidden_beats, geometry.residual_words, "residual_words")
        self.check("gated memory", max(self.hidden_beats, self.gated_beats), geometry.gated_words, "gated_words")
        states = self.lower_bound_word + self.state_stride
        self.check(
            f"state memory of {geometry.slots} slots and the lower bounds", states, geometry.state_words, "state_words"
        )

    # What products share.

    def norm(self, op: NormOp, **fields: int) -> None:
        """Append an operation of the norm unit, by default on a vector of the hidden width."""
        super().norm(op, **{"beats": self.hidden_beats} | fields)

    def gate(self, op: GateOp, **fields: int) -> None:
        """Append an operation of the gate unit, by default on a vector of the hidden width."""
        super().gate(op, **{"beats": self.hidden_beats} | fields)

    def _gains(self, key: str, outer: NDArray[np.float32] | None, fraction: int) -> Gains:
        """Place the gains of a norm, times those of the norm before it, for a source with so many fraction bits."""
        values = self.image.norms[key] if outer is None else outer * self.image.norms[key]
        return self.place_gains(values, math.ldexp(self.calibration.gained[key], fraction))

    def _product(self, key: str, buffer: int, *, interleave: bool = False) -> None:
        trits = self.image.trits[key]
        self.macs += trits.size
        self.matvec(self._interleave(trits) if interleave else trits, buffer)

    def _epsilon(self, length: int, exponent: int) -> None:
        """EPSILON = 1e-8 * POWER * 2**exponent / length."""
        self.scalar(ScalarOp.MUL, Reg.EPSILON, Reg.POWER, math.ldexp(BIT_EPS / length, exponent))

    def _mean_square(self, length: int, exponent: int) -> None:
        """ENERGY = ENERGY * 2**exponent / length + EPSILON."""
        self.scalar(ScalarOp.MUL, Reg.ENERGY, Reg.ENERGY, math.ldexp(1 / length, exponent))
        self.scalar(ScalarOp.ADD, Reg.ENERGY, Reg.ENERGY, Reg.EPSILON)

    def _rms(self, length: int, energy_exponent: int, power_exponent: int) -> None:
        """RMS = rsqrt((ENERGY * 2**energy_exponent + 1e-8 * POWER * 2**power_exponent) / length)."""
        self._epsilon(length, power_exponent)
        self._mean_square(length, energy_exponent)
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)

    def _unscaled(self, peak: Reg, key: str, exponent: int) -> None:
        """peak = peak * beta / 127 * 2**exponent: the product's scale, but for RMS."""
        self.scalar(ScalarOp.MUL, peak, peak, math.ldexp(self.image.betas[key] / ACTIVATION_MAX, exponent))

    # The model.

    def _embedding(self) -> None:
        image, geometry = self.image, self.geometry
        rows = image.embedding.astype(np.float64)
        rows = np.ldexp(rows, self.residual_fraction - image.embedding_exponent.astype(np.int64)[:, None])
        values, scales = quantise_rows(rows, geometry.embedding_bits)
        address = self.place_store(embedding_words(values, scales, geometry))
        stride = ceil_div(image.config.vocabulary, geometry.cells)
        self.emit(Unit.ENGINE, EngineOp.EMBED, chunks=self.hidden_beats, groups=stride, address=address)
        self.norm(NormOp.EMBED, reduction=Reg.POWER)

    def _attention(self, layer: int) -> None:
        image, hidden = self.image, self.image.config.hidden
        norms, calibration = image.norms, self.calibration
        keys = {name: f"layers.{layer}.{name}" for name in "ifgo"}
        norm = norms[f"layers.{layer}.attn_norm"]
        inner = {name: self._gains(keys[name], norm, self.residual_fraction) for name in "fig"}
        outer = self._gains(f"layers.{layer}.attn_norm", None, self.residual_fraction)
        lower_bound = self.place_lower_bounds(image.lower_bounds[layer])
        fraction = _state_fraction(calibration.candidate[layer])
        shift = max(0, fraction + _exponent(calibration.gate[layer]) + MARGIN_BITS - (ELEMENT_BITS - 1))
        state = layer * 2 * self.hidden_beats

        # Forget gate, candidate, gate: the norm unit passes the residual once for each peak, and quantises each vector
        # while the engine multiplies the one before.
        self.norm(NormOp.PEAK, **inner["f"].fields, reduction=Reg.PEAK_F)
        self.norm(NormOp.STAT, **outer.fields, reduction=Reg.ENERGY)
        self.norm(NormOp.PEAK, **inner["i"].fields, reduction=Reg.PEAK_I)
        self.norm(NormOp.PEAK, **inner["g"].fields, reduction=Reg.PEAK_G)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_F, Reg.PEAK_F)
        self._unscaled(Reg.PEAK_F, keys["f"], inner["f"].exponent)
        self._epsilon(hidden, 2 * SQUARE_SHIFT)
        self.norm(NormOp.QUANT, **inner["f"].fields, scale=Reg.QSCALE_F, buffer=0)
        self._product(keys["f"], 0)
        self._mean_square(hidden, 2 * (outer.exponent + SQUARE_SHIFT))
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_I, Reg.PEAK_I)
        self._unscaled(Reg.PEAK_I, keys["i"], inner["i"].exponent)
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)
        self.norm(NormOp.QUANT, **inner["i"].fields, scale=Reg.QSCALE_I, buffer=1)
        self._product(keys["i"], 1)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_G, Reg.PEAK_G)
        self.scalar(ScalarOp.MUL, Reg.SCALE_F, Reg.PEAK_F, Reg.RMS)
        # A product whose results nobody takes may never end, and never free its buffer.
        self.gate(GateOp.FORGET, state=self.lower_bound_word + lower_bound, scale=Reg.SCALE_F)
        self.norm(NormOp.QUANT, **inner["g"].fields, scale=Reg.QSCALE_G, buffer=0)
        self._product(keys["g"], 0)
        self.scalar(ScalarOp.MUL, Reg.SCALE_I, Reg.PEAK_I, Reg.RMS)
        self.gate(GateOp.STATE, state=state, scale=Reg.SCALE_I, fraction=fraction)
        # The gate's own scale cancels in its norm: only accumulators are needed.
        self.gate(GateOp.GATE, state=state, shift=shift, fraction=fraction, reduction=Reg.POWER)
        gated = norms[f"layers.{layer}.g_norm"]
        drop = shift - fraction  # t = acc * silu(h) / 2**drop
        outer = self._gains(f"layers.{layer}.g_norm", None, -drop)
        output = self._gains(keys["o"], gated, -drop)
        self.norm(NormOp.PEAK, gated=1, **output.fields, reduction=Reg.PEAK_F)
        self.norm(NormOp.STAT, gated=1, **outer.fields, reduction=Reg.ENERGY)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_F, Reg.PEAK_F)
        self._unscaled(Reg.PEAK_F, keys["o"], output.exponent)
        self.norm(NormOp.QUANT, gated=1, **output.fields, scale=Reg.QSCALE_F, buffer=1)
        self._product(keys["o"], 1)
        # The power is of accumulators, the energy of t.
        self._rms(hidden, 2 * (outer.exponent + SQUARE_SHIFT), 2 * (POWER_SHIFT - drop))
        self._residual()

    def _mlp(self, layer: int) -> None:
        image, config = self.image, self.image.config
        norms, calibration = image.norms, self.calibration
        gate, down = f"layers.{layer}.gate", f"layers.{layer}.down"
        norm = norms[f"layers.{layer}.mlp_norm"]
        inner = self._gains(gate, norm, self.residual_fraction)
        outer = self._gains(f"layers.{layer}.mlp_norm", None, self.residual_fraction)
        fraction = _state_fraction(calibration.mlp_gate[layer])
        shift = max(0, fraction + _exponent(calibration.mlp[layer]) + MARGIN_BITS - (ELEMENT_BITS - 1))

        drop = shift - fraction  # t = silu(a * scale) * b / 2**drop
        product = self._gains(down, None, -drop)

        self.norm(NormOp.PEAK, **inner.fields, reduction=Reg.PEAK_F)
        self.norm(NormOp.STAT, **outer.fields, reduction=Reg.ENERGY)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_F, Reg.PEAK_F)
        self._unscaled(Reg.PEAK_F, gate, inner.exponent)
        self.norm(NormOp.QUANT, **inner.fields, scale=Reg.QSCALE_F, buffer=0)
        self._product(gate, 0, interleave=True)
        self._rms(config.hidden, 2 * (outer.exponent + SQUARE_SHIFT), 2 * SQUARE_SHIFT)
        self.scalar(ScalarOp.MUL, Reg.SCALE_F, Reg.PEAK_F, Reg.RMS)
        self.gate(
            GateOp.MLP, beats=self.inner_beats, scale=Reg.SCALE_F, shift=shift, fraction=fraction, reduction=Reg.ENERGY
        )
        # The root mean square of b: rsqrt(energy / m in units of b's accumulator, + 1e-8 / scale(b)**2).
        self.scalar(ScalarOp.MUL, Reg.POWER, Reg.SCALE_F, Reg.SCALE_F)
        self.scalar(ScalarOp.RECIP, Reg.POWER, Reg.POWER)
        self.norm(NormOp.PEAK, gated=1, beats=self.gated_beats, **product.fields, reduction=Reg.PEAK_I)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_I, Reg.PEAK_I)
        self._unscaled(Reg.PEAK_I, down, product.exponent + drop)
        self.norm(NormOp.QUANT, gated=1, beats=self.gated_beats, **product.fields, scale=Reg.QSCALE_I, buffer=1)
        self._product(down, 1)
        length = config.intermediate
        self.scalar(ScalarOp.MUL, Reg.EPSILON, Reg.POWER, BIT_EPS)
        self._mean_square(length, 2 * (SQUARE_SHIFT + drop))
        self.scalar(ScalarOp.RSQRT, Reg.RMS, Reg.ENERGY)
        self._residual(Reg.PEAK_I)

    def _residual(self, unscaled: Reg = Reg.PEAK_F) -> None:
        """x = x + the product, whose scale is `unscaled` times RMS."""
        self.scalar(ScalarOp.MUL, Reg.SCALE_I, unscaled, Reg.RMS)
        self.norm(NormOp.RESID, scale=Reg.SCALE_I, fraction=self.residual_fraction, reduction=Reg.POWER)

    def _interleave(self, trits: NDArray[np.int8]) -> NDArray[np.int8]:
        """The rows of both halves in alternating half beats: H gates, then their values."""
        rows, inputs = trits.shape
        half = self.geometry.half
        halves = np.zeros((2, self.inner_beats * half, inputs), np.int8)
        halves[:, : rows // 2] = trits.reshape(2, rows // 2, inputs)
        return halves.reshape(2, self.inner_beats, half, inputs).transpose(1, 0, 2, 3).reshape(-1, inputs)

    def _head(self) -> None:
        image, config = self.image, self.image.config
        self.emit(Unit.CONTROL, ControlOp.HEAD)
        inner = self._gains("head", image.norms["norm"], self.residual_fraction)
        outer = self._gains("norm", None, self.residual_fraction)
        self.norm(NormOp.PEAK, **inner.fields, reduction=Reg.PEAK_F)
        self.norm(NormOp.STAT, **outer.fields, reduction=Reg.ENERGY)
        self.scalar(ScalarOp.QSCALE, Reg.QSCALE_F, Reg.PEAK_F)
        self._unscaled(Reg.PEAK_F, "head", inner.exponent)
        self.norm(NormOp.QUANT, **inner.fields, scale=Reg.QSCALE_F, buffer=0)
        self._product("head", 0)
        self.scalar(ScalarOp.MUL, Reg.PEAK_F, Reg.PEAK_F, Reg.TEMPERATURE)
        self._rms(config.hidden, 2 * (outer.exponent + SQUARE_SHIFT), 2 * SQUARE_SHIFT)
        self.scalar(ScalarOp.MUL, Reg.SCALE_F, Reg.PEAK_F, Reg.RMS)
        beats = ceil_div(config.vocabulary, self.geometry.vector)
        self.emit(Unit.CONTROL, ControlOp.SAMPLE, beats=beats, vocabulary=config.vocabulary, scale=Reg.SCALE_F)
        self.emit(Unit.CONTROL, ControlOp.END)


def quantise_rows(rows: NDArray[np.float64], bits: int) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Embedding rows (tokens, width), in units of the residual's last bit, as signed values and scales (tokens,).

    A row is values * 2**(8 - bits) * (32 + m) * 2**(9 - s), with the scale m | s << 5 (see ternlight.formats): the
    smallest scale that holds the row's peak, or the power of two above it if the row is exact there, as an image's rows
    are with 8 bits.
    """
    one = 1 << EMBEDDING_MANTISSA_BITS
    shift_max = (1 << EMBEDDING_SHIFT_BITS) - 1
    limit = (1 << bits - 1) - 1
    coarsest = ACTIVATION_BITS - bits + EMBEDDING_FACTOR_SHIFT
    # In units of 2**coarsest, as 2**exponent times something in 32 .. 64.
    unit = np.abs(rows).max(axis=1) / limit / 2.0**coarsest
    exponent = np.frexp(np.maximum(unit, np.finfo(np.float64).tiny))[1] - 1 - EMBEDDING_MANTISSA_BITS
    mantissa = np.ceil(np.ldexp(unit, -exponent)).astype(np.int64)
    exponent += mantissa == 2 * one
    mantissa = np.where(mantissa == 2 * one, one, mantissa)
    power = exponent + (mantissa > one)
    steps = np.ldexp(rows, -(power + EMBEDDING_MANTISSA_BITS + coarsest)[:, None])
    exact = (power <= 0) & (np.rint(steps) == steps).all(axis=1)
    mantissa, exponent = np.where(exact, one, mantissa), np.where(exact, power, exponent)
    # A row below the finest scale, or beyond the coarsest, is rounded to it.
    mantissa = np.where(exponent > 0, 2 * one - 1, np.where(exponent < -shift_max, one, mantissa))
    exponent = np.clip(exponent, -shift_max, 0)
    scale = np.ldexp(mantissa.astype(np.float64), exponent + coarsest)
    values = np.clip(np.rint(rows / scale[:, None]), -limit, limit).astype(np.int8)
    return values, (mantissa - one) | -exponent << EMBEDDING_MANTISSA_BITS


def _state_fraction(peak: float) -> int:
    """Fraction bits of a state with this calibrated peak; at most those of the sigmoid's input."""
    return _clamp(STATE_BITS - 1 - MARGIN_BITS - _exponent(peak), 0, INPUT_FRACTION)
