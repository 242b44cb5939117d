"""A multiplier with a register behind it: on ECP5 that of the multiplier block, which synthesis does not use."""

from __future__ import annotations

from typing import Any

from amaranth import ClockSignal, Const, Instance, Module, Shape, Signal, Value

from ..primitives import is_ecp5

FACTOR_BITS = 18
"""Of a multiplier block: signed or unsigned, each factor for itself."""


def multiplied(m: Module, platform: Any, a: Value, b: Value, *, enable: Value | int = 1) -> Signal:
    """The register of a * b, written where `enable` is set. It is not reset.

    The block's way to its outputs is the longest of the chip; with its own register it has no way to another behind it.
    Factors of more than FACTOR_BITS are left to synthesis.
    """
    shape = Shape(len(a) + len(b), a.shape().signed or b.shape().signed)
    product = Signal(shape, src_loc_at=1, reset_less=True)
    if not is_ecp5(platform) or max(len(a), len(b)) > FACTOR_BITS:
        with m.If(enable):
            m.d.sync += product.eq(a * b)
        return product

    ports: dict[str, Any] = {}
    for name, value in (("A", a), ("B", b)):
        wide = Signal(Shape(FACTOR_BITS, value.shape().signed), name=f"factor_{name.lower()}")
        m.d.comb += wide.eq(value)
        ports |= {f"i_{name}{bit}": wide[bit] for bit in range(FACTOR_BITS)}
        ports |= {f"i_SIGNED{name}": Const(int(value.shape().signed)), f"i_SOURCE{name}": Const(0)}
    outputs = Signal(2 * FACTOR_BITS, name="outputs")
    m.submodules += Instance(
        "MULT18X18D",
        p_REG_OUTPUT_CLK="CLK0",
        p_REG_OUTPUT_CE="CE0",
        p_REG_OUTPUT_RST="RST0",
        i_CLK0=ClockSignal(),
        i_CE0=enable,
        i_RST0=Const(0),
        **ports,
        **{f"i_C{bit}": Const(0) for bit in range(FACTOR_BITS)},
        **{f"o_P{bit}": outputs[bit] for bit in range(2 * FACTOR_BITS)},
    )
    m.d.comb += product.eq(outputs[: len(product)])
    return product
