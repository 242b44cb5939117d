"""Stop strings, whatever pieces a text comes in."""

from __future__ import annotations

import random

import pytest

from ternlight.server.stop_text import StopText


def passed(text: str, stops: list[str], sizes: list[int]) -> tuple[str, bool]:
    matcher, out, at = StopText(stops), "", 0
    for size in sizes:
        out += matcher.push(text[at : at + size])
        at += size
    out += matcher.push(text[at:])
    return out + ("" if matcher.stopped else matcher.finish()), matcher.stopped


@pytest.mark.parametrize("seed", range(300))
def test_equals_the_search_in_the_whole_text(seed):
    source = random.Random(seed)
    text = "".join(source.choices("ab", k=source.randrange(30)))
    stops = ["".join(source.choices("ab", k=source.randint(1, 6))) for _ in range(source.randrange(4))]
    found = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    expected = (text[: min(found)[1]], True) if found else (text, False)
    assert passed(text, stops, [source.randint(0, 4) for _ in range(20)]) == expected


def test_only_what_may_begin_a_stop_string_waits():
    matcher = StopText(["END", "."])
    assert matcher.push("the friEND") == "the fri"
    assert matcher.stopped
    assert matcher.push("more") == ""
    matcher = StopText(["END"])
    assert matcher.push("the E") == "the "
    assert matcher.push("N") == ""
    assert matcher.push("T") == "ENT"
    assert matcher.push(" E") == " "
    assert matcher.finish() == "E"


def test_pieces_that_complete_two_stop_strings():
    """The one that ends first counts, as if the text came letter by letter."""
    matcher = StopText(["cd", "bcde"])
    assert matcher.push("abc") == "a"
    assert matcher.push("de") == "b"
    assert matcher.stopped
