"""The OpenAI API's bodies: what a client asks for, checked, and the objects that answer it.

What a device cannot do is refused by name, never ignored; only `user`, `store` and `metadata` change nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import RequestError
from ..sampling import UINT32_MAX, Sampling
from ..story import story

DEFAULT_TOKENS = 128
STOPS_MAX = 4
ROLES = ("system", "developer", "user", "assistant")
WITHOUT_EFFECT = ("user", "store", "metadata")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
}
"""Parameters that a device has not, and their values that ask for nothing; so does null."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for: tokens of its prompt, generated tokens, bytes of its body."""

    prompt_tokens: int = 8192
    max_tokens: int = 4096
    body_bytes: int = 1 << 18


class ParameterError(RequestError):
    """A parameter of a body that is refused: its name, and the API's code."""

    def __init__(self, name: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.name = name
        self.code = code


@dataclass(frozen=True)
class Asked:
    """What a body asks for. user: the client's name for whom it asks, or nothing."""

    prompt: str | list[int]
    max_tokens: int
    sampling: Sampling
    stops: list[str]
    stream: bool
    usage_in_stream: bool
    user: str


def read_completion(body: Mapping[str, Any], model: str, limits: Limits) -> Asked:
    """A body of /v1/completions; raises ParameterError or RequestError."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = prompt[0]
    tokens = isinstance(prompt, list) and all(_is_integer(token) for token in prompt)
    if not (isinstance(prompt, str) or tokens) or not prompt:
        raise ParameterError("prompt", "prompt must be one text that is not empty, or a list of its tokens")
    return _read(body, prompt, ("prompt", "max_tokens"), model, limits)


def read_chat(body: Mapping[str, Any], model: str, limits: Limits) -> Asked:
    """A body of /v1/chat/completions, by the template of ternlight.story; raises ParameterError or RequestError."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ParameterError("messages", "messages must be a list that is not empty")
    text = story(_message(message, at) for at, message in enumerate(messages))
    if not text:
        raise ParameterError("messages", "all messages are empty: give the beginning of a text")
    return _read(body, text, ("messages", "max_tokens", "max_completion_tokens"), model, limits)


def _message(message: Any, at: int) -> tuple[str, str]:
    name = f"messages[{at}]"
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise ParameterError(name, f"{name} must have one of the roles {', '.join(ROLES)}")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise ParameterError(name, f"{name}.content must be text")
    return message["role"], content


def _read(body: Mapping[str, Any], prompt: str | list[int], own: tuple[str, ...], model: str, limits: Limits) -> Asked:
    named = _value(body, "model", "a text", lambda value: isinstance(value, str))
    if named != model:
        raise ParameterError("model", f"there is no model {named!r} here, only {model!r}", "model_not_found")
    known = {"model", "temperature", "top_k", "seed", "stop", "stream", "stream_options", *own, *WITHOUT_EFFECT}
    for name, value in body.items():
        if name in NEUTRAL:
            if value is not None and not any(_same(value, neutral) for neutral in NEUTRAL[name]):
                raise ParameterError(name, f"{name} is not supported: leave it out", "unsupported_parameter")
        elif name not in known:
            raise ParameterError(name, f"there is no parameter {name}: leave it out", "unknown_parameter")
    stream = _value(body, "stream", "true or false", lambda value: isinstance(value, bool), False)
    return Asked(
        prompt=prompt,
        max_tokens=_tokens(body, own, limits),
        sampling=_sampling(body),
        stops=_stops(body.get("stop")),
        stream=stream,
        usage_in_stream=_stream_options(body.get("stream_options"), stream=stream),
        user=str(body.get("user") or ""),
    )


def _tokens(body: Mapping[str, Any], own: tuple[str, ...], limits: Limits) -> int:
    chat = "max_completion_tokens" in own and body.get("max_completion_tokens") is not None
    name, limit = "max_completion_tokens" if chat else "max_tokens", limits.max_tokens
    tokens: int = _value(
        body,
        name,
        f"from 1 to {limit}",
        lambda value: _is_integer(value) and 1 <= value <= limit,
        min(DEFAULT_TOKENS, limit),
    )
    return tokens


def _sampling(body: Mapping[str, Any]) -> Sampling:
    default = Sampling()
    seed = _value(body, "seed", f"from 0 to {UINT32_MAX}", lambda value: _is_integer(value) and value >= 0, None)
    return Sampling(
        temperature=_value(body, "temperature", "a number", _is_number, default.temperature),
        top_k=_value(body, "top_k", "an integer", _is_integer, default.top_k),
        seed=secrets.randbelow(UINT32_MAX + 1) if seed is None else seed,
    )


def _stops(value: Any) -> list[str]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > STOPS_MAX
        or not all(isinstance(stop, str) and stop for stop in stops)
    ):
        raise ParameterError("stop", f"stop must be a text or up to {STOPS_MAX} texts, none of them empty")
    return stops


def _stream_options(value: Any, *, stream: bool) -> bool:
    if value is None:
        return False
    usage = value.get("include_usage", False) if isinstance(value, dict) else None
    if not isinstance(usage, bool) or set(value) - {"include_usage"} or not stream:
        raise ParameterError("stream_options", 'stream_options must be {"include_usage": true or false}, with stream')
    return usage


_REQUIRED = object()


def _value(
    body: Mapping[str, Any], name: str, what: str, right: Callable[[Any], bool], default: Any = _REQUIRED
) -> Any:
    """A parameter of a body, or its default where it is missing or null."""
    value = body.get(name)
    if value is None and default is not _REQUIRED:
        return default
    if not right(value):
        raise ParameterError(name, f"{name} must be {what}, not {value!r}" if name in body else f"{name} is missing")
    return value


def _same(value: Any, neutral: Any) -> bool:
    # For Python, 0 is False and 1 is True; for the API, logprobs = 0 asks for something.
    return isinstance(value, bool) == isinstance(neutral, bool) and bool(value == neutral)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Answer:
    """The objects that answer one request, whole or as a stream.

    chat: of /v1/chat/completions. fingerprint: names device and image; with it, a seed gives the same text again.
    """

    chat: bool
    model: str
    fingerprint: str
    identity: str
    created: int

    @classmethod
    def new(cls, *, chat: bool, model: str, fingerprint: str) -> Answer:
        """An answer that begins now."""
        prefix = "chatcmpl" if chat else "cmpl"
        return cls(chat, model, fingerprint, f"{prefix}-{secrets.token_hex(12)}", int(time.time()))

    def whole(self, text: str, finish: str, usage: dict[str, int]) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"message": {"role": "assistant", "content": text, "refusal": None}} if self.chat else {"text": text}
        return self._object("", [self._choice(message, finish)]) | {"usage": usage}

    def piece(self, text: str, *, first: bool) -> dict[str, Any]:
        """A piece of the text."""
        role = {"role": "assistant"} if first else {}
        return self._object(".chunk", [self._choice(self._delta({**role, "content": text}, text), None)])

    def end(self, finish: str) -> dict[str, Any]:
        """The end of the text, after its last piece."""
        return self._object(".chunk", [self._choice(self._delta({}, ""), finish)])

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """What the answer cost, behind its end."""
        return self._object(".chunk", []) | {"usage": usage}

    def _delta(self, delta: dict[str, str], text: str) -> dict[str, Any]:
        return {"delta": delta} if self.chat else {"text": text}

    def _choice(self, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish}

    def _object(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.identity,
            "object": f"chat.completion{suffix}" if self.chat else "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage_of(prompt_tokens: int, generated: int) -> dict[str, int]:
    """The usage object of an answer."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }


def error_body(message: str, kind: str, *, name: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The body that tells an error."""
    return {"error": {"message": message, "type": kind, "param": name, "code": code}}
