"""Programs of the build: missing, failing, interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ternlight.errors import BuildError
from ternlight_boards import tools


@pytest.fixture
def script(monkeypatch):
    """Runs Python text in the place of a program."""

    def start(text: str, folder: Path, **options) -> None:
        monkeypatch.setattr(tools, "program", lambda name: [tools.sys.executable, "-c", text])
        tools.run("program", ["x", "y"], folder=folder, log=folder / "log", **options)

    return start


def test_a_missing_program():
    with pytest.raises(BuildError, match=r"the build needs the program yowasp-nothing: install ternlight\[fpga\]"):
        tools.program("yowasp-nothing")


def test_a_missing_yosys(monkeypatch):
    monkeypatch.setattr(tools, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=r"needs the package pyosys: install ternlight\[fpga\]"):
        tools.program("yosys")


def test_arguments_folder_log_and_lines(script, tmp_path):
    seen = []
    text = "import sys, os; print(*sys.argv[1:]); print(os.getcwd(), file=sys.stderr)"
    script(text, tmp_path, each_line=seen.append)
    assert sorted(seen) == sorted(["x y\n", f"{tmp_path.resolve()}\n"])
    assert (tmp_path / "log").read_text() == "".join(seen)


def test_a_failure_shows_the_errors(script, tmp_path):
    text = "print('fine'); print('ERROR: no such cell'); print('fine'); raise SystemExit(3)"
    with pytest.raises(BuildError, match=r"^program failed with status 3, see .*log:\nERROR: no such cell$"):
        script(text, tmp_path)


def test_a_failure_without_errors_shows_the_end(script, tmp_path):
    with pytest.raises(BuildError, match=r"status 1, see .*:\n20\n(\d+\n)*39$"):
        script("print(*range(40), sep='\\n'); raise SystemExit(1)", tmp_path)


def test_an_interrupt_ends_the_program(script, tmp_path):
    def interrupt(line: str) -> None:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    text = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        script(text, tmp_path, each_line=interrupt)
    assert time.monotonic() - begin < 60
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "log").read_text()), 0)


def test_yosys_runs_its_script(tmp_path):
    """The real one: a gate, from text to a netlist."""
    pytest.importorskip("pyosys")
    (tmp_path / "a.v").write_text("module a(input b, c, output d); assign d = b & c; endmodule")
    (tmp_path / "a.ys").write_text("read_verilog a.v\nsynth_ecp5 -top a -json a.json\n")
    tools.run("yosys", ["a.ys"], folder=tmp_path, log=tmp_path / "log")
    assert '"LUT4"' in (tmp_path / "a.json").read_text()
