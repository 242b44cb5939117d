"""Links over PCIe: pcie:ADDRESS, by memory mapping alone or with DMA through VFIO."""

from __future__ import annotations

from .function import open_function
from .transport import PcieTransport

__all__ = ["PcieTransport", "open_function"]
