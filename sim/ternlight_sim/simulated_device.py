"""The simulated device of a geometry, built when its gateware changed and started from a snapshot with its image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import metadata, resources
from pathlib import Path

import platformdirs

from ternlight.geometry import Geometry

from .build import build
from .simulator import Simulator

TOP = "top"
KEPT_DESIGNS = 8


def gateware_digest(geometry: Geometry, divisor: int) -> str:
    """A hash of everything that determines the Verilog: sources, geometry, line rate and Amaranth's version."""
    digest = hashlib.sha256(repr((geometry, divisor, metadata.version("amaranth"))).encode())
    for package in ("ternlight_hw", "ternlight"):
        root = Path(str(resources.files(package)))
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def generate_verilog(geometry: Geometry, divisor: int, build_id: int) -> str:
    """The Verilog of the complete device, some 15 seconds of work for 512 lanes."""
    from amaranth.back import verilog

    from ternlight_hw.top import Top

    top = Top(geometry=geometry, divisor=divisor, build_id=build_id)
    text: str = verilog.convert(top, name=TOP, emit_src=False)
    return text


def build_simulator(
    geometry: Geometry, divisor: int, *, cache: Path | None = None, progress: Callable[[str], None] | None = None
) -> Path:
    """The executable of the simulated device; raises BuildError. Nothing is done for unchanged gateware.

    cache: folder for designs and builds, by default the user's. progress: called with a phrase for each step.
    """
    cache = platformdirs.user_cache_path("ternlight") if cache is None else cache
    digest = gateware_digest(geometry, divisor)
    designs = cache / "designs"
    design = designs / f"{digest}.v"
    if not design.exists():
        designs.mkdir(parents=True, exist_ok=True)
        if progress is not None:
            progress("generating the design")
        partial = design.with_suffix(".partial")
        partial.write_text(generate_verilog(geometry, divisor, int(digest[:8], 16)))
        partial.rename(design)
        for old in sorted(designs.glob("*.v"), key=lambda path: path.stat().st_mtime)[:-KEPT_DESIGNS]:
            old.unlink()
    return build(design.read_text(), divisor=divisor, top=TOP, cache=cache / "simulators", progress=progress)


def snapshot_path(executable: Path, identity: int) -> Path:
    """Where the state of a simulator with a loaded image is kept: beside the simulator, and with it discarded."""
    return executable.parent / f"{identity:08x}.snapshot"


def start_simulator(executable: Path, identity: int | None = None) -> Simulator:
    """Run a simulator, with the image of this identity if a snapshot holds it."""
    snapshot = None if identity is None else snapshot_path(executable, identity)
    return Simulator.start(executable, snapshot=snapshot if snapshot and snapshot.exists() else None)
