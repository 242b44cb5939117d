"""`ternlight eval`: bits per byte of the integer golden model, next to the float reference on the same text."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .device import add_image_argument, image_of

WRITTEN_TOKENS = 4096
"""Tokens that the model writes for itself where no text is given."""
WRITTEN_STREAMS = 16
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
        help="bits per byte of an image against the float reference",
        description="Evaluate the integer golden model, which a device equals bit by bit, and the float reference.",
    )
    add_image_argument(parser)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIRECTORY",
        help="reference (default: the image, computed in floating point)",
    )
    parser.add_argument("--text", type=Path, metavar="FILE", help="text (default: what the reference writes itself)")
    parser.add_argument("--tokens", type=int, metavar="N", help="only the first N tokens of the text")
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluate both models and report."""
    import numpy as np

    from ternlight_sim.evaluate import Comparison, evaluate, windows
    from ternlight_sim.float_reference import FloatReference
    from ternlight_sim.machine import Machine

    from ..checkpoint import Checkpoint
    from ..compiler import compile_image
    from ..errors import RequestError
    from ..geometry import Geometry
    from .progress import progress_bar
    from .text import Text, image_tokenizer, read_tokens

    if args.tokens is not None and args.tokens < 2:
        raise RequestError(f"--tokens must be at least 2, not {args.tokens}")
    image = image_of(args)
    if args.checkpoint is None:
        reference = FloatReference(image)
    else:
        reference = FloatReference.from_checkpoint(Checkpoint.open(args.checkpoint))
    if args.text is not None:
        text = read_tokens(image, args.text, limit=args.tokens)
    else:
        tokenizer = image_tokenizer(image)
        steps = -(-(args.tokens or WRITTEN_TOKENS) // WRITTEN_STREAMS)
        first = np.full(WRITTEN_STREAMS, image.config.bos or 0)
        with progress_bar("writing a text") as progress:
            written = reference.write(first, steps, np.random.default_rng(0), progress=progress)
        tokens = written.reshape(-1)
        text = Text(tokens, len(tokenizer.decode(tokens.tolist()).encode()), [])
    cut = windows(text.tokens)
    with progress_bar("float reference") as progress:
        reference_score = evaluate(reference, cut, text.bytes, progress=progress)
    with progress_bar("integer golden model") as progress:
        machine = Machine(compile_image(image, Geometry(**ROOMY_SIZES)))
        comparison = Comparison(
            reference=reference_score, candidate=evaluate(machine, cut, text.bytes, progress=progress)
        )
    report = {
        "image": image.config.name,
        "identity": f"{image.identity:08x}",
        "text": "written by the reference" if args.text is None else str(args.text),
        "tokens": comparison.reference.tokens,
        "bytes": text.bytes,
        "left_out": text.left_out,
        "reference_bits_per_byte": comparison.reference.bits_per_byte,
        "golden_bits_per_byte": comparison.candidate.bits_per_byte,
        "relative_difference": comparison.relative_difference,
        "greedy_choices_differ": comparison.choices_differ,
    }
    print(json.dumps(report) if args.json else _sentences(report))
    return 0


def _sentences(report: dict[str, Any]) -> str:
    lines = [
        f"{report['image']} on {report['tokens']:,} tokens ({report['bytes']:,} bytes), text {report['text']}",
        f"float reference      {report['reference_bits_per_byte']:.4f} bits per byte",
        f"integer golden model {report['golden_bits_per_byte']:.4f} bits per byte "
        f"({report['relative_difference']:+.3%})",
        f"greedy choices that differ: {report['greedy_choices_differ']:,}",
    ]
    if report["left_out"]:
        lines.append(f"the tokenizer cannot encode, so were left out: {' '.join(map(repr, report['left_out']))}")
    return "\n".join(lines)
