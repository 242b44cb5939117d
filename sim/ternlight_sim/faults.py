"""A wire that goes wrong: faults of every kind between a driver and its device, counted and from a seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from enum import Enum

from ternlight.errors import LinkError
from ternlight.link.base import Transport

BURST = 16
"""Bytes of a fault at most."""
CUT = 200
DELAY_SECONDS = 3.0
"""At most: longer than the driver's first timeouts."""


class Fault(Enum):
    """What can go wrong: on the wire, in either direction, and at its ends."""

    FLIP = "bit flipped"
    LOSE = "bytes lost"
    DOUBLE = "bytes doubled"
    CUT = "rest of a burst cut off"
    NOISE = "line noise"
    DELAY = "bytes delayed"
    RESET = "device reset"
    UNPLUG = "cable pulled"


LINE_FAULTS = (Fault.FLIP, Fault.LOSE, Fault.DOUBLE, Fault.CUT, Fault.NOISE, Fault.DELAY)


class HangError(AssertionError):
    """Something waited beyond every deadline."""


class Direction:
    """One direction of the wire: bytes go in, and what is left of them comes out when it is due."""

    def __init__(self, source: random.Random, clock: Callable[[], float], counts: Counter[Fault], rate: float) -> None:
        self._random, self._clock, self._counts, self._rate = source, clock, counts, rate
        self._waiting = bytearray()
        self._due = 0.0
        self._gap = self._next_gap()

    def put(self, data: bytes) -> None:
        """Bytes enter."""
        self._waiting += self._spoil(data)

    def get(self) -> bytes:
        """The bytes that leave now."""
        if self._clock() < self._due:
            return b""
        data = bytes(self._waiting)
        self._waiting.clear()
        return data

    @property
    def delayed(self) -> float:
        """Seconds until what waits may leave; none when nothing does."""
        return max(0.0, self._due - self._clock()) if self._waiting else 0.0

    def _spoil(self, data: bytes) -> bytes:
        if not self._rate:
            return data
        out = bytearray()
        while len(data) > self._gap:
            out += data[: self._gap]
            data = self._strike(data[self._gap :])
            out += data[:1]
            data = data[1:]
            self._gap = self._next_gap()
        self._gap -= len(data)
        return bytes(out + data)

    def _strike(self, data: bytes) -> bytes:
        """The bytes from a fault on, of one at least."""
        fault, count = self._random.choice(LINE_FAULTS), self._random.randint(1, BURST)
        self._counts[fault] += 1
        match fault:
            case Fault.FLIP:
                return bytes([data[0] ^ 1 << self._random.randrange(8)]) + data[1:]
            case Fault.LOSE:
                return data[count:]
            case Fault.DOUBLE:
                return data[:count] + data
            case Fault.CUT:
                return data[CUT:]
            case Fault.NOISE:
                return self._random.randbytes(count) + data
        self._due = self._clock() + self._random.uniform(0.0, DELAY_SECONDS)
        return data

    def _next_gap(self) -> int:
        return int(self._random.expovariate(self._rate)) if self._rate else 0


class FaultyTransport(Transport):
    """A wire with faults, around one without.

    rate: faults per byte, on average. counts: of the faults so far, shared by the wires of a campaign.
    clock: the time in seconds, of the driver too. A wire that is unplugged raises LinkError; the next one is another.
    Whoever uses it beyond `deadline`, or `calls` times more, hangs: HangError.
    """

    def __init__(
        self,
        wire: Transport,
        *,
        source: random.Random,
        rate: float,
        counts: Counter[Fault],
        clock: Callable[[], float],
    ) -> None:
        self.name = wire.name
        self.unplugged = False
        self.deadline = float("inf")
        self.calls = 1 << 62
        self._wire = wire
        self._clock = clock
        self._up = Direction(source, clock, counts, rate)
        self._down = Direction(source, clock, counts, rate)

    def allow(self, seconds: float, calls: int) -> None:
        """The next operation may take so long."""
        self.deadline, self.calls = self._clock() + seconds, calls

    def write(self, data: bytes) -> None:
        self._check()
        self._up.put(data)
        self._pass_on()

    def read(self, maximum: int, timeout: float) -> bytes:
        end = self._clock() + timeout
        while True:
            self._check()
            self._pass_on()
            if data := self._down.get():
                return data
            left = end - self._clock()
            delayed = [seconds for seconds in (self._up.delayed, self._down.delayed) if seconds]
            self._down.put(self._wire.read(maximum, max(0.0, min([left, *delayed]))))
            if left <= 0:
                return self._down.get()

    def close(self) -> None:
        self._wire.close()

    def _pass_on(self) -> None:
        if data := self._up.get():
            self._wire.write(data)

    def _check(self) -> None:
        if self.unplugged:
            raise LinkError("the cable was pulled")
        self.calls -= 1
        if self._clock() > self.deadline or self.calls < 0:
            raise HangError("the driver waits beyond every deadline")
