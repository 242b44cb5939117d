"""The tokenizer: exact round trips, characters that cannot be encoded, and text as it streams."""

from __future__ import annotations

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders

from ternlight.errors import CheckpointError, RequestError
from ternlight.image import Image
from ternlight.tokenizer import StreamDecoder, Tokenizer
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, llama_tokenizer

STORY = '"Where are you going?" asked Bunny.\nOnce upon a time  there were 3 little pigs; they\'d gone home.'
FOREIGN = "naïve 🦊 — 北京\n</s><s>"


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    return Tokenizer(Image.default().tokenizer)


@pytest.fixture(scope="module")
def bytewise() -> Tokenizer:
    return Tokenizer(byte_tokenizer())


@pytest.fixture(scope="module")
def metaspace() -> Tokenizer:
    """Like the published models': a mark begins a word, and is a space except in front; bytes stand for the rest."""
    words = ["\u2581once", "\u2581upon", "\u2581a", "time", "\u2581time", "<0xC3>", "<0xA9>"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(words)}))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return Tokenizer(tokenizer.to_str().encode())


def streamed(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    """The pieces of text, one for each token and one for the end."""
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(token) for token in tokens), decoder.finish()]


def test_round_trip(shipped, bytewise):
    assert shipped.decode(shipped.encode(STORY)) == STORY
    assert len(shipped.encode(STORY)) < len(STORY) / 2
    tokens = bytewise.encode(FOREIGN)
    assert len(tokens) == len(FOREIGN.encode())
    assert bytewise.decode(tokens) == FOREIGN


def test_vocabulary(shipped, bytewise):
    assert shipped.vocabulary == 1024
    assert bytewise.vocabulary == BYTE_TOKENS


def test_nothing_is_added(shipped):
    assert shipped.encode("") == []
    assert not {0, 1, 2} & set(shipped.encode(STORY))


def test_special_tokens_in_a_text_are_text(bytewise, shipped):
    assert 2 not in bytewise.encode("</s>")
    with pytest.raises(RequestError, match="cannot encode '/', '<', '>'"):
        shipped.encode("</s>")


def test_unencodable_characters_are_named(shipped, bytewise):
    assert shipped.unencodable("café 北, café!") == ["é", "北"]
    assert bytewise.unencodable(FOREIGN) == []
    with pytest.raises(RequestError, match="the model's tokenizer cannot encode 'é', '北': leave them out or replace"):
        shipped.encode("café 北, café!")
    with pytest.raises(RequestError, match=r"cannot encode 'à', .* and 2 more: leave"):
        shipped.encode("àáâãäåæçèé")


def test_stream_is_the_whole_text(shipped, bytewise):
    assert "".join(streamed(shipped, shipped.encode(STORY))) == STORY
    assert "".join(streamed(bytewise, bytewise.encode(FOREIGN))) == FOREIGN


def test_stream_keeps_leading_spaces(shipped):
    tokens = shipped.encode(" little girl")
    pieces = streamed(shipped, tokens)
    assert pieces[0].startswith(" l")
    assert "".join(pieces) == " little girl"


def test_stream_keeps_spaces_that_begin_a_word(metaspace):
    tokens = [0, 1, 2, 4, 3, 5, 6, 1, 5]
    assert metaspace.decode(tokens) == "once upon a timetime\u00e9 upon\ufffd"
    assert streamed(metaspace, tokens) == ["once", " upon", " a", " time", "time", "", "\u00e9", " upon", "", "\ufffd"]


def test_stream_emits_whole_characters_only(bytewise):
    assert streamed(bytewise, bytewise.encode("aé🦊")) == ["a", "", "é", "", "", "", "🦊", ""]


def test_stream_ends_an_unfinished_character(bytewise):
    tokens = bytewise.encode("a🦊")[:-1]
    assert streamed(bytewise, tokens) == ["a", "", "", "", "\ufffd"]


def test_stream_goes_on_after_bytes_that_are_no_text(bytewise):
    e_acute, a = bytewise.encode("é"), bytewise.encode("a")
    assert "".join(streamed(bytewise, [e_acute[0], *a, *e_acute, *a])) == "\ufffdaéa"


def test_stream_skips_special_tokens(shipped):
    tokens = shipped.encode("a pig")
    assert "".join(streamed(shipped, [1, *tokens, 2, *tokens])) == "a piga pig"


def test_stream_of_random_tokens_is_their_text(shipped, bytewise):
    rng = np.random.default_rng(1)
    for tokenizer in (shipped, bytewise):
        tokens = rng.integers(3, tokenizer.vocabulary, 300).tolist()
        assert "".join(streamed(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b'{"model": 1}'])
def test_refuses_broken_files(data):
    with pytest.raises(CheckpointError, match=r"tokenizer.json is broken \(.*\): download it again"):
        Tokenizer(data)


def test_layout_of_the_published_models():
    tokenizer = Tokenizer(llama_tokenizer(32_000))
    assert tokenizer.vocabulary == 32_000
    strange = "once upon a time, Zo\u00eb  met \u65e5\u672c \N{FOX FACE} </s>\n"
    assert tokenizer.unencodable(strange) == []
    tokens = tokenizer.encode(strange)
    assert tokenizer.decode(tokens) == strange
    # Merges are used, and bytes stand for what has no token.
    assert max(tokens) > 1000
    assert len(tokenizer.encode("\N{FOX FACE}")) == 5
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(token) for token in tokens]) + decoder.finish() == strange
