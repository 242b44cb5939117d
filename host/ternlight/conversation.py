"""A text that a person and a model write in turns, on one session slot: it can be interrupted, saved and taken up."""

from __future__ import annotations

import zipfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np

from .device import Device, SavedState, Session
from .errors import ImageError, LinkError, RequestError
from .image import Image
from .sampling import Sampling
from .story import join
from .tokenizer import StreamDecoder, Tokenizer

FORMAT = 1
"""Of saved sessions."""


class Conversation:
    """The text of a slot, from its first word, and the recurrent state that has read it.

    The state follows the text: what it has not read yet, such as the latest token, is read with the next turn.
    Whatever ends a turn early, text and state agree again before the next one; where the device has lost the state,
    it reads the whole text again.

    Raises ImageError for an image without tokenizer. Attributes: tokens, the whole text's.
    """

    def __init__(self, device: Device, image: Image, slot: int) -> None:
        if image.tokenizer is None:
            raise ImageError(f"{image.config.name} has no tokenizer: import the checkpoint with its tokenizer.json")
        self.device = device
        self.image = image
        self.tokenizer = Tokenizer(image.tokenizer)
        self.slot = slot
        self.tokens: list[int] = []
        self._trusted = False  # whether the slot's state is one of this text

    @property
    def text(self) -> str:
        """The whole text."""
        return self.tokenizer.decode(self.tokens)

    def turn(self, addition: str, max_tokens: int, sampling: Sampling) -> Generator[str, None, None]:
        """Add a paragraph (or nothing), and yield what the model writes after it, in pieces of whole characters.

        A caller that leaves early, or is interrupted, ends the turn: what the device had written by then belongs to
        the text, and is what `tokens` has more than the pieces. Raises RequestError for a text that cannot be read.
        """
        before = self.text
        added = self.tokenizer.encode(join(before, addition)[len(before.rstrip("\n")) :] if addition else "")
        if before and addition:
            # The paragraph's mark replaces line ends that the model wrote, unless the state has read them.
            added = self.tokenizer.encode(join(before, addition).removeprefix(before)) if (
                join(before, addition).startswith(before)
            ) else self.tokenizer.encode(addition)
        return self._turn(added, max_tokens, sampling)
