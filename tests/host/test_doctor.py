"""What the doctor finds in setups that lack something, and on devices that are well and not."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ternlight import connect, doctor
from ternlight.abi import ABI_VERSION, Register, Window
from ternlight.cli import main
from ternlight.device import Device
from ternlight.doctor import Finding, State, examine_device, examine_ports, examine_tools
from ternlight.errors import BuildError, LinkError
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
IMAGE = random_image(
    random_config(hidden=9, intermediate=12, layers=1, vocabulary=BYTE_TOKENS, name="tiny"),
    3,
    tokenizer=byte_tokenizer(),
)


@pytest.fixture
def model() -> DeviceModel:
    return DeviceModel(GEOMETRY)


def examined(model: DeviceModel, image=IMAGE) -> list[Finding]:
    @contextmanager
    def opened():
        yield Device(Port(model, clock=model.clock, seed=1))

    return list(examine_device(opened, image))


def only(findings: list[Finding], check: str) -> Finding:
    found = [finding for finding in findings if finding.check == check]
    assert len(found) == 1, findings
    return found[0]


# Tools.


def test_tools_that_are_there(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    findings = list(examine_tools())
    assert [finding.check for finding in findings] == ["python", "sim", "fpga", "serve", "loader"]
    assert only(findings, "sim").state == only(findings, "serve").state == State.OK
    assert only(findings, "loader") == Finding("loader", State.OK, "/usr/bin/openFPGALoader")


def test_tools_that_are_missing(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "EXTRAS", {"serve": ("serving", ("starlette", "no-such-package"), ("g++",))})
    findings = list(examine_tools())
    assert only(findings, "serve") == Finding(
        "serve",
        State.NOTE,
        "serving needs no-such-package, g++",
        "pip install 'ternlight[serve]'; install g++ (Debian: apt install g++ make)",
    )
    assert only(findings, "loader").remedy == "install it (Debian: apt install openfpgaloader)"


def test_every_package_of_the_extras_is_declared():
    """Their names are those of the package's own metadata."""
    declared = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    for _, packages, _ in doctor.EXTRAS.values():
        assert all(f'"{package}>=' in declared for package in packages)


# Ports and boards.


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with a board on a port that this user may open."""
    port = tmp_path / "ttyUSB0"
    port.touch()
    usb, serial = tmp_path / "bus/usb/devices/1-2", tmp_path / "bus/usb-serial/devices/ttyUSB0"
    (tmp_path / "bus/usb/devices/1-0:1.0").mkdir(parents=True)
    for folder, files in ((usb, {"idVendor": "0403\n", "idProduct": "6015\n"}), (serial, {"latency_timer": "1\n"})):
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    ports = [SimpleNamespace(device=str(port), description="FT231X", vid=0x0403)]
    monkeypatch.setattr(doctor.list_ports, "comports", lambda: ports)
    return SimpleNamespace(sys=tmp_path, port=port, ports=ports, latency=serial / "latency_timer")


def test_a_board_that_is_ready(machine):
    assert list(examine_ports(sys=machine.sys, wanted=True)) == [
        Finding("usb", State.OK, "0403:6015 FT231X: ULX3S, Icepi Zero"),
        Finding("port", State.OK, f"{machine.port}: FT231X"),
        Finding("latency", State.OK, f"{machine.port}: 1 ms"),
    ]


def test_a_port_without_permission(machine, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: mode != os.R_OK | os.W_OK)
    finding = only(list(examine_ports(sys=machine.sys)), "port")
    assert (finding.state, finding.detail) == (State.FAILED, f"{machine.port}: no permission to open it")
    assert finding.remedy == f"sudo usermod -aG {machine.port.group()} $USER, and log in again"


def test_a_bridge_that_keeps_answers(machine):
    machine.latency.write_text("16\n")
    finding = only(list(examine_ports(sys=machine.sys)), "latency")
    assert (finding.state, finding.detail) == (State.NOTE, f"{machine.port} keeps short answers for 16 ms")
    assert finding.remedy == f"echo 1 | sudo tee {machine.latency}"


@pytest.mark.parametrize(("wanted", "state"), [(True, State.FAILED), (False, State.NOTE)])
def test_a_board_without_driver_and_no_board(machine, wanted, state):
    machine.ports.clear()
    findings = list(examine_ports(sys=machine.sys, wanted=wanted))
    assert only(findings, "usb").remedy == "load the kernel's driver: sudo modprobe ftdi_sio"
    assert [finding.state for finding in findings] == [state, state]
    findings = list(examine_ports(sys=machine.sys / "none", wanted=wanted))
    assert only(findings, "usb").detail == "no bridge of a known board"
    assert only(findings, "port").state == state
    assert all(finding.remedy for finding in findings)


# Devices.


def test_a_device_that_is_well(model):
    findings = examined(model)
    assert [finding.check for finding in findings] == ["device", "protocol", "loopback", "image", "self-test"]
    assert all(finding.state == State.OK for finding in findings)
    assert only(findings, "loopback").detail.startswith("200 requests, ")
    assert only(findings, "self-test").detail == "8 tokens and the state equal the golden model's"


def test_another_protocol(model):
    model.bus.registers[Register.ABI_VERSION] = ABI_VERSION + 1
    finding = only(examined(model), "device")
    assert finding.state == State.FAILED
    assert f"ABI version {ABI_VERSION + 1}" in finding.detail
    assert "build and load the bitstream of this release" in finding.remedy


def test_an_image_that_does_not_fit(model):
    large = random_image(random_config(hidden=90, intermediate=100, name="large"), 1)
    findings = examined(model, large)
    assert (findings[-1].state, "a smaller model" in findings[-1].remedy) == (State.FAILED, True)
    assert only(findings, "loopback").state == State.OK


def test_a_device_that_computes_wrong(model):
    image = replace(IMAGE)
    examined(model, image)
    memory = model.bus.memories[Window.STORE]
    memory[: len(memory) // 2] ^= 0x5A5A5A5A
    finding = only(examined(model, image), "self-test")
    assert (finding.state, finding.detail) == (State.FAILED, "the device differs from the golden model")
    assert "ternlight verify" in finding.remedy


def test_a_bad_line(model):
    """Noise on the wire: everything comes right, and the doctor tells of it."""
    answers = 0
    read = model.read

    def damage(maximum: int, timeout: float) -> bytes:
        nonlocal answers
        answers += 1
        data = read(maximum, timeout)
        return data[:-3] + b"\x07" + data[-2:] if answers % 20 == 0 and len(data) > 3 else data

    model.read = damage
    finding = only(examined(model), "loopback")
    assert finding.state == State.NOTE
    assert "the line is bad" in finding.remedy


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(LinkError("nothing"), "check cable, power, port"), (BuildError("nothing"), "pip install 'ternlight[sim]'")],
)
def test_no_device(error, remedy):
    @contextmanager
    def refuse():
        raise error
        yield

    findings = list(examine_device(refuse, IMAGE))
    assert [(finding.state, finding.detail) for finding in findings] == [(State.FAILED, "nothing")]
    assert findings[0].remedy.startswith(remedy)


# The command.


def test_the_command(model, machine, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: model)
    image = tmp_path / "tiny.ternlight"
    IMAGE.save(image)
    arguments = ["doctor", "--device", "board", "--image", str(image)]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"]
    assert {finding["check"] for finding in report["findings"]} >= {"python", "port", "loopback", "self-test"}
    assert set(report["findings"][0]) == {"check", "state", "detail", "remedy"}
    model.bus.registers[Register.MAGIC] = 1
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "\nfailed  device     this is no ternlight device" in printed
    assert "                   -> build and load the bitstream" in printed
    assert main([*arguments, "--no-self-test"]) == 0
