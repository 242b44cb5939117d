"""Text to tokens and back, by the checkpoint's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import tokenizers

from .errors import CheckpointError, RequestError

REPLACEMENT = "\ufffd"
"""What an incomplete UTF-8 sequence decodes to."""
CHARACTERS_SHOWN = 8


class Tokenizer:
    """Encodes and decodes text; raises CheckpointError for a tokenizer.json that is broken."""

    def __init__(self, data: bytes) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # The library raises nothing more specific.
            raise CheckpointError(f"tokenizer.json is broken ({error}): download it again") from None
        # Text is text: "</s>" in a prompt is five characters, not the end of the sequence.
        self._tokenizer.encode_special_tokens = True
        self._known: dict[str, bool] = {}

    @cached_property
    def vocabulary(self) -> int:
        """One more than the largest token."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @cached_property
    def _unknown(self) -> int | None:
        """The token that stands for what cannot be encoded."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return None if name is None else self._tokenizer.token_to_id(name)

    def unencodable(self, text: str) -> list[str]:
        """The distinct characters of a text that have no encoding, in order; byte-level alphabets have none."""
        characters = sorted(set(text))
        return [character for character in characters if not self._encodable(character)]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, with nothing added; raises RequestError for characters that have no encoding."""
        missing = self.unencodable(text)
        if missing:
            shown = ", ".join(map(repr, missing[:CHARACTERS_SHOWN]))
            more = f" and {len(missing) - CHARACTERS_SHOWN} more" if len(missing) > CHARACTERS_SHOWN else ""
            raise RequestError(f"the model's tokenizer cannot encode {shown}{more}: leave them out or replace them")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special tokens and tokens beyond the vocabulary have none."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def _encodable(self, character: str) -> bool:
        # The library drops or replaces such characters without a word, so each is tried once on its own.
        if character not in self._known:
            ids = self._tokenizer.encode(character, add_special_tokens=False).ids
            self._known[character] = bool(ids) and self._unknown not in ids
        return self._known[character]


class StreamDecoder:
    """Decodes tokens as they come: the pieces joined are the text of all tokens.

    A piece has whole characters only: bytes of an unfinished character wait for the next token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Tokens decoded anew: those of the last piece, without which decoders strip a leading space, and newer ones.
        self._window: list[int] = []
        self._told = 0

    def push(self, token: int) -> str:
        """The text that the token completes; perhaps none."""
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        if text.endswith(REPLACEMENT):
            return ""
        told = self._tokenizer.decode(self._window[: self._told])
        self._window = self._window[self._told :]
        self._told = len(self._window)
        return text[len(told) :]

    def finish(self) -> str:
        """The text of what still waits: replacement characters for a character that never ended."""
        text = self._tokenizer.decode(self._window)[len(self._tokenizer.decode(self._window[: self._told])) :]
        self._window, self._told = [], 0
        return text
