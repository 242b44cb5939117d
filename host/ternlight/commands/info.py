"""`ternlight info`: what a device is, and what an image needs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from .device import add_device_arguments, add_image_argument, device_of, image_of

if TYPE_CHECKING:
    from ..device import Device


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "info",
        help="identity, geometry, sessions and counters of a device, and the size of an image in it",
        description="Describe a device and an image, without loading it.",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")
    add_image_argument(parser)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe device and image."""
    from ..compiler import compile_image
    from ..errors import FitError

    image = image_of(args)
    with device_of(args, None) as device:
        geometry = device.geometry
        report: dict[str, Any] = {
            "device": args.device,
            "build_id": f"{device.build_id:08x}",
            "lanes": geometry.lanes,
            "geometry": asdict(geometry),
            "loaded_image": f"{device.image_id:08x}" if device.image_id else None,
            "sessions": [_session(device, slot) for slot in range(geometry.slots)],
            "counters": {counter.name.lower(): value for counter, value in device.counters().items()},
        }
    try:
        model = compile_image(image, geometry)
        needs: dict[str, Any] = {
            "fits": True,
            "identity": f"{model.identity:08x}",
            "program_words": len(model.program),
            "gain_words": len(model.gains),
            "store_words": len(model.store),
            "state_words_per_session": model.state_stride,
            "ternary_weights": model.macs,
        }
    except FitError as error:
        needs = {"fits": False, "reason": str(error)}
    report["image"] = {"name": image.config.name, **needs}
    if args.json:
        print(json.dumps(report))
        return 0
    sizes = ", ".join(f"{name} {value:,}" for name, value in report["geometry"].items() if name != "clock_hz")
    print(
        f"device   {args.device}, build {report['build_id']}, {geometry.clock_hz / 1e6:g} MHz, {geometry.lanes} lanes"
    )
    print(f"geometry {sizes}")
    print(f"image    {report['loaded_image'] or 'none loaded'}")
    for session in report["sessions"]:
        state = "running" if session["running"] else f"idle ({session['finish']})"
        print(f"session  {session['slot']}: {state}, {session['position']:,} tokens seen")
    print("counters " + ", ".join(f"{name} {value:,}" for name, value in report["counters"].items()))
    if needs["fits"]:
        sizes = ", ".join(
            f"{name.replace('_', ' ')} {value:,}" for name, value in needs.items() if name not in ("fits", "identity")
        )
        print(f"{image.config.name} ({needs['identity']}) fits: {sizes}")
    else:
        print(f"{image.config.name} does not fit: {needs['reason']}")
    return 0


def _session(device: Device, slot: int) -> dict[str, Any]:
    status = device.session(slot).status()
    return {"slot": slot} | status._asdict() | {"finish": status.finish.name.lower()}
