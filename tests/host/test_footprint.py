"""The memory table against what the compiler and the image really take."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ternlight import footprint as module
from ternlight.compiler import compile_image
from ternlight.config import PUBLISHED
from ternlight.footprint import footprint, half_precision_bytes, table
from ternlight.geometry import Geometry
from ternlight_sim.random_model import random_checkpoint, random_config, random_image


@pytest.mark.parametrize("layers", [1, 3])
def test_parts_are_those_of_a_compiled_image(layers):
    # Without padding: whole words of every memory.
    config = random_config(hidden=48, intermediate=80, layers=layers, vocabulary=64)
    geometry = Geometry(gain_words=4096, accumulator=24, slots=3)
    image = random_image(config, layers)
    compiled = compile_image(image, geometry)
    parts = footprint(config, sessions=geometry.slots, contexts=geometry.contexts)
    stored = image._tensors()
    assert parts.weights == sum(tensor.nbytes for name, tensor in stored.items() if name.startswith("trits."))
    assert parts.embedding == stored["embedding"].nbytes + stored["embedding_exponent"].nbytes
    assert parts.constants == compiled.gains.nbytes + compiled.lower_bounds.nbytes
    assert parts.program == compiled.program_words().nbytes
    assert parts.states == geometry.slots * compiled.state_stride * geometry.half * 2
    elements = 24 * (48 + 80) + 2 * 8 * 80
    assert parts.buffers == 2 * elements // 8 + 3 * (geometry.prompt + geometry.ring) * 2
    assert parts.total == sum(vars(parts).values())


@pytest.mark.parametrize("changes", [{}, {"tied": True}, {"lower_bound": False}])
def test_half_precision_counts_every_parameter(changes):
    config = random_config(layers=3, **changes)
    tensors = random_checkpoint(config, 1, dtype=np.float16).tensors
    states = 2 * 5 * 3 * config.hidden
    assert half_precision_bytes(config, sessions=5) == sum(tensor.nbytes for tensor in tensors.values()) + states


def test_published_models_take_an_eighth():
    ratios = {name: half_precision_bytes(config) / footprint(config).total for name, config in PUBLISHED.items()}
    assert ratios["1.3B"] > 8
    assert ratios["2.7B"] > 8
    # States grow with sessions, and with nothing else.
    one, many = (footprint(PUBLISHED["370M"], sessions=sessions) for sessions in (1, 9))
    assert many.states == 9 * one.states
    grown = replace(one, states=many.states, buffers=one.buffers + 8 * module.TOKENS * module.TOKEN_BYTES)
    assert grown == many


def test_table(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["footprint", "--sessions", "2"])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == table(2)
    assert len({line.count("|") for line in lines}) == 1
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {config.name}" for config in PUBLISHED.values()]


def test_refuses_no_sessions(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["footprint", "--sessions", "0"])
    with pytest.raises(SystemExit):
        module.main()
    assert "--sessions must be positive, not 0" in capsys.readouterr().err
