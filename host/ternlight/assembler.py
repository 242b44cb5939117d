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
from .formats import GAIN_BITS, LOWER_BOUND_FRACTION
from .geometry import Geometry, ceil_div
from .isa import TEMPERATURE_REGISTER, EngineOp, ScalarOp, Unit, VectorOp, instruction
from .trits import pack_store_words
from .weights import matvec_shape, matvec_words


class Reg(IntEnum):
    """Scalar registers by role."""

    PEAK = 0  # of the residual
    PEAK_V = 1  # of a gained vector, for the next product
    PEAK_W = 2
    QSCALE_V = 3
    QSCALE_W = 4
    ENERGY = 5
    POWER = 6
    RMS = 7  # reciprocal root mean square
    SCALE_V = 8
    SCALE_W = 9
    PEAK_T = 10
    SCALE_G = 11
    TEMPERATURE = TEMPERATURE_REGISTER


class Gains(NamedTuple):
    """Where a vector of gains lies, and its fixed-point fraction."""

    address: int
    fraction: int


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

    def place_gains(self, values: NDArray[Any], *, bits: int = GAIN_BITS) -> Gains:
        """Store gains, of which so many upper bits will be read, with the largest fraction that holds their peak."""
        unread = GAIN_BITS - bits
        peak = float(np.abs(values).max())
        fraction = math.floor(math.log2((VALUE_MAX >> unread) / peak)) if peak > 0 else 0
        fixed = np.rint(np.ldexp(values.astype(np.float64), fraction)).astype(np.int64)
        return Gains(self._place_words(compact.encode(fixed << unread)), fraction)

    def place_lower_bounds(self, values: NDArray[Any]) -> int:
        """Store lower bounds of forget gates, as plain fractions; returns their address."""
        limit = (1 << LOWER_BOUND_FRACTION) - 1
        fixed = np.rint(np.ldexp(values.astype(np.float64), LOWER_BOUND_FRACTION))
        return self._place_words(np.clip(fixed, -limit, limit))

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

    def vector(self, op: VectorOp, **fields: int) -> None:
        """Append a vector operation."""
        self.emit(Unit.VECTOR, op, **fields)

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
