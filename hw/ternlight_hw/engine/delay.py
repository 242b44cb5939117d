"""Shift registers."""

from __future__ import annotations

from amaranth import Module, Signal, Value


class Delay:
    """A value and what it was in the cycles before; its flip-flops are made as they are asked for."""

    def __init__(self, m: Module, value: Value, name: str) -> None:
        self._m = m
        self._name = name
        self._values = [value]

    def __getitem__(self, cycles: int) -> Value:
        """The value so many cycles later."""
        while len(self._values) <= cycles:
            value = self._values[-1]
            following = Signal.like(value, name=f"{self._name}_{len(self._values)}", init=0)
            self._m.d.sync += following.eq(value)
            self._values.append(following)
        return self._values[cycles]
