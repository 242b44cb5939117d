"""Makes carry chains cheaper between synthesis and place and route."""

from __future__ import annotations

from collections import Counter
from typing import Any

UNCONNECTED = "x"


def clean_carries(netlist: dict[str, Any]) -> int:
    """Disconnect carries that nobody needs in a netlist of Yosys (its JSON, changed in place); returns how many.

    nextpnr spends two LUTs on every carry that enters a chain of CCU2C from the fabric, a constant as well, and on
    every one that leaves it, with readers or without. Left unconnected, a carry out costs nothing; a carry in is then
    whatever the cell below has, and so must not matter: its column neither passes it on nor adds it.
    """
    cleaned = 0
    for module in netlist["modules"].values():
        cells = [cell for cell in module["cells"].values() if cell["type"] == "CCU2C"]
        readers = _readers(module)
        for cell in cells:
            connections = cell["connections"]
            carry_out = connections.get("COUT", [])
            if carry_out and carry_out != [UNCONNECTED] and not _is_read(carry_out, readers):
                connections["COUT"] = [UNCONNECTED]
                cleaned += 1
            unread = not _is_read(connections.get("S0", []), readers)
            if connections.get("CIN") == ["0"] and unread and _kills_carry(cell):
                connections["CIN"] = [UNCONNECTED]
                cleaned += 1
    return cleaned


def _readers(module: dict[str, Any]) -> Counter[int]:
    """How often each net occurs in cells and ports."""
    count: Counter[int] = Counter()
    for cell in module["cells"].values():
        for bits in cell["connections"].values():
            count.update(bit for bit in bits if not isinstance(bit, str))
    for port in module.get("ports", {}).values():
        count.update(bit for bit in port["bits"] if not isinstance(bit, str))
    return count


def _is_read(output: list[Any], readers: Counter[int]) -> bool:
    """Whether a net occurs anywhere but at the output that drives it."""
    return any(not isinstance(bit, str) and readers[bit] > 1 for bit in output)


def _kills_carry(cell: dict[str, Any]) -> bool:
    """Whether the first column generates its carry whatever comes in.

    With C and D set, the LUT is the quarter of INIT that says whether a carry is passed on; if it is zero, none is.
    """
    connections = cell["connections"]
    passes = int(cell["parameters"]["INIT0"], 2) >> 12
    return passes == 0 and connections["C0"] == ["1"] and connections["D0"] == ["1"]
