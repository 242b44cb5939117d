"""What a token costs on a device, by its counters, and how close that is to what the lanes allow.

A measurement is one phase (a prompt is read, or tokens are generated) with some sessions at once. Alone, a session is
measured from its start to its end. Several do not start in the same cycle: they are measured while all of them run.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from .abi import Counter
from .compiler import CompiledModel
from .device import ABORT_SECONDS, Device, Session
from .errors import DeviceError, LinkError, RequestError
from .generate import WAITS
from .isa import ControlOp, EngineOp, Unit
from .sampling import Sampling

SESSIONS = (1, 2, 4)
"""Numbers of sessions that are measured by default, as far as the device has slots."""
PROMPT = 64
"""Tokens of a prompt by default, as far as the device's buffer holds them."""
WINDOW_TOKENS = 4
"""A window counts whole tokens: one with fewer per session is no measurement."""
TOP_K = 40

Counters = dict[Counter, int]
Progress = Callable[[int, int], None]
"""Called with the measurements done and in all."""


class Phase(Enum):
    """What a session does: the tokens of a prompt but the last skip the head, and nothing is sampled."""

    PROMPT = "prompt"
    DECODING = "decoding"


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a token asks of the lanes.

    words: of the weight store; the lanes take one in a cycle. macs: ternary weights in them. padding: the share of the
    lanes that have no weight there.
    """

    words: int
    macs: int
    padding: float


def work(model: CompiledModel) -> dict[Phase, Work]:
    """The work of a token in each phase, from the compiled program."""
    words = without_head = 0
    for fields in model.program:
        operation = (fields["unit"], fields["op"])
        if operation == (Unit.ENGINE, EngineOp.MATVEC):
            words += fields["chunks"] * fields["groups"]
        elif operation == (Unit.CONTROL, ControlOp.HEAD):
            without_head = words
    needs = {Phase.PROMPT: (without_head, model.macs - model.head_macs), Phase.DECODING: (words, model.macs)}
    lanes = model.geometry.lanes
    return {
        phase: Work(words=words, macs=macs, padding=1 - macs / (lanes * words))
        for phase, (words, macs) in needs.items()
    }


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The counters' advance while sessions ran, and the host's clock from the first start to the last end.

    tokens, cycles, busy, waits: of the window that is measured; cycles is the sum of the others.
    all_tokens, seconds: of the whole run.
    """

    tokens: int
    cycles: int
    busy: int
    waits: dict[str, int]
    all_tokens: int
    seconds: float

    def figures(self, work: Work, *, lanes: int, clock_hz: int) -> dict[str, Any]:
        """The measurement and what follows from it, as plain values (SOURCES says how)."""
        # Not from the tokens: a window may begin and end within one.
        useful = self.busy / self.cycles * (1 - work.padding)
        return asdict(self) | {
            "cycles_per_token": self.cycles / self.tokens,
            "tokens_per_second": clock_hz * self.tokens / self.cycles,
            "lanes_busy": self.busy / self.cycles,
            "wait_shares": {cause: cycles / self.cycles for cause, cycles in self.waits.items()},
            "useful": useful,
            "macs_per_cycle": lanes * useful,
            "wall_tokens_per_second": self.all_tokens / max(self.seconds, 1e-9),
        }


SOURCES = {
    "cycles_per_token": "counters: (BUSY + waits) / TOKENS",
    "tokens_per_second": "derived: clock / cycles per token",
    "lanes_busy": "counters: BUSY / (BUSY + waits)",
    "wait_shares": "counters: each wait / (BUSY + waits)",
    "useful": "derived: lanes busy x (1 - padding)",
    "macs_per_cycle": "derived: lanes x useful work",
    "wall_tokens_per_second": "measured: host's clock",
    "words": "compiler",
    "padding": "compiler: 1 - model's weights / (lanes x words)",
    "limit_tokens_per_second": "derived: clock / words",
}
"""How each figure is obtained."""


def measured(before: Counters, after: Counters, *, all_tokens: int, seconds: float) -> Measurement:
    """The measurement between two readings of the counters."""
    spent = {counter: after[counter] - before[counter] for counter in Counter}
    waits = {counter.name.removeprefix("WAIT_").lower(): spent[counter] for counter in WAITS}
    return Measurement(
        tokens=spent[Counter.TOKENS],
        cycles=spent[Counter.BUSY] + sum(waits.values()),
        busy=spent[Counter.BUSY],
        waits=waits,
        all_tokens=all_tokens,
        seconds=seconds,
    )


def bench(
    device: Device,
    *,
    tokens: int,
    prompt: int | None = None,
    sessions: Sequence[int] | None = None,
    progress: Progress = lambda _done, _total: None,
) -> dict[str, Any]:
    """Measure the loaded model, and report in plain values.

    tokens: generated by each session. prompt: tokens of the prompts that are read, by default PROMPT or as many as the
    device's buffer holds. sessions: numbers of sessions, by default those of SESSIONS that the device has slots for.
    A phase is None where the first of several sessions ended before all of them had run together for a while.
    Raises RequestError for what the device cannot do, DeviceError when it stands still.
    """
    model, geometry = device.require_model(), device.geometry
    if prompt is None:
        prompt = min(PROMPT, geometry.prompt)
    _check_range("the prompt of a bench", prompt, geometry.prompt, "token")
    if tokens < 1:
        raise RequestError(f"a bench must generate at least 1 token, not {tokens}")
    counts = [count for count in SESSIONS if count <= geometry.slots] if sessions is None else list(sessions)
    for count in counts:
        _check_range("a bench's number of sessions", count, geometry.slots, "slot")
    works = work(model)
    # Any tokens cost the same; these are the same in each run.
    source = random.Random(0)
    prompts = [[source.randrange(model.vocabulary) for _ in range(prompt)] for _ in range(geometry.slots)]
    runs = []
    for index, count in enumerate(counts):
        progress(index, len(counts))
        phases = {
            Phase.PROMPT: _measure(device, prompts[:count], 0),
            # A prompt of one token is read with the head: all tokens are generated ones.
            Phase.DECODING: _measure(device, [each[-1:] for each in prompts[:count]], tokens, keep_state=True),
        }
        figures = {
            phase.value: result and result.figures(works[phase], lanes=geometry.lanes, clock_hz=geometry.clock_hz)
            for phase, result in phases.items()
        }
        runs.append({"sessions": count, **figures})
    progress(len(counts), len(counts))
    return {
        "model": {"identity": f"{model.identity:08x}", "ternary_weights": model.macs, "vocabulary": model.vocabulary},
        "device": {
            "build_id": f"{device.build_id:08x}",
            "lanes": geometry.lanes,
            "clock_hz": geometry.clock_hz,
            "geometry": asdict(geometry),
        },
        "request": {"prompt": prompt, "tokens": tokens},
        "limits": {
            phase.value: asdict(each) | {"limit_tokens_per_second": geometry.clock_hz / each.words}
            for phase, each in works.items()
        },
        "runs": runs,
        "sources": SOURCES,
    }


def _check_range(what: str, value: int, limit: int, unit: str) -> None:
    if not 1 <= value <= limit:
        raise RequestError(f"{what} must be from 1 to {limit} {unit}s on this device, not {value}")


def _measure(
    device: Device, prompts: Sequence[list[int]], tokens: int, *, keep_state: bool = False
) -> Measurement | None:
    """Start a session on each prompt, and let them run to their ends."""
    sessions = [device.session(slot) for slot in range(len(prompts))]
    before, begin = device.counters(), time.monotonic()
    try:
        for session, prompt in zip(sessions, prompts, strict=True):
            sampling = Sampling(top_k=min(TOP_K, device.geometry.top_k), seed=session.slot)
            session.start(prompt, tokens, sampling, keep_state=keep_state)
        window = _run(device, sessions)
    except LinkError:
        raise
    except BaseException:
        for session in sessions:
            session.abort()
        raise
    after, seconds = device.counters(), time.monotonic() - begin
    all_tokens = after[Counter.TOKENS] - before[Counter.TOKENS]
    if len(sessions) == 1:
        window = before, after
    result = measured(*window, all_tokens=all_tokens, seconds=seconds)
    return result if len(sessions) == 1 or result.tokens >= WINDOW_TOKENS * len(sessions) else None


def _run(device: Device, sessions: Sequence[Session]) -> tuple[Counters, Counters]:
    """Wait for the end of all sessions; the first and the last reading of the counters while all of them ran."""
    first = last = now = device.counters()
    moved = time.monotonic()
    together = True
    while True:
        running = [session.discard().running for session in sessions]
        together &= all(running)
        if together:
            last = now
        if not any(running):
            return first, last
        seen, now = now, device.counters()
        if now[Counter.TOKENS] > seen[Counter.TOKENS]:
            moved = time.monotonic()
        elif time.monotonic() > moved + ABORT_SECONDS:
            raise DeviceError(f"no token was finished for {ABORT_SECONDS:g} s: reset the device")
