"""`ternlight generate`: a device continues a prompt; the text streams as it comes."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing
from typing import Any

from .device import (
    add_device_arguments,
    add_request_arguments,
    device_of,
    image_of,
    prompt_of,
    sampling_of,
)


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "generate",
        help="continue a prompt",
        description="Continue a prompt on a device. "
        "The text goes to standard output, a line of figures to standard error.",
    )
    add_request_arguments(parser, tokens=128)
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
