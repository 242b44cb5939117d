"""The programs of the build, which come from pip: found by their packages, run with a log and with progress."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from ternlight.errors import BuildError

EXTRA = "ternlight[fpga]"
LOG_LINES = 20

# Yosys as a library: the same code as the program, without its WebAssembly.
YOSYS = "import sys; from pyosys import libyosys as y; y.run_pass('script ' + sys.argv[1], y.Design())"


def program(name: str) -> list[str]:
    """How to start a program of the build; raises BuildError that names what to install."""
    if name == "yosys":
        if find_spec("pyosys") is None:
            raise BuildError(f"synthesis needs the package pyosys: install {EXTRA}")
        return [sys.executable, "-c", YOSYS]
    scripts = metadata.entry_points(group="console_scripts", name=name)
    if not scripts:
        raise BuildError(f"the build needs the program {name}: install {EXTRA}")
    script = next(iter(scripts))
    # Not through PATH, on which the environment of the running Python need not be.
    return [sys.executable, "-c", f"import sys; from {script.module} import {script.attr} as run; sys.exit(run())"]


def version(package: str) -> str:
    """The installed version of a package of the build."""
    return metadata.version(package)


def run(
    name: str, arguments: Sequence[str], *, folder: Path, log: Path, each_line: Callable[[str], None] = lambda _: None
) -> None:
    """Run a program in a folder, with everything it says in `log`; `each_line` sees it as it comes.

    Raises BuildError with the last errors when it fails. The program ends with this process's interrupt.
    """
    command = [*program(name), *arguments]
    lines: list[str] = []
    with (
        log.open("w", buffering=1) as file,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                lines.append(line)
                each_line(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-LOG_LINES:]
        raise BuildError(f"{name} failed with status {process.returncode}, see {log}:\n{''.join(errors).rstrip()}")
