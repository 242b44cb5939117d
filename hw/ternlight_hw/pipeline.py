"""Fixed pipelines, and the ports at their ends."""

from __future__ import annotations

from amaranth import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import Out


class Flow(wiring.Signature):
    """A stream without back-pressure: `payload` is transferred in every cycle in which `valid` is set."""

    def __init__(self, payload_shape) -> None:
        super().__init__({"valid": Out(1), "payload": Out(payload_shape)})


class Pipeline:
    """A pipeline without back-pressure, built stage by stage into a module.

    Every `stage` adds one cycle. Its registers load only when the stage before holds something: idle stages do not
    toggle, neither on a chip nor in a simulation. Only `valid` is reset.

    valid: the present stage holds something.
    depth: stages so far.
    """

    def __init__(self, m: Module, valid: Value) -> None:
        self._m = m
        self.valid = valid
        self.depth = 0

    def stage(self, **values: Value) -> list[Signal]:
        """Registers of the values, in the order given; from here on `valid` is that of the new stage."""
        self.depth += 1
        valid = Signal(name=f"valid_{self.depth}")
        registers = [Signal.like(value, name=f"{name}_{self.depth}", reset_less=True) for name, value in values.items()]
        self._m.d.sync += valid.eq(self.valid)
        with self._m.If(self.valid):
            for register, value in zip(registers, values.values(), strict=True):
                self._m.d.sync += register.eq(value)
        self.valid = valid
        return registers
