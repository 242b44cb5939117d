"""Finds PCIe functions in sysfs, and opens them the way their driver allows."""

from __future__ import annotations

import errno
import mmap
import os
import re
import time
from pathlib import Path

from ...errors import LinkError
from ...pcie_map import BAR_BYTES, DEVICE_ID, VENDOR_ID
from .. import PCIE_SCHEME
from .base import MappedBar, PcieFunction

DEVICES = "sys/bus/pci/devices"
VFIO_DRIVER = "vfio-pci"
POLL_SECONDS = 100e-6
"""Without interrupts, answers are looked for so often: longer than a read of a register, shorter than a token."""

ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-1][0-9a-f]\.[0-7]")


def open_function(url: str, *, root: Path = Path("/")) -> PcieFunction:
    """The function of a URL pcie:DOMAIN:BUS:DEVICE.FUNCTION: with DMA if VFIO has it, and without if no driver has.

    root: where /sys and /dev are, for tests. Raises LinkError.
    """
    folder = find_function(url, root=root)
    driver = (folder / "driver").resolve().name if (folder / "driver").is_symlink() else None
    if driver == VFIO_DRIVER:
        from .vfio import VfioFunction

        return VfioFunction(url, folder, root=root)
    if driver is not None:
        raise LinkError(
            f"{url} belongs to the driver {driver}: unbind it, or bind it to {VFIO_DRIVER} (see docs/pcie.md)"
        )
    return SysfsFunction(url, folder)


def find_function(url: str, *, root: Path = Path("/")) -> Path:
    """The folder of a URL's function in sysfs; raises LinkError that lists those that are ternlight devices."""
    address = url.removeprefix(PCIE_SCHEME).lower()
    if not ADDRESS.fullmatch(address):
        raise LinkError(
            f"{url} is no address: write {PCIE_SCHEME}DOMAIN:BUS:DEVICE.FUNCTION, as in {PCIE_SCHEME}0000:01:00.0"
        )
    folder = root / DEVICES / address
    if not folder.is_dir():
        found = [path.name for path in sorted((root / DEVICES).glob("*")) if _identity(path) == (VENDOR_ID, DEVICE_ID)]
        raise LinkError(
            f"there is no PCIe function {address}; ternlight devices of this machine: {', '.join(found) or 'none'}. "
            "Was the bitstream loaded before the bus was scanned?"
        )
    vendor, device = _identity(folder)
    if (vendor, device) != (VENDOR_ID, DEVICE_ID):
        raise LinkError(
            f"{url} is another device: its identity is {vendor:04x}:{device:04x}, not {VENDOR_ID:04x}:{DEVICE_ID:04x}"
        )
    return folder


class SysfsFunction(PcieFunction):
    """A function whose BAR 0 is mapped from sysfs: no driver, no DMA, no interrupts, but root's permission.

    url: for messages. folder: of the function in sysfs.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.name = url
        resource = folder / "resource0"
        try:
            # Nothing has enabled the memory of a function that has no driver.
            if (folder / "enable").read_text().strip() == "0":
                (folder / "enable").write_text("1")
            descriptor = os.open(resource, os.O_RDWR | os.O_SYNC | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise LinkError(f"{url} has no BAR 0 that can be mapped: {error.filename} is missing") from error
        except PermissionError as error:
            raise LinkError(
                f"no permission to open {error.filename}: run as root, or bind {url} to {VFIO_DRIVER} "
                "(see docs/pcie.md)"
            ) from error
        except OSError as error:
            raise LinkError(f"{url} cannot be opened: {error}") from error
        try:
            size = os.fstat(descriptor).st_size
            if size < BAR_BYTES:
                raise LinkError(f"BAR 0 of {url} has {size} bytes, and not {BAR_BYTES}: it has another bitstream")
            self._mapping = mmap.mmap(descriptor, BAR_BYTES)
        except OSError as error:
            reason = "the kernel forbids it (lockdown)" if error.errno == errno.EPERM else error
            raise LinkError(f"BAR 0 of {url} cannot be mapped: {reason}") from error
        finally:
            os.close(descriptor)
        self._bar: MappedBar | None = MappedBar(memoryview(self._mapping))

    def read(self, offset: int, count: int = 1) -> list[int]:
        return self._open_bar().read(offset, count)

    def write(self, offset: int, words: list[int]) -> None:
        self._open_bar().write(offset, words)

    def wait(self, timeout: float) -> None:
        time.sleep(min(timeout, POLL_SECONDS))

    def close(self) -> None:
        if self._bar is not None:
            self._bar.release()
            self._bar = None
            self._mapping.close()

    def _open_bar(self) -> MappedBar:
        if self._bar is None:
            raise LinkError(f"{self.name} is closed")
        return self._bar


def _identity(folder: Path) -> tuple[int, int]:
    """Vendor and device of a function, zeros if they cannot be read."""
    try:
        vendor, device = (int((folder / name).read_text(), 16) for name in ("vendor", "device"))
    except (OSError, ValueError):
        return 0, 0
    return vendor, device
