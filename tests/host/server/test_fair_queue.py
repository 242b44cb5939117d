"""Whose turn it is."""

from __future__ import annotations

import random

import pytest

from ternlight.server.fair_queue import FairQueue


def test_clients_take_turns():
    queue = FairQueue[str]()
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.push(item[0], item)
    assert len(queue) == 6
    assert [queue.pop() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_new_client_waits_for_one_turn_of_each():
    queue = FairQueue[str]()
    for item in ("a1", "a2", "b1", "b2"):
        queue.push(item[0], item)
    assert queue.pop() == "a1"
    queue.push("c", "c1")
    assert [queue.pop() for _ in range(4)] == ["b1", "a2", "c1", "b2"]


def test_what_is_put_back_comes_next():
    queue = FairQueue[str]()
    for item in ("a1", "b1", "b2"):
        queue.push(item[0], item)
    assert queue.pop() == "a1"
    assert queue.pop() == "b1"
    queue.push_front("b", "b1")
    queue.push_front("a", "a1")
    assert [queue.pop() for _ in range(3)] == ["a1", "b1", "b2"]


def test_items_that_leave():
    queue = FairQueue[str]()
    for item in ("a1", "a2", "b1"):
        queue.push(item[0], item)
    assert queue.discard("a", "a1")
    assert not queue.discard("a", "a1")
    assert not queue.discard("z", "a2")
    assert queue.discard("b", "b1")
    assert list(queue) == ["a2"]
    assert queue.pop() == "a2"
    with pytest.raises(IndexError, match=r"^the queue is empty$"):
        queue.pop()


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_overtaken_twice(seed):
    """Between two turns of a client that waits, no other one has two."""
    source, queue = random.Random(seed), FairQueue[tuple[str, int]]()
    waiting: dict[str, set[str]] = {}
    for number in range(3000):
        if source.random() < 0.52 or not len(queue):
            client = source.choice("abcdef")
            queue.push(client, (client, number))
            waiting.setdefault(client, set())
        else:
            client, _ = queue.pop()
            assert all(client not in seen for other, seen in waiting.items() if other != client)
            for seen in waiting.values():
                seen.add(client)
            waiting.pop(client)
            if any(each == client for each, _ in queue):
                waiting[client] = set()
