"""`ternlight train`: an hgrn_bit model from text files, as a checkpoint that `ternlight import` reads."""

from __future__ import annotations

import argparse
import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import RequestError

if TYPE_CHECKING:  # PyTorch is an extra, and slow to import
    from ..training.run import Report

LINE_SECONDS = 30.0
"""Without a terminal, progress is a line every so many seconds."""
LENGTHS = ("steps", "minutes")
SETTINGS = ("times", "batch", "rate", "warmup", "seed")


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from text files",
        description="Train an hgrn_bit model. The same command again resumes an interrupted run; with more steps or "
        "minutes it goes on with a finished one.",
    )
    parser.add_argument("texts", nargs="+", type=Path, metavar="TEXT", help="text files, UTF-8")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIRECTORY", help="folder of the run")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int, metavar="N", help="end after so many steps")
    length.add_argument("--minutes", type=float, metavar="M", help="end after so much training time")
    parser.add_argument("--valid", type=Path, metavar="FILE", help="held-out text: its bits per byte at every save")
    model = parser.add_argument_group("model")
    model.add_argument("--hidden", type=int, default=160, metavar="D", help="width (default: %(default)s)")
    model.add_argument("--intermediate", type=int, default=384, metavar="M", help="of the MLP (default: %(default)s)")
    model.add_argument("--layers", type=int, default=4, metavar="L", help="(default: %(default)s)")
    model.add_argument("--vocabulary", type=int, default=1024, metavar="V", help="tokens (default: %(default)s)")
    how = parser.add_argument_group("training")
    how.add_argument("--times", type=int, default=256, metavar="T", help="tokens of a window (default: %(default)s)")
    how.add_argument("--batch", type=int, default=16, metavar="B", help="windows of a step (default: %(default)s)")
    how.add_argument("--rate", type=float, default=0.01, help="largest learning rate (default: %(default)s)")
    how.add_argument("--warmup", type=int, default=100, metavar="N", help="steps of its rise (default: %(default)s)")
    how.add_argument("--seed", type=int, default=0, help="of the first weights and the order (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: a GPU where there is one (default)")
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: PyTorch's)")
    parser.add_argument("--eager", action="store_true", help="without compiling: slower, but starts at once")
    parser.add_argument(
        "--save-every", type=float, default=300.0, metavar="SECONDS", help="between checkpoints (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="report as JSON, at the end")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and report where the run ended; an interrupted one ends in KeyboardInterrupt, saved."""
    torch = _torch()
    from ..checkpoint import TOKENIZER_FILE
    from ..config import ModelConfig
    from ..tokenizer import Tokenizer
    from ..training.corpus import encode, read_texts, train_tokenizer
    from ..training.run import HeldOut, Run, Settings

    settings = Settings(**{name: getattr(args, name) for name in (*LENGTHS, *SETTINGS)})
    sizes = {name: getattr(args, name) for name in ("hidden", "intermediate", "layers", "vocabulary")}
    for name, size in sizes.items():
        if size < 1 or (name in ("hidden", "intermediate") and size % 8):
            raise RequestError(f"--{name} must be positive (widths: a multiple of 8), not {size}")
    if args.threads is not None:
        if args.threads < 1:
            raise RequestError(f"--threads must be positive, not {args.threads}")
        torch.set_num_threads(args.threads)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    texts = read_texts(args.texts)
    stored = args.output / TOKENIZER_FILE
    tokenizer = stored.read_bytes() if stored.is_file() else train_tokenizer(texts, args.vocabulary)
    tokens = Tokenizer(tokenizer).vocabulary
    if tokens != args.vocabulary:
        raise RequestError(
            f"{stored} has {tokens} tokens, not {args.vocabulary}: give --vocabulary {tokens}, or another folder"
        )
    training = Run(
        ModelConfig(**sizes, name=args.output.resolve().name),
        settings,
        encode(texts, tokenizer),
        tokenizer=tokenizer,
        directory=args.output,
        device=device,
        compiled=not args.eager,
    )
    held_out = None
    if args.valid is not None:
        valid = read_texts([args.valid])
        held_out = HeldOut.of(encode(valid, tokenizer), len(valid[0].encode()))
    with _progress(training.step) as show, _interrupts() as interrupted:
        training.train(save_every=args.save_every, report=show, stop=lambda: bool(interrupted), held_out=held_out)
    if training.done < 1:
        raise KeyboardInterrupt
    report = {
        "directory": str(args.output),
        "steps": training.step,
        "tokens": training.step * settings.times * settings.batch,
        "minutes": training.seconds / 60,
        "nats_per_token": training.loss,
        "held_out_bits_per_byte": training.held_out,
    }
    if args.json:
        print(json.dumps(report))
    else:
        print(
            f"{args.output}: {training.step:,} steps, {report['tokens']:,} tokens in {report['minutes']:.1f} minutes, "
            f"{training.loss:.3f} nats per token"
        )
        if training.held_out is not None:
            print(f"held out: about {training.held_out:.3f} bits per byte; `ternlight eval` says it exactly")
    return 0


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise RequestError("training needs PyTorch: pip install 'ternlight[train]'") from None
    return torch


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects the signals that ask for an end, so that a step is never cut in two."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress(first: int) -> Iterator[Any]:
    """Shows reports on standard error: a bar on a terminal, else a line now and then; gives the function to call."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    shown = 0.0
    columns = (BarColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("compiling", total=1.0)

        def show(report: Report) -> None:
            nonlocal shown
            progress.update(task, completed=report.done, description=_phrase(report))
            now = time.monotonic()
            if not console.is_terminal and (now - shown > LINE_SECONDS or report.step == first + 1):
                console.print(_phrase(report), soft_wrap=True, highlight=False)
                shown = now

        yield show


def _phrase(report: Report) -> str:
    minutes = report.seconds_left / 60
    held_out = "" if report.held_out is None else f", held out {report.held_out:.3f} bits per byte"
    return (
        f"step {report.step:,} ({report.done:.1%}), loss {report.loss:.3f} nats per token{held_out}, "
        f"{report.speed:,.0f} tokens/s, {minutes:.0f} minutes left"
    )
