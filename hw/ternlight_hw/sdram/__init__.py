"""SDR SDRAM as a stream of words: controller, pins, clock crossing."""

from .controller import Controller
from .pads import Pads, Registers
from .stream import SdramStream

__all__ = ["Controller", "Pads", "Registers", "SdramStream"]
