"""A text that a person and a model write in turns, on one session slot: it can be interrupted, saved and taken up."""

from __future__ import annotations

import zipfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np

from .device import Device, SavedState
from .errors import ImageError, RequestError
from .image import Image
from .sampling import Sampling
from .story import paragraph
from .tokenizer import StreamDecoder, Tokenizer

FORMAT = 1
"""Of saved sessions."""


class Conversation:
    """The text of a slot, from its first word, and the recurrent state that reads it.

    The state follows the text: what it has not read yet, such as the latest token, is read with the next turn.
    Whatever ends a turn early, text and state agree again before the next one; where the device has lost the state,
    it reads the whole text again.

    Raises ImageError for an image without tokenizer.
    Attributes: tokens, of the whole text; unseen, what an interrupted turn wrote beyond the pieces that were taken.
    """

    def __init__(self, device: Device, image: Image, slot: int) -> None:
        if image.tokenizer is None:
            raise ImageError(f"{image.config.name} has no tokenizer: import the checkpoint with its tokenizer.json")
        self.device = device
        self.image = image
        self.session = device.session(slot)
        self.tokenizer = Tokenizer(image.tokenizer)
        self.tokens: list[int] = []
        self.unseen = ""
        self._read: int | None = 0  # tokens that the state has seen; None: it is not to be trusted

    @property
    def text(self) -> str:
        """The whole text."""
        return self.tokenizer.decode(self.tokens)

    def turn(self, addition: str, max_tokens: int, sampling: Sampling) -> Generator[str, None, None]:
        """Add a paragraph, or nothing, and yield what the model writes after it, in pieces of whole characters.

        A caller that leaves early, or is interrupted, ends the turn: what the device had written by then belongs to
        the text. Raises RequestError for an addition that cannot be read, or where there is no text at all.
        """
        added = self.tokenizer.encode(paragraph(self.text, addition))
        if not self.tokens and not added:
            raise RequestError("there is no text to go on with: enter its beginning")
        return self._turn(added, max_tokens, sampling)

    def forget(self) -> None:
        """Begin a new text."""
        self.tokens, self._read = [], None

    def save(self, path: Path) -> None:
        """Write text and state to a file; raises RequestError when that fails."""
        if self._follow() == 0:
            raise RequestError("the device has read nothing of this text: go on with it first")
        saved = self.session.save()
        partial = path.with_name(f"{path.name}.partial")
        try:
            with partial.open("wb") as file:
                np.savez_compressed(
                    file,
                    format=np.uint32(FORMAT),
                    identity=np.uint32(saved.identity),
                    position=np.uint32(saved.position),
                    states=saved.states,
                    tokens=np.array(self.tokens, np.uint32),
                )
            partial.replace(path)
        except OSError as error:
            raise RequestError(f"{path} cannot be written: {error.strerror}") from None

    def load(self, path: Path) -> None:
        """Go on with a saved text and its state; raises RequestError for another file, FitError for another image."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                version = int(arrays["format"])
                saved = SavedState(int(arrays["identity"]), int(arrays["position"]), arrays["states"])
                tokens = [int(token) for token in arrays["tokens"]]
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
            raise RequestError(f"{path} is no saved session") from None
        if version != FORMAT:
            raise RequestError(f"{path} has format {version}, this host knows {FORMAT}: save it with the same release")
        if not 0 < saved.position <= len(tokens) or saved.states.dtype != np.int16:
            raise RequestError(f"{path} is damaged: its state has not read its text")
        self._stop()
        self.session.restore(saved)
        self.tokens, self._read = tokens, saved.position

    def _turn(self, added: list[int], max_tokens: int, sampling: Sampling) -> Generator[str, None, None]:
        self.unseen = ""
        read = self._follow()
        self.tokens += added
        prompt, taken = self.tokens[read:], 0
        decoder = StreamDecoder(self.tokenizer)
        stop = [] if self.image.config.eos is None else [self.image.config.eos]
        self._read = None
        try:
            with closing(self.session.generate(prompt, max_tokens, sampling, stop=stop, keep_state=True)) as request:
                for token in request:
                    taken += 1
                    self.tokens.append(token)
                    if piece := decoder.push(token):
                        yield piece
        except (GeneratorExit, KeyboardInterrupt):
            # The device was ahead. Its first token came when the last of the prompt was read.
            self._read = self.session.status().position
            written = min(max_tokens, max(0, self._read - read - len(prompt) + 1))
            rest = self.session.ring(taken, written)
            self.tokens += rest
            self.unseen = "".join(map(decoder.push, rest)) + decoder.finish()
            raise
        self._read = self.session.status().position
        if piece := decoder.finish():
            yield piece

    def _follow(self) -> int:
        """The tokens of the text that the device's state has read, after all that may have happened to it."""
        status = self._stop()
        if self._read is None or status != self._read:
            self.session.reset()
            self._read = 0
        return self._read

    def _stop(self) -> int:
        """End what still runs in the slot; the state's position."""
        if not self.device.load(self.image) and self.session.status().running:
            self.session.abort()
        return self.session.status().position
