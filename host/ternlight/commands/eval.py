"""`ternlight eval`: a model on a text: float reference, integer golden model, and a device."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FitError, MismatchError, RequestError
from ..link import SIMULATOR
from .device import add_device_arguments
from .import_ import IMAGE_SUFFIX

if TYPE_CHECKING:  # so that `--help` does without numpy
    from ternlight_sim.float_reference import FloatReference
    from ternlight_sim.verify import Reading

    from ..checkpoint import Checkpoint
    from ..image import Image
    from .text import Text

WRITTEN_TOKENS = 4096
"""Tokens that the model writes for itself where no text is given."""
WRITTEN_STREAMS = 16
DEVICE_TOKENS = 256
NO_DEVICE = "none"
ROOMY_SIZES = {
    "inputs": 64,
    "rows": 64,
    "vector": 64,
    "activations": 1 << 16,
    "accumulator": 24,
    "store_words": 1 << 24,
    "gain_words": 1 << 14,
    "residual_words": 1 << 12,
    "gated_words": 1 << 12,
    "state_words": 1 << 16,
    "program_words": 1 << 16,
}
"""A device for any model: of its geometry, the golden model's bits only depend on embedding_bits, here the most."""


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "eval",
        help="judge a model on a text: float reference, golden model, device",
        description="Bits per byte and perplexity of the float reference and the integer golden model on a text, how "
        "far they agree, and whether a device that reads the beginning of the text equals the golden model.",
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="[MODEL] [TEXT]",
        help=f"an image (*{IMAGE_SUFFIX}) or the folder of a checkpoint (default: the image that ships), "
        "and a text file (default: what the model writes itself)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIRECTORY",
        help="reference of an image (default: the image, computed in floating point)",
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="only the first N tokens of the text")
    add_device_arguments(parser)
    parser.add_argument(
        "--device-tokens",
        type=int,
        default=DEVICE_TOKENS,
        metavar="N",
        help=f"tokens that the device reads (default: %(default)s); --device {NO_DEVICE} leaves it out",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate and report; exit code 9 for a device that differs."""
    from ternlight_sim.evaluate import compare, windows
    from ternlight_sim.float_reference import FloatReference
    from ternlight_sim.machine import Machine

    from ..compiler import compile_image
    from ..geometry import Geometry
    from .progress import progress_bar

    for option, count in (("--tokens", args.tokens), ("--device-tokens", args.device_tokens)):
        if count is not None and count < 2:
            raise RequestError(f"{option} must be at least 2, not {count}")
    model, source = split_paths(args.paths)
    image, checkpoint = _open(model, args.checkpoint)
    reference = FloatReference(image) if checkpoint is None else FloatReference.from_checkpoint(checkpoint)
    text = _text(image, reference, source, args.tokens)
    with progress_bar("float reference and golden model") as progress:
        machine = Machine(compile_image(image, Geometry(**ROOMY_SIZES)))
        comparison = compare(reference, machine, windows(text.tokens), text.bytes, progress=progress)
    report: dict[str, Any] = {
        "image": image.config.name,
        "identity": f"{image.identity:08x}",
        "text": "written by the reference" if source is None else str(source),
        "tokens": comparison.reference.tokens,
        "bytes": text.bytes,
        "left_out": text.left_out,
        "reference_bits_per_byte": comparison.reference.bits_per_byte,
        "reference_perplexity": comparison.reference.perplexity,
        "golden_bits_per_byte": comparison.candidate.bits_per_byte,
        "golden_perplexity": comparison.candidate.perplexity,
        "relative_difference": comparison.relative_difference,
        "agreement": comparison.agreement,
        "greedy_choices_differ": comparison.choices_differ,
        "logit_error": comparison.logit_error,
        "device": None if args.device == NO_DEVICE else _device(args, image, reference, text),
    }
    print(json.dumps(report) if args.json else _table(report))
    device = report["device"]
    if device is not None and not device.get("equal", True):
        raise MismatchError(
            f"{device['choices_differ']} of the device's {device['tokens']} choices differ from the golden model's, "
            f"and its state {'differs' if device['state'] else 'does not'}: `ternlight verify` finds the first one"
        )
    return 0


def split_paths(paths: list[Path]) -> tuple[Path | None, Path | None]:
    """Model and text: a single path is a model if it is a folder or ends as images do. Raises RequestError."""
    if len(paths) > 2:
        raise RequestError(f"eval takes a model and a text, not {len(paths)} paths")
    if len(paths) == 2:
        return paths[0], paths[1]
    if paths and not paths[0].is_dir() and paths[0].suffix != IMAGE_SUFFIX:
        return None, paths[0]
    return (paths[0] if paths else None), None


def _open(model: Path | None, reference: Path | None) -> tuple[Image, Checkpoint | None]:
    """The image, of a checkpoint calibrated on its own text, and the checkpoint that it is judged by."""
    from ternlight_sim.calibrate import calibrate

    from ..checkpoint import Checkpoint, quantise
    from ..image import Image
    from .progress import progress_bar

    if model is not None and model.is_dir():
        if reference is not None:
            raise RequestError(f"{model} is a checkpoint, and its own reference: leave out --checkpoint")
        checkpoint = Checkpoint.open(model)
        with progress_bar("calibrating") as progress:
            return calibrate(quantise(checkpoint), progress=progress), checkpoint
    image = Image.default() if model is None else Image.load(model)
    return image, None if reference is None else Checkpoint.open(reference)


def _text(image: Image, reference: FloatReference, source: Path | None, limit: int | None) -> Text:
    """The text to judge by: of a file, or what the reference writes."""
    import numpy as np

    from .progress import progress_bar
    from .text import Text, image_tokenizer, read_tokens

    if source is not None:
        return read_tokens(image.tokenizer, image.config.name, source, limit=limit)
    tokenizer = image_tokenizer(image)
    steps = -(-(limit or WRITTEN_TOKENS) // WRITTEN_STREAMS)
    first = np.full(WRITTEN_STREAMS, image.config.bos or 0)
    with progress_bar("writing a text") as progress:
        tokens = reference.write(first, steps, np.random.default_rng(0), progress=progress).reshape(-1)
    return Text(tokens, len(tokenizer.decode(tokens.tolist()).encode()), [])


def _device(args: argparse.Namespace, image: Image, reference: FloatReference, text: Text) -> dict[str, Any]:
    """What a device makes of the beginning of the text, or why it cannot."""
    from ternlight_sim.evaluate import evaluate, windows
    from ternlight_sim.verify import read

    from .device import device_of
    from .progress import progress_bar
    from .text import image_tokenizer

    tokens = text.tokens[: args.device_tokens]
    # The bytes of part of a text are those of its tokens.
    byte_count = len(image_tokenizer(image).decode(tokens.tolist()).encode())
    try:
        with device_of(args, image) as device, progress_bar("reading on the device") as progress:
            reading: Reading = read(device, tokens, byte_count, layers=image.config.layers, progress=progress)
    except FitError as error:
        return {"url": args.device, "unfit": str(error)}
    expected = evaluate(reference, windows(tokens, streams=1), byte_count)
    return {
        "url": args.device,
        "tokens": reading.score.tokens,
        "equal": reading.choices_differ == 0 and reading.state is None,
        "choices_differ": reading.choices_differ,
        "state": reading.state and asdict(reading.state),
        "bits_per_byte": reading.score.bits_per_byte,
        "perplexity": reading.score.perplexity,
        "reference_bits_per_byte": expected.bits_per_byte,
        "agreement": float((reading.choices == expected.choices).mean()),
    }


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['image']} on {report['tokens']:,} tokens ({report['bytes']:,} bytes), text {report['text']}",
        "",
        f"{'':22}{'bits per byte':>14}{'perplexity':>12}{'top-1 agrees':>14}{'logit error':>13}",
        f"{'float reference':22}{report['reference_bits_per_byte']:14.4f}{report['reference_perplexity']:12.3f}",
        f"{'integer golden model':22}{report['golden_bits_per_byte']:14.4f}{report['golden_perplexity']:12.3f}"
        f"{report['agreement']:14.2%}{report['logit_error']:13.3f}",
    ]
    device = report["device"]
    if device is not None and "unfit" not in device:
        name = "simulated device" if device["url"] == SIMULATOR else "device"
        lines.append(f"{name:22}{device['bits_per_byte']:14.4f}{device['perplexity']:12.3f}{device['agreement']:14.2%}")
    lines += ["", f"golden against float: {report['relative_difference']:+.3%} bits per byte"]
    if device is not None and "unfit" in device:
        lines.append(f"no device: {device['unfit']}")
    elif device is not None:
        lines.append(
            f"device: the first {device['tokens']} tokens only, for which the float reference has "
            f"{device['reference_bits_per_byte']:.4f} bits per byte;"
        )
        if device["equal"]:
            lines.append("its choices and its final state equal those of the golden model, whose logits these are")
    if report["left_out"]:
        lines.append(f"the tokenizer cannot encode, so were left out: {' '.join(map(repr, report['left_out']))}")
    return "\n".join(lines)
