"""The device for a 7-series part on PCIe: its synthesis, and what the core must be generated with."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from ternlight.errors import BuildError
from ternlight.geometry import Geometry
from ternlight.pcie_map import BAR_BYTES, CLASS_CODE, DEVICE_ID, VENDOR_ID
from ternlight_boards import nitefury
from ternlight_boards.series7 import CLOCK_HZ, PORTS, SETTINGS, Series7Device, core_stub
from ternlight_boards.synthesis import synthesise

TINY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    embedding_bits=4,
    store_words=64,
    gain_words=64,
    residual_words=16,
    gated_words=16,
    state_words=64,
    program_words=64,
    activations=32,
    accumulator=14,
    contexts=1,
    slots=2,
    prompt=16,
    ring=16,
    top_k=4,
    clock_hz=CLOCK_HZ,
)


def test_the_whole_device_is_synthesised(tmp_path):
    phrases = []
    counts = synthesise(tmp_path, geometry=TINY, status=phrases.append)
    assert phrases == ["generating the design", "synthesising"]
    # Both windows are block RAM, and nothing of the endpoint was optimised away.
    assert counts["pcie"] == 1
    assert counts["block_ram_36"] >= 2
    netlist = json.loads((tmp_path / "device.json").read_text())["modules"]["device"]
    names = " ".join(netlist["netnames"])
    for unit in ("fetcher", "sender", "completer", "receiver", "requests", "answers"):
        assert f"top.endpoint.{unit}." in names
    (core,) = (cell for cell in netlist["cells"].values() if cell["type"] == "pcie_7x_0")
    connected = {port: len(bits) for port, bits in core["connections"].items()}
    assert connected == {name: width for name, (_, width) in PORTS.items()}
    # Each input of the core is driven by logic, a pin or a constant.
    constant = {"rx_np_req": ["1"], "tx_cfg_gnt": ["1"], "s_axis_tx_tuser": ["0"] * 4}
    for port, bits in constant.items():
        assert core["connections"][port] == bits
    constraints = (tmp_path / "device.xdc").read_text()
    pins = dict(re.findall(r"LOC (\w+) \[get_ports \{?([\w_]+)", constraints))
    lane = {"F6": "clk__p", "E6": "clk__n", "B10": "rx__p", "A10": "rx__n", "B6": "tx__p", "A6": "tx__n"}
    for pin, name in (lane | {"J1": "rst__io"}).items():
        assert pins[pin] == f"pcie_0__{name}"
    assert json.loads((tmp_path / "pcie_7x_0.json").read_text()) == SETTINGS


def test_the_core_is_what_the_driver_looks_for():
    assert int(SETTINGS["Vendor_ID"], 16) == VENDOR_ID
    assert int(SETTINGS["Device_ID"], 16) == DEVICE_ID
    classes = (SETTINGS[f"Class_Code_{part}"] for part in ("Base", "Sub", "Interface"))
    assert int("".join(classes), 16) == CLASS_CODE
    assert int(SETTINGS["Bar0_Size"]) * 1024 == BAR_BYTES
    assert float(SETTINGS["User_Clk_Freq"]) * 1e6 == CLOCK_HZ == nitefury.GEOMETRY.clock_hz
    assert core_stub().count("\n") == len(PORTS) + 5


def test_another_clock():
    geometry = replace(TINY, clock_hz=100_000_000)
    with pytest.raises(BuildError, match=r"runs at the clock of PCIe, 62.5 MHz, and not at 100$"):
        Series7Device(geometry=geometry, build_id=0)
