"""The simulated device of a geometry, built when its gateware changed and started from a snapshot with its image."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import logging
from collections.abc import Callable, Iterator
from importlib import metadata, resources
from pathlib import Path

import platformdirs

from ternlight.errors import ImageError
from ternlight.geometry import Geometry

from .build import build
from .simulator import Simulator

TOP = "top"
TOP_MODULE = "ternlight_hw.top"
KEPT_DESIGNS = 8

logger = logging.getLogger(__name__)


def gateware_digest(geometry: Geometry, divisor: int) -> str:
    """A hash of everything that determines the Verilog: sources, geometry, line rate and Amaranth's version."""
    digest = hashlib.sha256(repr((geometry, divisor, metadata.version("amaranth"))).encode())
    for module, source in sorted(gateware_sources().items()):
        digest.update(f"{module}\n".encode())
        digest.update(source)
    return digest.hexdigest()


def gateware_sources() -> dict[str, bytes]:
    """The modules that the gateware is made of, of its package and of the host's formats: all that Top imports.

    Driver and commands are not among them, so that a change there costs no build.
    """
    roots = {package: Path(str(resources.files(package))) for package in ("ternlight_hw", "ternlight")}
    sources: dict[str, bytes] = {}
    waiting = [TOP_MODULE]
    while waiting:
        module = waiting.pop()
        package, *parts = module.split(".")
        if module in sources or package not in roots:
            continue
        place = roots[package].joinpath(*parts)
        path = next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)
        if path is not None:  # otherwise it is a name in a module
            sources[module] = path.read_bytes()
            inside = module if path.name == "__init__.py" else module.rpartition(".")[0]
            waiting += [module.rpartition(".")[0], *_imported(sources[module], inside)]
    return sources


def _imported(source: bytes, package: str) -> Iterator[str]:
    """What a module of a package imports, where a name may be a module's or a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: 1 - node.level or None] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


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
    designs.mkdir(parents=True, exist_ok=True)
    # One process generates a design, and the others wait for it.
    with (designs / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not design.exists():
            if progress is not None:
                progress("generating the design")
            partial = design.with_suffix(".partial")
            partial.write_text(generate_verilog(geometry, divisor, int(digest[:8], 16)))
            partial.rename(design)
            for old in sorted(designs.glob("*.v"), key=lambda path: path.stat().st_mtime)[:-KEPT_DESIGNS]:
                old.unlink()
        verilog = design.read_text()
    return build(verilog, divisor=divisor, top=TOP, cache=cache / "simulators", progress=progress)


def snapshot_path(executable: Path, identity: int) -> Path:
    """Where the state of a simulator with a loaded image is kept: beside the simulator, and with it discarded."""
    return executable.parent / f"{identity:08x}.snapshot"


def start_simulator(executable: Path, identity: int | None = None) -> Simulator:
    """Run a simulator, with the image of this identity if a snapshot holds it; a damaged snapshot is discarded."""
    snapshot = None if identity is None else snapshot_path(executable, identity)
    if snapshot is not None and snapshot.exists():
        try:
            return Simulator.start(executable, snapshot=snapshot)
        except ImageError as error:
            logger.warning("%s: the image is loaded again", error)
            snapshot.unlink()
    return Simulator.start(executable)
