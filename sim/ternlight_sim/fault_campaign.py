"""Requests over a wire with faults, held to the golden model: every token right, or an error, and never a hang.

python -m ternlight_sim.fault_campaign --faults 100000              # the modelled device
python -m ternlight_sim.fault_campaign --faults 2000 --verilated    # the simulated RTL
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.errors import TernlightError
from ternlight.geometry import Geometry
from ternlight.link.base import Transport
from ternlight.link.port import Port
from ternlight.sampling import Sampling

from .device_model import DeviceModel
from .faults import Fault, FaultyTransport
from .golden_session import GoldenSession
from .machine import Machine
from .random_model import random_config, random_image

GEOMETRY = Geometry(
    inputs=8,
    rows=8,
    vector=4,
    store_words=1024,
    gain_words=512,
    residual_words=8,
    gated_words=16,
    state_words=128,
    program_words=256,
    activations=64,
    accumulator=16,
    slots=3,
    prompt=16,
    ring=16,
    top_k=64,
)
VOCABULARY = 20
IMAGE = random_image(random_config(hidden=9, intermediate=11, layers=1, vocabulary=VOCABULARY), 4)
PROMPTS = 12
"""Different prompts: what the golden model says to them is kept."""
TOKENS_MAX = 40
OPERATION_SECONDS = 900.0
"""On the device's clock, and no operation may take longer."""
OPERATION_CALLS = 1_000_000
RECOVERIES_MAX = 30
"""Attempts to reach a device again, over a wire that goes on to fail."""
RESETS, UNPLUGS = 0.10, 0.05
"""The chance, per operation, that the device is reset or the cable pulled in its midst."""


class WrongError(AssertionError):
    """A token or a state that is not the golden model's, and no error."""


class Bench(Protocol):
    """A device to be treated badly."""

    def open(self) -> Transport:
        """A wire to it."""

    def clock(self) -> float:
        """The time in seconds."""

    def reset(self) -> None:
        """As after power-up."""


class ModelBench:
    """The modelled device: its clock only moves while somebody waits."""

    def __init__(self) -> None:
        self._model = DeviceModel(GEOMETRY)
        self.open: Callable[[], Transport] = lambda: self._model
        self.clock, self.reset = self._model.clock, self._model.reset


class VerilatedBench:
    """The simulated RTL, behind a socket and on the clock of the wall; a reset is another process."""

    def __init__(self) -> None:
        from ternlight_boards.simulator import DIVISOR

        from .simulated_device import build_simulator

        self._executable = build_simulator(GEOMETRY, DIVISOR)
        self._simulator: Any = None
        self.clock = time.monotonic
        self.reset()

    def open(self) -> Transport:
        """A connection: the simulator takes one at a time."""
        from ternlight.link.tcp import TcpTransport

        return TcpTransport(self._simulator.url)

    def reset(self) -> None:
        """The process ends, and with it its socket."""
        from .simulated_device import start_simulator

        self.close()
        self._simulator = start_simulator(self._executable)

    def close(self) -> None:
        """End the simulator."""
        if self._simulator is not None:
            self._simulator.close()


@dataclass
class Report:
    """What happened: faults by kind, operations by how they ended, and errors by class."""

    faults: Counter[Fault] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    retransmissions: int = 0

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "faults": self.faults.total(),
            "faults_by_kind": {fault.value: self.faults[fault] for fault in Fault},
            "operations": self.outcomes.total(),
            "outcomes": dict(self.outcomes),
            "errors": dict(self.errors),
            "right_tokens": self.tokens,
            "retransmissions": self.retransmissions,
        }


class Campaign:
    """Operations on a device over a bad wire, each held to the golden model.

    rate: faults per byte. Raises WrongError, HangError, or any error that is no TernlightError.
    """

    def __init__(self, bench: Bench, *, seed: int, rate: float) -> None:
        self.report = Report()
        self._bench = bench
        self._random = random.Random(seed)
        self._rate = rate
        self._machine = Machine(compile_image(IMAGE, GEOMETRY))
        self._prompts = [
            [self._random.randrange(VOCABULARY) for _ in range(self._random.randint(1, 40))] for _ in range(PROMPTS)
        ]
        self._golden: dict[int, tuple[list[int], Any]] = {}
        self._wire: FaultyTransport
        self._device: Device | None = None

    def run(self, faults: int) -> Report:
        """Go on until so many faults have happened."""
        operations = (self._generate, self._side_by_side, self._leave_early, self._carry_over)
        while self.report.faults.total() < faults:
            device = self._reachable()
            operation = self._random.choice(operations)
            try:
                with self._trouble():
                    operation(device)
            except TernlightError as error:
                self._failed(error)
            else:
                self.report.outcomes["right"] += 1
        self._close()
        return self.report

    def _reachable(self) -> Device:
        """The device with its image, whatever happened to it before: a link recovers."""
        for _ in range(RECOVERIES_MAX):
            try:
                if self._device is None:
                    self._wire = FaultyTransport(
                        self._bench.open(),
                        source=self._random,
                        rate=self._rate,
                        counts=self.report.faults,
                        clock=self._bench.clock,
                    )
                    self._allow()
                    port = Port(self._wire, clock=self._bench.clock, seed=self._random.randrange(1 << 32))
                    self._device = Device(port)
                self._allow()
                self._device.abort_orphans()
                self._device.load(IMAGE)
                return self._device
            except TernlightError as error:
                self._failed(error)
                self._close()
        raise WrongError(f"the device was not reached again in {RECOVERIES_MAX} attempts")

    def _close(self) -> None:
        if self._device is not None:
            self.report.retransmissions += self._device.port.statistics.retransmissions
            self._device.close()
            self._device = None

    def _failed(self, error: TernlightError) -> None:
        self.report.outcomes["error"] += 1
        self.report.errors[type(error).__name__] += 1
        if self._wire.unplugged:
            self._close()

    def _allow(self) -> None:
        self._wire.allow(OPERATION_SECONDS, OPERATION_CALLS)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        """Perhaps, after some calls, the device is reset or the cable pulled."""
        self._allow()
        draw, after = self._random.random(), self._random.randint(1, 60)
        calls = 0
        wire, read = self._wire, self._wire.read

        def read_until_trouble(maximum: int, timeout: float) -> bytes:
            nonlocal calls
            calls += 1
            if calls == after:
                if draw < RESETS:
                    self.report.faults[Fault.RESET] += 1
                    self._bench.reset()
                elif draw < RESETS + UNPLUGS:
                    self.report.faults[Fault.UNPLUG] += 1
                    wire.unplugged = True
            return read(maximum, timeout)

        wire.read = read_until_trouble  # type: ignore[method-assign]
        try:
            yield
        finally:
            wire.read = read  # type: ignore[method-assign]

    def _generate(self, device: Device) -> None:
        """A request: all of its tokens, and the state after them."""
        number, session = self._random.randrange(PROMPTS), device.session(self._random.randrange(GEOMETRY.slots))
        taken = list(self._checked(number, session.generate(self._prompts[number], TOKENS_MAX, self._sampling(number))))
        self._check_complete(number, taken)
        states = session.save().states
        if not np.array_equal(states, self._expected(number)[1]):
            raise WrongError(f"the state after request {number} is not the golden model's")

    def _side_by_side(self, device: Device) -> None:
        """Requests in all slots, in turns."""
        numbers = [self._random.randrange(PROMPTS) for _ in range(GEOMETRY.slots)]
        requests = [
            self._checked(
                number, device.session(slot).generate(self._prompts[number], TOKENS_MAX, self._sampling(number))
            )
            for slot, number in enumerate(numbers)
        ]
        taken: list[list[int]] = [[] for _ in requests]
        running = set(range(len(requests)))
        while running:
            slot = self._random.choice(sorted(running))
            token = next(requests[slot], None)
            if token is None:
                running.discard(slot)
            else:
                taken[slot].append(token)
        for number, tokens in zip(numbers, taken, strict=True):
            self._check_complete(number, tokens)

    def _leave_early(self, device: Device) -> None:
        """A request that is aborted: the slot is free for the next one."""
        number, session = self._random.randrange(PROMPTS), device.session(self._random.randrange(GEOMETRY.slots))
        request = session.generate(self._prompts[number], 1 << 20, self._sampling(number))
        try:
            for _, _ in zip(self._checked(number, request), range(self._random.randint(1, 9)), strict=False):
                pass
        finally:
            request.close()
        if session.status().running:
            raise WrongError("a request that was left still runs")

    def _carry_over(self, device: Device) -> None:
        """A state that is saved goes on in another slot."""
        number = self._random.randrange(PROMPTS)
        first, second = self._random.sample(range(GEOMETRY.slots), 2)
        sampling, half = self._sampling(number), TOKENS_MAX // 2
        head = list(self._checked(number, device.session(first).generate(self._prompts[number], half, sampling)))
        if len(head) != half:
            raise WrongError(f"{len(head)} of {half} tokens came, and no error")
        device.session(second).restore(device.session(first).save())
        rest = device.session(second).generate(head[-1:], TOKENS_MAX - half, sampling, keep_state=True)
        tail = list(self._checked(number, rest, first=half))
        self._check_complete(number, head + tail)

    def _checked(
        self, number: int, request: Generator[int, None, None], *, first: int = 0
    ) -> Generator[int, None, None]:
        """The tokens of a request, each held to the golden model."""
        expected = self._expected(number)[0][first:]
        try:
            for at, token in enumerate(request):
                if at < len(expected) and token != expected[at]:
                    raise WrongError(f"token {first + at} of request {number} is {token}, not {expected[at]}")
                self.report.tokens += 1
                yield token
        finally:
            with suppress(TernlightError):
                request.close()

    def _check_complete(self, number: int, tokens: list[int]) -> None:
        if tokens != self._expected(number)[0]:
            raise WrongError(f"request {number} gave {len(tokens)} of {TOKENS_MAX} tokens, and no error")

    def _expected(self, number: int) -> tuple[list[int], Any]:
        if number not in self._golden:
            session = GoldenSession(self._machine)
            tokens = list(session.generate(self._prompts[number], TOKENS_MAX, self._sampling(number)))
            self._golden[number] = tokens, session.states
        return self._golden[number]

    def _sampling(self, number: int) -> Sampling:
        return Sampling(temperature=(0.0, 1.5)[number % 2], top_k=0, seed=number)


def main() -> None:
    """Run a campaign and print its report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--faults", type=int, default=100_000, help="until so many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=0.01, help="faults per byte (default: %(default)s)")
    parser.add_argument("--verilated", action="store_true", help="against the simulated RTL, not its model")
    args = parser.parse_args()
    bench = VerilatedBench() if args.verilated else ModelBench()
    began = time.monotonic()
    report = Campaign(bench, seed=args.seed, rate=args.rate).run(args.faults)
    print(json.dumps({"seed": args.seed, **report.json(), "seconds": round(time.monotonic() - began)}, indent=1))
    if isinstance(bench, VerilatedBench):
        bench.close()


if __name__ == "__main__":
    main()
