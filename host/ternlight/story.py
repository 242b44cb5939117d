"""The one text that a chat makes: models here go on with a text, and are not instructed.

A conversation becomes a text by this template: what the model wrote follows directly what it was given, and all else
begins a new paragraph. Nothing is added, no roles and no marks, for a model of stories has never seen any.
"""

from __future__ import annotations

from collections.abc import Iterable

PARAGRAPH = "\n\n"


def story(messages: Iterable[tuple[str, str]]) -> str:
    """The text of (role, content) messages."""
    text = ""
    for role, content in messages:
        text = text + content if role == "assistant" else join(text, content)
    return text


def join(text: str, addition: str) -> str:
    """The text with a new paragraph; an empty one is none."""
    if not text or not addition:
        return text + addition
    return text.rstrip("\n") + PARAGRAPH + addition
