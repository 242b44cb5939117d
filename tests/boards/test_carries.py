"""clean_carries on small netlists: what is cut, and what must stay."""

from __future__ import annotations

import pytest

from ternlight_boards.carries import clean_carries


def cell(*, init=0x0008, carry_in="0", sum_out=10, carry_out=11, controls=("1", "1")):
    return {
        "type": "CCU2C",
        "parameters": {"INIT0": f"{init:016b}", "INIT1": f"{0x96AA:016b}"},
        "connections": {
            "A0": [2],
            "B0": [3],
            "C0": [controls[0]],
            "D0": [controls[1]],
            "CIN": [carry_in],
            "S0": [sum_out],
            "COUT": [carry_out],
        },
    }


def netlist(*cells, ports=()):
    return {
        "modules": {
            "top": {
                "cells": {str(index): cell for index, cell in enumerate(cells)},
                "ports": {str(bit): {"bits": [bit]} for bit in ports},
            }
        }
    }


def carries(design):
    return [
        (cell["connections"]["CIN"][0], cell["connections"]["COUT"][0])
        for cell in design["modules"]["top"]["cells"].values()
        if cell["type"] == "CCU2C"
    ]


def test_a_chain_keeps_only_its_inner_carries():
    design = netlist(cell(), cell(carry_in=11, sum_out=12, carry_out=13))
    assert clean_carries(design) == 2
    assert carries(design) == [("x", 11), (11, "x")]
    assert clean_carries(design) == 0


def test_a_carry_out_that_is_read_stays():
    lut = {"type": "LUT4", "parameters": {}, "connections": {"A": [11], "Z": [20]}}
    design = netlist(cell(), lut)
    assert clean_carries(design) == 1
    assert carries(design) == [("x", 11)]
    design = netlist(cell(), ports=[11])
    assert clean_carries(design) == 1
    assert carries(design) == [("x", 11)]


@pytest.mark.parametrize(
    "changes",
    [
        {"carry_in": "1"},  # not nothing
        {"carry_in": 5},  # from the fabric
        {"init": 0x96AA},  # passes it on
        {"controls": (4, "1")},  # may pass it on
        {"controls": ("1", "0")},
    ],
)
def test_a_carry_in_that_matters_stays(changes):
    design = netlist(cell(**changes))
    assert clean_carries(design) == 1
    assert carries(design) == [(changes.get("carry_in", "0"), "x")]


def test_a_first_sum_that_is_read_has_its_carry():
    lut = {"type": "LUT4", "parameters": {}, "connections": {"A": [10], "Z": [20]}}
    design = netlist(cell(), lut)
    assert clean_carries(design) == 1
    assert carries(design) == [("0", "x")]
