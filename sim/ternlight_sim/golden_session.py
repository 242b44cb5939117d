"""A session on the golden machine, with the meaning of a session on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ternlight.sampling import Sampling

from .golden.sampling import sample
from .golden.scalar import UFloat
from .machine import Machine, Trace


class GoldenSession:
    """One recurrent state; `generate` yields the very tokens that a device must give."""

    def __init__(self, machine: Machine, *, trace: Trace | None = None) -> None:
        self.machine = machine
        self.trace = trace
        self.state = machine.initial_state(1)

    @property
    def states(self) -> NDArray[np.int16]:
        """The state memory of the session, (words, V / 2)."""
        words: NDArray[np.int16] = self.state.states[0].astype(np.int16)
        return words

    @property
    def position(self) -> int:
        """Tokens seen."""
        return self.state.position

    def generate(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        sampling: Sampling,
        *,
        stop: Sequence[int] = (),
        keep_state: bool = False,
    ) -> Iterator[int]:
        """Read the prompt and yield tokens, as ternlight.device.Session.generate."""
        if not keep_state:
            self.state = self.machine.initial_state(1)
        for token in prompt[:-1]:
            self.machine.run(np.array([token]), self.state, head=False, trace=self.trace)
        token = prompt[-1]
        if max_tokens == 0:
            self.machine.run(np.array([token]), self.state, head=False, trace=self.trace)
        for _ in range(max_tokens):
            position = self.state.position
            logits = self.machine.run(
                np.array([token]), self.state, inverse_temperature=sampling.inverse_temperature, trace=self.trace
            )
            assert logits is not None
            scale = UFloat(logits.scale.mantissa[0], logits.scale.exponent[0])
            token = int(sample(logits.accumulators[0], scale, sampling.effective_top_k, sampling.seed, position))
            yield token
            if token in stop:
                return
