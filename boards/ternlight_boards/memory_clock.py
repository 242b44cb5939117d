"""The clocks of an ECP5 board with SDRAM: the device's, the memory's, and the one that is forwarded to its pin."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from ternlight.errors import BuildError

from .pll import MHZ, Ecp5Pll

EIGHTHS = 8
"""Steps of phase in a period of the oscillator."""


@dataclass(frozen=True, kw_only=True)
class MemoryClock:
    """Three outputs of one EHXPLLL, of which the first is fed back.

    device_divider, memory_divider: from the oscillator to the two clocks. shift: of the forwarded clock behind the
    memory's, in eighths of the oscillator's period.
    """

    input_hz: int
    oscillator_hz: int = 800 * MHZ
    device_divider: int = 8
    memory_divider: int = 6
    shift: int = 27

    def __post_init__(self) -> None:
        if not 0 <= self.shift < EIGHTHS * self.memory_divider:
            raise BuildError(
                f"shift must be from 0 to {EIGHTHS * self.memory_divider - 1} eighths of the oscillator's period, "
                f"not {self.shift}"
            )
        if Fraction(self.oscillator_hz) not in Ecp5Pll.OSCILLATOR or self.device_hz % self.input_hz:
            raise BuildError(
                f"the PLL cannot run at {self.oscillator_hz / MHZ:g} MHz from {self.input_hz / MHZ:g} MHz: choose "
                f"{Ecp5Pll.OSCILLATOR.low:g} to {Ecp5Pll.OSCILLATOR.high:g} MHz, and dividers that give a multiple of "
                "the input"
            )

    @property
    def device_hz(self) -> int:
        """The device's clock."""
        return self.oscillator_hz // self.device_divider

    @property
    def memory_hz(self) -> int:
        """The memory's clock."""
        return self.oscillator_hz // self.memory_divider

    @property
    def shift_ns(self) -> float:
        """From an edge of the memory's clock to that of the forwarded one."""
        return self.shift * 1e9 / (EIGHTHS * self.oscillator_hz)

    def parameters(self) -> dict[str, str | int]:
        """Of the EHXPLLL, with outputs CLKOP (device), CLKOS (memory) and CLKOS2 (forwarded)."""
        coarse, fine = divmod(self.shift, EIGHTHS)
        return {
            "CLKI_DIV": 1,
            "CLKFB_DIV": self.device_hz // self.input_hz,
            "FEEDBK_PATH": "CLKOP",
            # An output without shift has the phase of its divider's end.
            **_output("CLKOP", self.device_divider, self.device_divider - 1, 0),
            **_output("CLKOS", self.memory_divider, self.memory_divider - 1, 0),
            **_output("CLKOS2", self.memory_divider, self.memory_divider - 1 + coarse, fine),
        }


def _output(name: str, divider: int, coarse: int, fine: int) -> dict[str, str | int]:
    return {
        f"{name}_ENABLE": "ENABLED",
        f"{name}_DIV": divider,
        f"{name}_CPHASE": coarse,
        f"{name}_FPHASE": fine,
    }
