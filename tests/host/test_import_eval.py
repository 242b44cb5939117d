"""The commands `import` and `eval` from arguments to report."""

from __future__ import annotations

import argparse
import json

import pytest

from ternlight.commands import eval as eval_command
from ternlight.commands import import_
from ternlight.errors import ImageError, RequestError
from ternlight.image import Image
from ternlight_sim.random_model import (
    BYTE_TOKENS,
    byte_tokenizer,
    random_checkpoint,
    random_config,
    random_image,
    write_checkpoint,
)

CONFIG = random_config(vocabulary=BYTE_TOKENS, name="tiny")


def command(*arguments: object) -> int:
    """Run a command line."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers(required=True)
    for module in (import_, eval_command):
        module.add_parser(subparsers)
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.run(args)


@pytest.fixture
def checkpoint(tmp_path):
    write_checkpoint(random_checkpoint(CONFIG, 1, tokenizer=byte_tokenizer()), tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("Twelve déjà vus in a row. " * 8, encoding="utf-8")
    return path


def test_import_then_eval(tmp_path, checkpoint, text, capsys):
    output = tmp_path / "out.ternlight"
    assert command("import", checkpoint, "-o", output, "--text", text, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    image = Image.load(output)
    assert image.config == CONFIG
    assert image.calibration is not None
    assert report == {
        "image": str(output),
        "bytes": output.stat().st_size,
        "identity": f"{image.identity:08x}",
        "name": "tiny",
        "hidden": CONFIG.hidden,
        "intermediate": CONFIG.intermediate,
        "layers": CONFIG.layers,
        "vocabulary": BYTE_TOKENS,
        "trits": sum(rows * columns for rows, columns in CONFIG.product_shapes().values()),
        "tokenizer": True,
        "calibrated_on": str(text),
        "left_out": [],
    }
    assert command("eval", "--image", output, "--checkpoint", checkpoint, "--text", text, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    length = len(text.read_bytes())
    assert (report["tokens"], report["bytes"]) == (length - 1, length)
    assert report["identity"] == f"{image.identity:08x}"
    assert report["golden_bits_per_byte"] / report["reference_bits_per_byte"] - 1 == pytest.approx(
        report["relative_difference"]
    )
    assert abs(report["relative_difference"]) < 0.02


def test_import_names_the_image_by_its_folder(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("import", checkpoint) == 0
    assert "tiny.ternlight: tiny, 2 layers of width 37" in capsys.readouterr().out
    assert Image.load(tmp_path / "tiny.ternlight").config == CONFIG


def test_import_without_tokenizer_says_so(tmp_path, capsys):
    write_checkpoint(random_checkpoint(CONFIG, 1), tmp_path / "mute")
    assert command("import", tmp_path / "mute", "-o", tmp_path / "mute.ternlight") == 0
    assert "without tokenizer.json: it can only be used with tokens" in capsys.readouterr().out
    with pytest.raises(ImageError, match=r"mute has no tokenizer: import the checkpoint with its tokenizer\.json"):
        command("eval", "--image", tmp_path / "mute.ternlight")


def test_eval_of_the_shipped_image(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time there was a little girl, and her name was Zoë.")
    assert command("eval", "--text", path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] == ["ë"]
    assert report["bytes"] == len(path.read_text()) - 1
    assert abs(report["relative_difference"]) < 0.005
    assert command("eval", "--text", path, "--tokens", 6) == 0
    out = capsys.readouterr().out
    assert "bedtime-1m on 5 tokens" in out
    assert "the tokenizer cannot encode, so were left out: 'ë'" in out


def test_eval_without_text_uses_what_the_model_writes(tmp_path, capsys):
    path = tmp_path / "image"
    random_image(CONFIG, 2, tokenizer=byte_tokenizer()).save(path)
    assert command("eval", "--image", path, "--tokens", 64, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["tokens"], report["text"]) == (63, "written by the reference")


def test_eval_refuses(tmp_path):
    with pytest.raises(RequestError, match=r"--tokens must be at least 2, not 1"):
        command("eval", "--tokens", 1)
    with pytest.raises(RequestError, match=r"absent\.txt cannot be read: No such file"):
        command("eval", "--text", tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
    with pytest.raises(RequestError, match=r"is not UTF-8 text .* at byte 3"):
        command("eval", "--text", tmp_path / "latin.txt")
