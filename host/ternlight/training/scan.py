"""The recurrence h[t] = forget[t] * h[t-1] + source[t] over all times at once, and its gradient.

The times are cut into chunks that are run side by side from zero, next to the products of their forget gates; then each
chunk gets what the one before left, times those products. So T times take about 2 sqrt(T) steps on large arrays. Forget
gates lie between 0 and 1 and nothing is divided, so the products can only fade.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor


def chunk_length(times: int) -> int:
    """The least divisor of `times` from its root up: chunks and steps within one are then about as many."""
    return next(length for length in range(math.isqrt(times), times + 1) if length and times % length == 0)


def recur(forget: Tensor, source: Tensor, *, reverse: bool = False) -> Tensor:
    """h (times, ...) from a zero state; with `reverse` the last time is the first."""
    times = len(forget)
    length = chunk_length(times)
    chunks = times // length
    forget, source = (array.reshape(chunks, length, *array.shape[1:]) for array in (forget, source))
    state, fade = torch.empty_like(source), torch.empty_like(forget)
    steps = list(range(length))[:: -1 if reverse else 1]
    state[:, steps[0]], fade[:, steps[0]] = source[:, steps[0]], forget[:, steps[0]]
    for before, step in itertools.pairwise(steps):
        torch.addcmul(source[:, step], forget[:, step], state[:, before], out=state[:, step])
        torch.mul(forget[:, step], fade[:, before], out=fade[:, step])
    order = list(range(chunks))[:: -1 if reverse else 1]
    for before, chunk in itertools.pairwise(order):
        state[chunk].addcmul_(fade[chunk], state[before, steps[-1]])
    return state.reshape(times, *state.shape[2:])


@torch.library.custom_op("ternlight::scan", mutates_args=())
def scan(forget: Tensor, source: Tensor) -> Tensor:
    """The states (times, ...) of the recurrence, from zero; an operation of its own, which compilers leave alone."""
    return recur(forget, source)


@torch.library.custom_op("ternlight::scan_gradient", mutates_args=())
def scan_gradient(forget: Tensor, states: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients by forget and by source: by h[t] it is gradient[t] + forget[t+1] times that by h[t+1]."""
    by_source = recur(torch.cat([forget[1:], torch.zeros_like(forget[:1])]), gradient, reverse=True)
    by_forget = torch.cat([torch.zeros_like(states[:1]), by_source[1:] * states[:-1]])
    return by_forget, by_source


@scan.register_fake
def _(forget: Tensor, source: Tensor) -> Tensor:
    return torch.empty_like(source, memory_format=torch.contiguous_format)


@scan_gradient.register_fake
def _(forget: Tensor, states: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    empty = torch.empty_like(gradient, memory_format=torch.contiguous_format)
    return empty, torch.empty_like(empty)


def _setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    forget, states = context.saved_tensors
    by_forget, by_source = scan_gradient(forget, states, gradient.contiguous())
    return by_forget, by_source


scan.register_autograd(_backward, setup_context=_setup)
