"""The commands `import` and `eval` from arguments to report."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from ternlight import connect
from ternlight.abi import Window
from ternlight.commands import eval as eval_command
from ternlight.commands import import_
from ternlight.errors import CheckpointError, ImageError, MismatchError, RequestError
from ternlight.geometry import Geometry
from ternlight.image import Image
from ternlight_sim.device_model import DeviceModel
from ternlight_sim.random_model import (
    BYTE_TOKENS,
    byte_tokenizer,
    random_checkpoint,
    random_config,
    random_image,
    write_checkpoint,
)

GEOMETRY = Geometry(inputs=8, rows=8, vector=4, activations=64, accumulator=16, slots=2, prompt=16, ring=16)
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
    assert command("eval", output, text, "--checkpoint", checkpoint, "--device", "none", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    length = len(text.read_bytes())
    assert (report["tokens"], report["bytes"]) == (length - 1, length)
    assert report["identity"] == f"{image.identity:08x}"
    assert report["golden_bits_per_byte"] / report["reference_bits_per_byte"] - 1 == pytest.approx(
        report["relative_difference"]
    )
    assert abs(report["relative_difference"]) < 0.02


def test_a_large_model_is_imported_by_layers(tmp_path, checkpoint, text, monkeypatch, capsys):
    monkeypatch.setattr(import_, "IN_MEMORY_WEIGHTS", 100)
    output = tmp_path / "large.ternlight"
    assert command("import", checkpoint, "-o", output, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    image = Image.load(output)
    assert report["calibrated_on"] == "random tokens"
    assert report["identity"] == f"{image.identity:08x}"
    assert command("import", checkpoint, "-o", output, "--text", text) == 0
    assert f"calibrated on {text}" in capsys.readouterr().out
    assert Image.load(output).calibration != image.calibration


def test_import_from_the_hub(checkpoint, tmp_path, monkeypatch, capsys):
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name == "owner/absent":
            raise OSError("404 Client Error\nand much more")
        return str(checkpoint)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=download))
    monkeypatch.chdir(tmp_path)
    assert command("import", "owner/tiny") == 0
    assert "tiny.ternlight" in capsys.readouterr().out
    assert asked == [("owner/tiny", list(import_.HUB_FILES))]
    with pytest.raises(CheckpointError, match=r"owner/absent is not .* \(404 Client Error\): check name and network$"):
        command("import", "owner/absent")
    # What is there is not looked for elsewhere, and paths are not names.
    (tmp_path / "owner").mkdir()
    checkpoint.rename(tmp_path / "owner" / "tiny")
    assert command("import", "owner/tiny") == 0
    with pytest.raises(CheckpointError, match="a/b/c is not a directory"):
        command("import", "a/b/c")
    assert len(asked) == 2
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"to download it from the hub: pip install 'ternlight\[hub\]'"):
        command("import", "owner/absent")


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
        command("eval", tmp_path / "mute.ternlight")


def test_eval_of_the_shipped_image(tmp_path, capsys):
    path = tmp_path / "text.txt"
    path.write_text("Once upon a time there was a little girl, and her name was Zoë.")
    assert command("eval", path, "--device", "none", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["left_out"] == ["ë"]
    assert report["bytes"] == len(path.read_text()) - 1
    assert abs(report["relative_difference"]) < 0.005
    assert command("eval", path, "--tokens", 6, "--device", "none") == 0
    out = capsys.readouterr().out
    assert "bedtime-1m on 5 tokens" in out
    assert "the tokenizer cannot encode, so were left out: 'ë'" in out


def test_eval_without_text_uses_what_the_model_writes(tmp_path, capsys):
    path = tmp_path / "image.ternlight"
    random_image(CONFIG, 2, tokenizer=byte_tokenizer()).save(path)
    assert command("eval", path, "--tokens", 64, "--device", "none", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["tokens"], report["text"]) == (63, "written by the reference")


@pytest.fixture
def board(monkeypatch):
    """What `--device board` opens."""
    model = DeviceModel(GEOMETRY)
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: model)
    return model


def test_eval_of_a_checkpoint_with_a_device(checkpoint, text, board, capsys):
    options = ("--device", "board", "--device-tokens", 20)
    assert command("eval", checkpoint, text, *options, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reference_perplexity"] == pytest.approx(
        2 ** (report["reference_bits_per_byte"] * report["bytes"] / report["tokens"])
    )
    assert report["agreement"] == 1 - report["greedy_choices_differ"] / report["tokens"]
    assert report["logit_error"] > 0
    device = report["device"]
    assert (device["tokens"], device["equal"], device["choices_differ"], device["state"]) == (19, True, 0, None)
    assert device["bits_per_byte"] == pytest.approx(device["reference_bits_per_byte"], rel=0.05)
    assert command("eval", checkpoint, text, *options) == 0
    table = capsys.readouterr().out
    assert f"float reference{report['reference_bits_per_byte']:21.4f}" in table
    assert "its choices and its final state equal those of the golden model" in table


def test_eval_finds_a_device_that_differs(checkpoint, text, board, capsys):
    arguments = ("eval", checkpoint, text, "--device", "board", "--device-tokens", 8)
    assert command(*arguments) == 0
    # The image stays loaded: only the device's own copy of the weights is spoilt.
    board.bus.memories[Window.STORE][:] ^= 0x5A5A5A5A
    with pytest.raises(
        MismatchError, match=r"of the device's 7 choices differ .* and its state differs: `ternlight ver"
    ):
        command(*arguments)
    assert '"equal": false' not in capsys.readouterr().err


def test_eval_of_a_model_that_fits_no_device(checkpoint, text, monkeypatch, capsys):
    small = replace(GEOMETRY, program_words=8)
    monkeypatch.setattr(connect, "open_transport", lambda url, *, baud: DeviceModel(small))
    assert command("eval", checkpoint, text, "--device", "board", "--tokens", 9) == 0
    assert "no device: " in capsys.readouterr().out


def test_eval_refuses(tmp_path, checkpoint, text):
    with pytest.raises(RequestError, match=r"--tokens must be at least 2, not 1"):
        command("eval", "--tokens", 1)
    with pytest.raises(RequestError, match=r"--device-tokens must be at least 2, not 0"):
        command("eval", "--device-tokens", 0)
    with pytest.raises(RequestError, match=r"eval takes a model and a text, not 3 paths"):
        command("eval", text, text, text)
    with pytest.raises(RequestError, match=r"tiny is a checkpoint, and its own reference: leave out --checkpoint"):
        command("eval", checkpoint, text, "--checkpoint", checkpoint)
    with pytest.raises(RequestError, match=r"absent\.txt cannot be read: No such file"):
        command("eval", tmp_path / "absent.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 noir")
    with pytest.raises(RequestError, match=r"is not UTF-8 text .* at byte 3"):
        command("eval", tmp_path / "latin.txt")
