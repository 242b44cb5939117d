"""Layer-wise import: the very file that the whole model in memory gives, of checkpoints that never were in memory."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.checkpoint import Checkpoint, quantise
from ternlight.errors import CheckpointError, ImageError, RequestError
from ternlight.image import Image
from ternlight_sim import import_layers as module
from ternlight_sim.calibrate import calibrate
from ternlight_sim.import_layers import calibration_tokens, import_layers
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_checkpoint, random_config, write_checkpoint


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_equals_the_import_in_memory(tmp_path, monkeypatch, tied, shards):
    # Small blocks, so that every tensor has several, and a short last one.
    monkeypatch.setattr("ternlight.checkpoint.BLOCK_ELEMENTS", 500)
    monkeypatch.setattr("ternlight_sim.float_reference.BLOCK_ROWS", 16)
    config = random_config(vocabulary=BYTE_TOKENS, layers=3, tied=tied)
    write_checkpoint(random_checkpoint(config, 1, tokenizer=byte_tokenizer()), tmp_path / "random", shards=shards)
    checkpoint = Checkpoint.open(tmp_path / "random")
    text = np.random.default_rng(1).integers(BYTE_TOKENS, size=16 * 40 + 5)
    told = []
    import_layers(checkpoint, tmp_path / "layers", text, progress=lambda done, total: told.append((done, total)))
    calibrate(quantise(checkpoint), text, streams=module.STREAMS, steps=module.STEPS).save(tmp_path / "whole")
    assert (tmp_path / "layers").read_bytes() == (tmp_path / "whole").read_bytes()
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_random_tokens(tmp_path):
    config = random_config(name="mute")
    checkpoint = random_checkpoint(config, 2)
    import_layers(checkpoint, tmp_path / "mute")
    image = Image.load(tmp_path / "mute")
    tokens = calibration_tokens(config, None)
    assert tokens.shape == (module.STEPS, module.STREAMS)
    # In memory the streams of a text are read side by side.
    assert (
        image.calibration == calibrate(quantise(checkpoint), tokens.T.reshape(-1), streams=module.STREAMS).calibration
    )
    assert image.tokenizer is None


def test_refuses_and_leaves_nothing(tmp_path):
    checkpoint = random_checkpoint(random_config(), 3)
    with pytest.raises(RequestError, match="calibration needs a text of at least 16 tokens, not 15"):
        import_layers(checkpoint, tmp_path / "image", np.zeros(15, np.int64))
    with pytest.raises(ImageError, match=r"absent/image cannot be written: No such file"):
        import_layers(checkpoint, tmp_path / "absent" / "image")
    name = "model.layers.1.mlp.down_proj.weight"
    checkpoint.tensors[name][-1, -1] = np.nan
    with pytest.raises(CheckpointError, match=f"{name} has values that are not finite"):
        import_layers(checkpoint, tmp_path / "image")
    assert list(tmp_path.iterdir()) == []
