"""The bad wire does what it says, a thousand faults are survived, and what a driver gets wrong is noticed."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from ternlight.abi import Kind, Op
from ternlight.errors import LinkError
from ternlight.link.base import Transport
from ternlight.packets import Request, encode_request
from ternlight_sim import faults
from ternlight_sim.fault_campaign import Campaign, ModelBench, WrongError
from ternlight_sim.faults import LINE_FAULTS, Direction, Fault, FaultyTransport, HangError
from ternlight_sim.fuzz import fuzz
from ternlight_sim.link_model import DevicePort, DictBus

DATA = bytes(range(256)) * 40


class Echo(Transport):
    """A wire that gives back what it was given, in a time of its own."""

    def __init__(self) -> None:
        self.name = "echo"
        self.now = 0.0
        self.bytes = bytearray()

    def clock(self) -> float:
        return self.now

    def write(self, data: bytes) -> None:
        self.bytes += data

    def read(self, maximum: int, timeout: float) -> bytes:
        if not self.bytes:
            self.now += timeout
        data = bytes(self.bytes[:maximum])
        del self.bytes[:maximum]
        return data

    def close(self) -> None: ...


def faulty(echo: Echo, rate: float, counts: Counter[Fault] | None = None) -> FaultyTransport:
    return FaultyTransport(
        echo, source=random.Random(5), rate=rate, counts=Counter() if counts is None else counts, clock=echo.clock
    )


def received(wire: Transport) -> bytes:
    data = b""
    while piece := wire.read(100, 10.0):
        data += piece
    return data


def test_without_faults_nothing_changes():
    wire = faulty(Echo(), 0.0)
    wire.write(DATA)
    assert received(wire) == DATA
    assert wire.read(10, 1.0) == b""


@pytest.mark.parametrize("kind", LINE_FAULTS)
def test_each_kind_of_fault(monkeypatch, kind):
    monkeypatch.setattr(faults, "LINE_FAULTS", (kind,))
    counts: Counter[Fault] = Counter()
    now = 0.0
    line = Direction(random.Random(3), lambda: now, counts, 1e-3)
    line.put(DATA)
    got = line.get()
    number = counts[kind]
    assert number > 3
    assert set(counts) == {kind}
    match kind:
        case Fault.FLIP:
            differing = [(a ^ b).bit_count() for a, b in zip(got, DATA, strict=True) if a != b]
            assert differing == [1] * number
        case Fault.LOSE | Fault.CUT:
            assert len(got) < len(DATA)
        case Fault.DOUBLE | Fault.NOISE:
            assert number <= len(got) - len(DATA) <= faults.BURST * number
        case Fault.DELAY:
            assert (got, 0 < line.delayed <= faults.DELAY_SECONDS) == (b"", True)
            now = faults.DELAY_SECONDS
            assert line.get() == DATA


def test_all_faults_are_counted():
    counts: Counter[Fault] = Counter()
    wire = faulty(Echo(), 0.01, counts)
    for _ in range(20):
        wire.write(DATA)
        received(wire)
    expected = 2 * 20 * len(DATA) * 0.01
    assert 0.5 * expected < counts.total() < 1.5 * expected
    assert set(counts) == set(LINE_FAULTS)


def test_a_cable_that_is_out():
    wire = faulty(Echo(), 0.0)
    wire.unplugged = True
    for act in (lambda: wire.read(1, 0.0), lambda: wire.write(b"a")):
        with pytest.raises(LinkError, match=r"^the cable was pulled$"):
            act()


def test_a_driver_that_waits_for_ever_is_noticed():
    wire = faulty(Echo(), 0.0)

    def wait_for_ever(act: Callable[[], object]) -> None:
        wire.allow(60.0, 100_000)
        while True:
            act()

    with pytest.raises(HangError):
        wait_for_ever(lambda: wire.read(1, 1.0))
    with pytest.raises(HangError):
        wait_for_ever(lambda: wire.write(b""))


def test_a_thousand_faults():
    """The command that does it with any number: python -m ternlight_sim.fault_campaign."""
    report = Campaign(ModelBench(), seed=7, rate=0.01).run(1000)
    assert report.faults.total() >= 1000
    assert all(report.faults[fault] for fault in LINE_FAULTS)
    assert report.outcomes["right"] > report.outcomes["error"]
    assert report.retransmissions > 100
    assert report.tokens > 100


def test_a_driver_that_checks_nothing_is_noticed(monkeypatch):
    """Without CRC, damaged tokens are taken for right ones."""
    monkeypatch.setattr("ternlight.packets.zlib.crc32", lambda data: 0)
    with pytest.raises((WrongError, HangError)):
        Campaign(ModelBench(), seed=1, rate=0.01).run(10_000)


def test_the_command():
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; sys.argv[1:] = ['--faults', '30'];"
         "from ternlight_sim.fault_campaign import main; main()"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert '"bit flipped": ' in done.stdout


# Nothing wedges the device's port (its twin here; the gateware in tests/hw/test_command_port.py).


@pytest.mark.parametrize("seed", range(4))
def test_no_input_wedges_the_port(seed):
    source, bus = random.Random(seed), DictBus(range(64))
    port = DevicePort({}, bus)
    for number, data in enumerate(fuzz(source, 3000, range(80))):
        port.receive(data)
        if number % 20 == 0:
            sequence = source.randrange(256)
            alive = b"\0" + encode_request(Request(Op.SYNC, sequence))
            assert port.receive(alive)[-1].kind == Kind.ACK
            read = encode_request(Request(Op.READ, (sequence + 1) % 256, 5, 3))
            assert port.receive(read)[-1].words == tuple(bus.words[at] for at in (5, 6, 7))
