"""`ternlight import`: a HuggingFace checkpoint becomes a packed, calibrated image."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

IMAGE_SUFFIX = ".ternlight"


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "import",
        help="turn a HuggingFace checkpoint into an image",
        description="Quantise and calibrate an hgrn_bit checkpoint (config.json, safetensors, tokenizer.json).",
    )
    parser.add_argument("directory", type=Path, help="folder of the checkpoint")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="image to write (default: its name here)")
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="calibrate on this text (default: on what the model writes itself)"
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import the checkpoint and say what became of it."""
    from ternlight_sim.calibrate import calibrate

    from ..checkpoint import Checkpoint, quantise
    from .progress import progress_bar
    from .text import read_tokens

    image = quantise(Checkpoint.open(args.directory))
    text = None if args.text is None else read_tokens(image, args.text)
    with progress_bar("calibrating") as progress:
        image = calibrate(image, None if text is None else text.tokens, progress=progress)
    output = args.output or Path(image.config.name + IMAGE_SUFFIX)
    image.save(output)
    config = image.config
    report = {
        "image": str(output),
        "bytes": output.stat().st_size,
        "identity": f"{image.identity:08x}",
        "name": config.name,
        "hidden": config.hidden,
        "intermediate": config.intermediate,
        "layers": config.layers,
        "vocabulary": config.vocabulary,
        "trits": sum(trits.size for trits in image.trits.values()),
        "tokenizer": image.tokenizer is not None,
        "calibrated_on": "its own text" if args.text is None else str(args.text),
        "left_out": [] if text is None else text.left_out,
    }
    print(json.dumps(report) if args.json else _sentences(report))
    return 0


def _sentences(report: dict[str, Any]) -> str:
    lines = [
        f"{report['image']}: {report['name']}, {report['layers']} layers of width {report['hidden']}, "
        f"MLP {report['intermediate']}, {report['vocabulary']} tokens",
        f"{report['trits']:,} ternary weights in {report['bytes']:,} bytes; identity {report['identity']}; "
        f"calibrated on {report['calibrated_on']}",
    ]
    if report["left_out"]:
        lines.append(f"the tokenizer cannot encode, so were left out: {' '.join(map(repr, report['left_out']))}")
    if not report["tokenizer"]:
        lines.append("without tokenizer.json: it can only be used with tokens, not with text")
    return "\n".join(lines)
