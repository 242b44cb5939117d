"""PCIe on raw streams of transaction layer packets (TLPs), as the hard block of an FPGA gives them."""

from __future__ import annotations

from .endpoint import PcieEndpoint
from .top import PcieTop

__all__ = ["PcieEndpoint", "PcieTop"]
