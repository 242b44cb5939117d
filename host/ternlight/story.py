"""The one text that a chat makes: models here go on with a text, and are not instructed.

A conversation becomes a text by this template: what the model wrote follows directly what it was given, and all else
begins a new paragraph. Nothing else is added, no roles and no marks, for a model of stories has never seen any.
"""

from __future__ import annotations

from collections.abc import Iterable

PARAGRAPH = "\n\n"


def story(messages: Iterable[tuple[str, str]]) -> str:
    """The text of (role, content) messages."""
    text = ""
    for role, content in messages:
        text += content if role == "assistant" else paragraph(text, content)
    return text


def paragraph(text: str, addition: str) -> str:
    """What makes the addition a new paragraph behind the text: it, and the line ends that are missing before it."""
    if not text or not addition:
        return addition
    present = len(text) - len(text.rstrip("\n"))
    return PARAGRAPH[present:] + addition
