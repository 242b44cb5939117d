"""Calibration: maxima of what the float reference met, repeatable, and never below a value of the same text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ternlight.checkpoint import quantise
from ternlight.errors import RequestError
from ternlight.image import LAYER_MAXIMA, Image
from ternlight_sim.calibrate import calibrate
from ternlight_sim.float_reference import FloatReference, Quantity
from ternlight_sim.random_model import random_checkpoint, random_config, random_image


@pytest.fixture(scope="module")
def image() -> Image:
    return quantise(random_checkpoint(random_config(layers=3), 1))


def observed(image: Image, rows: np.ndarray) -> dict[tuple[Quantity, int], float]:
    """The largest magnitudes over rows of tokens, collected independently of calibrate."""
    values: dict[tuple[Quantity, int], list[float]] = {}

    def observe(quantity, layer, array):
        values.setdefault((quantity, layer), []).extend(np.abs(array).ravel().tolist())

    model = FloatReference(image, observe=observe)
    state = model.initial_state(len(rows))
    for tokens in rows.T:
        _, state = model.step(tokens, state)
    return {key: max(magnitudes) for key, magnitudes in values.items()}


def test_maxima_of_a_text(image):
    tokens = np.random.default_rng(1).integers(61, size=4 * 9 + 3)
    calibration = calibrate(image, tokens, streams=4, steps=7).calibration
    expected = observed(image, tokens[:36].reshape(4, 9)[:, :7])
    assert calibration.residual == max(expected[Quantity.RESIDUAL, layer] for layer in range(3))
    for name in LAYER_MAXIMA:
        assert getattr(calibration, name) == tuple(expected[Quantity(name), layer] for layer in range(3))


def test_a_longer_text_never_has_smaller_maxima(image):
    tokens = np.random.default_rng(2).integers(61, size=200)
    short, long = (calibrate(image, tokens, streams=2, steps=steps).calibration for steps in (5, 50))
    assert long.residual >= short.residual
    for name in LAYER_MAXIMA:
        assert all(a >= b > 0 for a, b in zip(getattr(long, name), getattr(short, name), strict=True))


def test_without_a_text_the_seed_decides(image):
    first, same, other = (calibrate(image, streams=3, steps=10, seed=seed).calibration for seed in (1, 1, 2))
    assert first == same
    assert first != other


def test_only_the_calibration_changes(image):
    calibrated = calibrate(image, streams=2, steps=2)
    assert image.calibration is None
    assert replace(calibrated, calibration=None).identity == image.identity


def test_progress_counts_to_the_end(image):
    tokens = np.random.default_rng(3).integers(61, size=20)
    told: list[tuple[int, int]] = []
    for text in (None, tokens):
        calibrate(image, text, streams=2, steps=4, progress=lambda *counts: told.append(counts))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


def test_refuses_a_text_shorter_than_its_streams(image):
    with pytest.raises(RequestError, match="calibration needs a text of at least 4 tokens, not 3"):
        calibrate(image, np.array([1, 2, 3]), streams=4)


def test_heavy_tails_make_outliers():
    heavy, light = (random_image(random_config(), 4, heavy_tailed=tailed) for tailed in (True, False))
    spread = [np.ptp(np.log10(np.abs(np.concatenate(list(image.norms.values()))))) for image in (heavy, light)]
    assert spread[0] > 3 > 1 > spread[1]
    assert all(np.isfinite(getattr(heavy.calibration, name)).all() for name in LAYER_MAXIMA)


def test_shipped_calibration_holds_for_other_text():
    image = Image.default()
    maxima = calibrate(image, streams=8, steps=32, seed=5).calibration
    shipped = image.require_calibration()
    # The compiler keeps two bits of headroom; a fresh sample must stay well within them.
    assert maxima.residual < 1.5 * shipped.residual
    for name in LAYER_MAXIMA:
        pairs = zip(getattr(maxima, name), getattr(shipped, name), strict=True)
        assert all(fresh < 1.5 * stored for fresh, stored in pairs), name
