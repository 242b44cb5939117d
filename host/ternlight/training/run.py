"""A training run: its settings, its schedule, and its state on disk, from which it resumes to the bit."""

from __future__ import annotations

import json
import math
import os
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checkpoint import TOKENIZER_FILE, WEIGHTS_FILE
from ..config import CONFIG_FILE, ModelConfig, config_values
from ..errors import RequestError
from ..tensorfile import write_tensors
from .corpus import Windows
from .model import TrainedModel

STATE_FILE = "training.pt"
"""Everything that a run needs to go on, next to the checkpoint."""
SMOOTHING = 0.98
"""The loss that is shown is a running mean, of which each step keeps so much."""
HELD_OUT_TIMES, HELD_OUT_CONTEXT, HELD_OUT_WINDOWS = 512, 64, 64
"""The held-out text is judged by so many windows of so many tokens at most, of which the first are not scored."""
BETAS = (0.9, 0.95)
"""Adam's memory of gradients and of their squares: short, because the learning rate is high. There is no weight decay:
ternary products are scale-free, and growing weights only slow themselves down."""
LENGTHS = ("steps", "minutes")
"""Settings that a resumed run may change."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What fixes a run. Of steps and minutes one is given: the learning rate falls to zero at its end.

    times, batch: tokens of a window, and windows of a step. rate: the learning rate at its peak, after `warmup` steps.
    seed: of the first weights, and of the order of windows.
    """

    steps: int | None = None
    minutes: float | None = None
    times: int = 256
    batch: int = 16
    rate: float = 0.01
    warmup: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise RequestError("a run needs either a number of steps or a number of minutes")
        for name in ("steps", "minutes", "times", "batch", "rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RequestError(f"{name} must be positive, not {value}")
        for name in ("warmup", "seed"):
            value = getattr(self, name)
            if value < 0:
                raise RequestError(f"{name} must not be negative, not {value}")


class Report(NamedTuple):
    """Where a run is. loss: the running mean, in nats per token; speed: tokens/s since the run was last started.

    held_out: bits per byte of the held-out text, as of the last save.
    """

    step: int
    done: float
    loss: float
    held_out: float | None
    speed: float
    seconds_left: float


class HeldOut(NamedTuple):
    """Windows (times + 1, count) of a held-out text, spread over it, and its bytes per token."""

    windows: NDArray[np.int64]
    bytes_per_token: float

    @classmethod
    def of(cls, tokens: NDArray[np.integer[Any]], byte_count: int) -> HeldOut:
        """Of a text of so many bytes; raises RequestError for one that is too short."""
        times = min(HELD_OUT_TIMES, len(tokens) - 1)
        if times <= HELD_OUT_CONTEXT:
            raise RequestError(f"a held-out text needs more than {HELD_OUT_CONTEXT + 1} tokens, not {len(tokens)}")
        count = min(HELD_OUT_WINDOWS, (len(tokens) - 1) // times)
        starts = np.linspace(0, len(tokens) - 1 - times, count).astype(np.int64)
        return cls(tokens[starts + np.arange(times + 1)[:, None]].astype(np.int64), byte_count / len(tokens))

    def bits_per_byte(self, model: TrainedModel, device: str) -> float:
        """An estimate: windows begin without context."""
        windows = torch.from_numpy(self.windows).to(device)
        with torch.no_grad():
            logits = model.logits(windows[:-1])[HELD_OUT_CONTEXT:].flatten(0, 1)
            nats = torch.nn.functional.cross_entropy(logits, windows[HELD_OUT_CONTEXT + 1 :].flatten())
        return float(nats) / math.log(2) / self.bytes_per_token


class Run:
    """A training run on one device.

    Parameters: config; settings; tokens of the text; tokenizer, the content of tokenizer.json for the checkpoint;
    directory is for checkpoints and the run's state; device is PyTorch's name; compiled: have the model compiled.
    A state in the directory is resumed; raises RequestError if it is damaged or of other settings, and for a directory
    or a device that cannot be used.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: Settings,
        tokens: NDArray[np.integer[Any]],
        *,
        tokenizer: bytes,
        directory: Path,
        device: str = "cpu",
        compiled: bool = False,
    ) -> None:
        self.config = config
        self.settings = settings
        self.tokenizer = tokenizer
        self.directory = directory
        self.device = device
        self.windows = Windows(tokens, times=settings.times, batch=settings.batch, seed=settings.seed)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"{directory} cannot be a run's folder: {error.strerror}") from None
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise RequestError(f"device {device} cannot be used ({reason}): name another, or cpu") from None
        torch.manual_seed(settings.seed)
        self.model = TrainedModel(config).to(device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0, betas=BETAS, weight_decay=0, fused=True)
        self.step = 0
        self.seconds = 0.0
        self.loss = float("nan")
        self.held_out: float | None = None
        if (directory / STATE_FILE).is_file():
            self._restore()
        self.compiled = compiled
        if compiled:
            self.model.compile_parts()

    @property
    def done(self) -> float:
        """The share of the run that is behind, at most 1."""
        if self.settings.steps is not None:
            return min(1.0, self.step / self.settings.steps)
        assert self.settings.minutes is not None
        return min(1.0, self.seconds / 60 / self.settings.minutes)

    @property
    def rate(self) -> float:
        """The learning rate of the next step: a linear rise, within a linear fall to zero."""
        rise = min(1.0, (self.step + 1) / (self.settings.warmup + 1))
        return self.settings.rate * rise * (1 - self.done)

    def train(
        self,
        *,
        save_every: float = 300.0,
        report: Callable[[Report], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        held_out: HeldOut | None = None,
    ) -> None:
        """Train to the end, or until `stop`; saves every so many seconds, and at the end, with a look at `held_out`.

        Compiling is not training time.
        """
        if self.compiled and self.done < 1:
            self._gradients()
            self.optimizer.zero_grad()
        begun, first, before = time.monotonic(), self.step, self.seconds
        saved = begun
        while self.done < 1 and not stop():
            loss = self._advance()
            self.loss = loss if self.step == 1 else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
            now = time.monotonic()
            self.seconds = before + now - begun
            if report is not None:
                speed = (self.step - first) * self.settings.times * self.settings.batch / (now - begun)
                # Of a run that counts steps the pace is known since it was started.
                share = self.done
                left = self.seconds / share * (1 - share) if share else float("inf")
                report(Report(self.step, share, self.loss, self.held_out, speed, left))
            if now - saved > save_every:
                self._judge(held_out)
                self.save()
                saved = now
        self._judge(held_out)
        self.save()

    def save(self) -> None:
        """Write the checkpoint and the state, each replaced as a whole."""
        tensors = {name: p.detach().float().cpu().numpy() for name, p in self.model.named_parameters()}
        _replace(self.directory / CONFIG_FILE, json.dumps(config_values(self.config), indent=1).encode())
        _replace(self.directory / TOKENIZER_FILE, self.tokenizer)
        part = self.directory / (WEIGHTS_FILE + ".part")
        write_tensors(part, tensors, {"format": "pt"})
        part.replace(self.directory / WEIGHTS_FILE)
        state = {
            "config": config_values(self.config),
            "settings": asdict(self.settings),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "loss": self.loss,
            "held_out": self.held_out,
        }
        part = self.directory / (STATE_FILE + ".part")
        torch.save(state, part)
        part.replace(self.directory / STATE_FILE)

    def _advance(self) -> float:
        """One step; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        loss = self._gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return loss

    def _gradients(self) -> float:
        """The gradients of the next step; its loss."""
        batch: Tensor = torch.from_numpy(self.windows.read(self.step)).to(self.device)
        loss = self.model(batch)
        loss.backward()
        return float(loss.detach())

    def _restore(self) -> None:
        path = self.directory / STATE_FILE
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError):
            raise RequestError(f"{path} is damaged: remove it to begin anew, or take another folder") from None
        for name, own in (("config", config_values(self.config)), ("settings", asdict(self.settings))):
            different = sorted(key for key in own if own[key] != state[name].get(key) and key not in LENGTHS)
            if different:
                raise RequestError(
                    f"{path} is of a run with other values of {', '.join(different)}: "
                    f"give the same ones to resume it, or another folder"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.loss, self.held_out = state["loss"], state["held_out"]

    def _judge(self, held_out: HeldOut | None) -> None:
        if held_out is not None:
            self.held_out = held_out.bits_per_byte(self.model, self.device)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    os.replace(part, path)
