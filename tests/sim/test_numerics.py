"""The study of number formats: its formats against the golden model's, and that it finds what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from ternlight.image import Image
from ternlight_sim import numerics
from ternlight_sim.evaluate import evaluate, windows
from ternlight_sim.float_reference import FloatReference, Formats
from ternlight_sim.float_reference import sigmoid as exact_sigmoid
from ternlight_sim.golden import vector
from ternlight_sim.numerics import calibrated, choices, compact_state, embedding, fixed, gate, own_text, table_sigmoid
from ternlight_sim.random_model import BYTE_TOKENS, byte_tokenizer, random_config, random_image

SMALL = {"hidden": 24, "intermediate": 40, "layers": 2, "vocabulary": 64}


@pytest.fixture(scope="module")
def image():
    return random_image(random_config(**SMALL), 1)


def test_fixed_point():
    values = np.array([0.0, 0.124, 0.125, -0.125, -0.126, 100.0, -100.0])
    assert fixed(6, 2)(values).tolist() == [0, 0, 0.25, 0, -0.25, 7.75, -8]
    assert fixed(6, 2, truncated=True)(values).tolist() == [0, 0, 0, -0.25, -0.25, 7.75, -8]
    # Two bits of margin over the peak, and the sign.
    assert calibrated(8, 3.0)(np.array([15.9, 20.0, 1 / 16])).tolist() == [15.875, 15.875, 0.125]
    assert gate(4)(np.array([0.03, 0.04, 0.5, 0.99, 1.0])).tolist() == [0, 0.0625, 0.5, 0.9375, 0.9375]


def test_state_and_sigmoid_are_the_golden_models():
    rng = np.random.default_rng(2)
    z = np.concatenate([np.arange(-16, 16, 0.25), rng.uniform(-16, 16, 1000)])
    golden = vector.sigmoid(np.rint(np.ldexp(z, 13)).clip(-(1 << 17), (1 << 17) - 1).astype(np.int64))
    # The golden model rounds its input, too, and stays below 1.
    assert np.abs(np.ldexp(golden.astype(float), -15) - table_sigmoid(128)(z)).max() < 2**-14
    assert np.abs(table_sigmoid(128)(z) - exact_sigmoid(z)).max() < 2**-12
    keep = compact_state(6.5)
    states = rng.normal(0, 2, 1000)
    once = keep(states)
    # 18 bits with 12 of fraction; a mantissa of 14 bits and its rounding remain.
    assert np.abs(once - states).max() <= 2**-13 + np.abs(states).max() * 2**-13
    np.testing.assert_array_equal(keep(once), once)


def test_formats_stay_out_of_the_way(image):
    tokens = windows(own_text(image, 256), streams=4)
    plain = evaluate(FloatReference(image), tokens, 1)
    wide = Formats(residual=fixed(60, 40), state=lambda layer, h: fixed(60, 45)(h), forget=gate(45))
    assert evaluate(FloatReference(image, formats=wide), tokens, 1).nats == pytest.approx(plain.nats, rel=1e-6)
    # An image's rows are exact with 8 bits.
    np.testing.assert_array_equal(embedding(image, 8), image.embedding_rows())
    assert np.abs(embedding(image, 5) - image.embedding_rows()).max() > 0


def test_coarse_formats_cost_more():
    shipped = Image.default()
    measured = numerics.measure(shipped, own_text(shipped, 512), context=16)
    costs = {(part, name): cost for part, name, cost in measured}
    assert len(costs) == len(list(choices(shipped)))
    worst = {"state": "8 bits, truncated", "sigmoid table": "8 segments", "residual": "10 bits", "embedding": "4 bits"}
    built = {
        "state": "16 bits, compact *",
        "sigmoid table": "128 segments *",
        "residual": "24 bits *",
        "embedding": "8 bits *",
    }
    for part, name in worst.items():
        assert costs[part, name].choices > costs[part, built[part]].choices
        assert costs[part, built[part]].choices < 0.05
    assert costs["state", "8 bits, truncated"].bits > 0.05
    assert costs["embedding", "8 bits *"] == (0, 0)
    assert abs(costs["all", "golden model *"].bits) < 0.01


def test_command(tmp_path, monkeypatch, capsys, image):
    path, text = tmp_path / "image", tmp_path / "text.txt"
    random_image(random_config(**SMALL | {"vocabulary": BYTE_TOKENS}), 3, tokenizer=byte_tokenizer()).save(path)
    text.write_text("Of cabbages and kings. " * 8)
    monkeypatch.setattr(numerics, "RANDOM_SHAPE", SMALL)
    arguments = ["numerics", "--image", str(path), "--text", str(text), "--tokens", "96", "--random", "1"]
    monkeypatch.setattr("sys.argv", arguments)
    numerics.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == ("| part | format | random: bits | choices differ | outliers 1: bits | choices differ |")
    assert len(lines) == 2 + len(list(choices(image)))
    assert len({line.count("|") for line in lines}) == 1
    monkeypatch.setattr("sys.argv", [*arguments[:-2], "--tokens", "9"])
    with pytest.raises(SystemExit):
        numerics.main()
    assert "--tokens must be at least 64, not 9" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["numerics", "--image", str(tmp_path / "absent")])
    with pytest.raises(SystemExit):
        numerics.main()
    assert "absent does not exist" in capsys.readouterr().err
