"""The simulator process on a small stand-in for the device: its UART, its sleep, its snapshots, its end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from amaranth import Module, Signal, unsigned
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ternlight.errors import BuildError, DeviceError, ImageError, LinkError
from ternlight_hw.uart import UartReceiver, UartTransmitter
from ternlight_sim import build as build_module
from ternlight_sim.build import KEPT_BUILDS, build
from ternlight_sim.simulator import Simulator, serve

DIVISOR = 4
DEPTH = 16
THINKING_CYCLES = 16
TIMEOUT = 10.0


class StandIn(wiring.Component):
    """Answers a byte b, after b * THINKING_CYCLES silent cycles, with b + sum of all before + the DEPTH-th before."""

    def __init__(self, *, divisor: int) -> None:
        self.divisor = divisor
        super().__init__({"uart_rx": In(1, init=1), "uart_tx": Out(1, init=1), "active": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(divisor=DIVISOR)
        m.submodules.transmitter = transmitter = UartTransmitter(divisor=self.divisor)
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=8, depth=64)
        m.submodules.memory = memory = Memory(shape=unsigned(8), depth=DEPTH, init=[])
        write, read = memory.write_port(), memory.read_port()
        count = Signal(range(DEPTH))
        total = Signal(8)
        thinking = Signal(8 + THINKING_CYCLES.bit_length() - 1)
        m.d.comb += [
            receiver.rx.eq(self.uart_rx),
            self.uart_tx.eq(transmitter.tx),
            fifo.w_data.eq(receiver.data.payload),
            fifo.w_en.eq(receiver.data.valid),
            write.addr.eq(count),
            write.data.eq(fifo.r_data),
            read.addr.eq(count),
            transmitter.data.payload.eq(fifo.r_data + total + read.data),
            self.active.eq(fifo.r_rdy),
        ]
        with m.FSM():
            with m.State("IDLE"), m.If(fifo.r_rdy):
                m.d.sync += thinking.eq(fifo.r_data * THINKING_CYCLES)
                m.next = "THINK"
            with m.State("THINK"):
                m.d.sync += thinking.eq(thinking - 1)
                with m.If(thinking == 0):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += transmitter.data.valid.eq(1)
                with m.If(transmitter.data.ready):
                    m.d.comb += [fifo.r_en.eq(1), write.en.eq(1)]
                    m.d.sync += [total.eq(total + fifo.r_data), count.eq(count + 1)]
                    m.next = "SETTLE"
            with m.State("SETTLE"):  # the memory is read at the new count
                m.next = "IDLE"
        return m


class Twin:
    """The same in Python."""

    def __init__(self) -> None:
        self.memory = [0] * DEPTH
        self.count = self.total = 0

    def answer(self, request: bytes) -> bytes:
        answers = []
        for byte in request:
            answers.append(byte + self.total + self.memory[self.count] & 0xFF)
            self.memory[self.count] = byte
            self.total += byte
            self.count = (self.count + 1) % DEPTH
        return bytes(answers)


def source(divisor: int = DIVISOR) -> str:
    return verilog.convert(StandIn(divisor=divisor), name="top", emit_src=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("simulators")


@pytest.fixture(scope="module")
def executable(cache) -> Path:
    steps = []
    path = build(source(), divisor=DIVISOR, cache=cache, progress=steps.append)
    assert steps[0] == "translating the design to C++"
    files = len(steps) - 1
    assert files > 3
    assert steps[-1] == f"compiling the simulator, file {files} of {files}"
    return path


@pytest.fixture
def simulator(executable):
    with Simulator.start(executable) as running:
        yield running


def connect(simulator: Simulator) -> socket.socket:
    host, _, port = simulator.url.removeprefix("socket://").partition(":")
    client = socket.create_connection((host, int(port)), timeout=TIMEOUT)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def receive(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = client.recv(count - len(data))
        assert part, "the simulator closed the connection"
        data += part
    return data


def ask(simulator: Simulator, request: bytes) -> bytes:
    with closing(connect(simulator)) as client:
        client.sendall(request)
        return receive(client, len(request))


def settle(simulator: Simulator) -> int:
    """The cycle in which the device fell asleep."""
    before, after = -1, simulator.cycles()
    deadline = time.monotonic() + TIMEOUT
    while before != after:
        assert time.monotonic() < deadline, "the device does not fall asleep"
        time.sleep(0.02)
        before, after = after, simulator.cycles()
    return after


def test_bytes_pass_both_ways(simulator):
    """Bytes one by one and back to back, with gaps that let the device sleep between, or not."""
    rng = random.Random(5)
    twin = Twin()
    with closing(connect(simulator)) as client:
        for _ in range(100):
            request = rng.randbytes(rng.choice([1, 2, 32]))
            cut = rng.randrange(len(request) + 1)
            client.sendall(request[:cut])
            time.sleep(rng.choice([0, 0, 0.001, 0.003]))
            client.sendall(request[cut:])
            assert receive(client, len(request)) == twin.answer(request)


def test_bytes_follow_each_other_without_gap(simulator):
    """Requests that need no thought are answered as fast as they arrive: ten bits a byte."""
    start = settle(simulator)
    assert ask(simulator, bytes(1000)) == bytes(1000)
    frames = 1000 * 10 * DIVISOR
    assert frames < settle(simulator) - start < frames * 1.1


def test_device_survives_its_clients(simulator):
    twin = Twin()
    for request in (b"first", b"second", b""):
        assert ask(simulator, request) == twin.answer(request)


def test_answers_without_client_are_lost(simulator):
    twin = Twin()
    start = settle(simulator)
    with closing(connect(simulator)) as client:
        client.sendall(b"\xff")
        while simulator.cycles() == start:  # until the byte is on its way
            pass
    twin.answer(b"\xff")
    settle(simulator)
    assert ask(simulator, b"after") == twin.answer(b"after")


def test_second_client_waits(simulator):
    twin = Twin()
    with closing(connect(simulator)) as first, closing(connect(simulator)) as second:
        second.sendall(b"late")
        first.sendall(b"early")
        assert receive(first, 5) == twin.answer(b"early")
        second.settimeout(0.05)
        with pytest.raises(TimeoutError):
            second.recv(1)
        second.settimeout(TIMEOUT)
        first.close()
        assert receive(second, 4) == twin.answer(b"late")


def test_idle_device_stands_still(simulator):
    """A sleeping simulator takes no processor time, with and without a client, and its cycle counter stands."""

    def processor_ticks() -> int:
        fields = Path(f"/proc/{simulator.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with closing(connect(simulator)):
        start = settle(simulator)
        ticks = processor_ticks()
        time.sleep(0.5)
        assert processor_ticks() - ticks <= 0.05 * os.sysconf("SC_CLK_TCK")
        assert simulator.cycles() == start
    settle(simulator)
    ticks = processor_ticks()
    time.sleep(0.5)
    assert processor_ticks() - ticks <= 0.05 * os.sysconf("SC_CLK_TCK")


def test_silent_device_is_not_put_to_sleep(simulator):
    """Between a request and its answer the lines are quiet for longer than it takes to fall asleep."""
    start = settle(simulator)
    assert ask(simulator, b"\xff") == b"\xff"
    assert settle(simulator) - start > 255 * THINKING_CYCLES


def test_snapshot_continues(simulator, executable, tmp_path):
    """Two devices from one snapshot go on as the first does, in state and in cycles."""
    twin = Twin()
    request = bytes(range(1, 30))
    assert ask(simulator, request) == twin.answer(request)
    cycles = settle(simulator)
    snapshot = tmp_path / "snapshot"
    simulator.save_snapshot(snapshot)
    assert os.listdir(tmp_path) == ["snapshot"]
    with Simulator.start(executable, snapshot=snapshot) as other:
        assert settle(other) == cycles
        answer = twin.answer(request)
        assert ask(simulator, request) == answer
        assert ask(other, request) == answer


def test_snapshot_in_the_middle_of_work(simulator, executable, tmp_path):
    """Bytes that were on the line or waiting for it are in the snapshot; answers that were sent are not."""
    request = bytes([200] * 60)
    snapshot = tmp_path / "snapshot"
    with closing(connect(simulator)) as client:
        client.sendall(request)
        start = receive(client, 3)
        simulator.save_snapshot(snapshot)
        answer = start + receive(client, len(request) - 3)
        final = settle(simulator)
    assert answer == Twin().answer(request)
    with Simulator.start(executable, snapshot=snapshot) as other, closing(connect(other)) as client:
        settle(other)
        rest = client.recv(len(request))
        assert 0 < len(rest) < len(request)
        assert answer.endswith(rest)
        assert settle(other) == final


def test_snapshot_refused(simulator, executable, tmp_path):
    snapshot, damaged = tmp_path / "snapshot", tmp_path / "damaged"
    settle(simulator)
    simulator.save_snapshot(snapshot)
    whole = snapshot.read_bytes()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    foreign = bytearray(whole)
    foreign[8] ^= 1
    for content, message in [
        (b"", "is not a snapshot"),
        (b"x" * 1000, "is not a snapshot"),
        (whole[:-1], "is damaged: make a new one"),
        (whole + b"\0", "is damaged: make a new one"),
        (bytes(flipped), "is damaged: make a new one"),
        (bytes(foreign), "is of another simulator build: make a new one"),
    ]:
        damaged.write_bytes(content)
        with pytest.raises(ImageError, match=f"snapshot {damaged}: it {message}"):
            Simulator.start(executable, snapshot=damaged)
    with pytest.raises(ImageError, match="absent: No such file or directory"):
        Simulator.start(executable, snapshot=tmp_path / "absent")


def test_snapshot_not_written(simulator, tmp_path):
    with pytest.raises(DeviceError, match=r"cannot write the snapshot .*: No such file or directory"):
        simulator.save_snapshot(tmp_path / "absent" / "snapshot")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DeviceError, match=r"cannot write the snapshot .*: Is a directory"):
        simulator.save_snapshot(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(ValueError, match="a command of the simulator is one line, not"):
        simulator.save_snapshot(tmp_path / "two\nlines")
    assert ask(simulator, b"on") == Twin().answer(b"on")


def test_dies_with_its_parent(executable):
    script = (
        "import os, sys; from pathlib import Path; from ternlight_sim.simulator import Simulator\n"
        "simulator = Simulator.start(Path(sys.argv[1])); print(simulator.pid, flush=True); os._exit(1)"
    )
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.run(
        [sys.executable, "-c", script, executable], env=variables, stdout=subprocess.PIPE, text=True
    )
    status = Path(f"/proc/{int(parent.stdout)}/stat")
    deadline = time.monotonic() + TIMEOUT
    # A process that nobody has waited for yet is a zombie.
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the simulator outlives its parent"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ends_on_signals(simulator, number):
    os.kill(simulator.pid, number)
    simulator.wait()


def test_death_is_reported(executable):
    with Simulator.start(executable) as simulator:
        os.kill(simulator.pid, signal.SIGKILL)
        with pytest.raises(LinkError, match="the simulator ended with status -9: it gave no reason"):
            simulator.wait()
        with pytest.raises(LinkError, match="the simulator ended with status -9"):
            simulator.cycles()


def test_serve(executable):
    """In the foreground on a fixed port; a taken one is refused."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LinkError, match=f"cannot listen on port {port}: Address already in use"):
            Simulator.start(executable, port=port)

    class Interruption(KeyboardInterrupt):
        pass

    urls = []

    def announce(url: str) -> None:
        urls.append(url)
        raise Interruption

    with pytest.raises(Interruption):
        serve(executable, port=port, snapshot=None, announce=announce)
    assert urls == [f"socket://127.0.0.1:{port}"]


def test_idle_exit(executable):
    """With the option, a device that has no client and nothing to do ends by itself."""
    command = [executable, "--idle-exit", "0.05"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "--port must be 0 to 65535, not 70000"),
        (["--idle-exit", "-1"], "--idle-exit must be positive seconds, not -1"),
        (["--load"], "option --load has no value, or is unknown"),
        (["--speed", "9"], "unknown option --speed"),
    ],
)
def test_options_refused(executable, arguments, message):
    process = subprocess.run([executable, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert (process.returncode, process.stderr) == (LinkError.exit_code, f"{message}\n")


def test_wrong_baud_rate_is_reported(cache):
    """A device with another divisor than the harness: its bytes have no stop bit, and the process says so."""
    with Simulator.start(build(source(divisor=7), divisor=DIVISOR, cache=cache)) as simulator:
        with closing(connect(simulator)) as client:
            client.sendall(b"\0")
            assert client.recv(1) == b""
        with pytest.raises(LinkError, match=f"without stop bit in cycle .* run at {DIVISOR} cycles a bit"):
            simulator.wait()


def test_build_is_cached(executable, cache, monkeypatch):
    """The same design is not built again, not even where nothing could build it; another divisor is another build."""
    monkeypatch.setenv("PATH", "")
    assert build(source(), divisor=DIVISOR, cache=cache) == executable
    with pytest.raises(BuildError, match=r"needs the program c\+\+: install it \(Debian: apt install g\+\+\)"):
        build(source(), divisor=DIVISOR + 1, cache=cache)


def test_build_needs_make(tmp_path, monkeypatch):
    (tmp_path / "c++").write_text("#!/bin/sh\n")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"needs the program make: install it \(Debian: apt install make\)"):
        build(source(), divisor=DIVISOR, cache=tmp_path / "cache")


def test_build_failure_shows_the_log(tmp_path):
    with pytest.raises(BuildError, match=r"(?s)verilator_bin exited with 1\n.*syntax error, unexpected endmodule"):
        build("module top(input clk endmodule", divisor=DIVISOR, cache=tmp_path)
    assert os.listdir(tmp_path) == ["lock"]
    with pytest.raises(ValueError, match="divisor must be positive, not 0"):
        build("", divisor=0, cache=tmp_path)


def test_old_builds_are_dropped(tmp_path, monkeypatch):
    """The latest used builds stay, and what a killed build left behind goes."""

    def pretend(command, folder, each_line=None):
        if command[0] == "verilator_bin":
            (folder / "model").mkdir()
            (folder / "model" / "simulator").touch()
        return ""

    monkeypatch.setattr(build_module, "_run", pretend)
    (tmp_path / "building-killed").mkdir()
    builds = []
    for index in range(KEPT_BUILDS + 2):
        builds.append(build(f"design {index}", divisor=DIVISOR, cache=tmp_path))
        os.utime(builds[-1].parent, (index, index))
    build("design 2", divisor=DIVISOR, cache=tmp_path)
    kept = {builds[index].parent.name for index in (2, 4, 5)}
    latest = build("one more", divisor=DIVISOR, cache=tmp_path)
    assert set(os.listdir(tmp_path)) == kept | {latest.parent.name, "lock"}
