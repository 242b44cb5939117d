"""The command line: `ternlight COMMAND`. Every error is one line, with an exit code per class (ternlight.errors)."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence

from .commands import bench, build, chat, doctor, flash, generate, import_, info, serve, simulate, train, verify
from .commands import eval as eval_command
from .errors import TernlightError

INTERRUPTED = 130
BROKEN_PIPE = 141
COMMANDS = (
    generate,
    chat,
    serve,
    verify,
    bench,
    info,
    train,
    import_,
    eval_command,
    simulate,
    build,
    flash,
    doctor,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="ternlight", description="Ternary language models on open FPGAs, and on their simulation."
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell what happens on the link and in builds")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.WARNING, format="%(name)s: %(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may write what the terminal cannot show.
        sys.stdout.reconfigure(errors="replace")
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except TernlightError as error:
        print(f"ternlight: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("\nternlight: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, and what is left for it must not be flushed at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
