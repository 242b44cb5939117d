"""Holds a device to the golden model, token by token, and explains the first difference."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ternlight.device import Device
from ternlight.sampling import Sampling

from .evaluate import Score, surprise
from .golden_session import GoldenSession
from .machine import Machine


@dataclass(frozen=True)
class StateDifference:
    """The first element of a recurrent state that differs: where, and both values."""

    layer: int
    element: int
    device: int
    golden: int


@dataclass(frozen=True)
class Difference:
    """The first token that differs, and the recurrent state just before it was chosen.

    index: of the generated token, from 0. state: None when the states agree, so that head or sampler differ.
    """

    index: int
    device: int | None
    golden: int | None
    state: StateDifference | None


@dataclass(frozen=True)
class Verification:
    """tokens: that were generated and agree. difference: None when all agree, and the final state as well."""

    tokens: list[int]
    difference: Difference | None


def compare_states(device: NDArray[np.int16], golden: NDArray[np.int16], layers: int) -> StateDifference | None:
    """The first difference of two state memories (words, V / 2), in layer order."""
    places = np.argwhere((device != golden).reshape(layers, -1))
    if len(places) == 0:
        return None
    layer, element = (int(place) for place in places[0])
    flat = (layer, element)
    return StateDifference(layer, element, int(device.reshape(layers, -1)[flat]), int(golden.reshape(layers, -1)[flat]))


@dataclass(frozen=True)
class Reading:
    """A text that device and golden model read. score: the golden model's. choices: the device's greedy ones.

    state: the first difference of the states after the text.
    """

    score: Score
    choices: NDArray[np.int64]
    state: StateDifference | None

    @property
    def choices_differ(self) -> int:
        """Tokens for which the device chose another than the golden model."""
        return int(np.count_nonzero(self.choices != self.score.choices))


def read(
    device: Device,
    tokens: NDArray[np.integer[Any]],
    byte_count: int,
    *,
    layers: int,
    slot: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """Have the device read a text, choosing each next token, next to the golden machine of its model and geometry."""
    machine = Machine(device.require_model())
    session, state = device.session(slot), machine.initial_state(1)
    greedy = Sampling(temperature=0.0)
    nats = 0.0
    choices: list[int] = []
    golden: list[int] = []
    for index, (token, target) in enumerate(itertools.pairwise(tokens)):
        logits, state = machine.step(np.array([token]), state)
        nats += float(surprise(logits, np.array([target]))[0])
        golden.append(int(logits.argmax()))
        choices += session.generate([int(token)], 1, greedy, keep_state=index > 0)
        if progress is not None:
            progress(index + 1, len(tokens) - 1)
    final = compare_states(session.save().states, state.states[0].astype(np.int16), layers)
    score = Score(nats=nats, tokens=len(golden), bytes=byte_count, choices=np.array(golden))
    return Reading(score, np.array(choices), final)


def verify(
    device: Device,
    prompt: Sequence[int],
    max_tokens: int,
    sampling: Sampling,
    *,
    layers: int,
    slot: int = 0,
    stop: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Run one request on the device and on the golden machine of its model and geometry.

    Raises what a request to the device raises.
    """
    machine = Machine(device.require_model())
    session, golden = device.session(slot), GoldenSession(machine)
    expected = golden.generate(prompt, max_tokens, sampling, stop=stop)
    agreed: list[int] = []
    with closing(session.generate(prompt, max_tokens, sampling, stop=stop)) as request:
        for token in request:
            wanted = next(expected, None)
            if token != wanted:
                request.close()
                return Verification(
                    agreed, _explain(device, machine, [*prompt, *agreed], token, wanted, layers, slot, agreed)
                )
            agreed.append(token)
            if progress is not None:
                progress(len(agreed), max_tokens)
    missing = next(expected, None)
    if missing is not None:
        return Verification(agreed, Difference(len(agreed), None, missing, None))
    final = compare_states(session.save().states, golden.states, layers)
    return Verification(agreed, None if final is None else Difference(len(agreed), None, None, final))


def _explain(
    device: Device,
    machine: Machine,
    seen: list[int],
    token: int,
    wanted: int | None,
    layers: int,
    slot: int,
    agreed: list[int],
) -> Difference:
    """Feed both with the tokens before the difference, and compare what they then hold."""
    session, golden = device.session(slot), GoldenSession(machine)
    list(session.generate(seen, 0))
    list(golden.generate(seen, 0, Sampling()))
    state = compare_states(session.save().states, golden.states, layers)
    return Difference(len(agreed), token, wanted, state)
