"""Go-back-N without input and output: which frames to send, and what the answers mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..abi import RECEIVE_BYTES, Kind, Op
from ..packets import DELIMITER, SEQUENCES, Request, Response, encode_request

WINDOW_PACKETS = 32
"""Requests under way; far below half of the sequences, so that an old answer is not taken for a new one."""


class Exchange:
    """A batch of requests on its way.

    Whatever is lost, damaged, repeated or late, a result is the device's answer to just that request: answers are
    matched by sequence, kind and length, and anything else is left alone. Requests under way, with their COBS code,
    fit into the device's buffer.

    requests: READs and WRITEs, numbered here from `sequence` on.
    results: the answer to each request, in order; None until it has come.
    refused_address: what the first ERROR names, if there was one.
    answered, resent, strange: requests with answers; frames sent once more; NAKs that wait for none of the requests.
    """

    def __init__(self, requests: Sequence[Request], sequence: int) -> None:
        self.requests = [replace(request, sequence=(sequence + at) % SEQUENCES) for at, request in enumerate(requests)]
        self.results: list[Response | None] = [None] * len(requests)
        self.sequence = sequence
        self.refused_address: int | None = None
        self.answered = 0
        self.resent = 0
        self.strange = 0
        self._base = 0  # the oldest request without an answer
        self._next = 0  # the first request that was never sent
        self._frames: dict[int, bytes] = {}  # of the requests under way
        self._bytes = 0
        self._hurried: set[int] = set()  # sent again because a later one was answered
        self._awaited = -1  # the request that the last NAK waits for
        self._echoes = 0  # NAKs for it that frames sent before will still cause

    @property
    def done(self) -> bool:
        """Whether all requests have answers."""
        return self._base == len(self.requests)

    def due(self) -> bytes:
        """The frames that may be sent now and were not yet."""
        data = bytearray()
        while self._next < len(self.requests) and self._next - self._base < WINDOW_PACKETS:
            frame = encode_request(self.requests[self._next])
            if self._frames and self._bytes + len(frame) > RECEIVE_BYTES:
                break
            self._frames[self._next] = frame
            self._bytes += len(frame)
            self._next += 1
            data += frame
        return bytes(data)

    def again(self) -> bytes:
        """All frames under way, to be sent once more."""
        self.resent += len(self._frames)
        # What is left of a frame that was cut short must not swallow the first one.
        return DELIMITER + b"".join(self._frames[at] for at in sorted(self._frames)) if self._frames else b""

    def accept(self, response: Response) -> bytes:
        """Take an answer; the frames that it shows to be lost, to be sent once more."""
        at = self._base + (response.sequence - self.sequence - self._base) % SEQUENCES
        if response.kind == Kind.NAK and not self._base <= at <= self._next:
            self.strange += 1
        if at not in self._frames:
            return b""
        if response.kind == Kind.NAK:
            return self._go_back(at)
        if not _fits(response, self.requests[at]):
            return b""
        if response.kind == Kind.ERROR and self.refused_address is None:
            self.refused_address = response.words[0]
        self.results[at] = response
        self.answered += 1
        self._bytes -= len(self._frames.pop(at))
        while self._base < self._next and self.results[self._base] is not None:
            self._base += 1
        # The device answers in order: answers to the requests before this one are lost.
        lost = [earlier for earlier in self._frames if earlier < at and earlier not in self._hurried]
        self._hurried.update(lost)
        self.resent += len(lost)
        return DELIMITER + b"".join(self._frames[earlier] for earlier in lost) if lost else b""

    def _go_back(self, at: int) -> bytes:
        if at == self._awaited and self._echoes > 0:
            self._echoes -= 1
            return b""
        self._awaited = at
        self._echoes = self._next - at - 1
        return self.again()


def _fits(response: Response, request: Request) -> bool:
    if response.kind == Kind.ERROR:
        return len(response.words) == 1
    if request.op == Op.READ:
        return response.kind == Kind.DATA and len(response.words) == request.count
    return response.kind == Kind.ACK and not response.words
