"""`ternlight generate`: a device continues a prompt; the text streams as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import Any

from .device import (
    add_device_arguments,
    add_image_argument,
    add_sampling_arguments,
    device_of,
    image_of,
    prompt_of,
    sampling_of,
)

DEFAULT_PROMPT = "Once upon a time there was a little"


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt on a device. "
        "The text goes to standard output, a line of figures to standard error.",
    )
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT, help='text to continue (default: "%(default)s")')
    parser.add_argument("-n", "--tokens", type=int, default=128, metavar="N", help="at most so many (default: 128)")
    parser.add_argument("--slot", type=int, default=0, help="session slot (default: 0)")
    parser.add_argument("--json", action="store_true", help="report text and figures as JSON, at the end")
    add_sampling_arguments(parser)
    add_image_argument(parser)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Generate and report."""
    from ..generate import Writer

    sampling, image = sampling_of(args), image_of(args)
    prompt_of(args, image)  # to refuse it before the slow steps
    with device_of(args, image) as device:
        writer = Writer(device, image, slot=args.slot)
        with closing(writer.write(args.prompt, args.tokens, sampling)) as pieces:
            if args.json:
                text = "".join(pieces)
            else:
                sys.stdout.write(args.prompt)
                for piece in pieces:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
                sys.stdout.write("\n")
    assert writer.stats is not None
    if args.json:
        print(json.dumps({"prompt": args.prompt, "text": text, **writer.stats.json()}))
    else:
        print(writer.stats, file=sys.stderr)
    return 0
