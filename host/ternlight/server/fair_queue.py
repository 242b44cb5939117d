"""A queue that serves its clients in turn, however much each of them asks for."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items of named clients: `pop` takes from one client after the other, of each the oldest first.

    It has no lock.
    """

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Item]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for items in self._clients.values() for item in items)

    def push(self, client: str, item: Item) -> None:
        """Add an item behind the client's others; a client that has none waits behind all the others."""
        self._clients.setdefault(client, deque()).append(item)

    def push_front(self, client: str, item: Item) -> None:
        """Put an item back that was popped too early: it is the next one."""
        self._clients.setdefault(client, deque()).appendleft(item)
        self._clients.move_to_end(client, last=False)

    def pop(self) -> Item:
        """Take the next item; its client then waits behind all the others. Raises IndexError when there is none."""
        if not self._clients:
            raise IndexError("the queue is empty")
        client, items = self._clients.popitem(last=False)
        item = items.popleft()
        if items:
            self._clients[client] = items
        return item

    def discard(self, client: str, item: Item) -> bool:
        """Take an item out of its turn; whether it was there."""
        items = self._clients.get(client)
        if items is None or item not in items:
            return False
        items.remove(item)
        if not items:
            del self._clients[client]
        return True
