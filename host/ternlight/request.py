"""A running request: what its events tell becomes tokens, in order and without gaps whatever events are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .abi import Finish
from .errors import DeviceError
from .packets import Event

if TYPE_CHECKING:
    from .device import Session

SILENCE_SECONDS = 2.0
"""After so long without an event a session's record is read: events may be lost, records are not."""
SILENCES_MAX = 10
"""A token takes no device so many silences: one that stands still for longer is given up."""


class Request:
    """A request that runs in a session's slot.

    Whoever waits for it gives each event of the slot to `take`, and None after SILENCE_SECONDS without one; `credit`,
    before each wait, makes room for more tokens on the device.

    Attributes: session; tag, the number that its events carry; finish, why it ended, NONE while it runs.
    """

    def __init__(self, session: Session, tag: int) -> None:
        self.session = session
        self.tag = tag
        self.finish = Finish.NONE
        self._taken = 0
        self._credited = 0
        self._seen = 0  # the session's position at the latest silence
        self._silences = 0

    def take(self, event: Event | None) -> list[int]:
        """The tokens that are new with an event, or with the session's record where no event came.

        Raises DeviceError when the device lost the request, stands still, or found a bad token in the prompt.
        """
        if event is not None and event.tag != self.tag:
            return []
        if event is None:
            first, finish, tokens = *self._look(), []
        else:
            first, finish, tokens = event.first, event.finish, list(event.tokens)
        end = first + len(tokens)
        if not 0 <= end - self._taken <= self.session.device.geometry.ring:
            if event is not None and end <= self._taken:
                return []  # It comes late: all that it tells is known.
            raise self._lost()
        # What the event does not tell again was told by one that was lost, and is still in the ring.
        missing = self.session.ring(self._taken, first) if first > self._taken else []
        news = missing + tokens[max(0, self._taken - first) :]
        self._taken += len(news)
        if finish != Finish.NONE:
            self.finish = self.session.finish = finish
            if finish == Finish.BAD_TOKEN:
                raise DeviceError("the device found a token beyond its vocabulary in the prompt")
        return news

    def credit(self) -> None:
        """Tell the device of the tokens that were taken, once they are worth a packet."""
        if self.finish == Finish.NONE and self._taken - self._credited >= self.session.device.geometry.ring // 4:
            self.session.credit(self._taken)
            self._credited = self._taken

    def _look(self) -> tuple[int, Finish]:
        """What the record knows: the number of tokens, and why the request ended if it did."""
        status = self.session.status()
        if not (status.running or status.finish) or status.generated < self._taken:
            raise self._lost()
        self._silences = self._silences + 1 if status.running and status.position == self._seen else 0
        self._seen = status.position
        if self._silences >= SILENCES_MAX:
            raise DeviceError(f"session {self.session.slot} stands still: abort it, or reset the device")
        return status.generated, Finish.NONE if status.running else status.finish

    def _lost(self) -> DeviceError:
        return DeviceError(f"session {self.session.slot} has lost its request: the device was reset")
