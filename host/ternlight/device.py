"""The driver: a device behind any link, its image, its sessions and its counters."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .abi import (
    ABI_VERSION,
    CONTINUE_FLAG,
    MAGIC,
    RESULT_TEXT,
    SESSION_WORDS,
    TAG_SHIFT,
    TOKENS_PER_WORD,
    Command,
    Counter,
    Finish,
    Register,
    Result,
    SessionWord,
    Status,
    Window,
    address,
    pack_tokens,
    unpack_tokens,
    window_address,
)
from .compiler import CompiledModel, compile_image
from .errors import DeviceError, FitError, LinkError, RequestError
from .geometry import Geometry, ceil_div
from .image import Image
from .link.port import Port
from .packets import Event
from .request import SILENCE_SECONDS, Request
from .sampling import Sampling, check_request, stop_words

ABORT_SECONDS = 20.0
"""A token takes no device so long."""
TAGS = 256

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the words sent and the words in all."""


@dataclass(frozen=True)
class SavedState:
    """What a session has seen: its recurrent state, as a device of one vector width holds it.

    identity: of the compiled image; position: tokens seen; states: (words, V / 2) int16.
    """

    identity: int
    position: int
    states: NDArray[np.int16]


class SessionStatus(NamedTuple):
    """The device's part of a session's record."""

    running: bool
    finish: Finish
    generated: int
    position: int


class Device:
    """A device of checked identity.

    Parameters: port, an open Port; it is closed with the device. Raises DeviceError when what answers is no ternlight
    device of this ABI version.
    Attributes: geometry; build_id; model, the compiled image once one is loaded.
    """

    def __init__(self, port: Port) -> None:
        self.port = port
        try:
            self.build_id, self.geometry = self._identify()
        except BaseException:
            port.close()
            raise
        self.model: CompiledModel | None = None
        self._events: dict[int, deque[Event]] = {slot: deque() for slot in range(self.geometry.slots)}

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the link; the device keeps its image and states."""
        self.port.close()

    @property
    def image_id(self) -> int:
        """The identity of the loaded image, 0 without one."""
        return self._registers(Register.IMAGE_ID, 1)[0]

    def load(self, image: Image | CompiledModel, progress: Progress | None = None) -> bool:
        """Load an image, compiled if it is not yet, unless the device holds it; returns whether it was sent.

        Sessions forget what they have seen of another image. Raises FitError when the model does not fit, and
        DeviceError while a session runs on another image.
        """
        model = compile_image(image, self.geometry) if isinstance(image, Image) else image
        if model.geometry != self.geometry:
            raise FitError("the model was compiled for another geometry than the device's: compile it again")
        if self.image_id == model.identity:
            self.model = model
            return False
        for slot in range(self.geometry.slots):
            if self.session(slot).status().running:
                raise DeviceError(f"session {slot} is running on another image: abort it first")
        self._write_register(Register.IMAGE_ID, 0)
        parts = [
            (Window.PROGRAM, 0, model.program_words()),
            (Window.GAINS, 0, model.gains.view("<u4")),
            (Window.STATES, model.lower_bound_word, model.lower_bounds.view("<u4")),
            (Window.STORE, 0, model.store),
        ]
        total, sent = sum(words.size for _, _, words in parts), 0
        for window, row, words in parts:

            def tell(done: int, _all: int, before: int = sent) -> None:
                if progress is not None:
                    progress(before + done, total)

            first = row * words.shape[1]
            self.port.write_window(window, first, words.reshape(-1).tolist(), self.geometry, progress=tell)
            sent += words.size
        for slot in range(self.geometry.slots):
            self.session(slot).reset()
        self._write_register(Register.VOCABULARY, model.vocabulary)
        self._write_register(Register.STATE_STRIDE, model.state_stride)
        self._write_register(Register.IMAGE_ID, model.identity)
        self.model = model
        return True

    def session(self, slot: int = 0) -> Session:
        """The session of a slot; raises RequestError for a slot that the device has not."""
        if not 0 <= slot < self.geometry.slots:
            raise RequestError(f"slot must be from 0 to {self.geometry.slots - 1}, not {slot}")
        return Session(self, slot)

    def counters(self) -> dict[Counter, int]:
        """The performance counters since reset."""
        words = self._registers(Register.COUNTERS, 2 * len(Counter))
        return {counter: words[2 * counter] | words[2 * counter + 1] << 32 for counter in Counter}

    def require_model(self) -> CompiledModel:
        """The loaded model; raises DeviceError without one."""
        if self.model is None:
            raise DeviceError("no image is loaded: load one first")
        return self.model

    def command(self, command: Command, slot: int) -> None:
        """Give a command; raises DeviceError with the device's reason when it refuses."""
        self._write_register(Register.COMMAND, command | slot << 8)
        result = Result(self._registers(Register.RESULT, 1)[0])
        if result != Result.OK:
            raise DeviceError(f"the device refused to {command.name.lower()} session {slot}: {RESULT_TEXT[result]}")

    def next_event(self, slot: int, timeout: float) -> Event | None:
        """The next event of a slot, waiting for it at most so long (seconds)."""
        queue = self._events[slot]
        end = self.port.clock() + timeout
        while not queue and self.gather(max(0.0, end - self.port.clock())) and self.port.clock() < end:
            pass
        return queue.popleft() if queue else None

    def gather(self, timeout: float) -> bool:
        """Put the events that have come aside for `next_event`, of all slots; whether there were any.

        If there are none, those that come first within `timeout` seconds.
        """
        news = self.port.poll_events(timeout)
        for event in news:
            if event.slot in self._events:
                self._events[event.slot].append(event)
        return bool(news)

    def abort_orphans(self) -> None:
        """End the requests that a host before this one left running; a link has one host at a time."""
        for slot in range(self.geometry.slots):
            session = self.session(slot)
            if session.status().running:
                logger.info("session %d still runs a request of an earlier host: it is aborted", slot)
                session.abort()

    def drop_events(self, slot: int) -> None:
        """Forget what has come of a slot's earlier requests."""
        self.gather(0.0)
        self._events[slot].clear()

    def _identify(self) -> tuple[int, Geometry]:
        magic, abi_version, build_id = self._registers(Register.MAGIC, 3)
        if magic != MAGIC:
            raise DeviceError(f"this is no ternlight device: its magic is {magic:#010x}, not {MAGIC:#010x}")
        if abi_version != ABI_VERSION:
            raise DeviceError(
                f"the device speaks ABI version {abi_version}, this host {ABI_VERSION}: "
                "build the bitstream and install the host from the same release"
            )
        return build_id, Geometry.from_words(self._registers(Register.GEOMETRY, len(Geometry().words())))

    def _registers(self, first: int, count: int) -> list[int]:
        return self.port.read(address(Window.REGISTERS, first), count)

    def _write_register(self, register: Register, value: int) -> None:
        self.port.write(address(Window.REGISTERS, register), [value])


class Session:
    """One session slot of a device: a recurrent state, and one request at a time."""

    def __init__(self, device: Device, slot: int) -> None:
        self.device = device
        self.slot = slot
        self.finish = Finish.NONE
        """Why the latest request ended."""

    def status(self) -> SessionStatus:
        """The session's progress, from its record."""
        words = self._record(SessionWord.STATUS, SessionWord.POSITION + 1 - SessionWord.STATUS)
        word, generated, position = words
        return SessionStatus(word & 0xFF == Status.RUNNING, Finish(word >> 8 & 0xFF), generated, position)

    def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling | None = None,
        *,
        stop: Sequence[int] = (),
        keep_state: bool = False,
    ) -> Generator[int, None, None]:
        """Read the prompt, of any length, and yield the generated tokens as they come.

        A stop token ends the request and is yielded as the last token. keep_state: the prompt continues what
        the session has seen; its latest sampled token was not seen yet, so that it belongs at the prompt's start.
        A caller that leaves early (or is interrupted) aborts the request. max_tokens = 0 only reads the prompt.
        Raises RequestError for a request that does not fit, before anything is sent, and DeviceError while another
        request runs in the slot.
        """
        sampling = sampling or Sampling()
        self._check(prompt, max_tokens, sampling, stop)
        return self._generate(list(prompt), max_tokens, sampling, stop, keep_state)

    def start(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling | None = None,
        *,
        stop: Sequence[int] = (),
        keep_state: bool = False,
    ) -> Request:
        """Start a request and do not wait for its tokens: several sessions can run so at once.

        The device's events keep it going, or `discard` where nobody wants the tokens; `abort` ends it. The prompt must
        fit the device's buffer. Otherwise as `generate`.
        """
        sampling = sampling or Sampling()
        self._check(prompt, max_tokens, sampling, stop)
        limit = self.device.geometry.prompt
        if len(prompt) > limit:
            raise RequestError(f"the prompt must have at most {limit} tokens on this device, not {len(prompt)}")
        return self._start(self._claim(), list(prompt), max_tokens, sampling, stop, keep_state)

    def discard(self) -> SessionStatus:
        """Make room for more tokens in the ring by giving up those that are there; returns the session's status."""
        status = self.status()
        if status.running and status.generated:
            self.credit(status.generated)
        return status

    def credit(self, taken: int) -> None:
        """Tell the device that the host has so many tokens of the running request."""
        self._write(SessionWord.CREDIT, [taken])

    def _check(self, prompt: Sequence[int], max_tokens: int, sampling: Sampling, stop: Sequence[int]) -> None:
        vocabulary = self.device.require_model().vocabulary
        check_request(prompt, max_tokens, sampling, stop, vocabulary=vocabulary, geometry=self.device.geometry)

    def _generate(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, stop: Sequence[int], keep_state: bool
    ) -> Generator[int, None, None]:
        part = self.device.geometry.prompt
        while len(prompt) > part:
            yield from self._request(prompt[:part], 0, sampling, (), keep_state)
            prompt, keep_state = prompt[part:], True
        yield from self._request(prompt, max_tokens, sampling, stop, keep_state)

    def _request(
        self, prompt: list[int], max_tokens: int, sampling: Sampling, stop: Sequence[int], keep_state: bool
    ) -> Generator[int, None, None]:
        """One request of the device, from the claim of the slot to its end."""
        tag = self._claim()
        try:
            request = self._start(tag, prompt, max_tokens, sampling, stop, keep_state)
            while request.finish == Finish.NONE:
                request.credit()
                yield from request.take(self.device.next_event(self.slot, SILENCE_SECONDS))
        except LinkError:
            raise  # An abort would not arrive either.
        except BaseException:
            self.abort()
            raise

    def _claim(self) -> int:
        """Take the slot; returns a tag that no event on its way has, whoever made the earlier request."""
        flags = self._record(SessionWord.FLAGS, 1)[0]
        self._idle_status("started again")
        return ((flags >> TAG_SHIFT) + 1) % TAGS

    def abort(self) -> None:
        """End the running request, if any, after its current token."""
        self.device.command(Command.ABORT, self.slot)
        deadline = time.monotonic() + ABORT_SECONDS
        while (status := self.status()).running:
            if time.monotonic() > deadline:
                raise DeviceError(f"session {self.slot} does not end: reset the device")
        self.finish = status.finish
        self.device.drop_events(self.slot)

    def save(self) -> SavedState:
        """The state of a session that is not running."""
        model, status = self.device.require_model(), self._idle_status("saved")
        geometry = self.device.geometry
        words = model.state_stride * geometry.state_columns
        read = self.device.port.read_window(Window.STATES, self.slot * words, words, geometry)
        states = np.array(read, "<u4").view("<i2").reshape(model.state_stride, geometry.half)
        return SavedState(model.identity, status.position, states)

    def restore(self, saved: SavedState) -> None:
        """Put a saved state into the session; go on from it with keep_state. Raises FitError for another image's."""
        model = self.device.require_model()
        self._idle_status("restored")
        geometry = self.device.geometry
        if saved.identity != model.identity:
            raise FitError(
                f"the state is of image {saved.identity:08x}, but {model.identity:08x} is loaded: load that image"
            )
        expected = (model.state_stride, geometry.half)
        if saved.states.shape != expected:
            raise FitError(f"the state has shape {saved.states.shape}, but this device holds {expected}")
        words = np.ascontiguousarray(saved.states, "<i2").view("<u4").reshape(-1).tolist()
        self.device.port.write_window(Window.STATES, self.slot * len(words), words, geometry)
        self._write(SessionWord.POSITION, [saved.position])

    def reset(self) -> None:
        """Forget everything that the session has seen."""
        self._idle_status("reset")
        self._write(SessionWord.POSITION, [0])

    def _idle_status(self, what: str) -> SessionStatus:
        status = self.status()
        if status.running:
            raise DeviceError(f"session {self.slot} is running and cannot be {what}: abort it or wait for its end")
        return status

    def ring(self, first: int, end: int) -> list[int]:
        """Tokens first..end of the latest request, from the device's ring: it holds the last ones only."""
        size = self.device.geometry.ring
        tokens: list[int] = []
        while first < end:
            # Up to the end of the ring; what wraps around comes next.
            start = first % size
            count = min(end - first, size - start)
            word, skipped = divmod(self.slot * size + start, TOKENS_PER_WORD)
            words = self.device.port.read(address(Window.TOKENS, word), ceil_div(skipped + count, TOKENS_PER_WORD))
            tokens += unpack_tokens(words)[skipped : skipped + count]
            first += count
        return tokens

    def _start(
        self, tag: int, prompt: list[int], max_tokens: int, sampling: Sampling, stop: Sequence[int], keep_state: bool
    ) -> Request:
        geometry = self.device.geometry
        prompts = self.slot * (geometry.prompt // TOKENS_PER_WORD)
        self.device.port.write(address(Window.PROMPTS, prompts), pack_tokens(prompt))
        flags = (CONTINUE_FLAG if keep_state else 0) | tag << TAG_SHIFT
        self._write(SessionWord.FLAGS, [flags, len(prompt), max_tokens, *sampling.words(), *stop_words(stop)])
        # The device tells no more of the request before. What it told has come, perhaps with this tag: a reset device
        # begins anew.
        self.device.drop_events(self.slot)
        self.device.command(Command.START, self.slot)
        return Request(self, tag)

    def _record(self, first: SessionWord, count: int) -> list[int]:
        return self.device.port.read(self._record_address(first), count)

    def _write(self, first: SessionWord, words: list[int]) -> None:
        self.device.port.write(self._record_address(first), words)

    def _record_address(self, word: SessionWord) -> int:
        return window_address(Window.SESSIONS, self.slot * SESSION_WORDS + word, self.device.geometry)
