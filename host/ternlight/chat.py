"""The conversation of a terminal: lines and commands in, text out, whoever reads the lines."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from .conversation import Conversation
from .device import Device
from .errors import RequestError, TernlightError
from .image import Image
from .sampling import Sampling, check_max_tokens

SHOWN = 60
"""Characters of a text in a list."""
SETTINGS: dict[str, Callable[[str], Any]] = {"temperature": float, "top-k": int, "seed": int, "tokens": int}


class Command(NamedTuple):
    """A command of the chat: what it is called with, what it is for, and what does it."""

    arguments: str
    purpose: str
    run: Callable[[Chat, str], None]


class Chat:
    """Several texts, one per session slot, and the lines that make them go on.

    A line adds a paragraph, an empty one nothing, and the model goes on. Lines that begin with "/" are commands.
    An error is told, and the chat goes on.

    read: gives the next line for a prompt; raises EOFError at the end, and KeyboardInterrupt.
    write: takes text of the model; note: takes a line of the chat's own.
    interactive: an interrupt ends a turn, or the line; otherwise it ends the chat.
    """

    def __init__(
        self,
        device: Device,
        image: Image,
        *,
        read: Callable[[str], str],
        write: Callable[[str], None],
        note: Callable[[str], None],
        sampling: Sampling,
        max_tokens: int,
        slot: int = 0,
        interactive: bool = True,
    ) -> None:
        self._conversations = [Conversation(device, image, each) for each in range(device.geometry.slots)]
        device.session(slot)  # to refuse a slot that the device has not
        self._slot = slot
        self._read, self._write, self._note = read, write, note
        self._sampling, self._tokens = sampling, max_tokens
        self._interactive = interactive
        self._leaving = False

    def run(self) -> None:
        """Take lines until there are no more."""
        while not self._leaving:
            try:
                line = self._read(f"{self._slot}> ")
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._note("Ctrl-D or /quit leaves")
                continue
            try:
                self._take(line)
            except TernlightError as error:
                self._note(str(error))

    def _take(self, line: str) -> None:
        name, _, argument = line.strip().partition(" ")
        if not name.startswith("/"):
            self._go_on(line.strip())
        elif name in COMMANDS:
            COMMANDS[name].run(self, argument.strip())
        else:
            raise RequestError(f"there is no command {name}: /help lists them")

    def _go_on(self, addition: str) -> None:
        conversation = self._conversations[self._slot]
        try:
            with closing(conversation.turn(addition, self._tokens, self._sampling)) as pieces:
                for piece in pieces:
                    self._write(piece)
        except KeyboardInterrupt:
            # Where the interrupt came outside of the turn, it ended when it was closed.
            self._write(f"{conversation.unseen}\n")
            if not self._interactive:
                raise
            self._note("stopped")
        else:
            self._write("\n")

    def help(self, _: str) -> None:
        """List the commands."""
        width = max(len(f"{name} {command.arguments}") for name, command in COMMANDS.items())
        for name, command in COMMANDS.items():
            self._note(f"{f'{name} {command.arguments}':{width}}  {command.purpose}")
        self._note("Other lines are added to the text as a paragraph, and the model goes on: it is not instructed.")
        self._note("An empty line only lets it go on. Ctrl-C stops it, Ctrl-D leaves.")

    def session(self, argument: str) -> None:
        """List the sessions, or go to another."""
        slots = len(self._conversations)
        if argument:
            if not argument.isdecimal() or int(argument) >= slots:
                raise RequestError(f"the session must be from 0 to {slots - 1}, not {argument}")
            self._slot = int(argument)
        for slot, conversation in enumerate(self._conversations):
            text = conversation.text.replace("\n", " ")
            shown = text if len(text) <= SHOWN else f"...{text[-SHOWN:]}"
            mark = "*" if slot == self._slot else " "
            self._note(f"{mark} {slot}: {len(conversation.tokens):,} tokens {shown!r}")

    def new(self, _: str) -> None:
        """Begin a new text."""
        self._conversations[self._slot].forget()

    def text(self, _: str) -> None:
        """Write the whole text."""
        self._write(f"{self._conversations[self._slot].text}\n")

    def save(self, argument: str) -> None:
        """Write the session to a file."""
        path = _file(argument)
        self._conversations[self._slot].save(path)
        self._note(f"saved to {path}")

    def load(self, argument: str) -> None:
        """Take up a saved session."""
        conversation = self._conversations[self._slot]
        conversation.load(_file(argument))
        self._write(f"{conversation.text}\n")

    def set(self, argument: str) -> None:
        """Change how tokens are chosen, or tell."""
        name, _, value = argument.partition(" ")
        if name:
            self._change(name, value.strip())
        sampling = self._sampling
        self._note(
            f"temperature {sampling.temperature:g}, top-k {sampling.top_k}, seed {sampling.seed}, tokens {self._tokens}"
        )

    def quit(self, _: str) -> None:
        """Leave."""
        self._leaving = True

    def _change(self, name: str, value: str) -> None:
        if name not in SETTINGS:
            raise RequestError(f"there is no setting {name}: choose from {', '.join(SETTINGS)}")
        try:
            number = SETTINGS[name](value)
        except ValueError:
            raise RequestError(f"{name} must be a number, not {value!r}") from None
        if name == "tokens":
            check_max_tokens(number)
            self._tokens = number
        else:
            self._sampling = replace(self._sampling, **{name.replace("-", "_"): number})


def _file(argument: str) -> Path:
    if not argument:
        raise RequestError("name the file")
    return Path(argument).expanduser()


COMMANDS = {
    "/help": Command("", "this list", Chat.help),
    "/session": Command("[N]", "list the sessions, or go to one: each has a text of its own", Chat.session),
    "/new": Command("", "begin a new text in this session", Chat.new),
    "/text": Command("", "show the whole text", Chat.text),
    "/save": Command("FILE", "keep this session, its text and its state", Chat.save),
    "/load": Command("FILE", "take up a session that was kept", Chat.load),
    "/set": Command("[NAME VALUE]", f"settings: {', '.join(SETTINGS)}", Chat.set),
    "/quit": Command("", "leave; so does Ctrl-D", Chat.quit),
}
