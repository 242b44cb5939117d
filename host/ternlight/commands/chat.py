"""`ternlight chat`: a person and a model write a text in turns, on a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from .device import add_device_arguments, add_image_argument, add_sampling_arguments, device_of, image_of, sampling_of


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "chat",
        help="write a text in turns with the model, in several sessions",
        description="Write a text in turns with the model. It goes on with the text, and is not instructed. "
        "/help lists the commands; the model's text goes to standard output, all else to standard error.",
    )
    add_sampling_arguments(parser, tokens=128)
    add_image_argument(parser)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Chat until the end of the input."""
    from ..chat import COMMANDS, Chat
    from ..sampling import check_max_tokens
    from .text import image_tokenizer

    sampling, image = sampling_of(args), image_of(args)
    check_max_tokens(args.tokens)
    image_tokenizer(image)  # to refuse what cannot work before the slow steps
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    with device_of(args, image) as device:
        chat = Chat(
            device,
            image,
            read=_line_editor(list(COMMANDS)) if interactive else _read_line,
            write=_write,
            note=lambda line: print(line, file=sys.stderr, flush=True),
            sampling=sampling,
            max_tokens=args.tokens,
            slot=args.slot,
            interactive=interactive,
        )
        if interactive:
            print("/help lists the commands. Begin a text; the model goes on with it.", file=sys.stderr)
        chat.run()
    return 0


def _line_editor(commands: list[str]) -> Callable[[str], str]:
    """Lines from a terminal, with editing, history and completion of commands."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    session: PromptSession[str] = PromptSession(
        completer=WordCompleter(commands, sentence=True), complete_while_typing=False
    )
    return session.prompt


def _read_line(_: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
