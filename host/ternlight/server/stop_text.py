"""Stop strings in a text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Passes a text on up to the stop string in it that ends first, whatever pieces it comes in.

    What may be the beginning of a stop string waits for what follows. Attributes: stopped, whether one has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped = False
        self._stops = [stop for stop in stops if stop]
        self._waiting = ""

    def push(self, piece: str) -> str:
        """The text that may be passed on with this piece."""
        if self.stopped:
            return ""
        text, self._waiting = self._waiting + piece, ""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)[1]]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        cut = len(text) - kept
        self._waiting = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """What still waits, at the end of the text."""
        rest, self._waiting = self._waiting, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the text's end may begin the stop string."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
