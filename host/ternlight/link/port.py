"""The device's memory over a transport: reads and writes that are right or raise, and events."""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..abi import MAX_DATA_WORDS, WINDOW_SHIFT, Kind, Op, Window, window_address
from ..errors import DeviceError, LinkError
from ..geometry import Geometry
from ..packets import (
    DELIMITER,
    SEQUENCES,
    Event,
    FrameSplitter,
    Request,
    Response,
    decode_response,
    encode_request,
)
from .base import Transport
from .exchange import Exchange

READ_BYTES = 4096
TIMEOUT_SECONDS = 0.5
"""Without any progress for so long, frames are sent again."""
PATIENCE_MAX = 8
"""Timeouts double up to this multiple."""
ROUNDS_MAX = 8
"""Retransmissions without any progress before the link is given up."""
SYNC_ATTEMPTS = 10
"""Attempts to agree on the sequence; the time for one doubles after every third."""
SYNC_REQUESTS = 3
SYNC_STEP = 31
"""The sequences of SYNCs are at most so far apart: all together they span less than half of the sequences."""

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the words done, and in all."""


@dataclass
class Statistics:
    """What the link has seen since it was opened."""

    requests: int = 0
    retransmissions: int = 0
    timeouts: int = 0
    refused: int = 0  # NAKs
    corrupt: int = 0  # frames from the device that were damaged
    events: int = 0


class Port:
    """Reads and writes of a device's words, and the events that it sends.

    transport: the wire; it is closed with the port.
    timeout: seconds without an answer after which requests are sent again; waits double from there. A device may be
    slower than this: it costs needless retransmissions, not errors, and the port learns to wait longer.
    clock: the time in seconds; seed: of the numbers that requests begin with. Both are for tests.

    Every call returns what the device answered to it, or raises LinkError (no answer, in spite of retransmission) or
    DeviceError (no such address). Any exception, KeyboardInterrupt too, leaves the port usable: the next call begins
    by agreeing on the sequence anew. Whether interrupted writes were executed is not known then.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        timeout: float = TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        seed: int | None = None,
    ) -> None:
        self.transport = transport
        self.timeout = timeout
        self.statistics = Statistics()
        self.clock = clock
        self._random = random.Random(seed)
        self._splitter = FrameSplitter()
        self._events: deque[Event] = deque()
        self._patience = 1
        self._sequence: int | None = None  # of the next request; None: to be agreed on
        try:
            self._synchronise()
        except BaseException:
            transport.close()
            raise

    def close(self) -> None:
        """Give the transport back."""
        self.transport.close()

    def read(self, address: int, count: int) -> list[int]:
        """`count` words from consecutive addresses on (beyond MAX_DATA_WORDS: of a window with rows of one word)."""
        starts = range(0, count, MAX_DATA_WORDS)
        requests = [Request(Op.READ, 0, address + at, min(MAX_DATA_WORDS, count - at)) for at in starts]
        return self._words(self._run(requests))

    def write(self, address: int, words: Sequence[int]) -> None:
        """Write words to consecutive addresses (beyond MAX_DATA_WORDS: of a window with rows of one word)."""
        starts = range(0, len(words), MAX_DATA_WORDS)
        self._run([Request(Op.WRITE, 0, address + at, words=tuple(words[at : at + MAX_DATA_WORDS])) for at in starts])

    def read_window(
        self, window: Window, first_word: int, count: int, geometry: Geometry, progress: Progress | None = None
    ) -> list[int]:
        """`count` words of a window from its `first_word` on, rows without gaps."""
        requests = [
            Request(Op.READ, 0, window_address(window, first_word + at, geometry), min(MAX_DATA_WORDS, count - at))
            for at in range(0, count, MAX_DATA_WORDS)
        ]
        return self._words(self._run(requests, progress))

    def write_window(
        self,
        window: Window,
        first_word: int,
        words: Sequence[int],
        geometry: Geometry,
        progress: Progress | None = None,
    ) -> None:
        """Write a window from its `first_word` on, rows without gaps."""
        requests = [
            Request(
                Op.WRITE,
                0,
                window_address(window, first_word + at, geometry),
                words=tuple(words[at : at + MAX_DATA_WORDS]),
            )
            for at in range(0, len(words), MAX_DATA_WORDS)
        ]
        self._run(requests, progress)

    def poll_events(self, timeout: float) -> list[Event]:
        """The events that have come; if there are none, those that come first within `timeout` seconds."""
        end = self.clock() + timeout
        self._receive(0.0)
        while not self._events and (left := end - self.clock()) > 0:
            self._receive(left)
        events = list(self._events)
        self._events.clear()
        return events

    def _words(self, responses: Sequence[Response]) -> list[int]:
        return [word for response in responses for word in response.words]

    def _run(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Response]:
        if self._sequence is None:
            self._synchronise()
        assert self._sequence is not None
        exchange = Exchange(requests, self._sequence)
        # Until the answers are here, the sequence that the device expects is not known.
        self._sequence = None
        self.statistics.requests += len(requests)
        try:
            responses = self._complete(exchange, progress)
        finally:
            self.statistics.retransmissions += exchange.resent
        self._sequence = (exchange.sequence + len(requests)) % SEQUENCES
        return responses

    def _complete(self, exchange: Exchange, progress: Progress | None) -> list[Response]:
        total = sum(request.count or len(request.words) for request in exchange.requests)
        rounds = answered = 0
        begin = moved = self.clock()
        patient = True
        self._send(exchange.due())
        while not exchange.done:
            wait = moved + self.timeout * self._patience - self.clock()
            for response in self._receive(wait) if wait > 0 else ():
                lost = exchange.accept(response)
                if response.kind == Kind.NAK:
                    logger.debug("the device waits for request %d", response.sequence)
                    self.statistics.refused += 1
                    rounds += bool(lost)
                if lost and rounds <= ROUNDS_MAX:
                    self._send(lost)
            if exchange.refused_address is not None:
                raise DeviceError(_no_such_address(exchange.refused_address))
            if exchange.answered > answered:
                rounds, answered, moved = 0, exchange.answered, self.clock()
                self._send(exchange.due())
                if progress is not None:
                    progress(min(answered * MAX_DATA_WORDS, total), total)
            elif self.clock() >= moved + self.timeout * self._patience:
                patient = False
                rounds += 1
                self.statistics.timeouts += 1
                logger.debug(
                    "no answer for %.1f s, %d of %d requests answered",
                    self.timeout * self._patience,
                    answered,
                    len(exchange.requests),
                )
                self._patience = min(2 * self._patience, PATIENCE_MAX)
                moved = self.clock()
                if rounds <= ROUNDS_MAX:
                    self._send(exchange.again())
            if rounds > ROUNDS_MAX:
                raise LinkError(self._given_up(exchange, self.clock() - begin))
        if patient:
            self._patience = max(1, self._patience // 2)
        return [response for response in exchange.results if response is not None]

    def _synchronise(self) -> None:
        """Agree on the next sequence, whatever the device and the wire still hold of an earlier conversation.

        Only the device's answers to just these requests, one after the other, count: no answers to other requests have
        sequences with such gaps. They ascend, so that a request that follows is ahead of each of them, and would be
        refused, not taken for a repeated one, if they came in disorder.
        """
        begin = self.clock()
        for attempt in range(SYNC_ATTEMPTS):
            first = self._random.randrange(SEQUENCES)
            steps = [0, *(self._random.randint(2, SYNC_STEP) for _ in range(SYNC_REQUESTS - 1))]
            sequences = [(first + sum(steps[: at + 1])) % SEQUENCES for at in range(SYNC_REQUESTS)]
            self._send(DELIMITER + b"".join(encode_request(Request(Op.SYNC, sequence)) for sequence in sequences))
            wanted = [Response(Kind.ACK, sequence) for sequence in sequences]
            latest: deque[Response] = deque(maxlen=SYNC_REQUESTS)
            wait = self.timeout * (1 << attempt // 3)
            end = self.clock() + wait
            while (left := end - self.clock()) > 0:
                for response in self._receive(left):
                    # A slow device is still at earlier attempts: asking again would only add to them.
                    end = self.clock() + wait
                    if not latest or response != latest[-1]:
                        latest.append(response)
                    if list(latest) == wanted:
                        self._sequence = (sequences[-1] + 1) % SEQUENCES
                        return
        heard = f"{self.statistics.corrupt} damaged packets came" if self.statistics.corrupt else "nothing came"
        raise LinkError(
            f"no device answers at {self.transport.name}: asked {SYNC_ATTEMPTS} times in "
            f"{self.clock() - begin:.1f} s, {heard}. Is the bitstream loaded, is this the right port, and is the baud "
            f"rate the device's?"
        )

    def _send(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def _receive(self, timeout: float) -> list[Response]:
        """The responses that come next, none after the timeout; events are put aside."""
        responses = []
        for frame in self._splitter.feed(self.transport.read(READ_BYTES, timeout)):
            response = decode_response(frame)
            if response is None:
                self.statistics.corrupt += 1
            elif response.kind != Kind.EVENT:
                responses.append(response)
            elif (event := Event.from_words(response.words)) is not None:
                self.statistics.events += 1
                self._events.append(event)
            else:
                self.statistics.corrupt += 1
        return responses

    def _given_up(self, exchange: Exchange, seconds: float) -> str:
        tried = (
            f"no answer from {self.transport.name} to a request for {seconds:.1f} s: it was sent again "
            f"{ROUNDS_MAX} times; {self.statistics.corrupt} damaged packets came since the link was opened"
        )
        if exchange.strange:
            return f"{tried}. The device waits for another request: it was reset, or another program uses it"
        return f"{tried}. Check cable, power and baud rate"


def _no_such_address(address: int) -> str:
    window = address >> WINDOW_SHIFT
    name = Window(window).name if window in Window.__members__.values() else str(window)
    offset = address & (1 << WINDOW_SHIFT) - 1
    return f"the device refuses address {offset:#x} of window {name}: it was built with another geometry or ABI"
