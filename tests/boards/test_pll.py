"""Dividers: exact clocks inside every limit, found whenever there are any."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest

from ternlight.errors import BuildError
from ternlight_boards.pll import MHZ, Ecp5Pll, GowinPll

INPUTS = (12, 25, 27, 100)
PLLS = (Ecp5Pll, GowinPll)


def within(limits, hz) -> bool:
    return limits.low * MHZ <= hz <= limits.high * MHZ


def legal(pll) -> bool:
    """The equations and limits of the data sheets, on one setting."""
    return (
        Fraction(pll.input_hz * pll.feedback, pll.reference) == pll.output_hz
        and pll.reference in pll.REFERENCES
        and pll.feedback in pll.FEEDBACKS
        and pll.divider in pll.DIVIDERS
        and within(pll.INPUT, pll.input_hz)
        and within(pll.DETECTOR, Fraction(pll.input_hz, pll.reference))
        and within(pll.OSCILLATOR, pll.output_hz * pll.divider)
        and within(pll.OUTPUT, pll.output_hz)
    )


@pytest.mark.parametrize("family", PLLS)
@pytest.mark.parametrize("input_mhz", INPUTS)
def test_every_possible_clock_is_found_and_no_other(family, input_mhz):
    """Against all settings, for clocks of whole and half megahertz."""
    ratios = {Fraction(*pair) for pair in product(family.FEEDBACKS, family.REFERENCES)}
    found = 0
    for half_mhz in (*range(5, 250, 12), *range(input_mhz, 7 * input_mhz, input_mhz)):
        input_hz, output_hz = input_mhz * MHZ, half_mhz * MHZ // 2
        possible = Fraction(output_hz, input_hz) in ratios and any(
            legal(
                family(
                    input_hz=input_hz,
                    output_hz=output_hz,
                    reference=reference,
                    feedback=output_hz * reference // input_hz,
                    divider=divider,
                )
            )
            for reference, divider in product(family.REFERENCES, family.DIVIDERS)
            if output_hz * reference % input_hz == 0
        )
        if possible:
            assert legal(family.solve(input_hz, output_hz))
            found += 1
        else:
            with pytest.raises(BuildError, match="cannot make"):
                family.solve(input_hz, output_hz)
    assert found >= 3


def test_the_fastest_comparison_is_taken():
    pll = Ecp5Pll.solve(25 * MHZ, 50 * MHZ)
    assert (pll.reference, pll.feedback, pll.divider, pll.oscillator_hz) == (1, 2, 12, 600 * MHZ)
    pll = GowinPll.solve(27 * MHZ, 54 * MHZ)
    assert (pll.reference, pll.feedback, pll.divider, pll.oscillator_hz) == (1, 2, 16, 864 * MHZ)


def test_the_nearest_clocks_are_named():
    with pytest.raises(BuildError, match=r"cannot make 60 MHz from 25 MHz: next to it are 50 and 62\.5 MHz"):
        Ecp5Pll.solve(25 * MHZ, 60 * MHZ)
    with pytest.raises(BuildError, match=r"cannot make 500 MHz from 25 MHz: next to it are 400 MHz"):
        Ecp5Pll.solve(25 * MHZ, 500 * MHZ)


@pytest.mark.parametrize("input_mhz", [1, 500])
def test_an_input_out_of_range(input_mhz):
    with pytest.raises(BuildError, match=f"the PLL takes from 8 to 400 MHz, not {input_mhz} MHz"):
        Ecp5Pll.solve(input_mhz * MHZ, 50 * MHZ)
