"""Port against a model of the device, over wires that lose, damage, repeat and reorder in both directions."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import pytest

from ternlight.abi import (
    MAX_DATA_WORDS,
    RECEIVE_BYTES,
    Finish,
    Kind,
    Register,
    Window,
    address,
    window_address,
    window_columns,
)
from ternlight.errors import DeviceError, LinkError
from ternlight.geometry import Geometry, ceil_div
from ternlight.link.base import Transport
from ternlight.link.exchange import WINDOW_PACKETS
from ternlight.link.port import PATIENCE_MAX, ROUNDS_MAX, SYNC_ATTEMPTS, TIMEOUT_SECONDS, Port
from ternlight.packets import DELIMITER, SEQUENCES, Event, FrameSplitter, Response, encode_response
from ternlight_sim.link_model import DevicePort, DictBus

GEOMETRY = Geometry()
COMMAND = address(Window.REGISTERS, Register.COMMAND)
PATTERN = address(Window.STATES)
FAULTS = ("lose", "repeat", "swap", "flip", "drop", "insert")


class Channel:
    """One direction of a bad line: passes frames on, each with its chance of a fault."""

    def __init__(self, rates: dict[str, float], source: random.Random) -> None:
        self.rates = rates
        self.random = source
        self.held: bytes | None = None

    def carry(self, data: bytes) -> bytes:
        frames = [frame + DELIMITER for frame in data.split(DELIMITER)]
        frames[-1] = frames[-1][:-1]
        return b"".join(self._carry_frame(frame) for frame in frames if frame)

    def _carry_frame(self, frame: bytes) -> bytes:
        draw = self.random.random()
        for fault, rate in self.rates.items():
            draw -= rate
            if draw < 0:
                frame = self._spoil(fault, frame)
                break
        if self.held is not None and frame:
            frame, self.held = frame + self.held, None
        return frame

    def _spoil(self, fault: str, frame: bytes) -> bytes:
        at = self.random.randrange(len(frame))
        match fault:
            case "repeat":
                return frame * 2
            case "swap" if self.held is None:
                self.held = frame
                return b""
            case "flip":
                return frame[:at] + bytes([frame[at] ^ 1 << self.random.randrange(8)]) + frame[at + 1 :]
            case "drop":
                return frame[:at] + frame[at + 1 :]
            case "insert":
                return frame[:at] + self.random.randbytes(2) + frame[at:]
        return b""  # lost


class Wire(Transport):
    """A line to a modelled device, in a time of its own: reading waits, and what waits is handled frame by frame."""

    def __init__(
        self, *, rates: dict[str, float] | None = None, seed: int = 0, delay: float = 0.0, chatter: float = 0.0
    ) -> None:
        self.name = "wire"
        self.now = 0.0
        self.delay = delay
        self.chatter = chatter
        self.random = random.Random(seed)
        columns = window_columns(GEOMETRY)
        stored = {window_address(Window.STORE, word, GEOMETRY): 0 for word in range(3000)}
        registers = {address(Window.REGISTERS, register): register * 3 for register in range(128)}
        pattern = {PATTERN + word: word * 0x01010101 for word in range(256)}
        self.bus = DictBus(stored | registers | pattern)
        self.device = DevicePort(columns, self.bus)
        self.up, self.down = Channel(rates or {}, self.random), Channel(rates or {}, self.random)
        self.to_device = bytearray()
        self.to_host = bytearray()
        self.most_waiting = 0
        self.sent = 0
        self.alive = True
        self.closed = False
        self.before_read: Callable[[], None] = lambda: None

    def clock(self) -> float:
        return self.now

    def write(self, data: bytes) -> None:
        self.sent += 1
        self.to_device += self.up.carry(data)
        self.most_waiting = max(self.most_waiting, len(self.to_device))

    def read(self, maximum: int, timeout: float) -> bytes:
        self.before_read()
        end = self.now + timeout
        while not self.to_host and self.to_device and self.now + self.delay <= end:
            self._work()
        if self.random.random() < self.chatter:
            event = Event(1, 2, Finish.NONE, self.random.randrange(99), (5, 6, 7))
            self.to_host += self.down.carry(self.device.event(event.words()))
        if not self.to_host:
            self.now = end
            return b""
        piece = bytes(self.to_host[: self.random.randint(1, min(maximum, 300))])
        del self.to_host[: len(piece)]
        return piece

    def close(self) -> None:
        self.closed = True

    def _work(self) -> None:
        """The device takes the next frame."""
        end = self.to_device.find(DELIMITER) + 1 or len(self.to_device)
        frame = bytes(self.to_device[:end])
        del self.to_device[:end]
        if len(frame) > 1:
            self.now += self.delay
        if self.alive:
            for response in self.device.receive(frame):
                self.to_host += self.down.carry(encode_response(response))


def opened(wire: Wire) -> Port:
    return Port(wire, clock=wire.clock, seed=1)


def stored(wire: Wire, first: int, count: int) -> list[int]:
    return [wire.bus.words[window_address(Window.STORE, word, GEOMETRY)] for word in range(first, first + count)]


def test_clean_line():
    wire = Wire()
    port = opened(wire)
    words = [random.Random(1).getrandbits(32) for _ in range(2000)]
    steps: list[tuple[int, int]] = []
    port.write_window(Window.STORE, 7, words, GEOMETRY, progress=lambda done, total: steps.append((done, total)))
    assert stored(wire, 7, 2000) == words
    assert steps == sorted(steps)
    assert steps[-1] == (2000, 2000)
    assert port.read_window(Window.STORE, 7, 2000, GEOMETRY) == words
    # The device's buffer is used, and never overrun.
    assert RECEIVE_BYTES - 256 < wire.most_waiting <= RECEIVE_BYTES
    assert (port.statistics.retransmissions, port.statistics.corrupt, port.statistics.refused) == (0, 0, 0)
    assert port.statistics.requests == 2 * ceil_div(2000, MAX_DATA_WORDS)
    port.write(COMMAND, [1, 2])
    assert port.read(COMMAND, 2) == [1, 2]
    assert port.read(address(Window.REGISTERS), 100) == [
        *(3 * at for at in range(40)),
        1,
        2,
        *(3 * at for at in range(42, 100)),
    ]
    port.write(address(Window.REGISTERS), list(range(100)))
    assert port.read(address(Window.REGISTERS), 128) == [*range(100), *(3 * at for at in range(100, 128))]
    assert port.read(COMMAND, 0) == []
    port.close()
    assert wire.closed


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fault", [*FAULTS, "all"])
def test_bad_line(fault, seed):
    """Everything is read and written right, and each write is executed once."""
    rates = dict.fromkeys(FAULTS, 0.02) if fault == "all" else {fault: 0.1}
    wire = Wire(rates=rates, seed=seed, chatter=0.1)
    port = opened(wire)
    source = random.Random(seed)
    commands = []
    for step in range(12):
        first, count = source.randrange(1000), source.randrange(1, 1500)
        words = [source.getrandbits(32) * source.randrange(2) for _ in range(count)]
        port.write_window(Window.STORE, first, words, GEOMETRY)
        assert stored(wire, first, count) == words
        assert port.read_window(Window.STORE, first, count, GEOMETRY) == words
        port.write(COMMAND, [step])
        commands.append((COMMAND, step))
        start = source.randrange(100)
        assert port.read(PATTERN + start, 9) == [word * 0x01010101 for word in range(start, start + 9)]
    assert [write for write in wire.bus.writes if write[0] == COMMAND] == commands
    assert fault == "repeat" or port.statistics.retransmissions > 0
    for event in port.poll_events(0.0):
        assert (event.slot, event.tag, event.tokens) == (1, 2, (5, 6, 7))
    assert port.statistics.events > 0


def test_window_of_packets():
    """Short requests are limited by number: sequences under way stay far below half of them all."""
    wire = Wire()
    port = opened(wire)
    before = wire.sent
    frames = FrameSplitter()
    first_burst: list[int] = []

    def count() -> None:
        if wire.sent == before + 1 and not first_burst:
            first_burst.append(len(list(frames.feed(bytes(wire.to_device)))))

    wire.before_read = count
    port.read_window(Window.STORE, 0, 60 * 45, GEOMETRY)
    assert first_burst == [WINDOW_PACKETS]


def test_slow_device():
    """A device far slower than the timeout costs retransmissions, and the port learns to wait."""
    wire = Wire(delay=1.2 * TIMEOUT_SECONDS)
    port = Port(wire, clock=wire.clock, timeout=TIMEOUT_SECONDS, seed=1)
    words = list(range(600))
    port.write_window(Window.STORE, 0, words, GEOMETRY)
    assert port.read_window(Window.STORE, 0, 600, GEOMETRY) == words
    early = port.statistics.timeouts
    for _ in range(10):
        assert port.read(PATTERN, 1) == [0]
    assert port.statistics.timeouts - early <= 10
    writes = [at for at, _ in wire.bus.writes]
    assert len(writes) == len(set(writes)) == 600


def test_silence():
    wire = Wire()
    wire.alive = False
    with pytest.raises(LinkError, match=r"no device answers at wire: asked 10 times in 1\d\.\d s, nothing came"):
        opened(wire)
    assert wire.closed
    assert wire.sent == SYNC_ATTEMPTS


def test_noise_only():
    wire = Wire(rates={"flip": 1.0})
    with pytest.raises(LinkError, match=r"no device answers at wire: .* damaged packets came"):
        opened(wire)


def test_lost_device():
    """A device that dies is reported in bounded time; one that is back is found again."""
    wire = Wire()
    port = opened(wire)
    wire.alive = False
    begin, sent = wire.now, wire.sent
    with pytest.raises(LinkError, match=r"no answer from wire to a request for .* sent again 8 times.*Check cable"):
        port.read(PATTERN, 1)
    assert wire.sent - sent == 1 + ROUNDS_MAX
    assert wire.now - begin <= TIMEOUT_SECONDS * PATIENCE_MAX * (ROUNDS_MAX + 1)
    wire.alive = True
    assert port.read(PATTERN + 1, 1) == [0x01010101]


@pytest.mark.parametrize("requests", [3, 100, 200])
def test_reset_device(requests):
    """A device that was reset executes nothing that it could take for a repeated request."""
    wire = Wire()
    port = opened(wire)
    for _ in range(requests):
        port.read(PATTERN, 1)
    wire.device = DevicePort(window_columns(GEOMETRY), wire.bus)
    with pytest.raises(LinkError, match=r"no answer .* it was reset|no answer"):
        port.write(COMMAND, [1])
    assert wire.bus.writes == []
    port.write(COMMAND, [2])
    assert wire.bus.writes == [(COMMAND, 2)]


@pytest.mark.parametrize("rates", [{}, {"lose": 0.1}])
def test_refused_address(rates):
    """Also when its answer is lost: the repeated WRITE must not be told to be written."""
    wire = Wire(rates=rates, seed=3)
    port = opened(wire)
    for at in range(12):
        with pytest.raises(DeviceError, match="the device refuses address 0x80 of window REGISTERS"):
            port.write(address(Window.REGISTERS, 126 - at % 3), [1, 2, 3, 4, 5])
        with pytest.raises(DeviceError, match="the device refuses address 0x0 of window 9"):
            port.read(0x9000_0000, 2)
        assert port.read(PATTERN + 2, 1) == [0x02020202]


@pytest.mark.parametrize("reads", range(8))
def test_interrupt(reads):
    """After Ctrl-C anywhere, later calls are right, and answers to the interrupted call are not taken for theirs."""
    wire = Wire()
    port = opened(wire)
    left = reads

    def interrupt() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt

    wire.before_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        port.read_window(Window.STORE, 0, 3000, GEOMETRY)
    wire.before_read = lambda: None
    assert port.read(PATTERN + 3, 2) == [0x03030303, 0x04040404]


@pytest.mark.parametrize("seed", range(20))
def test_stale_answers(seed):
    """What an earlier host left in the wire, answers of every kind to every sequence, is never believed."""
    wire = Wire(seed=seed)
    source = random.Random(seed)
    for sequence in range(2 * SEQUENCES):
        for kind, words in ((Kind.NAK, ()), (Kind.ACK, ()), (Kind.DATA, (source.getrandbits(32),))):
            wire.to_host += encode_response(Response(kind, sequence % SEQUENCES, words))
    port = opened(wire)
    for at in range(50):
        assert port.read(PATTERN + at, 1) == [at * 0x01010101]


def test_events():
    wire = Wire()
    port = opened(wire)
    assert port.poll_events(0.25) == []
    assert wire.now == pytest.approx(0.25, abs=0.01)
    told = [Event(3, 9, Finish.LENGTH, number, tuple(range(number))) for number in range(33)]
    arriving = deque(told[1:])
    wire.to_host += wire.device.event(told[0].words())
    port.read(PATTERN, 1)
    wire.to_host += b"".join(wire.device.event(event.words()) for event in arriving)
    received: list[Event] = []
    while len(received) < len(told):
        received += port.poll_events(1.0)
    assert received == told
    # An EVENT packet that is none is counted, not told.
    wire.to_host += wire.device.event((5 << 8, 0))
    assert port.poll_events(0.1) == []
    assert port.statistics.corrupt == 1


def test_lone_packet_fits():
    """The largest packets and all that the protocol adds stay within one COBS block."""
    wire = Wire()
    port = opened(wire)
    port.write_window(Window.STORE, 0, [0x01010101] * MAX_DATA_WORDS, GEOMETRY)
    assert wire.most_waiting == 4 * (MAX_DATA_WORDS + 3) + 2
