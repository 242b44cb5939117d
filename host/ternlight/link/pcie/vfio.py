"""A PCIe function through Linux's VFIO: BAR, DMA behind the IOMMU, and MSI, without root and without a driver of ours.

Numbers and structures are those of linux/vfio.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct
from pathlib import Path
from typing import Protocol

from ...errors import LinkError
from ...geometry import ceil_div
from ...pcie_map import BAR_BYTES
from .base import WORD_BYTES, DmaMemory, MappedBar, PcieFunction
from .transport import MEMORY_WORDS

_FIRST = ord(";") << 8 | 100
GET_API_VERSION = _FIRST
SET_IOMMU = _FIRST + 2
GROUP_GET_STATUS = _FIRST + 3
GROUP_SET_CONTAINER = _FIRST + 4
GROUP_GET_DEVICE = _FIRST + 6
GET_REGION_INFO = _FIRST + 8
SET_IRQS = _FIRST + 10
MAP_DMA = _FIRST + 13
UNMAP_DMA = _FIRST + 14

API_VERSION = 0
TYPE1_IOMMU = 1
GROUP_VIABLE = 1
BAR0_REGION, CONFIG_REGION = 0, 7
MSI_INDEX = 1
IRQ_SET = 1 << 2 | 1 << 5  # event descriptors, of the trigger
DMA_READ_WRITE = 3

GROUP_STATUS = struct.Struct("=II")  # size, flags
REGION_INFO = struct.Struct("=IIIIQQ")  # size, flags, index, capabilities; bytes, offset in the descriptor
IRQS = struct.Struct("=IIIIIi")  # size, flags, index, first, count; an event descriptor
DMA_MAP = struct.Struct("=IIQQQ")  # size, flags; address here, address there, bytes
DMA_UNMAP = struct.Struct("=IIQQ")  # size, flags; address there, bytes

COMMAND_OFFSET = 4
COMMAND_MEMORY_MASTER = 1 << 1 | 1 << 2
IO_ADDRESS = 0x1000_0000
"""Where the function sees the memory: any address that the platform has not reserved."""
EVENT_BYTES = 8


class System(Protocol):
    """What is asked of the kernel; tests bring a kernel of their own."""

    def open(self, path: Path) -> int:
        """A descriptor of a file, for reading and writing."""

    def ioctl(self, descriptor: int, request: int, argument: int | bytes | bytearray) -> int:
        """fcntl.ioctl."""

    def map(self, descriptor: int, size: int, offset: int) -> memoryview:
        """A part of a descriptor, shared."""

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """os.pread."""

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        """os.pwrite."""

    def close(self, descriptor: int) -> None:
        """os.close."""


class Linux:
    """The kernel of this machine."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def ioctl(self, descriptor: int, request: int, argument: int | bytes | bytearray) -> int:
        result: int = fcntl.ioctl(descriptor, request, argument)  # type: ignore[assignment]
        return result

    def map(self, descriptor: int, size: int, offset: int) -> memoryview:
        return memoryview(mmap.mmap(descriptor, size, offset=offset))

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return os.pread(descriptor, count, offset)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> int:
        return os.pwrite(descriptor, data, offset)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)


class VfioFunction(PcieFunction):
    """A function that is bound to vfio-pci.

    url: for messages. folder: of the function in sysfs. root: where /dev is; system: the kernel; both for tests.
    """

    def __init__(self, url: str, folder: Path, *, root: Path = Path("/"), system: System | None = None) -> None:
        self.name = url
        self._system = system or Linux()
        self._descriptors: list[int] = []
        self._bar: MappedBar | None = None
        group = folder / "iommu_group"
        if not group.is_symlink():
            raise LinkError(
                f"{url} is behind no IOMMU, which DMA needs: switch it on in the firmware and the kernel "
                "(intel_iommu=on), or unbind the function from vfio-pci to do without DMA"
            )
        nodes = root / "dev/vfio"
        try:
            self._container = self._opened(nodes / "vfio")
            self._open_group(self._opened(nodes / group.resolve().name))
            self._open_device(folder.name)
        except LinkError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _advice(url, error) from error

    def read(self, offset: int, count: int = 1) -> list[int]:
        return self._open_bar().read(offset, count)

    def write(self, offset: int, words: list[int]) -> None:
        self._open_bar().write(offset, words)

    def wait(self, timeout: float) -> None:
        if select.select([self._event], [], [], timeout)[0]:
            os.read(self._event, EVENT_BYTES)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.release()
            self._bar = None
        if self.memory is not None:
            size = len(self._memory)
            self._system.ioctl(
                self._container, UNMAP_DMA, bytearray(DMA_UNMAP.pack(DMA_UNMAP.size, 0, IO_ADDRESS, size))
            )
            self.memory.words.release()
            self.memory = None
            os.close(self._event)
        while self._descriptors:
            self._system.close(self._descriptors.pop())

    def _opened(self, path: Path) -> int:
        self._descriptors.append(self._system.open(path))
        return self._descriptors[-1]

    def _open_group(self, group: int) -> None:
        ioctl = self._system.ioctl
        if (version := ioctl(self._container, GET_API_VERSION, 0)) != API_VERSION:
            raise LinkError(f"the kernel has version {version} of VFIO, and not {API_VERSION}")
        status = bytearray(GROUP_STATUS.pack(GROUP_STATUS.size, 0))
        ioctl(group, GROUP_GET_STATUS, status)
        if not GROUP_STATUS.unpack(status)[1] & GROUP_VIABLE:
            raise LinkError(
                f"other functions of the IOMMU group of {self.name} have drivers: bind them to vfio-pci too"
            )
        ioctl(group, GROUP_SET_CONTAINER, struct.pack("=i", self._container))
        ioctl(self._container, SET_IOMMU, TYPE1_IOMMU)
        self._group = group

    def _open_device(self, address: str) -> None:
        system = self._system
        device = system.ioctl(self._group, GROUP_GET_DEVICE, bytearray(address.encode() + b"\0"))
        self._descriptors.append(device)
        size, offset = self._region(device, BAR0_REGION)
        if size < BAR_BYTES:
            raise LinkError(f"BAR 0 of {self.name} has {size} bytes, and not {BAR_BYTES}: it has another bitstream")
        _, config = self._region(device, CONFIG_REGION)
        (command,) = struct.unpack("<H", system.pread(device, 2, config + COMMAND_OFFSET))
        system.pwrite(device, struct.pack("<H", command | COMMAND_MEMORY_MASTER), config + COMMAND_OFFSET)

        pages = ceil_div(MEMORY_WORDS * WORD_BYTES, mmap.PAGESIZE)
        memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
        here = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        mapping = DMA_MAP.pack(DMA_MAP.size, DMA_READ_WRITE, here, IO_ADDRESS, len(memory))
        system.ioctl(self._container, MAP_DMA, bytearray(mapping))
        self._memory = memory
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.memory = DmaMemory(IO_ADDRESS, memoryview(memory).cast("I"))
        system.ioctl(device, SET_IRQS, bytearray(IRQS.pack(IRQS.size, IRQ_SET, MSI_INDEX, 0, 1, self._event)))
        self._bar = MappedBar(system.map(device, BAR_BYTES, offset))

    def _region(self, device: int, index: int) -> tuple[int, int]:
        """Bytes of a region, and where it is in the device's descriptor."""
        info = bytearray(REGION_INFO.pack(REGION_INFO.size, 0, index, 0, 0, 0))
        self._system.ioctl(device, GET_REGION_INFO, info)
        *_, size, offset = REGION_INFO.unpack(info)
        return size, offset

    def _open_bar(self) -> MappedBar:
        if self._bar is None:
            raise LinkError(f"{self.name} is closed")
        return self._bar


def _advice(url: str, error: OSError) -> LinkError:
    """What to do about a function that does not open."""
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return LinkError(
                f"no permission to open {error.filename or url}: give yourself the node (sudo chown $USER "
                f"/dev/vfio/GROUP), and see that the limit of locked memory (ulimit -l) is 1 MB at least"
            )
        case errno.ENOENT:
            return LinkError(f"there is no {error.filename}: load the module vfio-pci (sudo modprobe vfio-pci)")
        case errno.EBUSY:
            return LinkError(f"{url} is in use by another program: close it first")
    return LinkError(f"{url} cannot be opened through VFIO: {error}")
