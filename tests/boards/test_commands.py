"""`ternlight build` and `ternlight flash`: what they say, their exit codes, and what they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ternlight.cli import INTERRUPTED, main
from ternlight.errors import BuildError, LinkError
from ternlight_boards import build as flow
from ternlight_boards.board import all_boards
from ternlight_boards.build import Build

from .test_report import REPORT


@pytest.fixture
def builds(monkeypatch):
    """Stands in for the flow, and tells what was to be built."""
    built = []

    def build_board(board, folder, *, seed, status):
        built.append((board.name, folder, seed))
        status("placing, iteration 3")
        return Build(bitstream=folder / "device.bit", report=REPORT)

    monkeypatch.setattr(flow, "build_board", build_board)
    return built


def test_build(builds, capsys):
    assert main(["build", "icepi-zero"]) == 0
    assert builds == [("icepi-zero", Path("build/icepi-zero"), None)]
    printed = capsys.readouterr()
    assert printed.out == (
        "board: 44.75 MHz of 37.5 MHz wanted; lut4 12,144 (50%), ff 1 (0%), block ram 30 (54%), dsp 7 (25%)\n"
        "icepi-zero: build/icepi-zero/device.bit\n"
    )
    assert printed.err == "placing\n"


def test_build_options(builds, tmp_path):
    assert main(["build", "ulx3s-85f", "--seed", "7", "--out", str(tmp_path), "--report-dir", str(tmp_path)]) == 0
    assert builds == [("ulx3s-85f", tmp_path / "ulx3s-85f", 7)]
    assert (tmp_path / "ulx3s-85f.json").exists()


def test_build_all(builds, tmp_path):
    assert main(["build", "--all", "--report-dir", str(tmp_path)]) == 0
    assert [name for name, _, _ in builds] == list(all_boards())
    assert {path.stem for path in tmp_path.iterdir()} == set(all_boards())


def test_list(builds, capsys):
    assert main(["build", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(all_boards())
    assert "ulx3s-85f" in lines[3]
    assert "LFE5U-85F" in lines[3]
    assert not builds


@pytest.mark.parametrize("command", ["build", "flash"])
def test_an_unknown_board(command, capsys):
    assert main([command, "ulx4s"]) == BuildError.exit_code
    assert capsys.readouterr().err.startswith("ternlight: there is no board ulx4s: choose from ulx3s-12f, ")


@pytest.mark.parametrize("arguments", [["build"], ["build", "ulx3s-12f", "--all"], ["build", "--seed", "x"], ["flash"]])
def test_unclear_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert capsys.readouterr().err.startswith("usage: ternlight")


@pytest.mark.parametrize("command", ["build", "flash"])
def test_without_the_extra(command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ternlight_boards.board", None)
    assert main([command, "ulx3s-12f"]) == BuildError.exit_code
    assert capsys.readouterr().err.endswith(": install ternlight[fpga]\n")


def test_an_interrupt(monkeypatch, capsys):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "build_board", interrupt)
    assert main(["build", "ulx3s-12f"]) == INTERRUPTED
    assert capsys.readouterr().err.endswith("\nternlight: interrupted\n")


# flash


@pytest.fixture
def bitstream(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "build" / "icepi-zero" / "device.bit"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"bits")
    return path


@pytest.fixture
def loader(tmp_path, monkeypatch):
    """Puts an openFPGALoader on PATH that writes its arguments, says something and ends with a status."""

    def install(status: int, says: str = "") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / "openFPGALoader"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\necho "{says}"\nexit {status}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        return tmp_path / "arguments"

    return install


def test_flash(bitstream, loader, capsys):
    arguments = loader(0)
    assert main(["flash", "icepi-zero"]) == 0
    assert arguments.read_text() == "--board icepi-zero build/icepi-zero/device.bit\n"
    assert capsys.readouterr().out.startswith("Icepi Zero runs build/icepi-zero/device.bit")


def test_flash_for_good(bitstream, loader):
    arguments = loader(0)
    assert main(["flash", "ulx3s-45f", "--permanent", "--bitstream", str(bitstream)]) == 0
    assert arguments.read_text() == f"--board ulx3s --write-flash {bitstream}\n"


def test_flash_without_bitstream(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["flash", "tang-nano-20k"]) == BuildError.exit_code
    expected = "there is no bitstream build/tang-nano-20k/device.fs: make it with `ternlight build tang-nano-20k`\n"
    assert capsys.readouterr().err.endswith(expected)


def test_flash_without_openfpgaloader(bitstream, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["flash", "icepi-zero"]) == BuildError.exit_code
    assert (
        "needs the program openFPGALoader: install it (Debian: apt install openfpgaloader)" in capsys.readouterr().err
    )


def test_flash_without_board(bitstream, loader, capsys):
    loader(1, "unable to open ftdi device: -3 (device not found)")
    assert main(["flash", "icepi-zero"]) == LinkError.exit_code
    said = capsys.readouterr().err
    assert "openFPGALoader could not load Icepi Zero: is it plugged in" in said
    assert said.endswith("unable to open ftdi device: -3 (device not found)\n")
