"""Texts that commands read: encoded by an image's tokenizer, with what it cannot encode left out and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, RequestError
from ..image import Image
from ..tokenizer import Tokenizer


class Text(NamedTuple):
    """Tokens, the bytes of UTF-8 that they stand for, and the distinct characters that were left out."""

    tokens: NDArray[np.integer[Any]]
    bytes: int
    left_out: list[str]


def image_tokenizer(image: Image) -> Tokenizer:
    """The image's tokenizer; raises ImageError where it has none."""
    return model_tokenizer(image.tokenizer, image.config.name)


def model_tokenizer(data: bytes | None, name: str) -> Tokenizer:
    """The tokenizer of a model, from its tokenizer.json; raises ImageError where there is none."""
    if data is None:
        raise ImageError(f"{name} has no tokenizer: import the checkpoint with its tokenizer.json")
    return Tokenizer(data)


def read_tokens(data: bytes | None, name: str, path: Path, *, limit: int | None = None) -> Text:
    """The first `limit` tokens of a text file (all by default); raises RequestError for a file that cannot be read.

    data: the tokenizer.json of the model of that name; raises ImageError without.
    """
    tokenizer = model_tokenizer(data, name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}): convert it") from None
    left_out = tokenizer.unencodable(text)
    text = text.translate({ord(character): None for character in left_out})
    tokens = tokenizer.encode(text)
    if limit is not None and limit < len(tokens):
        tokens = tokens[:limit]
        text = tokenizer.decode(tokens)
    return Text(np.array(tokens), len(text.encode()), left_out)
