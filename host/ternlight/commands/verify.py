"""`ternlight verify`: a device against the golden model, token by token."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
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
        "verify",
        help="hold a device to the golden model",
        description="Generate on a device and with the golden model, and compare each token and the final state.",
    )
    add_request_arguments(parser, tokens=64)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare and report; exit code 9 for a difference."""
    from ternlight_sim.verify import verify

    from ..errors import MismatchError
    from .progress import progress_bar
    from .text import image_tokenizer

    sampling, image = sampling_of(args), image_of(args)
    tokenizer = image_tokenizer(image)
    prompt = prompt_of(args, image)
    with device_of(args, image) as device, progress_bar("comparing") as progress:
        result = verify(
            device,
            prompt,
            args.tokens,
            sampling,
            layers=image.config.layers,
            slot=args.slot,
            progress=progress,
        )
    difference = result.difference
    if args.json:
        print(
            json.dumps(
                {
                    "prompt_tokens": len(prompt),
                    "equal_tokens": len(result.tokens),
                    "equal": difference is None,
                    "difference": difference and asdict(difference),
                }
            )
        )
    elif difference is None:
        print(f"{len(prompt)} prompt and {len(result.tokens)} generated tokens and the final state are equal")
    if difference is None:
        return 0
    if difference.state is None:
        where = "the recurrent states before it are equal: head or sampler differ"
    else:
        state = difference.state
        where = (
            f"the recurrent state differs first in layer {state.layer}, element {state.element}: "
            f"{state.device} on the device, {state.golden} in the golden model"
        )
    if difference.device is None and difference.golden is None:
        what = f"all {difference.index} tokens are equal, but"
    else:
        chosen, wanted = (
            "nothing" if token is None else f"{token} ({tokenizer.decode([token])!r})"
            for token in (difference.device, difference.golden)
        )
        what = f"generated token {difference.index} is {chosen} on the device, and {wanted} in the golden model;"
    raise MismatchError(f"{what} {where}")
