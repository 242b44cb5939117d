"""Fair choices."""

from __future__ import annotations

from amaranth import Cat


def following(requests, latest):
    """The first of the requests behind the latest one, in a ring; both one-hot. None if there is none."""
    count = len(requests)

    def chosen(index):
        # Behind each place that the latest may have, no request stands before this one.
        for start in range(count):
            before = [requests[(start + step) % count] for step in range(1, (index - start - 1) % count + 1)]
            yield latest[start] & ~Cat(before).any() if before else latest[start]

    return Cat(requests[index] & Cat(*chosen(index)).any() for index in range(count))
