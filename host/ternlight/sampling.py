"""How the next token is chosen, as a user states it and as a session's record holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ufloat
from .abi import EXPONENT_SHIFT, NO_TOKEN, STOP_TOKENS
from .errors import RequestError
from .geometry import Geometry

TEMPERATURE_MIN = 0.01
TEMPERATURE_MAX = 100.0
GREEDY_TOP_K = 1
UINT32_MAX = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """temperature: 0 is greedy, else 0.01 to 100; top_k: candidates, 0 for all; seed: 32 bits.

    Raises RequestError for values out of range.
    """

    temperature: float = 0.7
    top_k: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature != 0 and not TEMPERATURE_MIN <= self.temperature <= TEMPERATURE_MAX:
            raise RequestError(
                f"temperature must be 0 (greedy) or from {TEMPERATURE_MIN} to {TEMPERATURE_MAX:g}, "
                f"not {self.temperature}"
            )
        if self.top_k < 0:
            raise RequestError(f"top-k must be 0 (all tokens) or positive, not {self.top_k}")
        if not 0 <= self.seed <= UINT32_MAX:
            raise RequestError(f"seed must be from 0 to {UINT32_MAX}, not {self.seed}")

    @property
    def effective_top_k(self) -> int:
        """What the device gets: greedy is a choice among one."""
        return GREEDY_TOP_K if self.temperature == 0 else self.top_k

    @property
    def inverse_temperature(self) -> tuple[int, int]:
        """The ufloat that multiplies the logits' scale."""
        return ufloat.from_float(1 / (self.temperature or 1))

    def words(self) -> list[int]:
        """Inverse temperature, top-k and seed, as in a session's record."""
        mantissa, exponent = self.inverse_temperature
        packed = mantissa | (exponent & (1 << ufloat.EXPONENT_BITS) - 1) << EXPONENT_SHIFT
        return [packed, self.effective_top_k, self.seed]


def check_max_tokens(max_tokens: int) -> None:
    """Raises RequestError for a count of tokens that a session's record does not hold."""
    if not 0 <= max_tokens <= UINT32_MAX:
        raise RequestError(f"the number of tokens must be from 0 to {UINT32_MAX}, not {max_tokens}")


def check_request(
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    stop: Sequence[int],
    *,
    vocabulary: int,
    geometry: Geometry,
) -> None:
    """Raises RequestError for a request that the device would refuse."""
    if not prompt:
        raise RequestError("the prompt is empty: give at least one token")
    check_max_tokens(max_tokens)
    for token in (*prompt, *stop):
        if not 0 <= token < vocabulary:
            raise RequestError(f"token {token} is not in the vocabulary of {vocabulary}")
    if len(stop) > STOP_TOKENS:
        raise RequestError(f"a session has at most {STOP_TOKENS} stop tokens, not {len(stop)}")
    if sampling.effective_top_k > geometry.top_k:
        raise RequestError(
            f"top-k must be at most {geometry.top_k} on this device (or 0 for all tokens), not {sampling.top_k}"
        )


def stop_words(stop: Sequence[int]) -> list[int]:
    """The stop tokens of a session's record."""
    return [*stop, *[NO_TOKEN] * (STOP_TOKENS - len(stop))]
