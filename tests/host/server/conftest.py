"""A server on a modelled device, in threads of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.errors import LinkError
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight.server.engine import Engine
from ternlight.tokenizer import Tokenizer
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=3, prompt=16, ring=16, top_k=64)
TOKENIZER = byte_tokenizer()
IMAGE = random_image(
    random_config(hidden=9, intermediate=12, layers=1, vocabulary=BYTE_TOKENS, name="tiny"), 3, tokenizer=TOKENIZER
)


class Hardware:
    """A device that can be slow, or unplugged.

    model: the device itself; most_running: sessions that ran at once; opened: how often it was connected.
    """

    def __init__(self) -> None:
        self.model = DeviceModel(GEOMETRY)
        self.pause = 0.0
        self.plugged = True
        self.most_running = 0
        self.opened = 0
        self.model.before_read = self._before_read

    @contextmanager
    def connect(self) -> Iterator[Device]:
        """What an engine calls."""
        self.opened += 1
        with Device(Port(self.model, clock=self.model.clock, seed=self.opened)) as device:
            device.abort_orphans()
            device.load(IMAGE)
            yield device

    def _before_read(self) -> None:
        self.most_running = max(self.most_running, len(self.model.bus.sessions.running))
        if not self.plugged:
            raise LinkError("the cable is out")
        time.sleep(self.pause)


@pytest.fixture
def hardware() -> Hardware:
    return Hardware()


@pytest.fixture
def engine(hardware: Hardware) -> Iterator[Engine]:
    engine = Engine(hardware.connect, queue_limit=8)
    engine.start()
    yield engine
    hardware.plugged, hardware.pause = True, 0.0
    engine.close()
    assert not any(thread.name == "ternlight-engine" for thread in threading.enumerate())


def golden_tokens(prompt: str, tokens: int, sampling: Sampling) -> list[int]:
    """What the device must give."""
    session = GoldenSession(Machine(compile_image(IMAGE, GEOMETRY)))
    return list(session.generate(Tokenizer(TOKENIZER).encode(prompt), tokens, sampling, stop=[IMAGE.config.eos]))


def golden_text(prompt: str, tokens: int, sampling: Sampling) -> str:
    """Its text."""
    return Tokenizer(TOKENIZER).decode(golden_tokens(prompt, tokens, sampling))


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Fails where something does not come true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)
