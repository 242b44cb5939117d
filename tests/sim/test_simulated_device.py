"""When the simulated device is built anew: for changed gateware, and for nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ternlight.geometry import Geometry
from ternlight_sim import simulated_device
from ternlight_sim.simulated_device import KEPT_DESIGNS, build_simulator, gateware_digest, gateware_sources

GEOMETRY = Geometry()


@pytest.fixture
def generated(monkeypatch) -> list[Geometry]:
    """The geometries whose designs were generated, in stand-ins of no time."""
    generated = []

    def generate(geometry, divisor, build_id):
        generated.append(geometry)
        return f"{build_id:08x} of {geometry.slots} slots"

    monkeypatch.setattr(simulated_device, "generate_verilog", generate)
    monkeypatch.setattr(simulated_device, "build", lambda verilog, **options: (verilog, options))
    return generated


def test_a_design_is_generated_once(generated, tmp_path):
    phrases = []
    first = build_simulator(GEOMETRY, 4, cache=tmp_path, progress=phrases.append)
    assert build_simulator(GEOMETRY, 4, cache=tmp_path, progress=phrases.append) == first
    assert (generated, phrases) == ([GEOMETRY], ["generating the design"])
    verilog, options = first
    assert verilog == f"{gateware_digest(GEOMETRY, 4)[:8]} of 4 slots"
    assert (options["divisor"], options["cache"]) == (4, tmp_path / "simulators")


def test_what_a_design_depends_on(monkeypatch):
    digests = {
        gateware_digest(GEOMETRY, 4),
        gateware_digest(GEOMETRY, 5),
        gateware_digest(replace(GEOMETRY, slots=3), 4),
    }
    sources = gateware_sources()
    for module in ("ternlight.abi", "ternlight_hw.sequencer", "ternlight_hw.norm.lane"):
        changed = sources | {module: sources[module] + b"#"}
        monkeypatch.setattr(simulated_device, "gateware_sources", lambda changed=changed: changed)
        digests.add(gateware_digest(GEOMETRY, 4))
    assert len(digests) == 6
    assert not {"ternlight.device", "ternlight.cli", "ternlight.compiler"} & set(sources)


def test_the_latest_designs_are_kept(generated, tmp_path):
    for slots in range(1, KEPT_DESIGNS + 3):
        build_simulator(replace(GEOMETRY, slots=slots), 4, cache=tmp_path)
        for age, path in enumerate(sorted(tmp_path.glob("designs/*.v"), key=_slots, reverse=True)):
            os.utime(path, (1e9 - age, 1e9 - age))
    assert sorted(map(_slots, tmp_path.glob("designs/*.v"))) == list(range(3, KEPT_DESIGNS + 3))


def _slots(path: Path) -> int:
    return int(path.read_text().split()[2])


def test_relative_and_absolute_imports():
    source = b"import a.b\nfrom . import c\nfrom .d import e\nfrom ..f import g\nfrom h.i import j\nfrom .. import k"
    assert set(simulated_device._imported(source, "p.q")) == {
        *("a.b", "p.q", "p.q.c", "p.q.d", "p.q.d.e", "p.f", "p.f.g", "h.i", "h.i.j", "p", "p.k")
    }
