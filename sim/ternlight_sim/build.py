"""Compile a design into a simulator: Verilator's C++ model and our harness, cached by content.

The design runs without its reset: every register of Amaranth has an initial value, and a reset input would make
Verilator evaluate all logic that depends on it, which is nearly all there is, twice more in each cycle.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path

import platformdirs

from ternlight.errors import BuildError

from .verilator import BUILD_ARGS, environment

EXECUTABLE = "simulator"
KEPT_BUILDS = 4
LOG_LINES = 30

HARNESS = resources.files(__package__) / "harness.cpp"
WRAPPER = """
module simulated_device(input clk, input uart_rx, output uart_tx, output active);
  {top} device(.clk(clk), .rst(1'b0), .uart_rx(uart_rx), .uart_tx(uart_tx), .active(active));
endmodule
"""
VERILATOR_ARGS = (
    *("--cc", "--exe", "--prefix", "Vdevice", "--top-module", "simulated_device", "-o", EXECUTABLE, "-O3"),
    *("--x-assign", "fast", "--x-initial", "fast", "--no-assert", "--no-timing", "--savable"),
    # Larger files take g++ much longer than their share.
    *("--output-split", "5000"),
    *BUILD_ARGS,
)
# -O2 runs a fourth faster than -Os on the shipped geometry, and -O3 no faster than -O2.
MAKE_ARGS = ("-f", "Vdevice.mk", "CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O2", "OPT_GLOBAL=-Os", "LDLIBS=-pthread")


def build(
    verilog: str,
    *,
    divisor: int,
    top: str = "top",
    optimise: bool = True,
    cache: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """The executable that simulates a design; takes no time when the same one is in the cache.

    verilog: the whole design; its module `top` has the inputs clk, rst and uart_rx and the outputs uart_tx and
        active, which is high while the device works or has something pending.
    divisor: clock cycles per bit of the UART.
    optimise: False compiles in a third of the time what runs several times slower, for designs of single bits.
    cache: folder of the builds, by default the user's; the latest used ones are kept.
    progress: called with a phrase for each step.

    Raises BuildError with the end of the log, or when a program is missing.
    """
    if divisor < 1:
        raise ValueError(f"divisor must be positive, not {divisor}")
    cache = platformdirs.user_cache_path("ternlight") / "simulators" if cache is None else cache
    sources = {"device.v": verilog + WRAPPER.format(top=top), "harness.cpp": HARNESS.read_text()}
    make_args = MAKE_ARGS if optimise else (*MAKE_ARGS, "OPT_FAST=-O0", "OPT_GLOBAL=-O0")
    recipe = (sources, divisor, VERILATOR_ARGS, make_args, metadata.version("verilator"), platform.machine())
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:32]
    entry = cache / key
    if not (entry / EXECUTABLE).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (entry / EXECUTABLE).exists():
                _build_entry(entry, sources, divisor, make_args, progress or (lambda _: None))
    os.utime(entry)
    return entry / EXECUTABLE


def _build_entry(
    entry: Path, sources: dict[str, str], divisor: int, make_args: Sequence[str], progress: Callable[[str], None]
) -> None:
    """Build beside the entry and rename, so that an entry is whole or absent; the caller holds the cache's lock."""
    _require("c++", "g++")
    _require("make", "make")
    for abandoned in entry.parent.glob("building-*"):
        shutil.rmtree(abandoned)
    with tempfile.TemporaryDirectory(prefix="building-", dir=entry.parent) as name:
        work = Path(name)
        for file, text in sources.items():
            (work / file).write_text(text)
        progress("translating the design to C++")
        flags = f'-DDIVISOR={divisor} -DBUILD_KEY=\\"{entry.name}\\"'
        files = ["device.v", "../harness.cpp"]
        _run(["verilator_bin", *VERILATOR_ARGS, "-Mdir", "model", "-CFLAGS", flags, *files], work)
        make = ["make", *make_args]
        total = _run([*make, "--dry-run"], work / "model").count(" -c ")
        compiled = 0

        def count(line: str) -> None:
            nonlocal compiled
            if " -c " in line:
                compiled += 1
                progress(f"compiling the simulator, file {compiled} of {total}")

        _run([*make, f"-j{os.cpu_count()}"], work / "model", count)
        done = work / "done"
        done.mkdir()
        (work / "model" / EXECUTABLE).rename(done / EXECUTABLE)
        done.rename(entry)
    builds = sorted((path for path in entry.parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in builds[:-KEPT_BUILDS]:
        shutil.rmtree(old)


def _require(program: str, package: str) -> None:
    if shutil.which(program) is None:
        raise BuildError(
            f"building the simulator needs the program {program}: install it (Debian: apt install {package})"
        )


def _run(command: list[str], folder: Path, each_line: Callable[[str], None] | None = None) -> str:
    """The output of a program, also passed on line by line while it runs."""
    variables = {**os.environ, **environment()}
    # Not the process's PATH, but ours, is searched for the program.
    program = shutil.which(command[0], path=variables["PATH"]) or command[0]
    lines = []
    with subprocess.Popen(
        [program, *command[1:]],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if each_line is not None:
                each_line(line)
    if process.returncode != 0:
        tail = "".join(lines[-LOG_LINES:])
        raise BuildError(f"building the simulator failed: {command[0]} exited with {process.returncode}\n{tail}")
    return "".join(lines)
