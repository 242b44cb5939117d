"""Text from a device, and what it cost."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass

from .abi import Counter, Finish
from .device import Device
from .errors import ImageError
from .image import Image
from .sampling import Sampling
from .tokenizer import StreamDecoder, Tokenizer

WAITS = [counter for counter in Counter if counter.name.startswith("WAIT")]


@dataclass(frozen=True)
class Stats:
    """What a request cost, by the device's counters.

    cycles_per_token: cycles in which the session ran, over all tokens, those of the prompt included.
    tokens_per_second: at the device's clock. lanes_busy: ternary weights of the model over lanes times cycles.
    waits: cycles by cause, in which the lanes had no weight word. wall_seconds: on the host's clock.
    """

    prompt_tokens: int
    generated_tokens: int
    cycles: int
    cycles_per_token: float
    tokens_per_second: float
    lanes_busy: float
    busy_cycles: int
    waits: dict[str, int]
    wall_seconds: float
    finish: str
    seed: int

    def __str__(self) -> str:
        return (
            f"{self.prompt_tokens} prompt + {self.generated_tokens} generated tokens, "
            f"{self.cycles_per_token:,.0f} cycles/token, {self.tokens_per_second:,.0f} tokens/s at the device's clock, "
            f"lanes {self.lanes_busy:.1%} busy; "
            f"{self.generated_tokens / max(self.wall_seconds, 1e-9):,.1f} tokens/s here, seed {self.seed}"
        )

    def json(self) -> dict[str, object]:
        """The figures as plain values."""
        return asdict(self)


class Writer:
    """Writes text with an image on a device that has it loaded.

    After the pieces of a request are consumed, `stats` says what it cost. Raises ImageError for an image without
    tokenizer.
    """

    def __init__(self, device: Device, image: Image, *, slot: int = 0) -> None:
        if image.tokenizer is None:
            raise ImageError(f"{image.config.name} has no tokenizer: import the checkpoint with its tokenizer.json")
        self.device = device
        self.tokenizer = Tokenizer(image.tokenizer)
        self.session = device.session(slot)
        self.eos = image.config.eos
        self.stats: Stats | None = None

    def write(self, prompt: str, max_tokens: int, sampling: Sampling | None = None) -> Generator[str, None, None]:
        """The text that follows the prompt, piece by piece; it ends at the model's end-of-sequence token.

        To close it early, as contextlib.closing does, aborts the request.
        """
        sampling = sampling or Sampling()
        tokens = self.tokenizer.encode(prompt)
        stop = [] if self.eos is None else [self.eos]
        before, started = self.device.counters(), time.monotonic()
        request = self.session.generate(tokens, max_tokens, sampling, stop=stop)
        return self._pieces(request, len(tokens), before, started, sampling.seed)

    def _pieces(
        self,
        request: Generator[int, None, None],
        prompt_tokens: int,
        before: dict[Counter, int],
        started: float,
        seed: int,
    ) -> Generator[str, None, None]:
        decoder = StreamDecoder(self.tokenizer)
        generated = 0
        with closing(request):
            for token in request:
                generated += 1
                piece = decoder.push(token)
                if piece:
                    yield piece
        rest = decoder.finish()
        if rest:
            yield rest
        spent = {counter: value - before[counter] for counter, value in self.device.counters().items()}
        self.stats = request_stats(
            self.device, spent, prompt_tokens, generated, time.monotonic() - started, self.session.finish, seed
        )


def request_stats(
    device: Device,
    spent: dict[Counter, int],
    prompt_tokens: int,
    generated: int,
    seconds: float,
    finish: Finish,
    seed: int,
) -> Stats:
    """The statistics of a request from the counters that it advanced."""
    model, geometry = device.require_model(), device.geometry
    waits = {counter.name.removeprefix("WAIT_").lower(): spent[counter] for counter in WAITS}
    cycles = spent[Counter.BUSY] + sum(waits.values())
    tokens = spent[Counter.TOKENS]
    weights = model.macs * tokens - model.head_macs * (tokens - spent[Counter.GENERATED])
    return Stats(
        prompt_tokens=prompt_tokens,
        generated_tokens=generated,
        cycles=cycles,
        cycles_per_token=cycles / max(tokens, 1),
        tokens_per_second=geometry.clock_hz * tokens / max(cycles, 1),
        lanes_busy=weights / max(geometry.lanes * cycles, 1),
        busy_cycles=spent[Counter.BUSY],
        waits=waits,
        wall_seconds=seconds,
        finish=finish.name.lower(),
        seed=seed,
    )
