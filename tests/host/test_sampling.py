"""How the next token is chosen: limits, and the words of a session's record."""

from __future__ import annotations

import math

import pytest

from ternlight.abi import EXPONENT_SHIFT, NO_TOKEN, STOP_TOKENS, SessionWord
from ternlight.errors import RequestError
from ternlight.geometry import Geometry
from ternlight.sampling import Sampling, check_request, stop_words

GEOMETRY = Geometry(top_k=16)
LIMIT = (1 << 32) - 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0 (greedy) or from 0.01 to 100, not -1.0"),
        ({"temperature": 0.009}, "temperature must be 0 (greedy) or from 0.01 to 100, not 0.009"),
        ({"temperature": 100.1}, "temperature must be 0 (greedy) or from 0.01 to 100, not 100.1"),
        ({"temperature": math.nan}, "temperature must be 0 (greedy) or from 0.01 to 100, not nan"),
        ({"temperature": math.inf}, "temperature must be 0 (greedy) or from 0.01 to 100, not inf"),
        ({"top_k": -1}, "top-k must be 0 (all tokens) or positive, not -1"),
        ({"seed": -1}, f"seed must be from 0 to {LIMIT}, not -1"),
        ({"seed": LIMIT + 1}, f"seed must be from 0 to {LIMIT}, not {LIMIT + 1}"),
    ],
)
def test_limits_of_sampling(values, message):
    with pytest.raises(RequestError) as error:
        Sampling(**values)
    assert str(error.value) == message


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 3.0, 100.0])
def test_words(temperature):
    sampling = Sampling(temperature=temperature, top_k=7, seed=LIMIT)
    packed, top_k, seed = sampling.words()
    mantissa, exponent = packed & 0xFFFF, packed >> EXPONENT_SHIFT
    exponent -= exponent >> 9 << 10
    assert math.ldexp(mantissa, exponent) == pytest.approx(1 / temperature, rel=2**-15)
    assert (top_k, seed) == (7, LIMIT)


def test_greedy_is_a_choice_among_one():
    for zero in (0, 0.0, -0.0):
        assert Sampling(temperature=zero, top_k=40).words() == [0x4000 | (-14 & 0x3FF) << EXPONENT_SHIFT, 1, 0]


def test_stop_words_fill_the_record():
    assert stop_words([]) == [NO_TOKEN] * STOP_TOKENS
    assert stop_words([3, 9]) == [3, 9, NO_TOKEN, NO_TOKEN]
    assert SessionWord.CREDIT - SessionWord.STOP == STOP_TOKENS


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"prompt": []}, "the prompt is empty: give at least one token"),
        ({"max_tokens": -1}, f"the number of tokens must be from 0 to {LIMIT}, not -1"),
        ({"max_tokens": LIMIT + 1}, f"the number of tokens must be from 0 to {LIMIT}, not {LIMIT + 1}"),
        ({"prompt": [1, 100]}, "token 100 is not in the vocabulary of 100"),
        ({"prompt": [-1]}, "token -1 is not in the vocabulary of 100"),
        ({"stop": [100]}, "token 100 is not in the vocabulary of 100"),
        ({"stop": [1, 2, 3, 4, 5]}, "a session has at most 4 stop tokens, not 5"),
        (
            {"sampling": Sampling(top_k=17)},
            "top-k must be at most 16 on this device (or 0 for all tokens), not 17",
        ),
    ],
)
def test_limits_of_requests(request_, message):
    whole = {"prompt": [1], "max_tokens": 1, "sampling": Sampling(top_k=0), "stop": []} | request_
    with pytest.raises(RequestError) as error:
        check_request(*whole.values(), vocabulary=100, geometry=GEOMETRY)
    assert str(error.value) == message


def test_requests_at_the_limits():
    check_request([0, 99], LIMIT, Sampling(top_k=16), [0, 1, 2, 99], vocabulary=100, geometry=GEOMETRY)
    check_request([0], 0, Sampling(temperature=0, top_k=500), [], vocabulary=100, geometry=GEOMETRY)
