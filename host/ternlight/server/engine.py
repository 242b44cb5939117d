"""Jobs of many clients on the session slots of one device, by a thread that alone speaks to it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from ..abi import Finish
from ..compiler import CompiledModel
from ..device import Device, Session
from ..errors import DeviceError, LinkError, TernlightError
from ..request import SILENCE_SECONDS, Request
from ..sampling import Sampling, check_request
from .fair_queue import FairQueue

POLL_SECONDS = 0.02
"""While sessions run, a new job or a cancelled one waits at most so long for the thread."""
RETRY_SECONDS = 2.0
"""Between attempts to reach a device that is gone."""
ATTEMPTS = 3
"""A job is begun so often, for a link that breaks. The same seed gives the same tokens: nobody notices but by time."""
QUEUE_SECONDS = 120.0
"""A job that has waited so long for a slot is given up."""
CLOSE_SECONDS = 30.0
SHUTTING_DOWN = "the server is shutting down: ask again later"

logger = logging.getLogger(__name__)


class BusyError(DeviceError):
    """Too much is asked of the server at once."""


@dataclass(eq=False)
class Job:
    """A request of a client.

    client: in whose turn it is served. on_tokens, on_end: called in the engine's thread, with the tokens that came,
    and once with why it ended or what went wrong. A job that is cancelled may never end.
    """

    client: str
    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling
    stop: Sequence[int]
    on_tokens: Callable[[list[int]], None]
    on_end: Callable[[Finish | TernlightError], None]
    tokens: list[int] = field(default_factory=list)
    cancelled: bool = False
    attempts: int = 0
    submitted: float = 0.0


class _Active:
    """A job in a slot: its prompt is read in parts that fit the device, and the last part's request answers."""

    def __init__(self, job: Job, session: Session) -> None:
        self.job = job
        self.session = session
        self._known = 0  # of the job's tokens, those that this attempt has repeated
        part = session.device.geometry.prompt
        self._parts = deque(job.prompt[at : at + part] for at in range(0, len(job.prompt), part))
        self._request = self._start(keep_state=False)

    def advance(self, clock: float) -> bool:
        """Take what has come; whether the job goes on."""
        while (event := self.session.device.next_event(self.session.slot, 0.0)) is not None:
            self._heard = clock
            self._deliver(self._request.take(event))
        if self._request.finish == Finish.NONE and clock - self._heard > SILENCE_SECONDS:
            self._heard = clock
            self._deliver(self._request.take(None))
        if self._request.finish == Finish.NONE:
            self._request.credit()
        elif self._parts:
            self._request = self._start(keep_state=True)
        else:
            self.job.on_end(self._request.finish)
            return False
        return True

    def _start(self, *, keep_state: bool) -> Request:
        self._heard = self.session.device.port.clock()
        part, job = self._parts.popleft(), self.job
        if self._parts:
            return self.session.start(part, 0, keep_state=keep_state)
        return self.session.start(part, job.max_tokens, job.sampling, stop=job.stop, keep_state=keep_state)

    def _deliver(self, tokens: list[int]) -> None:
        """Hand tokens on, but for those that an earlier attempt has given."""
        job = self.job
        repeated = tokens[: len(job.tokens) - self._known]
        if repeated != job.tokens[self._known : self._known + len(repeated)]:
            raise DeviceError("the device gave other tokens to the same request than before its link broke")
        self._known += len(tokens)
        fresh = tokens[len(repeated) :]
        if fresh:
            job.tokens += fresh
            job.on_tokens(fresh)


class Engine:
    """Runs jobs on a device, as many at once as it has slots; the others wait, and their clients take turns.

    connect: opens the device, with the image loaded, and is called again when the link has broken. A job whose link
    breaks is begun anew, and goes on where it was.
    queue_limit: jobs that may wait.

    `start` raises what `connect` raises. `close` aborts what runs. The other methods are for any thread.
    Attributes, once started: model, the compiled image; build_id, of the device.
    """

    def __init__(self, connect: Callable[[], AbstractContextManager[Device]], *, queue_limit: int = 64) -> None:
        self.queue_limit = queue_limit
        self._connect = connect
        self._wake = threading.Condition()
        self._queue: FairQueue[Job] = FairQueue()
        self._active: dict[int, _Active] = {}
        self._opened = threading.Event()
        self._closing = False
        self._trouble: TernlightError | None = None
        self._counts = {"requests": 0, "prompt_tokens": 0, "generated_tokens": 0, "link_breaks": 0}
        self.model: CompiledModel
        self.build_id: int
        self._thread = threading.Thread(target=self._run, name="ternlight-engine", daemon=True)

    def start(self) -> None:
        """Open the device and begin to serve."""
        self._thread.start()
        self._opened.wait()
        if self._closing:
            self._thread.join()
            assert self._trouble is not None
            raise self._trouble

    def close(self) -> None:
        """Abort what runs and give the device back."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(CLOSE_SECONDS)

    def check(self, job: Job) -> None:
        """Raises RequestError for a job that the device would refuse."""
        check_request(
            job.prompt,
            job.max_tokens,
            job.sampling,
            job.stop,
            vocabulary=self.model.vocabulary,
            geometry=self.model.geometry,
        )

    def submit(self, job: Job) -> None:
        """Put a checked job into the queue; raises BusyError when it is full."""
        with self._wake:
            if self._closing:
                raise BusyError(SHUTTING_DOWN)
            if len(self._queue) >= self.queue_limit:
                raise BusyError(f"{self.queue_limit} requests are waiting already: ask again later")
            job.submitted = monotonic()
            self._queue.push(job.client, job)
            self._wake.notify()

    def cancel(self, job: Job) -> None:
        """Nobody wants the job any more: it leaves the queue, or is aborted on the device. Ended ones do not mind."""
        with self._wake:
            job.cancelled = True
            self._queue.discard(job.client, job)
            self._wake.notify()

    def health(self) -> dict[str, Any]:
        """How things are, as plain values; the status is `ok` while the device answers."""
        with self._wake:
            trouble = BusyError(SHUTTING_DOWN) if self._closing else self._trouble
            return {
                "status": "ok" if trouble is None else "unavailable",
                "error": None if trouble is None else str(trouble),
                "slots": self.model.geometry.slots,
                "running": len(self._active),
                "waiting": len(self._queue),
                **self._counts,
            }

    def _run(self) -> None:
        try:
            while not self._closing:
                try:
                    with self._connect() as device:
                        self.model, self.build_id = device.require_model(), device.build_id
                        self._trouble = None
                        self._opened.set()
                        self._serve(device)
                except TernlightError as error:
                    if not self._opened.is_set():
                        self._trouble = error
                        return
                    self._interrupted(error)
        finally:
            # Whatever becomes of this thread, nobody waits for it.
            self._closing = True
            self._opened.set()
            self._end_all(BusyError(SHUTTING_DOWN))

    def _serve(self, device: Device) -> None:
        """Serve until the engine is closed; raises LinkError or DeviceError for a device that is gone."""
        try:
            while self._admit(device):
                device.gather(POLL_SECONDS)
                clock = device.port.clock()
                for slot, active in list(self._active.items()):
                    if active.job.cancelled:
                        active.session.abort()
                    elif active.advance(clock):
                        continue
                    self._leave(slot)
        except LinkError:
            raise  # An abort would not arrive either.
        except BaseException:
            self._abort_all()
            raise
        self._abort_all()

    def _admit(self, device: Device) -> bool:
        """Give free slots to waiting jobs, and wait for one while there is nothing to do; False to end."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._active or self._queue or self._closing)
                if self._closing:
                    return False
                self._expire()
                free = next((slot for slot in range(device.geometry.slots) if slot not in self._active), None)
                if free is None or not self._queue:
                    return True
                job = self._queue.pop()
                if job.attempts == 0:
                    self._counts["requests"] += 1
                    self._counts["prompt_tokens"] += len(job.prompt)
                job.attempts += 1
            try:
                active = _Active(job, device.session(free))
            except (LinkError, DeviceError):
                self._again(job)
                raise
            with self._wake:
                self._active[free] = active

    def _leave(self, slot: int) -> None:
        with self._wake:
            job = self._active.pop(slot).job
            self._counts["generated_tokens"] += len(job.tokens)

    def _expire(self) -> None:
        """Give up the jobs that have waited too long."""
        now = monotonic()
        for job in [job for job in self._queue if now - job.submitted > QUEUE_SECONDS]:
            self._queue.discard(job.client, job)
            job.on_end(BusyError(f"no session slot was free for {QUEUE_SECONDS:g} seconds: ask again later"))

    def _interrupted(self, error: TernlightError) -> None:
        """The device is gone: what ran waits for it, and so does the thread."""
        logger.warning("%s", error)
        with self._wake:
            first = self._trouble is None
            self._trouble = error
            self._counts["link_breaks"] += 1
            active, self._active = list(self._active.values()), {}
        for job in reversed([each.job for each in active]):
            self._again(job)
        with self._wake:
            self._expire()
            if not first:
                self._wake.wait_for(lambda: self._closing, RETRY_SECONDS)

    def _again(self, job: Job) -> None:
        """Put a job back whose link broke, unless that happened too often."""
        with self._wake:
            if job.cancelled:
                return
            if job.attempts < ATTEMPTS:
                self._queue.push_front(job.client, job)
                return
        job.on_end(LinkError(f"the link to the device broke {ATTEMPTS} times during this request: ask again later"))

    def _abort_all(self) -> None:
        for active in self._active.values():
            active.session.abort()

    def _end_all(self, error: TernlightError) -> None:
        with self._wake:
            jobs = [active.job for active in self._active.values()]
            self._active.clear()
            while self._queue:
                jobs.append(self._queue.pop())
        for job in jobs:
            if not job.cancelled:
                job.on_end(error)
