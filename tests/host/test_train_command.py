"""`ternlight train` from arguments to a checkpoint that imports and evaluates."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch

from ternlight.cli import INTERRUPTED, main
from ternlight.errors import CheckpointError, RequestError
from ternlight.image import Image
from ternlight.training.run import STATE_FILE

SIZES = ("--hidden", 16, "--intermediate", 24, "--layers", 2, "--vocabulary", 280, "--times", 16, "--batch", 2)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    lines = (f"The {animal} ran after the {other}.\n" for animal in ("cat", "dog", "fox") for other in ("hen", "owl"))
    path.write_text("".join(lines) * 12)
    return path


def train(text, directory, *options: object) -> int:
    arguments = ("train", text, "-o", directory, "--eager", "--threads", 1, "--device", "cpu", *SIZES, *options)
    threads = torch.get_num_threads()
    try:
        return main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def test_train_import_eval(tmp_path, text, capsys):
    directory = tmp_path / "little"
    assert train(text, directory, "--steps", 30, "--valid", text, "--json") == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["steps"], report["tokens"]) == (30, 30 * 2 * 16)
    assert "step 1 (3.3%), loss 5." in captured.err
    image = tmp_path / "little.ternlight"
    assert main(["import", str(directory), "-o", str(image), "--text", str(text)]) == 0
    assert Image.load(image).config.name == "little"
    arguments = ["eval", str(directory), str(text), "--device", "none", "--json"]
    capsys.readouterr()
    assert main(arguments) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["left_out"] == []
    assert evaluated["reference_bits_per_byte"] == pytest.approx(report["held_out_bits_per_byte"], rel=0.05)


def test_the_same_command_goes_on(tmp_path, text, capsys):
    assert train(text, tmp_path / "run", "--steps", 3) == 0
    # A tokenizer that was made once stays.
    text.write_text(text.read_text().replace("fox", "emu"))
    assert train(text, tmp_path / "run", "--steps", 5) == 0
    captured = capsys.readouterr()
    assert "run: 5 steps, 160 tokens" in captured.out
    assert "step 4 (80.0%)" in captured.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves(tmp_path, text, capsys, monkeypatch, number):
    from ternlight.training.run import Run

    advance = Run._advance

    def interrupted_at_two(self):
        loss = advance(self)
        if self.step == 2:
            os.kill(os.getpid(), number)
        return loss

    before = signal.getsignal(number)
    monkeypatch.setattr(Run, "_advance", interrupted_at_two)
    assert train(text, tmp_path / "run", "--steps", 1000) == INTERRUPTED
    assert capsys.readouterr().err.endswith("ternlight: interrupted\n")
    assert torch.load(tmp_path / "run" / STATE_FILE, weights_only=True)["step"] == 2
    assert signal.getsignal(number) == before


def test_refuses_another_tokenizer(tmp_path, text, capsys):
    assert train(text, tmp_path / "run", "--steps", 1) == 0
    capsys.readouterr()
    assert train(text, tmp_path / "run", "--steps", 1, "--vocabulary", 270) == RequestError.exit_code
    assert "tokenizer.json has 280 tokens, not 270: give --vocabulary 280, or another folder" in capsys.readouterr().err
    (tmp_path / "run" / "tokenizer.json").write_text("{}")
    assert train(text, tmp_path / "run", "--steps", 1) == CheckpointError.exit_code
    assert "tokenizer.json is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--hidden", 20), "--hidden must be positive (widths: a multiple of 8), not 20"),
        (("--layers", 0), "--layers must be positive (widths: a multiple of 8), not 0"),
        (("--threads", 0), "--threads must be positive, not 0"),
        (("--batch", 0), "batch must be positive, not 0"),
    ],
)
def test_refuses(tmp_path, text, capsys, options, message):
    assert train(text, tmp_path / "run", "--steps", 1, *options) == RequestError.exit_code
    assert capsys.readouterr().err == f"ternlight: {message}\n"
