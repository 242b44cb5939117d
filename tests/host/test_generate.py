"""Text from a device, and its figures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ternlight.abi import Counter, Finish
from ternlight.compiler import compile_image
from ternlight.device import Device
from ternlight.errors import ImageError, RequestError
from ternlight.generate import Writer, request_stats
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight.tokenizer import Tokenizer
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.golden_session import GoldenSession
from ternlight_sim.machine import Machine
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
TOKENIZER = byte_tokenizer()
IMAGE = random_image(
    random_config(hidden=13, intermediate=20, vocabulary=BYTE_TOKENS, name="tiny"), 3, tokenizer=TOKENIZER
)
WILD = Sampling(temperature=1.5, top_k=0, seed=11)


@pytest.fixture
def model():
    return DeviceModel(GEOMETRY)


@pytest.fixture
def device(model):
    device = Device(Port(model, clock=model.clock, seed=1))
    device.load(IMAGE)
    return device


def golden_text(prompt: str, tokens: int) -> str:
    tokenizer = Tokenizer(TOKENIZER)
    session = GoldenSession(Machine(compile_image(IMAGE, GEOMETRY)))
    eos = IMAGE.config.eos
    return tokenizer.decode(list(session.generate(tokenizer.encode(prompt), tokens, WILD, stop=[eos])))


def test_text_is_that_of_the_tokens(device):
    """Bytes that are no UTF-8 come as the replacement character, as in the text of all tokens."""
    writer = Writer(device, IMAGE, slot=1)
    pieces = list(writer.write("a bear", 60, WILD))
    assert len(pieces) > 5
    assert "".join(pieces) == golden_text("a bear", 60)


def test_stats(device):
    writer = Writer(device, IMAGE)
    assert writer.stats is None
    list(writer.write("abc", 20, replace(WILD, seed=12)))
    stats = writer.stats
    assert (stats.prompt_tokens, stats.generated_tokens, stats.finish, stats.seed) == (3, 20, "length", 12)
    assert json.loads(json.dumps(stats.json()))["generated_tokens"] == 20
    assert "3 prompt + 20 generated tokens" in str(stats)


def test_request_stats(device):
    """Each figure by its formula."""
    model = device.require_model()
    spent = dict.fromkeys(Counter, 0) | {
        Counter.TOKENS: 10,
        Counter.GENERATED: 4,
        Counter.BUSY: 1000,
        Counter.WAIT_VECTOR: 600,
        Counter.WAIT_LINK: 400,
    }
    stats = request_stats(device, spent, 7, 4, 2.0, Finish.STOP, 5)
    assert stats.cycles == 2000
    assert stats.cycles_per_token == 200
    assert stats.tokens_per_second == GEOMETRY.clock_hz / 200
    assert stats.lanes_busy == (10 * model.macs - 6 * model.head_macs) / (GEOMETRY.lanes * 2000)
    assert stats.waits == {"weights": 0, "vector": 600, "scalar": 0, "control": 0, "link": 400}
    assert (stats.finish, stats.wall_seconds) == ("stop", 2.0)


def test_closing_early_aborts(model, device):
    writer = Writer(device, IMAGE)
    pieces = writer.write("abc", 1000, WILD)
    next(pieces)
    pieces.close()
    assert not model.bus.sessions.running
    assert writer.session.finish == Finish.ABORTED
    assert "".join(writer.write("a bear", 60, WILD)) == golden_text("a bear", 60)


def test_the_end_of_sequence_stops(device):
    """Whichever token an image calls so."""
    free = Writer(device, IMAGE)
    list(free.write("abc", 30, WILD))
    tokens = list(device.session().generate(Tokenizer(TOKENIZER).encode("abc"), 30, WILD))
    image = replace(IMAGE, config=replace(IMAGE.config, eos=tokens[10]))
    device.load(image)
    writer = Writer(device, image)
    list(writer.write("abc", 30, WILD))
    assert writer.stats.finish == "stop"
    assert writer.stats.generated_tokens == tokens.index(tokens[10]) + 1


def test_no_tokens_at_all(device):
    """The prompt is read, and that is all."""
    writer = Writer(device, IMAGE)
    assert list(writer.write("abc", 0)) == []
    assert (writer.stats.finish, writer.stats.generated_tokens) == ("fed", 0)


def test_what_is_refused(device):
    with pytest.raises(ImageError, match=r"^tiny has no tokenizer: import the checkpoint with its tokenizer\.json$"):
        Writer(device, replace(IMAGE, tokenizer=None))
    with pytest.raises(RequestError, match="the prompt is empty"):
        Writer(device, IMAGE).write("", 5)
    with pytest.raises(RequestError, match="the number of tokens must be from 0"):
        Writer(device, IMAGE).write("a", -5)
