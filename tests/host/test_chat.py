"""Conversations and the terminal's chat, on a modelled device: turns, interrupts, files, and a device that forgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from ternlight.chat import COMMANDS, Chat
from ternlight.compiler import compile_image
from ternlight.conversation import Conversation
from ternlight.device import Device
from ternlight.errors import FitError, ImageError, LinkError, RequestError
from ternlight.geometry import Geometry
from ternlight.link.port import Port
from ternlight.sampling import Sampling
from ternlight.story import paragraph, story
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
OTHER = random_image(
    random_config(hidden=9, intermediate=12, layers=1, vocabulary=BYTE_TOKENS, name="other"), 4, tokenizer=TOKENIZER
)
MACHINE = Machine(compile_image(IMAGE, GEOMETRY))
WILD = Sampling(temperature=1.5, top_k=0, seed=11)


@pytest.fixture
def model() -> DeviceModel:
    return DeviceModel(GEOMETRY)


@pytest.fixture
def device(model) -> Device:
    device = Device(Port(model, clock=model.clock, seed=1))
    device.load(IMAGE)
    return device


def turn(conversation: Conversation, addition: str, tokens: int = 12) -> str:
    return "".join(conversation.turn(addition, tokens, WILD))


def golden_next(tokens: list[int], count: int) -> list[int]:
    """What the model writes after a text."""
    return list(GoldenSession(MACHINE).generate(tokens, count, WILD, stop=[IMAGE.config.eos]))


def assert_true_to_its_text(conversation: Conversation) -> None:
    """What comes next is what a fresh session writes that reads the whole text."""
    expected = golden_next(conversation.tokens, 6)
    before = len(conversation.tokens)
    turn(conversation, "", 6)
    assert conversation.tokens[before:] == expected


# The template.


def test_paragraphs():
    assert paragraph("", "a") == "a"
    assert paragraph("a", "") == ""
    assert [paragraph(f"a{ends}", "b") for ends in ("", "\n", "\n\n", "\n\n\n")] == ["\n\nb", "\nb", "b", "b"]
    assert story([("system", "S"), ("user", "u"), ("assistant", " a"), ("user", "v")]) == "S\n\nu a\n\nv"
    assert story([("assistant", "a"), ("user", ""), ("assistant", "b")]) == "ab"


# Turns.


def test_turns_are_one_text(device):
    conversation = Conversation(device, IMAGE, 1)
    tokenizer = Tokenizer(TOKENIZER)
    tokens: list[int] = []
    for addition in ("A bear", "", "It sat in the garden", "x"):
        tokens += tokenizer.encode(paragraph(tokenizer.decode(tokens), addition))
        expected = golden_next(tokens, 12)
        assert turn(conversation, addition) == tokenizer.decode(expected)
        tokens += expected
        assert conversation.tokens == tokens
    assert conversation.text == tokenizer.decode(tokens)
    assert_true_to_its_text(conversation)


def test_sessions_have_texts_of_their_own(device):
    conversations = [Conversation(device, IMAGE, slot) for slot in range(3)]
    for addition in ("one", "two"):
        for slot, conversation in enumerate(conversations):
            turn(conversation, f"{addition} {slot}")
    for conversation in conversations:
        assert_true_to_its_text(conversation)


@pytest.mark.parametrize("taken", [1, 2, 5, 30])
def test_a_turn_that_is_left(device, taken):
    """The text has what the device wrote by then, the rest of it in `unseen`."""
    conversation = Conversation(device, IMAGE, 0)
    shown = ""
    with closing(conversation.turn("A bear", 10_000, WILD)) as pieces:
        while len(shown) < taken:
            shown += next(pieces)
    prompt = Tokenizer(TOKENIZER).encode("A bear")
    written = conversation.tokens[len(prompt) :]
    assert written == golden_next(prompt, len(written))
    assert shown + conversation.unseen == Tokenizer(TOKENIZER).decode(written)
    assert_true_to_its_text(conversation)


@pytest.mark.parametrize("moment", range(1, 120, 7))
def test_an_interrupt_anywhere(model, device, moment):
    """Also while a prompt longer than the device's buffer is read."""
    conversation = Conversation(device, IMAGE, 0)
    turn(conversation, "Once upon a time", 5)
    reads = 0

    def interrupt() -> None:
        nonlocal reads
        reads += 1
        if reads == moment:
            raise KeyboardInterrupt

    model.before_read = interrupt
    with pytest.raises(KeyboardInterrupt):
        turn(conversation, "there was a bear who lived in a wood", 10_000)
    model.before_read = lambda: None
    assert not model.bus.sessions.running
    assert_true_to_its_text(conversation)


def test_a_device_that_forgets(model, device):
    """The link's error is told once, and then the device reads the whole text again."""
    conversations = [Conversation(device, IMAGE, slot) for slot in range(2)]
    for conversation in conversations:
        turn(conversation, "A bear")
    model.reset()
    with pytest.raises(LinkError):
        turn(conversations[0], "")
    for conversation in conversations:
        assert_true_to_its_text(conversation)


def test_nothing_to_go_on_with(device):
    with pytest.raises(RequestError, match=r"^there is no text to go on with: enter its beginning$"):
        Conversation(device, IMAGE, 0).turn("", 5, WILD)
    with pytest.raises(ImageError, match=r"^tiny has no tokenizer"):
        Conversation(device, replace(IMAGE, tokenizer=None), 0)


# Files.


def test_save_and_load(device, tmp_path):
    first, second = Conversation(device, IMAGE, 0), Conversation(device, IMAGE, 2)
    turn(first, "A bear")
    path = tmp_path / "bear.session"
    first.save(path)
    assert list(tmp_path.iterdir()) == [path]
    turn(first, "And then")
    second.load(path)
    assert second.text == first.text[: len(second.text)]
    before = device.counters()
    assert_true_to_its_text(second)
    # From the state, not by reading the text again.
    spent = {counter.name: value - before[counter] for counter, value in device.counters().items()}
    assert spent["TOKENS"] <= 6


def test_files_that_are_no_sessions(device, tmp_path):
    conversation = Conversation(device, IMAGE, 0)
    path = tmp_path / "bear.session"
    with pytest.raises(RequestError, match="the device has read nothing of this text: go on with it first"):
        conversation.save(path)
    turn(conversation, "A bear")
    with pytest.raises(RequestError, match="cannot be written: No such file or directory"):
        conversation.save(tmp_path / "none" / "bear")
    with pytest.raises(RequestError, match="cannot be read: No such file or directory"):
        conversation.load(path)
    conversation.save(path)
    with np.load(path) as arrays:
        right = dict(arrays)
    data = path.read_bytes()
    for wrong in (b"", b"no session", data[:100], data[: len(data) // 2]):
        path.write_bytes(wrong)
        with pytest.raises(RequestError, match=r"bear\.session is no saved session$"):
            conversation.load(path)
    for change, error, message in (
        ({"format": np.uint32(9)}, RequestError, "has format 9, this host knows 1"),
        ({"position": np.uint32(999)}, RequestError, "is damaged: its state has not read its text"),
        ({"identity": np.uint32(5)}, FitError, "the state is of image 00000005"),
        ({"tokens": np.array("x")}, RequestError, "is no saved session"),
    ):
        with path.open("wb") as file:
            np.savez(file, **right | change)
        with pytest.raises(error, match=message):
            conversation.load(path)
    assert_true_to_its_text(conversation)


# The terminal.


class Terminal:
    """Types lines, and keeps what is shown."""

    def __init__(self, device: Device, lines: list[str | type[BaseException]], **options: object) -> None:
        self.lines: Iterator[str | type[BaseException]] = iter(lines)
        self.text = ""
        self.notes: list[str] = []
        self.prompts: list[str] = []
        self.on_write: Callable[[], None] = lambda: None
        self.chat = Chat(
            device,
            IMAGE,
            read=self._read,
            write=self._write,
            note=self.notes.append,
            sampling=WILD,
            max_tokens=8,
            **options,
        )

    def _read(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = next(self.lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def _write(self, text: str) -> None:
        self.text += text
        self.on_write()


def shown(device: Device, *lines: str | type[BaseException], **options: object) -> Terminal:
    terminal = Terminal(device, list(lines), **options)
    terminal.chat.run()
    return terminal


def test_lines_go_on_until_the_end(device):
    terminal = shown(device, "A bear\n", "\n", "/quit", "never read")
    tokens = Tokenizer(TOKENIZER).encode("A bear")
    tokens += (first := golden_next(tokens, 8))
    second = golden_next(tokens, 8)
    decode = Tokenizer(TOKENIZER).decode
    assert terminal.text == f"{decode(first)}\n{decode(second)}\n"
    assert terminal.notes == []
    assert shown(device, EOFError).prompts == ["0> "]


def test_commands(device, tmp_path):
    path = tmp_path / "bear"
    terminal = shown(
        device,
        "/set tokens 5",
        "/set temperature 0",
        "A bear",
        f"/save {path}",
        "/session 2",
        f"/load {path}",
        "/text",
        "/new",
        "/session",
        "/help",
    )
    answer = list(GoldenSession(MACHINE).generate(Tokenizer(TOKENIZER).encode("A bear"), 5, Sampling(temperature=0)))
    text = Tokenizer(TOKENIZER).decode(answer)
    assert terminal.text == f"{text}\n" + f"A bear{text}\n" * 2
    assert terminal.notes[1] == "temperature 0, top-k 0, seed 11, tokens 5"
    assert f"saved to {path}" in terminal.notes
    assert "* 2: 0 tokens ''" in terminal.notes
    assert f"  0: 11 tokens {f'A bear{text}'.replace(chr(10), ' ')!r}" in terminal.notes
    assert all(any(note.startswith(name) for note in terminal.notes) for name in COMMANDS)
    assert terminal.prompts[-1] == "2> "


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/fly", "there is no command /fly: /help lists them"),
        ("", "there is no text to go on with: enter its beginning"),
        ("/session 3", "the session must be from 0 to 2, not 3"),
        ("/session x", "the session must be from 0 to 2, not x"),
        ("/save", "name the file"),
        ("/load nowhere/at/all", "nowhere/at/all cannot be read: No such file or directory"),
        ("/set colour red", "there is no setting colour: choose from temperature, top-k, seed, tokens"),
        ("/set seed x", "seed must be a number, not 'x'"),
        ("/set temperature 1000", "temperature must be 0 (greedy) or from 0.01 to 100, not 1000.0"),
        ("/set tokens -1", "the number of tokens must be from 0 to 4294967295, not -1"),
    ],
)
def test_mistakes_are_told_and_the_chat_goes_on(device, line, message):
    terminal = shown(device, line, "A bear")
    assert terminal.notes == [message]
    assert len(terminal.text) > 1


def test_an_interrupt_stops_the_turn(device):
    terminal = Terminal(device, ["/set tokens 100000", "A bear", "/set tokens 6", "", KeyboardInterrupt])

    def interrupt() -> None:
        if len(terminal.text) > 10:
            terminal.on_write = lambda: None
            raise KeyboardInterrupt

    terminal.on_write = interrupt
    terminal.chat.run()
    assert terminal.notes[1] == "stopped"
    assert terminal.notes[-1] == "Ctrl-D or /quit leaves"
    tokens = terminal.chat._conversations[0].tokens
    prompt = Tokenizer(TOKENIZER).encode("A bear")
    written, last = tokens[len(prompt) : -6], tokens[-6:]
    decode = Tokenizer(TOKENIZER).decode
    assert terminal.text == f"{decode(written)}\n{decode(last)}\n"
    assert last == golden_next(tokens[:-6], 6)


def test_an_interrupt_ends_a_chat_that_no_person_reads(device):
    with pytest.raises(KeyboardInterrupt):
        shown(device, KeyboardInterrupt, interactive=False)


def test_a_slot_that_does_not_exist(device):
    with pytest.raises(RequestError, match=r"^slot must be from 0 to 2, not 3$"):
        shown(device, slot=3)
