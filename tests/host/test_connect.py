"""From a URL to a device with an image."""

from __future__ import annotations

import builtins
import logging

import pytest

from ternlight import connect
from ternlight.abi import SESSION_WORDS, Command, SessionWord, Window, address
from ternlight.compiler import compile_image
from ternlight.connect import open_device
from ternlight.errors import BuildError, LinkError
from ternlight.geometry import Geometry
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.random_model import random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
IMAGE = random_image(random_config(hidden=13, intermediate=20), 3)


@pytest.fixture
def model(monkeypatch) -> DeviceModel:
    model = DeviceModel(GEOMETRY)

    def open_transport(url, *, baud):
        assert (url, baud) == ("/dev/board", 9600)
        model.closed = False
        return model

    monkeypatch.setattr(connect, "open_transport", open_transport)
    return model


def test_a_device_without_image(model):
    with open_device("/dev/board", baud=9600) as device:
        assert (device.image_id, device.model) == (0, None)
    assert model.closed


def test_a_device_with_image(model):
    phrases, steps = [], []
    options = {"image": IMAGE, "baud": 9600, "status": phrases.append}
    with open_device("/dev/board", **options, progress=lambda *step: steps.append(step)) as device:
        assert device.image_id == compile_image(IMAGE, GEOMETRY).identity
    assert phrases == ["loading the image"]
    assert steps[-1][0] == steps[-1][1]
    with open_device("/dev/board", **options, progress=pytest.fail):
        assert phrases == ["loading the image"]


def test_the_link_is_closed_after_any_error(model):
    with pytest.raises(KeyError), open_device("/dev/board", image=IMAGE, baud=9600):
        raise KeyError
    assert model.closed


def test_requests_of_an_earlier_host_are_aborted_for_an_image_alone(model):
    with open_device("/dev/board", image=IMAGE, baud=9600) as device:
        record = [1, 1 << 30, 0, 1]
        device.port.write(address(Window.SESSIONS, SESSION_WORDS + SessionWord.PROMPT_COUNT), record)
        device.command(Command.START, 1)
    with open_device("/dev/board", baud=9600) as device:
        assert device.session(1).status().running
    with open_device("/dev/board", image=IMAGE, baud=9600) as device:
        assert not device.session(1).status().running


def test_what_happens_is_logged(model, caplog):
    caplog.set_level(logging.INFO)
    with open_device("/dev/board", image=IMAGE, baud=9600):
        pass
    first, last = caplog.messages
    assert first == "model: build 00000000, 64 lanes, 100 MHz, image 00000000"
    assert last.startswith("link to model: ")
    assert "retransmissions=0" in last


def test_a_simulator_that_is_not_installed(monkeypatch):
    original = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("ternlight_boards"):
            raise ModuleNotFoundError("No module named 'amaranth'", name="amaranth")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(BuildError, match=r"^the simulator needs amaranth: install ternlight\[sim\]$"), open_device():
        pass


def test_no_device():
    with pytest.raises(LinkError, match="there is no port /dev/nonexistent"), open_device("/dev/nonexistent"):
        pass


def test_trouble_on_the_link_is_logged(model, caplog):
    """At the level of --verbose: what was waited for, and refused."""
    caplog.set_level(logging.DEBUG)
    with open_device("/dev/board", baud=9600) as device:
        device.port._clock, device.port.timeout = model.clock, 0.5
        write, lost = model.write, []
        model.write = lambda data: lost.append(data) if not lost else write(data)
        assert device.image_id == 0
    assert "no answer for 0.5 s, 0 of 1 requests answered" in caplog.messages
