"""Transports on the sockets and pseudo-terminals of this machine."""

from __future__ import annotations

import errno
import os
import socket
import time
import tty
from collections.abc import Iterator

import pytest
import serial

from ternlight.errors import LinkError
from ternlight.link import open_transport
from ternlight.link.base import Transport


class Peer:
    """The other end of a transport."""

    def __init__(self, transport: Transport, descriptor: int) -> None:
        self.transport = transport
        self.descriptor = descriptor

    def send(self, data: bytes) -> None:
        os.write(self.descriptor, data)

    def receive(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += os.read(self.descriptor, count - len(data))
        return data


@pytest.fixture(params=["socket", "terminal"])
def peer(request) -> Iterator[Peer]:
    if request.param == "socket":
        with socket.create_server(("localhost", 0)) as server:
            transport = open_transport(f"socket://localhost:{server.getsockname()[1]}")
            connection, _ = server.accept()
        with connection:
            yield Peer(transport, connection.fileno())
    else:
        master, slave = os.openpty()
        tty.setraw(slave)
        transport = open_transport(os.ttyname(slave))
        yield Peer(transport, master)
        os.close(slave)
        os.close(master)
    transport.close()
    transport.close()


def test_bytes(peer):
    transport = peer.transport
    data = bytes(range(256)) * 8
    transport.write(data)
    assert peer.receive(len(data)) == data
    peer.send(data)
    received = b""
    while len(received) < len(data):
        piece = transport.read(300, 5.0)
        assert 1 <= len(piece) <= 300
        received += piece
    assert received == data


def test_timeout(peer):
    begin = time.monotonic()
    assert peer.transport.read(10, 0.15) == b""
    assert 0.14 <= time.monotonic() - begin < 2
    assert peer.transport.read(10, 0.0) == b""
    # What is there comes at once, not at the end of the time.
    peer.send(b"abc")
    begin = time.monotonic()
    assert peer.transport.read(1, 60.0) == b"a"
    assert peer.transport.read(10, 60.0) == b"bc"
    assert time.monotonic() - begin < 30


def test_closed(peer):
    peer.transport.close()
    with pytest.raises(LinkError, match="broke"):
        peer.transport.read(1, 0.1)
    with pytest.raises(LinkError, match="broke"):
        peer.transport.write(b"x")


def test_peer_closes():
    with socket.create_server(("localhost", 0)) as server:
        transport = open_transport(f"socket://localhost:{server.getsockname()[1]}")
        server.accept()[0].close()
        with pytest.raises(LinkError, match="broke: the other side closed the connection"):
            transport.read(1, 5.0)
        transport.close()


def test_nothing_listens():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LinkError, match=f"nothing listens at socket://localhost:{port}: is the simulator"):
        open_transport(f"socket://localhost:{port}")


@pytest.mark.parametrize("url", ["socket://", "socket://localhost", "socket://localhost:x", "socket://:5"])
def test_bad_address(url):
    with pytest.raises(LinkError, match=f"{url} is no address: write socket://HOST:PORT"):
        open_transport(url)


def test_no_port():
    with pytest.raises(LinkError, match=r"there is no port /dev/no-such-port; ports of this machine: .*plugged in"):
        open_transport("/dev/no-such-port")


def test_unknown_scheme():
    with pytest.raises(LinkError, match="carrier-pigeon://home cannot be opened at 1000000 baud"):
        open_transport("carrier-pigeon://home")


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.EACCES, "no permission to open /dev/x: add yourself to its group"), (errno.EBUSY, "/dev/x is in use")],
)
def test_port_refused(monkeypatch, number, message):
    """What a machine with ports and no rights does: this one runs as anybody."""

    def refuse(*_args, **_options):
        raise serial.SerialException(number, "could not open port")

    monkeypatch.setattr(serial, "serial_for_url", refuse)
    with pytest.raises(LinkError, match=message):
        open_transport("/dev/x")


def test_port_in_use():
    """Two hosts on one port would read each other's answers."""
    master, slave = os.openpty()
    try:
        name = os.ttyname(slave)
        first = open_transport(name)
        with pytest.raises(LinkError, match=f"{name} is in use by another program"):
            open_transport(name)
        first.close()
    finally:
        os.close(master)
        os.close(slave)
