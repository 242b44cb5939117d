"""Places words in a device's memories and emits instructions: what every part of a compilation needs."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import compact, ufloat
from .compact import VALUE_MAX
from .errors import FitError
from .formats import ELEMENT_BITS, GAIN_SHIFT, LIFT_MAX, LIFT_STEP, LOWER_BOUND_FRACTION
from .geometry import Geometry, ceil_div
from .isa import TEMPERATURE_REGISTER, EngineOp, GateOp, NormOp, ScalarOp, Unit, instruction
from .trits import pack_store_words
from .weights import matvec_shape, matvec_words

LIFT_MARGIN_BITS = 1
"""Headroom of a lifted vector over the largest value seen in calibration; beyond it, it saturates."""


class Reg(IntEnum):
    """Scalar registers by role; F, I, G stand for the products that they belong to."""

    POWER = 1  # of the residual, or of accumulators
    PEAK_F = 2  # of a gained vector; then the scale of its product, but for RMS
    PEAK_I = 3
    PEAK_G = 4
    QSCALE_F = 5
    QSCALE_I = 6
    QSCALE_G = 7
    ENERGY = 8
    RMS = 9  # reciprocal root mean square
    SCALE_F = 10
    SCALE_I = 11
    EPSILON = 13
    TEMPERATURE = TEMPERATURE_REGISTER


class Gains(NamedTuple):
    """Where a vector of gains lies, its fixed-point fraction, and the lift of the vector that it gains."""

    address: int
    fraction: int
    lift: int

    @property
    def fields(self) -> dict[str, int]:
        """The fields of an instruction that multiplies by them."""
        return {"gain": self.address, "lift": self.lift}

    @property
    def exponent(self) -> int:
        """What makes up for the shift behind the gains: the real vector is v * 2**exponent, in units of the source."""
        return GAIN_SHIFT - LIFT_STEP * self.lift - self.fraction


class Assembler:
    """A program and the words that it reads, as they grow.

    Parameters: name, of the model, for errors; geometry. Raises FitError for what does not fit.
    """

    def __init__(self, name: str, geometry: Geometry) -> None:
        self.name = name
        self.geometry = geometry
        self.program: list[dict[str, Any]] = []
        self.gains: list[NDArray[np.int16]] = []
        self.gain_words = 0
        self.lower_bounds: list[NDArray[np.int16]] = []
        self.store: list[NDArray[np.uint32]] = []
        self.store_words = 0

    def check_sizes(self) -> None:
        """Whether the program and its words fit the device."""
        geometry = self.geometry
        self.check("program", len(self.program), geometry.program_words, "program_words")
        self.check("gain memory", self.gain_words, geometry.gain_words, "gain_words")
        self.check("weight store", self.store_words, geometry.store_words, "store_words")

    def check(self, what: str, needed: int, limit: int, field: str) -> None:
        """Raise FitError when more is needed than the device has."""
        if needed > limit:
            raise FitError(
                f"{self.name} needs {needed} words of {what}, but the device has {limit}: "
                f"rebuild it with {field}={needed}, or choose a smaller model"
            )

    def place_gains(self, values: NDArray[Any], gained: float) -> Gains:
        """Store gains with the largest fraction that holds their peak.

        gained: the largest magnitude of the gained vector, in units of the source's last bit; with a margin it decides
        the lift.
        """
        peak = float(np.abs(values).max())
        fraction = math.floor(math.log2(VALUE_MAX / peak)) if peak > 0 else 0
        fixed = np.rint(np.ldexp(values.astype(np.float64), fraction)).astype(np.int64)
        used = math.ceil(math.log2(gained)) + fraction - GAIN_SHIFT + LIFT_MARGIN_BITS if gained > 0 else 0
        lift = min(max(0, ELEMENT_BITS - 1 - used) // LIFT_STEP, LIFT_MAX)
        return Gains(self._place_words(compact.encode(fixed)), fraction, lift)

    def place_lower_bounds(self, values: NDArray[Any]) -> int:
        """Store lower bounds of forget gates, as plain fractions; returns their place among the lower bounds."""
        limit = (1 << LOWER_BOUND_FRACTION) - 1
        fixed = np.rint(np.ldexp(values.astype(np.float64), LOWER_BOUND_FRACTION))
        words = 2 * ceil_div(len(values), self.geometry.vector)
        padded = np.zeros(words * self.geometry.half, np.int16)
        padded[: len(values)] = np.clip(fixed, -limit, limit)
        place = sum(map(len, self.lower_bounds))
        self.lower_bounds.append(padded.reshape(words, -1))
        return place

    def _place_words(self, values: NDArray[Any]) -> int:
        """Store 16-bit words in the gain memory, padded to words of V."""
        words = ceil_div(len(values), self.geometry.vector)
        padded = np.zeros(words * self.geometry.vector, np.int16)
        padded[: len(values)] = values
        self.gains.append(padded.reshape(words, -1))
        self.gain_words += words
        return self.gain_words - words

    def place_store(self, words: NDArray[np.uint32]) -> int:
        """Append weight words; returns the address of the first."""
        self.store.append(words)
        self.store_words += len(words)
        return self.store_words - len(words)

    def emit(self, unit: Unit, op: IntEnum, **fields: int) -> None:
        """Append an instruction."""
        try:
            self.program.append(instruction(unit, op, **fields))
        except ValueError as error:
            raise FitError(f"{self.name} is too large for the instruction set: {error}") from error

    def norm(self, op: NormOp, **fields: int) -> None:
        """Append an operation of the norm unit."""
        self.emit(Unit.NORM, op, **fields)

    def gate(self, op: GateOp, **fields: int) -> None:
        """Append an operation of the gate unit."""
        self.emit(Unit.GATE, op, **fields)

    def scalar(self, op: ScalarOp, target: Reg, a: Reg, b: Reg | float | None = None) -> None:
        """Append a scalar operation; its second operand is a register, a constant, or none."""
        if isinstance(b, Reg):
            self.emit(Unit.SCALAR, op, target=target, a=a, b=b)
        elif b is None:
            self.emit(Unit.SCALAR, op, target=target, a=a)
        else:
            mantissa, exponent = ufloat.from_float(b)
            self.emit(Unit.SCALAR, op, target=target, a=a, immediate=1, mantissa=mantissa, exponent=exponent)

    def matvec(self, trits: NDArray[np.int8], buffer: int) -> int:
        """Place a matrix and emit its product; returns the result beats."""
        rows, inputs = trits.shape
        shape = matvec_shape(rows, inputs, self.geometry)
        address = self.place_store(pack_store_words(matvec_words(trits, self.geometry), self.geometry))
        self.emit(
            Unit.ENGINE,
            EngineOp.MATVEC,
            buffer=buffer,
            chunks=shape.chunks,
            groups=shape.groups,
            beats=shape.beats,
            address=address,
        )
        return shape.beats
