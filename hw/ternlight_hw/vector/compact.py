"""The compact format of gains and states, as expressions: the twins of ternlight.compact."""

from __future__ import annotations

from amaranth import Cat, Const, Module, Mux, Value

from ternlight.formats import COMPACT_BITS, COMPACT_EXPONENT_BITS, COMPACT_MANTISSA_BITS, COMPACT_STEP, GAIN_BITS
from ternlight.geometry import ceil_div

from .arithmetic import named, round_shift, saturate


def decode(code: Value) -> Value:
    """The value of a code."""
    mantissa, exponent = code[:COMPACT_MANTISSA_BITS].as_signed(), code[COMPACT_MANTISSA_BITS:COMPACT_BITS]
    return (mantissa << exponent * COMPACT_STEP)[:GAIN_BITS].as_signed()


def encode(m: Module, value: Value) -> Value:
    """The code of a signed value; of a signal, as it is used several times."""
    largest = ceil_div(len(value) - COMPACT_MANTISSA_BITS, COMPACT_STEP)
    code = _code(m, value, largest)
    for exponent in reversed(range(largest)):
        above = value[COMPACT_MANTISSA_BITS - 1 + COMPACT_STEP * exponent :]
        code = Mux(above.all() | ~above.any(), _code(m, value, exponent), code)
    return code


def _code(m: Module, value: Value, exponent: int) -> Value:
    """The code with this exponent."""
    rounded = named(m, round_shift(value, COMPACT_STEP * exponent)) if exponent else value
    mantissa = saturate(rounded, COMPACT_MANTISSA_BITS)[:COMPACT_MANTISSA_BITS]
    return Cat(mantissa, Const(exponent, COMPACT_EXPONENT_BITS))
