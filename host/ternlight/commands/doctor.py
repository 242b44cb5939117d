"""`ternlight doctor`: what a setup has and lacks, each line with its remedy."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ..link import SIMULATOR
from .device import add_device_arguments, add_image_argument, device_of, image_of

if TYPE_CHECKING:
    from ..device import Device
    from ..doctor import Finding

NEEDS_ATTENTION = 1


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "doctor",
        help="examine tools, ports and a device, with a remedy for each trouble",
        description="Examine tools, serial ports, boards on USB, and a device: its protocol, its link, and some tokens "
        "of the image, which is loaded for it. Exit code 1 if something failed; notes do not count.",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")
    parser.add_argument("--no-self-test", action="store_true", help="leave the device alone")
    add_image_argument(parser)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine and report."""
    from ..doctor import State

    findings = []
    for finding in _findings(args):
        findings.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    healthy = not any(finding.state == State.FAILED for finding in findings)
    if args.json:
        listed = [
            {"check": each.check, "state": each.state.value, "detail": each.detail, "remedy": each.remedy}
            for each in findings
        ]
        print(json.dumps({"healthy": healthy, "findings": listed}))
    return 0 if healthy else NEEDS_ATTENTION


def _findings(args: argparse.Namespace) -> Iterator[Finding]:
    from ..doctor import examine_device, examine_ports, examine_tools
    from ..link import SOCKET_SCHEME

    image = image_of(args)

    def connect() -> AbstractContextManager[Device]:
        return device_of(args, None)

    yield from examine_tools()
    yield from examine_ports(wanted=args.device != SIMULATOR and not args.device.startswith(SOCKET_SCHEME))
    if not args.no_self_test:
        yield from examine_device(connect, image)


def _line(finding: Finding) -> str:
    line = f"{finding.state.value:7} {finding.check:10} {finding.detail}"
    return f"{line}\n{'':18} -> {finding.remedy}" if finding.remedy else line
