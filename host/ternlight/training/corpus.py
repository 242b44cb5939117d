"""Texts for training: the tokenizer made from them, their tokens, and the order in which windows of these are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from ..errors import RequestError

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
"""The first tokens of every vocabulary, as in the published models; no text encodes to them."""
VOCABULARY_MIN = len(SPECIAL_TOKENS) + 256
"""The special tokens and one per byte."""
PIECE_CHARACTERS = 1 << 20
"""Texts are encoded in pieces of about this size, which end with a line."""

Tokens = NDArray[np.int32]


def read_texts(paths: Sequence[Path]) -> list[str]:
    """The texts of files; raises RequestError for one that cannot be read or is empty."""
    texts = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise RequestError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
        if not text:
            raise RequestError(f"{path} is empty: name a text file")
        texts.append(text)
    return texts


def pieces(texts: Sequence[str]) -> Iterator[str]:
    """The texts in order, cut behind line ends."""
    for text in texts:
        start = 0
        while start < len(text):
            end = text.find("\n", start + PIECE_CHARACTERS) + 1 or len(text)
            yield text[start:end]
            start = end


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> bytes:
    """The tokenizer.json of a byte-level BPE with so many tokens; it has a token per byte, so it encodes any text."""
    if vocabulary < VOCABULARY_MIN:
        raise RequestError(
            f"the vocabulary must have at least {VOCABULARY_MIN} tokens (one per byte), not {vocabulary}"
        )
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(pieces(texts), trainer=trainer)
    if tokenizer.get_vocab_size() < vocabulary:
        raise RequestError(
            f"the text gives a vocabulary of {tokenizer.get_vocab_size()} tokens only, not {vocabulary}: "
            f"take more text, or a smaller vocabulary"
        )
    data: str = tokenizer.to_str()
    return data.encode()


def encode(texts: Sequence[str], tokenizer: bytes) -> Tokens:
    """All tokens of the texts, one text after the other."""
    encoder = tokenizers.Tokenizer.from_str(tokenizer.decode())
    encoder.encode_special_tokens = True
    return np.concatenate([np.array(encoder.encode(piece).ids, np.int32) for piece in pieces(texts)])


class Windows:
    """Batches of windows of `times` + 1 tokens, in an order that follows from seed and step alone.

    Each epoch cuts the text anew, at an offset of its own, into windows that overlap by one token, and reads them all
    in random order. So a batch has windows from all over the text, and a resumed run needs nothing but the step.
    """

    def __init__(self, tokens: NDArray[np.integer[Any]], *, times: int, batch: int, seed: int) -> None:
        self.count = (len(tokens) - 1) // times - 1
        if self.count < 1:
            raise RequestError(
                f"windows of {times} tokens need a text of at least {2 * times + 1} tokens, not {len(tokens)}: "
                f"take more text, or shorter windows"
            )
        self.tokens = tokens
        self.times = times
        self.batch = batch
        self.seed = seed
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def starts(self, epoch: int) -> NDArray[np.int64]:
        """Where the windows of an epoch begin, in order."""
        if self._epoch is None or self._epoch[0] != epoch:
            rng = np.random.default_rng((self.seed, epoch))
            offset = int(rng.integers(self.times))
            self._epoch = (epoch, offset + self.times * rng.permutation(self.count))
        return self._epoch[1]

    def read(self, step: int) -> NDArray[np.int64]:
        """The batch of a step, time-major: (times + 1, batch)."""
        numbers = step * self.batch + np.arange(self.batch)
        first = np.array([self.starts(int(number) // self.count)[int(number) % self.count] for number in numbers])
        return self.tokens[first + np.arange(self.times + 1)[:, None]].astype(np.int64)
