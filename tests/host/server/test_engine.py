"""Jobs on a modelled device: side by side, in turn, cancelled, and with a link that breaks."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import contextmanager

import pytest

from ternlight.abi import Finish
from ternlight.errors import DeviceError, LinkError, RequestError
from ternlight.sampling import Sampling
from ternlight.server import engine as engine_module
from ternlight.server.engine import ATTEMPTS, BusyError, Engine, Job
from ternlight.tokenizer import Tokenizer

from .conftest import GEOMETRY, IMAGE, TOKENIZER, golden_tokens, wait_until

WILD = Sampling(temperature=1.5, top_k=0, seed=11)


class Asked:
    """A job, and what becomes of it."""

    def __init__(self, prompt: str, tokens: int, sampling: Sampling = WILD, client: str = "me") -> None:
        self.prompt, self.count, self.sampling = prompt, tokens, sampling
        self.tokens: list[int] = []
        self.end: queue.Queue[object] = queue.Queue()
        encoded = Tokenizer(TOKENIZER).encode(prompt)
        self.job = Job(client, encoded, tokens, sampling, [IMAGE.config.eos], self.tokens.extend, self.end.put)

    def finish(self) -> object:
        return self.end.get(timeout=30)

    def expected(self) -> list[int]:
        return golden_tokens(self.prompt, self.count, self.sampling)


def submit(engine: Engine, *asked: Asked) -> None:
    for each in asked:
        engine.check(each.job)
        engine.submit(each.job)


def test_jobs_equal_golden(engine, hardware):
    """More of them than slots, and prompts longer than the device's buffer: all slots work at once."""
    asked = [
        Asked("once upon a time " * (1 + at % 3), 20 + at, Sampling(temperature=1.2, top_k=0, seed=at))
        for at in range(8)
    ]
    submit(engine, *asked)
    for each in asked:
        assert each.finish() in (Finish.LENGTH, Finish.STOP)
        assert each.tokens == each.expected()
    assert hardware.most_running == GEOMETRY.slots
    health = engine.health()
    assert (health["status"], health["requests"]) == ("ok", 8)
    assert health["generated_tokens"] == sum(len(each.tokens) for each in asked)
    assert health["prompt_tokens"] == sum(len(each.job.prompt) for each in asked)


def test_sessions_interleave(engine, hardware):
    """A short job that comes later ends before a long one: nobody waits for the end of another's."""
    hardware.pause = 0.001
    long, short = Asked("a", 100_000), Asked("b", 10)
    submit(engine, long)
    wait_until(lambda: len(long.tokens) > 20)
    submit(engine, short)
    assert short.finish() == Finish.LENGTH
    assert long.end.empty()
    engine.cancel(long.job)
    wait_until(lambda: engine.health()["running"] == 0)
    assert long.tokens == golden_tokens("a", len(long.tokens), WILD)


def test_clients_take_turns(engine, hardware):
    """One that asks for much does not keep another from the slots."""
    hardware.pause = 0.001
    ends: list[str] = []
    greedy = [Asked(f"greedy {at}", 30, client="greedy") for at in range(7)]
    modest = Asked("modest", 30, client="modest")
    for each in (*greedy, modest):
        each.job.on_end = lambda _, each=each: (ends.append(each.job.client), each.end.put(0))
    submit(engine, *greedy, modest)
    for each in (*greedy, modest):
        each.finish()
    assert "modest" in ends[: GEOMETRY.slots + 1]


def test_a_full_queue_is_told(engine, hardware):
    hardware.pause = 0.01
    running = [Asked("a", 10_000) for _ in range(GEOMETRY.slots)]
    submit(engine, *running)
    wait_until(lambda: engine.health()["running"] == GEOMETRY.slots)
    waiting = [Asked("b", 5) for _ in range(8)]
    submit(engine, *waiting)
    with pytest.raises(BusyError, match=r"^8 requests are waiting already: ask again later$"):
        engine.submit(Asked("c", 5).job)
    hardware.pause = 0.0
    for each in (*running, *waiting[:4]):
        engine.cancel(each.job)
    for each in waiting[4:]:
        each.finish()
        assert each.tokens == each.expected()
    assert not any(each.tokens for each in waiting[:4])


def test_a_cancelled_job_is_aborted_on_the_device(engine, hardware):
    hardware.pause = 0.001
    asked = Asked("a", 1_000_000)
    submit(engine, asked)
    wait_until(lambda: bool(asked.tokens))
    engine.cancel(asked.job)
    wait_until(lambda: not hardware.model.bus.sessions.running)
    wait_until(lambda: engine.health()["running"] == 0)
    assert engine.health()["status"] == "ok"
    engine.cancel(asked.job)


def test_lost_events_are_repaired(engine, hardware):
    hardware.model.carry_event = lambda frame: b""
    asked = [Asked(f"{at}", 40) for at in range(3)]
    submit(engine, *asked)
    for each in asked:
        each.finish()
        assert each.tokens == each.expected()


def test_a_broken_link_is_not_noticed(engine, hardware, monkeypatch):
    """Jobs go on where they were, with the very tokens that an unbroken link gives."""
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    hardware.pause = 0.001
    asked = [Asked(f"story {at}", 60, Sampling(temperature=1.5, top_k=0, seed=at)) for at in range(4)]
    submit(engine, *asked)
    wait_until(lambda: len(asked[0].tokens) > 20)
    hardware.plugged = False
    wait_until(lambda: engine.health()["status"] == "unavailable")
    assert engine.health()["error"] == "the cable is out"
    opened = hardware.opened
    wait_until(lambda: hardware.opened > opened + 2)
    hardware.plugged, hardware.pause = True, 0.0
    for each in asked:
        assert each.finish() in (Finish.LENGTH, Finish.STOP)
        assert each.tokens == each.expected()
    assert engine.health()["status"] == "ok"


def test_a_device_that_is_reset_gets_its_image_again(engine, hardware, monkeypatch):
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    hardware.pause = 0.001
    asked = Asked("story", 60)
    submit(engine, asked)
    wait_until(lambda: len(asked.tokens) > 30)
    hardware.model.reset()
    assert asked.finish() in (Finish.LENGTH, Finish.STOP)
    assert asked.tokens == asked.expected()
    assert engine.health()["link_breaks"] >= 1


def test_a_link_that_breaks_again_and_again(engine, hardware, monkeypatch):
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    asked = Asked("story", 60)
    starts = []

    def break_in_the_midst():
        if engine.health()["running"] and hardware.model.bus.sessions.running and asked.tokens:
            starts.append(hardware.opened)
            raise LinkError("the cable is out")

    hardware.model.before_read = break_in_the_midst
    submit(engine, asked)
    error = asked.finish()
    hardware.model.before_read = lambda: None
    assert isinstance(error, LinkError)
    assert str(error).startswith(f"the link to the device broke {ATTEMPTS} times during this request")
    assert len(set(starts)) == ATTEMPTS
    assert asked.tokens == asked.expected()[: len(asked.tokens)]


def test_other_tokens_than_before_the_break_are_not_hidden(engine, hardware, monkeypatch):
    monkeypatch.setattr(engine_module, "RETRY_SECONDS", 0.01)
    hardware.pause = 0.001
    asked = Asked("story", 4000)
    submit(engine, asked)
    wait_until(lambda: len(asked.tokens) > 30)
    asked.job.tokens[3] ^= 1
    hardware.plugged = False
    wait_until(lambda: engine.health()["status"] == "unavailable")
    hardware.plugged = True
    assert isinstance(asked.finish(), LinkError)
    assert "other tokens" in str(engine.health()["error"]) or engine.health()["status"] == "ok"


def test_a_job_waits_only_so_long(engine, hardware, monkeypatch):
    hardware.pause = 0.002
    running = [Asked("a", 100_000) for _ in range(GEOMETRY.slots)]
    submit(engine, *running)
    wait_until(lambda: engine.health()["running"] == GEOMETRY.slots)
    monkeypatch.setattr(engine_module, "QUEUE_SECONDS", 0.05)
    late = Asked("b", 5)
    submit(engine, late)
    assert str(late.finish()) == "no session slot was free for 0.05 seconds: ask again later"
    for each in running:
        engine.cancel(each.job)


def test_what_the_device_would_refuse(engine):
    with pytest.raises(RequestError, match="the prompt is empty"):
        engine.check(Asked("", 5).job)
    with pytest.raises(RequestError, match="top-k must be at most 64 on this device"):
        engine.check(Asked("a", 5, Sampling(top_k=65)).job)


def test_no_device_at_the_start():
    @contextmanager
    def connect():
        raise LinkError("there is no port /dev/x")
        yield

    with pytest.raises(LinkError, match=r"^there is no port /dev/x$"):
        Engine(connect).start()


def test_closing_aborts(hardware):
    hardware.pause = 0.001
    engine = Engine(hardware.connect, queue_limit=8)
    engine.start()
    asked = [Asked("a", 1_000_000) for _ in range(5)]
    submit(engine, *asked)
    wait_until(lambda: bool(asked[0].tokens))
    begin = time.monotonic()
    engine.close()
    assert time.monotonic() - begin < 10
    assert not hardware.model.bus.sessions.running
    assert hardware.model.closed
    for each in asked:
        assert isinstance(each.finish(), DeviceError)
    with pytest.raises(BusyError, match="shutting down"):
        engine.submit(Asked("a", 1).job)
    assert engine.health()["status"] == "unavailable"
    assert not any(thread.name == "ternlight-engine" for thread in threading.enumerate())
