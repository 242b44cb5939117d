"""PCIe functions of a machine that is made up: a tree of sysfs, a kernel's VFIO, and the model behind their BAR."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ternlight import connect
from ternlight.abi import ABI_VERSION, Register
from ternlight.compiler import compile_image
from ternlight.connect import open_device
from ternlight.device import Device
from ternlight.errors import DeviceError, LinkError
from ternlight.geometry import Geometry
from ternlight.link import open_transport, pcie
from ternlight.link.pcie import PcieTransport, open_function, transport, vfio
from ternlight.link.pcie.function import SysfsFunction
from ternlight.link.port import Port
from ternlight.packets import Request, encode_request
from ternlight.pcie_map import (
    BAR_BYTES,
    COUNTER_TEXT,
    DEVICE_ID,
    FAULT_TEXT,
    MAP_VERSION,
    REGISTER_TEXT,
    RING_WORDS,
    VENDOR_ID,
    WINDOW_WORDS,
    Control,
    Fault,
    Link,
    PcieCounter,
    PcieRegister,
    tables,
)
from ternlight.sampling import Sampling
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.pcie_model import PcieModel
from ternlight_sim.random_model import random_config, random_image

ADDRESS = "0000:01:00.0"
URL = f"pcie:{ADDRESS}"
GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16, top_k=8)
IMAGE = random_image(random_config(hidden=45, intermediate=60, layers=3, vocabulary=200), 3)


class Tree:
    """A machine's /sys and /dev with one function, whose BAR a test can map as well."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "sys/bus/pci/devices" / ADDRESS
        self.folder.mkdir(parents=True)
        for name, text in {"vendor": f"{VENDOR_ID:#06x}", "device": f"{DEVICE_ID:#06x}", "enable": "0"}.items():
            (self.folder / name).write_text(f"{text}\n")
        self.resource = self.folder / "resource0"
        self.resource.write_bytes(bytes(BAR_BYTES))
        with self.resource.open("r+b") as file:
            self.mapping = mmap.mmap(file.fileno(), BAR_BYTES)
        self.bar = memoryview(self.mapping).cast("I")

    def bind(self, driver: str) -> None:
        """Let a driver have the function."""
        folder = self.root / "sys/bus/pci/drivers" / driver
        folder.mkdir(parents=True)
        (self.folder / "driver").symlink_to(folder)

    def group(self, number: str) -> None:
        """Put the function behind an IOMMU."""
        folder = self.root / "sys/kernel/iommu_groups" / number
        folder.mkdir(parents=True)
        (self.folder / "iommu_group").symlink_to(folder)


class Kernel:
    """VFIO of a made-up kernel: what it was asked, and the memory that was mapped for the device."""

    GROUP, CONTAINER, DEVICE, CONFIG_OFFSET, BAR_OFFSET = "dev/vfio/7", "dev/vfio/vfio", 1000, 1 << 40, 1 << 39

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.paths: dict[int, str] = {}
        self.closed: set[int] = set()
        self.container = self.iommu = None
        self.viable, self.version, self.bar_bytes = 1, 0, BAR_BYTES
        self.command = 0x0400
        self.mapped: dict[int, tuple[int, int]] = {}
        self.event = -1
        self.failing: dict[object, int] = {}

    def _maybe_fail(self, what: object, path: Path | None = None) -> None:
        if what in self.failing:
            raise OSError(self.failing[what], os.strerror(self.failing[what]), str(path) if path else None)

    def open(self, path: Path) -> int:
        name = str(path.relative_to(self.tree.root))
        self._maybe_fail(name, path)
        self.paths[100 + len(self.paths)] = name
        return max(self.paths)

    def ioctl(self, descriptor, request, argument):
        self._maybe_fail(request)
        name = self.paths.get(descriptor)
        match request:
            case vfio.GET_API_VERSION:
                assert name == self.CONTAINER
                return self.version
            case vfio.GROUP_GET_STATUS:
                assert (name, struct.unpack("=II", argument)[0]) == (self.GROUP, 8)
                argument[4:8] = struct.pack("=I", self.viable)
            case vfio.GROUP_SET_CONTAINER:
                (self.container,) = struct.unpack("=i", argument)
                assert (name, self.paths[self.container]) == (self.GROUP, self.CONTAINER)
            case vfio.SET_IOMMU:
                assert self.container == descriptor
                self.iommu = argument
            case vfio.GROUP_GET_DEVICE:
                assert (self.iommu, bytes(argument)) == (vfio.TYPE1_IOMMU, ADDRESS.encode() + b"\0")
                return self.DEVICE
            case vfio.GET_REGION_INFO:
                size, _, index, *_ = vfio.REGION_INFO.unpack(argument)
                assert (descriptor, size) == (self.DEVICE, 32)
                where = {0: (self.bar_bytes, self.BAR_OFFSET), 7: (4096, self.CONFIG_OFFSET)}[index]
                argument[16:32] = struct.pack("=QQ", *where)
            case vfio.MAP_DMA:
                size, flags, here, there, count = vfio.DMA_MAP.unpack(argument)
                assert (descriptor, size, flags, count % mmap.PAGESIZE) == (self.container, 32, 3, 0)
                self.mapped[there] = (here, count)
            case vfio.UNMAP_DMA:
                _, _, there, count = vfio.DMA_UNMAP.unpack(argument)
                assert self.mapped.pop(there)[1] == count
            case vfio.SET_IRQS:
                *head, self.event = vfio.IRQS.unpack(argument)
                assert head == [24, 0x24, 1, 0, 1]
            case _:
                raise AssertionError(hex(request))
        return 0

    def map(self, descriptor, size, offset):
        assert (descriptor, size, offset) == (self.DEVICE, BAR_BYTES, self.BAR_OFFSET)
        return memoryview(self.tree.mapping)

    def pread(self, descriptor, count, offset):
        assert (descriptor, count, offset) == (self.DEVICE, 2, self.CONFIG_OFFSET + 4)
        return struct.pack("<H", self.command)

    def pwrite(self, descriptor, data, offset):
        assert (descriptor, offset) == (self.DEVICE, self.CONFIG_OFFSET + 4)
        (self.command,) = struct.unpack("<H", data)
        return 2

    def close(self, descriptor):
        self.closed.add(descriptor)

    def reach(self, address: int, words: int) -> memoryview:
        """The device's way to the host's memory."""
        assert self.command & 4
        ((there, (here, count)),) = self.mapped.items()
        assert there <= address
        assert address + 4 * words <= there + count
        return memoryview((ctypes.c_char * (4 * words)).from_address(here + address - there)).cast("B").cast("I")

    def interrupt(self) -> None:
        os.eventfd_write(self.event, 1)


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def model(tree) -> Iterator[PcieModel]:
    with PcieModel(DeviceModel(GEOMETRY), tree.bar) as model:
        yield model


@pytest.fixture
def kernel(tree, monkeypatch) -> Kernel:
    tree.bind("vfio-pci")
    tree.group("7")
    kernel = Kernel(tree)
    monkeypatch.setattr(vfio, "Linux", lambda: kernel)
    return kernel


@pytest.fixture
def dma_model(tree, kernel) -> Iterator[PcieModel]:
    options = {"reach": kernel.reach, "interrupt": kernel.interrupt}
    with PcieModel(DeviceModel(GEOMETRY), tree.bar, **options) as model:
        yield model


def connected(tree: Tree) -> PcieTransport:
    return PcieTransport(open_function(URL, root=tree.root))


def write_story(link: PcieTransport) -> None:
    """Load a model and compare its tokens: many times the words of a ring."""
    model = compile_image(IMAGE, GEOMETRY)
    with Device(Port(link)) as device:
        assert device.load(model)
        prompt, sampling = [5, 17, 3, 44, 8], Sampling(seed=3, top_k=5)
        expected = list(GoldenSession(Machine(model)).generate(prompt, 100, sampling))
        assert list(device.session(1).generate(prompt, 100, sampling)) == expected
        statistics = device.port.statistics
        assert (statistics.retransmissions, statistics.corrupt, statistics.refused) == (0, 0, 0)
    assert sum(part.size for part in (model.program_words(), model.store)) > RING_WORDS


def test_a_story_through_the_windows(tree, model):
    write_story(connected(tree))
    assert (tree.folder / "enable").read_text() == "1"
    assert not tree.bar[PcieRegister.CONTROL] & Control.DMA


def test_a_story_with_dma(tree, kernel, dma_model):
    write_story(connected(tree))
    assert kernel.command == 0x0406
    # Everything is given back.
    assert (kernel.mapped, kernel.closed) == ({}, {*kernel.paths, kernel.DEVICE})
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.event)


def test_by_url(tree, model, monkeypatch):
    monkeypatch.setattr(pcie, "open_function", lambda url: open_function(url, root=tree.root))
    assert connect.open_transport is open_transport
    with open_device(URL, image=IMAGE) as device:
        assert device.image_id == compile_image(IMAGE, GEOMETRY).identity
        assert device.port.transport.name == URL


def test_the_device_keeps_its_image(tree, model):
    for loaded in (True, False):
        with Device(Port(connected(tree))) as device:
            assert device.load(IMAGE) == loaded


def test_a_closed_function(tree, model):
    link = connected(tree)
    link.close()
    link.close()
    with pytest.raises(LinkError, match=f"^{URL} is closed$"):
        link.read(1, 0.0)
    with pytest.raises(LinkError, match=f"^{URL} is closed$"):
        link.write(b"\0")


# What opening a function can find.


@pytest.mark.parametrize("url", ["pcie:", "pcie:01:00.0", "pcie:0000:01:00.8", "pcie:../../../etc"])
def test_no_address(url):
    with pytest.raises(LinkError, match=r"is no address: write pcie:DOMAIN:BUS:DEVICE.FUNCTION, as in pcie:0000:"):
        open_transport(url)


def test_no_function(tree):
    with pytest.raises(LinkError, match=r"^there is no PCIe function 0000:02:00.0; .*: 0000:01:00.0. Was the"):
        open_function("pcie:0000:02:00.0", root=tree.root)
    with pytest.raises(LinkError, match="ternlight devices of this machine: none"):
        open_function(URL, root=tree.root / "elsewhere")


def test_another_device(tree):
    (tree.folder / "vendor").write_text("0x8086\n")
    with pytest.raises(LinkError, match="another device: its identity is 8086:544c, not 10ee:544c"):
        open_function(URL, root=tree.root)


def test_a_function_with_a_driver(tree):
    tree.bind("nvme")
    with pytest.raises(LinkError, match="belongs to the driver nvme: unbind it, or bind it to vfio-pci"):
        open_function(URL, root=tree.root)


def test_no_bar(tree):
    tree.resource.unlink()
    with pytest.raises(LinkError, match=r"has no BAR 0 that can be mapped: .*resource0 is missing"):
        open_function(URL, root=tree.root)


def test_a_small_bar(tree):
    os.truncate(tree.resource, 4096)
    with pytest.raises(LinkError, match=r"BAR 0 of .* has 4096 bytes, and not 16384: it has another bitstream"):
        open_function(URL, root=tree.root)


def test_no_permission(tree, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(LinkError, match=r"no permission to open .*resource0: run as root, or bind .* to vfio-pci"):
        SysfsFunction(URL, tree.folder)


def test_other_errors(tree, monkeypatch):
    def fail(number):
        def call(*_, **__):
            raise OSError(number, os.strerror(number))

        return call

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", fail(errno.EPERM))
        with pytest.raises(LinkError, match="cannot be mapped: the kernel forbids it"):
            open_function(URL, root=tree.root)
        patch.setattr(mmap, "mmap", fail(errno.ENOMEM))
        with pytest.raises(LinkError, match=r"cannot be mapped: .*Cannot allocate memory"):
            open_function(URL, root=tree.root)
        patch.setattr(os, "open", fail(errno.EIO))
        with pytest.raises(LinkError, match=r"cannot be opened: .*Input/output error"):
            open_function(URL, root=tree.root)


# What VFIO can find.


def test_no_iommu(tree):
    tree.bind("vfio-pci")
    with pytest.raises(LinkError, match="is behind no IOMMU, which DMA needs: switch it on"):
        open_function(URL, root=tree.root)


@pytest.mark.parametrize(
    ("what", "number", "message"),
    [
        (Kernel.CONTAINER, errno.ENOENT, "there is no .*dev/vfio/vfio: load the module vfio-pci"),
        (Kernel.GROUP, errno.EACCES, "no permission to open .*dev/vfio/7: give yourself the node"),
        (Kernel.GROUP, errno.EBUSY, "is in use by another program: close it first"),
        (vfio.MAP_DMA, errno.EPERM, "limit of locked memory"),
        (vfio.SET_IRQS, errno.EINVAL, "cannot be opened through VFIO: .*Invalid argument"),
    ],
)
def test_what_vfio_refuses(tree, kernel, what, number, message):
    kernel.failing[what] = number
    with pytest.raises(LinkError, match=message):
        open_function(URL, root=tree.root)
    assert kernel.closed >= set(kernel.paths)
    assert kernel.mapped == {}


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("viable", 0, "other functions of the IOMMU group of .* have drivers"),
        ("version", 3, "the kernel has version 3 of VFIO, and not 0"),
        ("bar_bytes", 4096, "has 4096 bytes, and not 16384"),
    ],
)
def test_what_vfio_finds(tree, kernel, attribute, value, message):
    setattr(kernel, attribute, value)
    with pytest.raises(LinkError, match=message):
        open_function(URL, root=tree.root)
    assert kernel.closed >= set(kernel.paths)


# What stands behind the BAR.


def test_no_ternlight_device(tree):
    with pytest.raises(LinkError, match="is no ternlight device: its BAR 0 begins with 0x00000000, not 0x45494350"):
        connected(tree)


def test_nothing_answers(tree):
    tree.mapping[:] = b"\xff" * BAR_BYTES
    with pytest.raises(LinkError, match="does not answer: is its memory enabled, and its bitstream loaded"):
        connected(tree)


def test_another_map(tree, model):
    tree.bar[PcieRegister.VERSION] = MAP_VERSION + 1
    with pytest.raises(DeviceError, match=r"has version 2 of the PCIe registers, this host 1: build the bitstream"):
        connected(tree)


def test_another_abi(tree, model):
    model.device.bus.registers[Register.ABI_VERSION] = ABI_VERSION + 1
    with pytest.raises(DeviceError, match=f"the device speaks ABI version {ABI_VERSION + 1}, this host {ABI_VERSION}"):
        Device(Port(connected(tree)))


def test_a_reset_without_end(tree, model, monkeypatch):
    model.stop()
    monkeypatch.setattr(transport, "RESET_SECONDS", 0.01)
    with pytest.raises(LinkError, match="does not come out of its reset: load the bitstream again"):
        connected(tree)


@pytest.mark.parametrize("fault", Fault)
def test_faults(tree, model, fault):
    link = connected(tree)
    model.fault = fault
    with pytest.raises(LinkError, match=f"^{URL} has stopped: {FAULT_TEXT[fault]}. Open the device again$"):
        link.read(1, 0.1)
    link.close()
    Port(connected(tree)).close()


def test_a_fault_with_dma(tree, dma_model):
    link = connected(tree)
    dma_model.fault = Fault.READ_TIMEOUT | Fault.READ_POISONED
    with pytest.raises(LinkError, match=r"marked as wrong; the host's memory did not answer"):
        link.read(1, 5.0)
    link.close()


def test_no_bus_mastering(tree, dma_model):
    link = connected(tree)
    tree.bar[PcieRegister.LINK] &= ~(1 << Link.MASTER)
    with pytest.raises(LinkError, match="may not use the host's memory: something has switched bus mastering off"):
        link.read(1, 0.0)
    link.close()


def test_a_device_that_goes(tree, model, monkeypatch):
    link = connected(tree)
    monkeypatch.setattr(transport, "RESET_SECONDS", 0.01)
    model.stop()
    tree.mapping[:] = b"\xff" * BAR_BYTES
    with pytest.raises(LinkError, match=r"is gone: it was switched off, or its bitstream was loaded anew. Rescan"):
        link.read(1, 1.0)
    link.close()


def test_a_nonsensical_index(tree, model):
    link = connected(tree)
    model.stop()
    tree.bar[PcieRegister.ANSWER_HEAD] = WINDOW_WORDS + 1
    with pytest.raises(LinkError, match="tells of 1025 words of answers, but its ring has 1024"):
        link.read(1, 1.0)


def test_a_device_that_takes_nothing(tree, model, monkeypatch):
    link = connected(tree)
    model.stop()
    monkeypatch.setattr(transport, "WRITE_SECONDS", 0.01)
    frame = encode_request(Request(2, 0, words=tuple(range(30))))
    for _ in range(WINDOW_WORDS // 32):
        link.write(frame)
    with pytest.raises(LinkError, match=r"has taken no request for 0.01 s: load its bitstream again"):
        link.write(frame)


def test_the_page_has_the_map():
    page = (Path(__file__).parents[2] / "docs/pcie.md").read_text()
    assert tables() in page


def test_registers_fit():
    """No register lies on another, and all lie before the windows."""
    places = [*PcieRegister, *(PcieRegister.COUNTERS + counter for counter in list(PcieCounter)[1:])]
    places += [base + 1 for base in (PcieRegister.REQUEST_BASE, PcieRegister.ANSWER_BASE, PcieRegister.STATUS_BASE)]
    assert len(set(places)) == len(places)
    assert max(places) < 1024
    assert set(FAULT_TEXT) == set(Fault)
    assert set(REGISTER_TEXT) == set(PcieRegister)
    assert set(COUNTER_TEXT) == set(PcieCounter)
