"""`ternlight import`: a HuggingFace checkpoint becomes a packed, calibrated image."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

IMAGE_SUFFIX = ".ternlight"
IN_MEMORY_WEIGHTS = 1 << 26
"""Larger models are imported layer by layer, and cannot write a text for their calibration."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ("config.json", "tokenizer.json", "*.safetensors", "model.safetensors.index.json")


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "import",
        help="turn a HuggingFace checkpoint into an image",
        description="Quantise and calibrate an hgrn_bit checkpoint (config.json, safetensors, tokenizer.json). "
        "Of large models only a layer at a time is in memory.",
    )
    parser.add_argument("checkpoint", help="folder of the checkpoint, or its name on the HuggingFace hub (OWNER/NAME)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="image to write (default: its name here)")
    parser.add_argument(
        "--text",
        type=Path,
        metavar="FILE",
        help="calibrate on this text (default: on what the model writes itself; on random tokens if it is large)",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Import the checkpoint and say what became of it."""
    from ternlight_sim.calibrate import calibrate
    from ternlight_sim.import_layers import import_layers

    from ..checkpoint import Checkpoint, quantise
    from ..errors import ImageError
    from ..tensorfile import TensorFile
    from .progress import progress_bar
    from .text import read_tokens

    checkpoint = Checkpoint.open(_directory(args.checkpoint))
    config = checkpoint.config
    output = args.output or Path(config.name + IMAGE_SUFFIX)
    text = None if args.text is None else read_tokens(checkpoint.tokenizer, config.name, args.text)
    tokens = None if text is None else text.tokens
    weights = sum(rows * columns for rows, columns in config.product_shapes().values())
    large = weights > IN_MEMORY_WEIGHTS
    if large:
        with progress_bar("importing") as progress:
            import_layers(checkpoint, output, tokens, progress=progress)
    else:
        with progress_bar("calibrating") as progress:
            calibrate(quantise(checkpoint), tokens, progress=progress).save(output)
    report = {
        "image": str(output),
        "bytes": output.stat().st_size,
        "identity": TensorFile(output, error=ImageError).metadata["sha256"][:8],
        "name": config.name,
        "hidden": config.hidden,
        "intermediate": config.intermediate,
        "layers": config.layers,
        "vocabulary": config.vocabulary,
        "trits": weights,
        "tokenizer": checkpoint.tokenizer is not None,
        "calibrated_on": str(args.text or ("random tokens" if large else "its own text")),
        "left_out": [] if text is None else text.left_out,
    }
    print(json.dumps(report) if args.json else _sentences(report))
    return 0


def _directory(name: str) -> Path:
    """The folder of a checkpoint: as given, or downloaded from the hub unless it is there already."""
    path = Path(name)
    if path.exists() or not HUB_NAME.fullmatch(name):
        return path
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            f"{path} is not a directory; to download it from the hub: pip install 'ternlight[hub]'"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # of a dozen classes, by what fails: network, name, access, disk
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} is not a directory, and cannot be downloaded from the hub ({reason}): check name and network"
        ) from None


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
