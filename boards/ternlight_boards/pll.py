"""Dividers of the FPGAs' clock generators: from a board's oscillator to exactly the clock that is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from ternlight.errors import BuildError

MHZ = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Range:
    """Frequencies that a part of a clock generator works at, in MHz."""

    low: float
    high: float

    def __contains__(self, hz: Fraction) -> bool:
        return self.low * MHZ <= hz <= self.high * MHZ


@dataclass(frozen=True, kw_only=True)
class Pll:
    """Settings of a generator whose output is fed back: output = input * feedback / reference.

    Its oscillator runs at output * divider; the phase detector compares at input / reference.
    """

    input_hz: int
    output_hz: int
    reference: int
    feedback: int
    divider: int

    # Of the family: what the three numbers can be, and where the parts work.
    REFERENCES: ClassVar[Iterable[int]]
    FEEDBACKS: ClassVar[Iterable[int]]
    DIVIDERS: ClassVar[Iterable[int]]
    INPUT: ClassVar[Range]
    DETECTOR: ClassVar[Range]
    OSCILLATOR: ClassVar[Range]
    OUTPUT: ClassVar[Range]

    @property
    def oscillator_hz(self) -> int:
        """Where the oscillator runs."""
        return self.output_hz * self.divider

    @classmethod
    def solve(cls, input_hz: int, output_hz: int) -> Pll:
        """The settings that give exactly `output_hz`; raises BuildError that names the nearest clocks.

        Of several, the one that compares most often, and whose oscillator runs nearest the middle of its range.
        """
        if Fraction(input_hz) not in cls.INPUT:
            raise BuildError(
                f"the PLL takes from {cls.INPUT.low:g} to {cls.INPUT.high:g} MHz, not {input_hz / MHZ:g} MHz"
            )
        for reference in cls.REFERENCES:
            feedback, remainder = divmod(output_hz * reference, input_hz)
            if remainder or feedback not in cls.FEEDBACKS or Fraction(input_hz, reference) not in cls.DETECTOR:
                continue
            divider = cls._divider(Fraction(output_hz))
            if divider is not None:
                return cls(
                    input_hz=input_hz, output_hz=output_hz, reference=reference, feedback=feedback, divider=divider
                )
        possible = sorted(cls._outputs(input_hz))
        below = [hz for hz in possible if hz < output_hz][-1:]
        above = [hz for hz in possible if hz > output_hz][:1]
        nearest = " and ".join(f"{float(hz) / MHZ:.6g}" for hz in (*below, *above))
        raise BuildError(
            f"the PLL cannot make {output_hz / MHZ:g} MHz from {input_hz / MHZ:g} MHz: next to it are {nearest} MHz"
        )

    @classmethod
    def _divider(cls, output_hz: Fraction) -> int | None:
        if output_hz not in cls.OUTPUT:
            return None
        middle = (cls.OSCILLATOR.low + cls.OSCILLATOR.high) / 2 * MHZ
        dividers = (divider for divider in cls.DIVIDERS if output_hz * divider in cls.OSCILLATOR)
        return min(dividers, key=lambda divider: abs(output_hz * divider - middle), default=None)

    @classmethod
    def _outputs(cls, input_hz: int) -> set[Fraction]:
        ratios = {
            Fraction(input_hz * feedback, reference)
            for reference in cls.REFERENCES
            if Fraction(input_hz, reference) in cls.DETECTOR
            for feedback in cls.FEEDBACKS
        }
        return {hz for hz in ratios if cls._divider(hz) is not None}


@dataclass(frozen=True, kw_only=True)
class Ecp5Pll(Pll):
    """EHXPLLL with its first output as feedback (limits: FPGA-DS-02012, sysCLOCK PLL timing)."""

    REFERENCES = range(1, 129)
    FEEDBACKS = range(1, 129)
    DIVIDERS = range(1, 129)
    INPUT = Range(low=8, high=400)
    DETECTOR = Range(low=10, high=400)
    OSCILLATOR = Range(low=400, high=800)
    OUTPUT = Range(low=3.125, high=400)


@dataclass(frozen=True, kw_only=True)
class GowinPll(Pll):
    """rPLL of a GW2A of speed grade C8/I7 (limits: Apicula's gowin_pll)."""

    REFERENCES = range(1, 65)
    FEEDBACKS = range(1, 65)
    DIVIDERS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
    INPUT = Range(low=3, high=500)
    DETECTOR = Range(low=3, high=500)
    OSCILLATOR = Range(low=500, high=1250)
    OUTPUT = Range(low=3.90625, high=625)
