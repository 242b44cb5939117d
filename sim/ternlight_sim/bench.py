"""Run a cocotb bench on one gateware component, on Verilator.

A test file holds both sides: cocotb coroutines named `bench_*`, and pytest functions that call `simulate` with
the component, the file's own name and the bench's parameters. Streams are driven by StreamSource and StreamSink,
which stall at random; a bench draws all its numbers from `rng()`, whose seed is printed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cocotb
import numpy as np
from amaranth.back import verilog
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb_tools.runner import get_results, get_runner

from .verilator import BUILD_ARGS, environment

PARAMETERS = "parameters.json"
CLOCK_NS = 10
CYCLES_MAX = 2_000_000
BUILD_ROOT = Path("build/bench")
RUNTIME = BUILD_ROOT / "runtime"
"""Compiled objects of Verilator's own runtime: the first build makes them, the others copy them."""
CELLS = Path(__file__).parent / "cells/ecp5.v"
ECP5 = SimpleNamespace(device="LFE5U-85F")
"""A platform that says no more than what device it is: components then instantiate an ECP5's cells."""


def simulate(
    component: Any,
    test_file: str,
    *,
    bench: str,
    parameters: dict[str, Any] | None = None,
    platform: Any = None,
    sources: Iterable[Path] = (),
) -> None:
    """Build the component (cached by its Verilog) and run the coroutine `bench` of `test_file` on it.

    parameters: anything JSON can hold; the bench reads it with `parameters()`.
    platform: what the component is elaborated for; cells that it instantiates then come from CELLS.
    sources: Verilog of what it instantiates otherwise.
    Raises AssertionError with the end of the log when a check fails.
    """
    source = verilog.convert(component, name="dut", platform=platform, emit_src=False)
    if platform is not None:
        source += CELLS.read_text()
    source += "".join(path.read_text() for path in sources)
    build = (BUILD_ROOT / hashlib.sha256(source.encode()).hexdigest()[:16]).absolute()
    build.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(json.dumps([test_file, bench, parameters]).encode()).hexdigest()[:8]
    run = build / f"{bench}-{digest}"
    run.mkdir(exist_ok=True)
    (run / PARAMETERS).write_text(json.dumps(parameters or {}))
    test_path = Path(test_file)
    variables = environment()
    # cocotb's runner hands its own sys.path to the simulation, which must import the test file.
    search = mock.patch.object(sys, "path", [str(test_path.parent), *sys.path])
    with mock.patch.dict(os.environ, variables), search:
        runner = get_runner("verilator")
        with (BUILD_ROOT / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX if not any(RUNTIME.glob("*.o")) else fcntl.LOCK_SH)
            with (build / "lock").open("w") as own:
                fcntl.flock(own, fcntl.LOCK_EX)
                if not (build / "built").exists():
                    (build / "dut.v").write_text(source)
                    RUNTIME.mkdir(exist_ok=True)
                    for compiled in RUNTIME.glob("*.o"):
                        copy = shutil.copy(compiled, build)
                        # Newer than the makefile that Verilator is about to write, or make would redo it.
                        os.utime(copy, (time.time() + 60,) * 2)
                    runner.build(
                        sources=[build / "dut.v"],
                        hdl_toplevel="dut",
                        build_dir=build,
                        build_args=BUILD_ARGS,
                        log_file=build / "build.log",
                        timescale=("1ns", "1ps"),
                    )
                    if not any(RUNTIME.glob("*.o")):
                        for compiled in build.glob("verilated*.o"):
                            shutil.copy(compiled, RUNTIME)
                    for made in build.glob("Vtop*"):  # some 200 MB, most of it precompiled headers
                        made.unlink()
                    (build / "built").touch()
        log = run / "run.log"
        try:
            results = runner.test(
                test_module=test_path.stem,
                test_filter=rf"\.{bench}$",
                hdl_toplevel="dut",
                hdl_toplevel_lang="verilog",
                build_dir=build,
                test_dir=run,
                results_xml=str(run / "results.xml"),
                log_file=log,
            )
        except SystemExit:
            raise AssertionError(f"{bench} stopped early; the log ends:\n{tail(log)}") from None
    tests, failed = get_results(results)
    assert tests == 1, f"{bench} did not run; the log ends:\n{tail(log)}"
    assert failed == 0, f"{bench} failed; the log ends:\n{tail(log)}"


def tail(log: Path, lines: int = 60) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def parameters() -> dict[str, Any]:
    """The parameters of the running bench."""
    values: dict[str, Any] = json.loads(Path(PARAMETERS).read_text())
    return values


def rng() -> np.random.Generator:
    """The bench's random numbers, from the parameter `seed` (default 0); prints the seed."""
    seed = parameters().get("seed", 0)
    cocotb.log.info("seed %d", seed)
    return np.random.default_rng(seed)


async def _watchdog() -> None:
    await Timer(CYCLES_MAX * CLOCK_NS, "ns")
    raise AssertionError(f"the bench still runs after {CYCLES_MAX} cycles: something waits for ever")


async def start(dut: Any) -> None:
    """Run the clock, apply the reset for two cycles, and fail a bench that never ends."""
    cocotb.start_soon(Clock(dut.clk, CLOCK_NS, "ns").start())
    cocotb.start_soon(_watchdog())
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    await RisingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)


class StreamSource:
    """Drives the stream `name` of the design, an input; `stall` is the share of idle cycles.

    Signals change on falling edges, and transfers are counted at rising edges. Payloads are unsigned integers.
    """

    def __init__(self, dut: Any, name: str, *, stall: float = 0.0, seed: int = 0) -> None:
        self.dut = dut
        self.payload = getattr(dut, f"{name}__payload")
        self.valid = getattr(dut, f"{name}__valid")
        self.ready = getattr(dut, f"{name}__ready")
        self.stall = stall
        self.random = random.Random(seed)
        self.valid.value = 0

    async def send(self, payloads: Iterable[int]) -> None:
        """Transfer all payloads; returns on the falling edge after the last transfer."""
        for payload in payloads:
            while self.random.random() < self.stall:
                self.valid.value = 0
                await FallingEdge(self.dut.clk)
            self.payload.value = int(payload)
            self.valid.value = 1
            while True:
                await RisingEdge(self.dut.clk)
                taken = int(self.ready.value)
                await FallingEdge(self.dut.clk)
                if taken:
                    break
        self.valid.value = 0


class StreamSink:
    """Collects the payloads of the stream `name` of the design, an output, with `stall` as the share of refusals."""

    def __init__(
        self,
        dut: Any,
        name: str,
        *,
        stall: float = 0.0,
        seed: int = 0,
        convert: Callable[[Any], Any] = int,
    ) -> None:
        self.dut = dut
        self.payload = getattr(dut, f"{name}__payload")
        self.valid = getattr(dut, f"{name}__valid")
        self.ready = getattr(dut, f"{name}__ready")
        self.stall = stall
        self.random = random.Random(seed + 1)
        self.convert = convert
        self.ready.value = 0

    async def receive(self, count: int) -> list[Any]:
        """The next `count` payloads."""
        received: list[Any] = []
        while len(received) < count:
            self.ready.value = int(self.random.random() >= self.stall)
            await RisingEdge(self.dut.clk)
            if int(self.ready.value) and int(self.valid.value):
                received.append(self.convert(self.payload.value))
            await FallingEdge(self.dut.clk)
        self.ready.value = 0
        return received


def pack(values: Iterable[int], bits: int) -> int:
    """Elements of so many bits (signed or not) as one integer, the first in the low bits."""
    word = 0
    for index, value in enumerate(values):
        word |= (int(value) & (1 << bits) - 1) << index * bits
    return word


def unpack(word: int, bits: int, count: int, *, signed: bool = True) -> list[int]:
    """The inverse of pack."""
    values = []
    for index in range(count):
        value = word >> index * bits & (1 << bits) - 1
        values.append(value - (1 << bits) if signed and value >> bits - 1 else value)
    return values
