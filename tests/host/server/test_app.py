"""The HTTP server, as the official client and raw sockets see it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import uvicorn

from ternlight.sampling import Sampling
from ternlight.server.app import build_app
from ternlight.server.engine import Engine
from ternlight.server.protocol import Limits
from ternlight.tokenizer import Tokenizer

from .conftest import GEOMETRY, IMAGE, TOKENIZER, golden_text, golden_tokens, wait_until

KEY = "a-key-for-tests"
LIMITS = Limits(prompt_tokens=100, max_tokens=5000, body_bytes=20_000)


class Serving:
    """A server that listens."""

    def __init__(self, engine: Engine, keys: list[str]) -> None:
        app = build_app(engine, IMAGE, keys=keys, limits=LIMITS, hosts=["127.0.0.1"])
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, key: str = KEY) -> openai.OpenAI:
        """The official client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=30)

    def post(self, body: object, path: str = "/v1/completions", **headers: str) -> tuple[int, dict]:
        """A raw request; its status and its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """A raw request without body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, data

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def serving(engine) -> Iterator[Serving]:
    serving = Serving(engine, [])
    yield serving
    serving.close()


@pytest.fixture
def client(serving) -> openai.OpenAI:
    return serving.client()


def text_of(client: openai.OpenAI, prompt: str, tokens: int, seed: int = 0, **options) -> str:
    done = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=tokens, seed=seed, temperature=1.5, extra_body={"top_k": 0}, **options
    )
    return done.choices[0].text


# What the official client sees.


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "ternlight"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here"):
        client.models.retrieve("gpt")


def test_a_completion(client):
    done = client.completions.create(
        model="tiny", prompt="a bear", max_tokens=30, seed=5, temperature=1.5, extra_body={"top_k": 0}
    )
    expected = golden_tokens("a bear", 30, Sampling(temperature=1.5, top_k=0, seed=5))
    choice = done.choices[0]
    assert choice.text == Tokenizer(TOKENIZER).decode(expected)
    assert choice.finish_reason == ("length" if len(expected) == 30 else "stop")
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (6, len(expected))
    assert done.usage.total_tokens == 6 + len(expected)
    assert (done.object, done.model) == ("text_completion", "tiny")
    again = client.completions.create(model="tiny", prompt=list(Tokenizer(TOKENIZER).encode("a bear")), max_tokens=1)
    assert again.system_fingerprint == done.system_fingerprint
    assert again.id != done.id


def test_a_stream_is_the_same_text(client):
    whole = text_of(client, "a bear", 40, seed=3)
    stream = client.completions.create(
        model="tiny",
        prompt="a bear",
        max_tokens=40,
        seed=3,
        temperature=1.5,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"top_k": 0},
    )
    chunks = list(stream)
    pieces = [chunk.choices[0].text for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole == golden_text("a bear", 40, Sampling(temperature=1.5, top_k=0, seed=3))
    assert len(pieces) > 5
    assert chunks[-1].usage.completion_tokens <= 40
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("length", "stop")
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_chat_goes_on_with_the_text(client):
    """By the template: answers follow directly, all else begins a paragraph."""
    messages = [
        {"role": "system", "content": "A story."},
        {"role": "user", "content": [{"type": "text", "text": "A bear"}]},
        {"role": "assistant", "content": " came."},
        {"role": "user", "content": "It sat"},
    ]
    options = {"model": "tiny", "messages": messages, "temperature": 0, "max_completion_tokens": 15}
    done = client.chat.completions.create(**options)
    expected = golden_text("A story.\n\nA bear came.\n\nIt sat", 15, Sampling(temperature=0))
    assert done.choices[0].message.content == expected
    assert done.choices[0].message.role == "assistant"
    chunks = list(client.chat.completions.create(**options, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")


def test_the_seed_and_no_seed(client):
    assert text_of(client, "a", 20, seed=1) == text_of(client, "a", 20, seed=1)
    free = {
        client.completions.create(model="tiny", prompt="a", max_tokens=20, temperature=1.5).choices[0].text
        for _ in range(3)
    }
    assert len(free) > 1


def test_stop_strings(client, engine, hardware):
    whole = text_of(client, "a bear", 60, seed=8)
    stop = whole[20:22]
    at = whole.index(stop)
    done = client.completions.create(
        model="tiny", prompt="a bear", max_tokens=60, seed=8, temperature=1.5, stop=["\x00never", stop],
        extra_body={"top_k": 0},
    )  # fmt: skip
    assert done.choices[0].text == whole[:at]
    assert done.choices[0].finish_reason == "stop"
    wait_until(lambda: not engine.health()["running"])
    assert not hardware.model.bus.sessions.running


def test_characters_are_never_cut(client, serving):
    """Each piece is whole, though a token is a byte here: what is no character is replaced, as in the whole text."""
    for seed in range(4):
        sampling = Sampling(temperature=1.5, top_k=0, seed=seed)
        body = {"model": "tiny", "prompt": "é", "max_tokens": 40, "seed": seed, "temperature": 1.5, "top_k": 0}
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
        connection.request(
            "POST", "/v1/completions", json.dumps(body | {"stream": True}), {"Content-Type": "application/json"}
        )
        text = ""
        for line in connection.getresponse():
            data = line.decode("utf-8").strip().removeprefix("data: ")
            if data and data != "[DONE]":
                text += json.loads(data)["choices"][0]["text"]
        connection.close()
        assert text == golden_text("é", 40, sampling)


def test_many_clients_at_once(serving, hardware, engine):
    """Eight of them on three slots: every answer is its own, and the device works on three at a time."""

    def ask(number: int) -> tuple[int, str]:
        with serving.client() as client:
            return number, text_of(client, f"story {number}", 25, seed=number, user=f"user {number % 3}")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    for number, text in answers:
        assert text == golden_text(f"story {number}", 25, Sampling(temperature=1.5, top_k=0, seed=number))
    assert hardware.most_running == GEOMETRY.slots
    assert engine.health()["requests"] == 8


# Clients that leave.


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_the_device(serving, hardware, engine, stream):
    hardware.pause = 0.001
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5000, "stream": stream, "temperature": 0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    if stream:
        assert connection.getresponse().read(200)
    wait_until(lambda: bool(hardware.model.bus.sessions.running))
    connection.sock and connection.sock.close()
    connection.close()
    wait_until(lambda: not hardware.model.bus.sessions.running)
    wait_until(lambda: engine.health()["running"] == 0)


def test_a_client_that_leaves_the_queue(serving, hardware, engine):
    hardware.pause = 0.005
    connections = []
    for _ in range(GEOMETRY.slots + 1):
        connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
        body = {"model": "tiny", "prompt": "a", "max_tokens": 5000, "temperature": 0}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        connections.append(connection)
    wait_until(lambda: engine.health()["waiting"] == 1)
    for connection in connections:
        connection.close()
    wait_until(lambda: engine.health()["waiting"] == 0 and engine.health()["running"] == 0)


# What is refused.

RIGHT = {"model": "tiny", "prompt": "a", "max_tokens": 2}


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "gpt-4"}, 404, "there is no model 'gpt-4' here, only 'tiny'"),
        ({"model": None}, 400, "model must be a text, not None"),
        ({"prompt": ""}, 400, "prompt must be one text that is not empty, or a list of its tokens"),
        ({"prompt": ["a", "b"]}, 400, "prompt must be one text that is not empty, or a list of its tokens"),
        ({"prompt": [1, 99999]}, 400, "token 99999 is not in the vocabulary of 259"),
        ({"prompt": "a" * 101}, 400, "the prompt has 101 tokens, and the limit here is 100: shorten it"),
        ({"max_tokens": 0}, 400, "max_tokens must be from 1 to 5000, not 0"),
        ({"max_tokens": 5001}, 400, "max_tokens must be from 1 to 5000, not 5001"),
        ({"max_tokens": True}, 400, "max_tokens must be from 1 to 5000, not True"),
        ({"temperature": 1000}, 400, "temperature must be 0 (greedy) or from 0.01 to 100, not 1000"),
        ({"temperature": "hot"}, 400, "temperature must be a number, not 'hot'"),
        ({"top_k": 65}, 400, "top-k must be at most 64 on this device (or 0 for all tokens), not 65"),
        ({"seed": -1}, 400, "seed must be from 0 to 4294967295, not -1"),
        ({"seed": 1 << 32}, 400, "seed must be from 0 to 4294967295, not 4294967296"),
        ({"stop": ["a"] * 5}, 400, "stop must be a text or up to 4 texts, none of them empty"),
        ({"stop": ""}, 400, "stop must be a text or up to 4 texts, none of them empty"),
        ({"n": 2}, 400, "n is not supported: leave it out"),
        ({"top_p": 0.9}, 400, "top_p is not supported: leave it out"),
        ({"logprobs": 0}, 400, "logprobs is not supported: leave it out"),
        ({"echo": True}, 400, "echo is not supported: leave it out"),
        ({"presence_penalty": 0.5}, 400, "presence_penalty is not supported: leave it out"),
        ({"stream": "yes"}, 400, "stream must be true or false, not 'yes'"),
        (
            {"stream_options": {"include_usage": True}},
            400,
            'stream_options must be {"include_usage": true or false}, with stream',
        ),
        ({"colour": "red"}, 400, "there is no parameter colour: leave it out"),
    ],
)
def test_requests_that_are_refused(serving, change, status, message):
    got, answer = serving.post(RIGHT | change)
    assert (got, answer["error"]["message"]) == (status, message)
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages must be a list that is not empty"),
        ("hello", "messages must be a list that is not empty"),
        (
            [{"role": "tool", "content": "a"}],
            "messages[0] must have one of the roles system, developer, user, assistant",
        ),
        ([{"role": "user", "content": 5}], "messages[0].content must be text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content must be text"),
        ([{"role": "user", "content": ""}], "all messages are empty: give the beginning of a text"),
    ],
)  # fmt: skip
def test_messages_that_are_refused(serving, messages, message):
    status, answer = serving.post({"model": "tiny", "messages": messages}, "/v1/chat/completions")
    assert (status, answer["error"]["message"]) == (400, message)


def test_neutral_parameters_are_taken(serving):
    neutral = {
        "n": 1,
        "top_p": 1.0,
        "echo": False,
        "logprobs": None,
        "presence_penalty": 0.0,
        "user": "me",
        "stop": None,
    }
    assert serving.post(RIGHT | neutral)[0] == 200


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"{", {}, 400, "the body is no JSON"),
        (b"[" * 10_000, {}, 400, "the body is no JSON"),
        (b"\xff", {}, 400, "the body is no JSON"),
        (b"[]", {}, 400, "the body must be a JSON object"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "the body must be JSON: send Content-Type: application/json"),
        (b" " * 20_001, {}, 413, "the body is larger than the limit of 20000 bytes"),
    ],
)
def test_bodies_that_are_refused(serving, body, headers, status, message):
    got, answer = serving.post(body, **headers)
    assert (got, answer["error"]["message"]) == (status, message)


def test_other_paths_and_methods(serving):
    assert serving.get("/v1/completions")[0] == 405
    status, data = serving.get("/v2")
    assert status == 404
    assert json.loads(data)["error"]["type"] == "invalid_request_error"


def test_a_full_queue(serving, hardware, engine):
    hardware.pause = 0.01
    jobs = GEOMETRY.slots + engine.queue_limit
    with ThreadPoolExecutor(jobs) as pool:
        for _ in range(jobs):
            pool.submit(serving.post, RIGHT | {"max_tokens": 20})
        wait_until(lambda: engine.health()["waiting"] == engine.queue_limit)
        with pytest.raises(openai.RateLimitError, match="8 requests are waiting already: ask again later") as error:
            text_of(serving.client(), "a", 1)
        assert error.value.response.headers["retry-after"] == "5"
        hardware.pause = 0.0


# Keys, names and trouble.


def test_api_keys(engine):
    serving = Serving(engine, ["another", KEY])
    try:
        assert text_of(serving.client(), "a", 3)
        for key in ("wrong", "a-key", f"{KEY}x"):
            with pytest.raises(openai.AuthenticationError):
                text_of(serving.client(key), "a", 3)
        assert serving.get("/v1/models")[0] == 401
        status, answer = serving.post(RIGHT, Authorization=f"Basic {KEY}")
        assert (status, answer["error"]["code"]) == (401, "invalid_api_key")
        # What is no secret needs no key.
        assert serving.get("/")[0] == 200
        assert serving.get("/health")[0] == 200
    finally:
        serving.close()


def test_a_page_of_another_name_is_not_served(serving):
    """The name of a web site that was pointed at this machine."""
    assert serving.get("/v1/models", Host="evil.example")[0] == 400


def test_health(serving, hardware, engine):
    status, data = serving.get("/health")
    assert (status, json.loads(data)["status"]) == (200, "ok")
    hardware.plugged = False
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(serving.post, RIGHT)
        wait_until(lambda: serving.get("/health")[0] == 503)
        assert json.loads(serving.get("/health")[1])["error"] == "the cable is out"
        hardware.plugged = True
        assert asked.result(timeout=30)[0] == 200
    assert serving.get("/health")[0] == 200


def test_an_error_in_the_midst_of_a_stream_is_told(serving, hardware, engine):
    hardware.pause = 0.001
    # Greedy, since a drawn token may be the end of the text.
    stream = serving.client().completions.create(model="tiny", prompt="a", max_tokens=5000, temperature=0, stream=True)
    next(stream)
    closing = threading.Thread(target=engine.close)
    closing.start()
    with pytest.raises(openai.APIError, match="the server is shutting down: ask again later"):
        list(stream)
    closing.join()


def test_the_page_needs_nothing_from_elsewhere(serving):
    status, data = serving.get("/")
    page = data.decode()
    assert status == 200
    assert page.startswith("<!doctype html>")
    assert "http:" not in page
    assert "https:" not in page


def test_a_slow_body_is_turned_away(serving, monkeypatch):
    monkeypatch.setattr("ternlight.server.app.BODY_SECONDS", 0.1)
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "10")
    connection.endheaders(b"{")
    begin = time.monotonic()
    assert connection.getresponse().status == 408
    assert time.monotonic() - begin < 10
    connection.close()
