"""What a design instantiates of an FPGA because no synthesis infers it well; elsewhere plain Amaranth replaces it."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, ClockSignal, Const, Instance, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

BLOCK_RAM_SHAPES = {36: 512, 18: 1024, 9: 2048, 4: 4096, 2: 8192, 1: 16384}
"""Words of an ECP5 block RAM by their width."""

DISTRIBUTED_RAM_WORDS = 16
"""Words that one LUT holds of a bit; from the next one on, multiplexers follow."""
DISTRIBUTED_RAM = {"ram_style": "distributed"}
"""Attributes of a memory that is to be in LUTs: left to itself, Yosys takes block RAM from some 30 words on."""


def is_ecp5(platform: Any) -> bool:
    """Whether the platform's device is an ECP5: block RAM, distributed RAM and carry chains are then instantiated."""
    return str(getattr(platform, "device", "")).startswith("LFE5U")


def block_ram_width(depth: int) -> int | None:
    """The widest word of which one block RAM holds `depth`, or None if no block RAM is so deep."""
    return max((width for width, words in BLOCK_RAM_SHAPES.items() if words >= depth), default=None)


class BlockRam(wiring.Component):
    """One ECP5 block RAM, DP16KD: a write port and a read port of the same width.

    Reads: `read_data` follows one cycle after `read_enable`, or, with the output register, is what the
    last but one enabled cycle asked for: both stages advance with `read_enable`. A word that is written in the
    same cycle reads as undefined. The output register makes the difference between 115 and 199 MHz, and
    synthesis does not use it.

    Parameters: width, of BLOCK_RAM_SHAPES; registered, with the output register.
    Members: write_enable, write_address, write_data; read_enable, read_address, read_data.
    """

    def __init__(self, *, width: int, registered: bool = False) -> None:
        if width not in BLOCK_RAM_SHAPES:
            raise ValueError(f"width must be one of {sorted(BLOCK_RAM_SHAPES)}, not {width}")
        self.width = width
        self.registered = registered
        self.depth = BLOCK_RAM_SHAPES[width]
        address_bits = ceil_log2(self.depth)
        super().__init__(
            {
                "write_enable": In(1),
                "write_address": In(address_bits),
                "write_data": In(width),
                "read_enable": In(1),
                "read_address": In(address_bits),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        enable = self.read_enable if self.registered else Const(1)
        outputs = {"B": self.read_data}
        if self.width == 36:  # such a word goes in and out through both ports
            outputs = {"A": self.read_data[:18], "B": self.read_data[18:]}
        m.submodules.block = _dp16kd(
            widths=(self.width, self.width),
            registered=self.registered,
            addresses=(self.write_address, self.read_address),
            enables=(Const(1), self.read_enable),
            output_enables=(enable, enable),
            write=self.write_enable,
            inputs={"A": self.write_data[:18], "B": self.write_data[18:]},
            outputs=outputs,
        )
        return m


class SharedBlockRam(wiring.Component):
    """One ECP5 block RAM of 1024 words of 18 bits, of which a second port reads a part.

    Latency 2 cycles: both ports have their output registers. Of bits 0 to 15 of a word the second port reads
    `part` at `part_address`, in units of `part`; if `part` is 18, the whole word, and if it is 9, either half, which is
    8 of these bits and bit 16 or 17.

    Parameters: part, 1, 2, 4, 9 or 18.
    Members: write_enable, address, write_data, read_data; part_address, part_data.
    """

    WIDTH = 18

    def __init__(self, *, part: int) -> None:
        if part not in (1, 2, 4, 9, 18):
            raise ValueError(f"part must be 1, 2, 4, 9 or 18 bits, not {part}")
        self.part = part
        super().__init__(
            {
                "write_enable": In(1),
                "address": In(ceil_log2(BLOCK_RAM_SHAPES[self.WIDTH])),
                "write_data": In(self.WIDTH),
                "read_data": Out(self.WIDTH),
                "part_address": In(ceil_log2(BLOCK_RAM_SHAPES[part])),
                "part_data": Out(part),
            }
        )

    def elaborate(self, platform):
        m = Module()
        data, read, part = self.write_data, Signal(self.WIDTH), Signal(self.part)
        m.submodules.block = _dp16kd(
            widths=(self.WIDTH, self.part),
            registered=True,
            addresses=(self.address, self.part_address),
            enables=(Const(1), Const(1)),
            output_enables=(Const(1), Const(1)),
            write=self.write_enable,
            # The ninth bit of each byte is beyond the reach of narrow ports.
            inputs={"A": Cat(data[:8], data[16], data[8:16], data[17])},
            outputs={"A": read, "B": part},
        )
        m.d.comb += self.read_data.eq(Cat(read[:8], read[9:17], read[8], read[17]))
        if self.part == self.WIDTH:
            m.d.comb += self.part_data.eq(Cat(part[:8], part[9:17], part[8], part[17]))
        else:
            m.d.comb += self.part_data.eq(part)
        return m


def _dp16kd(*, widths, registered, addresses, enables, output_enables, write, inputs, outputs):
    """A DP16KD of which port A may write, and words of 36 bits take the data pins of both ports."""
    ports = {}
    for name, width, address, enable, output_enable in zip(
        "AB", widths, addresses, enables, output_enables, strict=True
    ):
        # Words of 18 bits and more have byte enables, 9 bits each, in the low address bits.
        low = Const(0, 14 - len(address))
        if name == "A" and width >= 18:
            low = write.replicate(len(low)) if width == 36 else Cat(Const(3, 2), Const(0, 2))
        data = Cat(inputs.get(name, Const(0, 0)), Const(0, 18))[:18]
        ports |= {
            f"p_DATA_WIDTH_{name}": width,
            f"p_REGMODE_{name}": "OUTREG" if registered else "NOREG",
            f"p_WRITEMODE_{name}": "NORMAL",
            f"p_CSDECODE_{name}": "0b000",
            f"p_CLK{name}MUX": f"CLK{name}",
            f"i_CLK{name}": ClockSignal(),
            f"i_CE{name}": enable,
            f"i_OCE{name}": output_enable,
            f"i_RST{name}": Const(0),
        }
        ports |= {f"i_CS{name}{bit}": Const(0) for bit in range(3)}
        ports |= {f"i_AD{name}{bit}": value for bit, value in enumerate(Cat(low, address))}
        ports |= {f"i_DI{name}{bit}": value for bit, value in enumerate(data)}
        ports |= {f"o_DO{name}{bit}": value for bit, value in enumerate(outputs.get(name, ()))}
    return Instance(
        "DP16KD",
        p_RESETMODE="SYNC",
        p_ASYNC_RESET_RELEASE="SYNC",
        p_GSR="AUTO",
        i_WEA=Const(1) if widths[0] == 36 else write,
        i_WEB=Const(0),
        **ports,
    )
