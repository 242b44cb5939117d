"""What the commands that use a device share: its arguments, its image, and how they show its slow steps."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..link import DEFAULT_BAUD, SIMULATOR
from ..sampling import Sampling, check_max_tokens

if TYPE_CHECKING:  # so that `--help` does without numpy
    from ..device import Device
    from ..geometry import Geometry
    from ..image import Image

DEFAULT_PROMPT = "Once upon a time there was a little"


def add_device_arguments(parser: Any) -> None:
    """--device and --baud."""
    parser.add_argument(
        "--device",
        default=SIMULATOR,
        metavar="URL",
        help="serial port, socket://HOST:PORT, pcie:0000:01:00.0, or sim: the simulated device (default)",
    )
    parser.add_argument(
        "--baud", type=int, default=DEFAULT_BAUD, help="bits per second of a serial port (default: %(default)s)"
    )


def add_image_argument(parser: Any) -> None:
    """--image."""
    parser.add_argument("--image", type=Path, metavar="FILE", help="image (default: the one that ships with ternlight)")


def add_request_arguments(parser: Any, *, tokens: int) -> None:
    """The prompt, how many tokens follow (by default `tokens`), how, on which slot, of which image; --json."""
    parser.add_argument("prompt", nargs="?", default=DEFAULT_PROMPT, help='text to continue (default: "%(default)s")')
    parser.add_argument("--json", action="store_true", help="report as JSON, at the end")
    add_sampling_arguments(parser, tokens=tokens)
    add_image_argument(parser)


def add_sampling_arguments(parser: Any, *, tokens: int) -> None:
    """How many tokens (by default `tokens`), how they are chosen, and on which slot."""
    default = Sampling()
    parser.add_argument(
        "-n", "--tokens", type=int, default=tokens, metavar="N", help="at most so many (default: %(default)s)"
    )
    parser.add_argument("--slot", type=int, default=0, help="session slot (default: %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=default.temperature, help="0 is greedy (default: %(default)s)"
    )
    parser.add_argument(
        "--top-k", type=int, default=default.top_k, metavar="K", help="0 for all tokens (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=default.seed, help="of the sampling (default: %(default)s)")


def sampling_of(args: argparse.Namespace) -> Sampling:
    """The sampling that the arguments ask for; raises RequestError."""
    return Sampling(temperature=args.temperature, top_k=args.top_k, seed=args.seed)


def image_of(args: argparse.Namespace) -> Image:
    """The image that the arguments name."""
    from ..image import Image

    return Image.default() if args.image is None else Image.load(args.image)


def prompt_of(args: argparse.Namespace, image: Image) -> list[int]:
    """The prompt's tokens; raises RequestError for a prompt or a count of tokens that no device would take."""
    from .text import image_tokenizer

    check_max_tokens(args.tokens)
    return image_tokenizer(image).encode(args.prompt)


@contextmanager
def device_of(args: argparse.Namespace, image: Image | None, *, geometry: Geometry | None = None) -> Iterator[Device]:
    """The device that the arguments name, with the image loaded; slow steps are shown on standard error.

    geometry: of the simulated device, by default the one that ships.
    """
    from ..connect import open_device
    from .progress import steps

    with ExitStack() as stack:
        with steps() as shown:
            device = stack.enter_context(
                open_device(
                    args.device,
                    image=image,
                    geometry=geometry,
                    baud=args.baud,
                    status=shown.status,
                    progress=shown.progress,
                )
            )
        yield device
