"""The device for a 7-series part on PCIe: its synthesis, and what the core must be generated with."""

from __future__ import annotations

import json
import re

import pytest
from amaranth import Module, unsigned
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from ternlight.errors import BuildError
from ternlight.pcie_map import BAR_BYTES, CLASS_CODE, DEVICE_ID, VENDOR_ID
from ternlight_boards import nitefury, synthesis
from ternlight_boards.series7 import CLOCK_HZ, PORTS, SETTINGS
from ternlight_boards.synthesis import main, synthesise
from ternlight_hw.pcie import PcieEndpoint, PcieTop
from ternlight_hw.pcie.tlp import BEAT, CONFIGURATION


class Small(wiring.Component):
    """The endpoint before one register instead of a core."""

    def __init__(self) -> None:
        beats = stream.Signature(BEAT)
        members = {"receive": In(beats), "transmit": Out(beats), "configuration": In(CONFIGURATION), "room": Out(1)}
        super().__init__(members | {"interrupt": Out(1), "interrupt_done": In(1), "active": Out(unsigned(1))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.endpoint = endpoint = PcieEndpoint(columns={})
        bus = endpoint.bus
        connect(m, flipped(self.receive), endpoint.receive)
        connect(m, endpoint.transmit, flipped(self.transmit))
        m.d.comb += [
            endpoint.configuration.eq(self.configuration),
            endpoint.interrupt_done.eq(self.interrupt_done),
            self.room.eq(endpoint.room),
            self.interrupt.eq(endpoint.interrupt),
            bus.ack.eq(bus.enable),
            self.active.eq(bus.read_data.any()),
        ]
        with m.If(bus.enable & bus.write):
            m.d.sync += bus.read_data.eq(bus.write_data ^ bus.address)
        return m


@pytest.fixture(scope="module")
def synthesised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    phrases = []
    counts = synthesise(folder, Small(), status=phrases.append)
    assert phrases == ["generating the design", "synthesising"]
    return folder, counts


def test_the_endpoint_is_synthesised_behind_the_core(synthesised):
    folder, counts = synthesised
    # Both windows are block RAM, and nothing of the endpoint was optimised away.
    assert (counts["pcie"], counts["block_ram_36"], counts["dsp"]) == (1, 2, 0)
    netlist = json.loads((folder / "device.json").read_text())["modules"]["device"]
    names = " ".join(netlist["netnames"])
    for unit in ("fetcher", "sender", "completer", "receiver", "requests", "answers", "registers"):
        assert f"top.endpoint.{unit}." in names


def test_the_core_is_connected(synthesised):
    folder, _ = synthesised
    netlist = json.loads((folder / "device.json").read_text())["modules"]["device"]
    (core,) = (cell for cell in netlist["cells"].values() if cell["type"] == "pcie_7x_0")
    assert {port: len(bits) for port, bits in core["connections"].items()} == {
        name: width for name, (_, width) in PORTS.items()
    }
    inputs = {name: core["connections"][name] for name, (way, _) in PORTS.items() if way == "input"}
    constant = {name: bits for name, bits in inputs.items() if all(isinstance(bit, str) for bit in bits)}
    assert constant == {
        "rx_np_req": ["1"],
        "tx_cfg_gnt": ["1"],
        "s_axis_tx_tuser": ["0"] * 4,
        "cfg_interrupt_di": ["0"] * 8,
        "cfg_interrupt_assert": ["0"],
    }
    # Four bytes of `keep` a word, the first word's always there.
    low, high = inputs["s_axis_tx_tkeep"][:4], inputs["s_axis_tx_tkeep"][4:]
    assert len(set(low)) == len(set(high)) == 1 != len({*low, *high})
    constraints = (folder / "device.xdc").read_text()
    pins = {
        "clk__p": "F6",
        "clk__n": "E6",
        "rx__p": "B10",
        "rx__n": "A10",
        "tx__p": "B6",
        "tx__n": "A6",
        "rst__io": "J1",
    }
    for name, pin in pins.items():
        assert re.search(rf"LOC {pin} \[get_ports .?pcie_0__{name}\W", constraints), (name, constraints)
    assert json.loads((folder / "pcie_7x_0.json").read_text()) == SETTINGS


def test_the_core_is_what_the_driver_looks_for():
    assert int(SETTINGS["Vendor_ID"], 16) == VENDOR_ID
    assert int(SETTINGS["Device_ID"], 16) == DEVICE_ID
    classes = (SETTINGS[f"Class_Code_{part}"] for part in ("Base", "Sub", "Interface"))
    assert int("".join(classes), 16) == CLASS_CODE
    assert int(SETTINGS["Bar0_Size"]) * 1024 == BAR_BYTES
    assert float(SETTINGS["User_Clk_Freq"]) * 1e6 == CLOCK_HZ == nitefury.GEOMETRY.clock_hz


def test_the_command(tmp_path, monkeypatch, capsys):
    tops = []
    monkeypatch.setattr(synthesis, "PcieTop", lambda *, geometry: tops.append(geometry))
    monkeypatch.setattr(synthesis, "synthesise", lambda folder, top, *, status: status("a step") or {"lut": 7})
    main([str(tmp_path)])
    assert tops == [nitefury.GEOMETRY]
    assert (json.loads((said := capsys.readouterr()).out), said.err) == ({"lut": 7}, "a step\n")


@pytest.mark.on_demand
def test_the_whole_device_is_synthesised(tmp_path, capsys):
    main([str(tmp_path)])
    counts = json.loads(capsys.readouterr().out)
    assert counts["pcie"] == 1
    assert 10_000 < counts["lut"] < 134_600  # those of the XC7A200T


def test_a_netlist_without_the_core(tmp_path, monkeypatch):
    netlist = {"modules": {"device": {"cells": {"a": {"type": "LUT2"}}}}}
    monkeypatch.setattr(
        "ternlight_boards.tools.run", lambda *_, folder, log: (folder / "device.json").write_text(json.dumps(netlist))
    )
    with pytest.raises(BuildError, match="the netlist has 0 PCIe cores and 1 LUTs"):
        synthesise(tmp_path, Small())


def test_the_top_has_what_the_shim_connects():
    assert {name for name, _ in Small().signature.members.items()} == {
        name for name, _ in PcieTop(geometry=nitefury.GEOMETRY).signature.members.items()
    }
