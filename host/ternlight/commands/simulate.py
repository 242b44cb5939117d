"""`ternlight simulate`: the simulated device on a port, for any number of clients one after the other."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "simulate",
        help="run the simulated device on a port, for --device socket://127.0.0.1:PORT",
        description="Run the simulated device in the foreground until it is interrupted.",
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any that is free)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from ternlight_boards.simulator import DIVISOR, GEOMETRY
    from ternlight_sim.simulated_device import build_simulator
    from ternlight_sim.simulator import serve

    from .progress import steps

    with steps() as shown:
        executable = build_simulator(GEOMETRY, DIVISOR, progress=shown.status)
    serve(executable, port=args.port, snapshot=None, announce=lambda url: print(f"--device {url}", flush=True))
    return 0
