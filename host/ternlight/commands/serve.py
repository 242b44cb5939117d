"""`ternlight serve`: an OpenAI-compatible HTTP server on a device, and a page to chat on."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .device import add_device_arguments, add_image_argument, device_of, image_of

if TYPE_CHECKING:
    from ..device import Device

HOST = "127.0.0.1"
PORT = 8000
PORT_MAX = 65535
GRACE_SECONDS = 3
"""Answers under way have so long to end after an interrupt."""


def add_parser(subparsers: Any) -> None:
    """Add the command's arguments."""
    parser = subparsers.add_parser(
        "serve",
        help="serve the OpenAI API, and a page to chat on",
        description="Serve /v1/completions, /v1/chat/completions, /v1/models, /health and a web page, for many "
        "clients at once, until it is interrupted.",
    )
    parser.add_argument("--host", default=HOST, help="address to listen at (default: %(default)s, this machine only)")
    parser.add_argument("--port", type=int, default=PORT, help="0 takes any that is free (default: %(default)s)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="clients need one of the keys in it, one a line"
    )
    parser.add_argument(
        "--allow-anyone", action="store_true", help="listen beyond this machine without an API key all the same"
    )
    parser.add_argument(
        "--queue", type=int, default=64, metavar="N", help="requests that may wait for a slot (default: %(default)s)"
    )
    parser.add_argument(
        "--max-tokens", type=int, default=4096, metavar="N", help="of one answer at most (default: %(default)s)"
    )
    parser.add_argument(
        "--max-prompt", type=int, default=8192, metavar="N", help="tokens of a prompt at most (default: %(default)s)"
    )
    add_image_argument(parser)
    add_device_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from ..errors import BuildError, RequestError

    try:
        import uvicorn

        from ..server.app import build_app
    except ImportError as error:
        raise BuildError(f"the server needs the package {error.name}: install ternlight[serve]") from None
    from ..server.engine import Engine
    from ..server.protocol import Limits
    from .text import image_tokenizer

    for name in ("queue", "max_tokens", "max_prompt"):
        if getattr(args, name) < 1:
            raise RequestError(f"--{name.replace('_', '-')} must be positive, not {getattr(args, name)}")
    if not 0 <= args.port <= PORT_MAX:
        raise RequestError(f"--port must be from 0 to {PORT_MAX}, not {args.port}")
    keys, image = _keys(args), image_of(args)
    image_tokenizer(image)  # to refuse an image without one before the slow steps
    limits = Limits(prompt_tokens=args.max_prompt, max_tokens=args.max_tokens)
    hosts = ["*"] if keys or args.allow_anyone else [args.host, "localhost", "127.0.0.1", "[::1]"]
    with _listener(args.host, args.port) as listener:

        def connect() -> AbstractContextManager[Device]:
            return device_of(args, image)

        engine = Engine(connect, queue_limit=args.queue)
        engine.start()
        try:
            app = build_app(engine, image, keys=keys, limits=limits, hosts=hosts)
            config = uvicorn.Config(
                app,
                log_level="info" if args.verbose else "warning",
                server_header=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
            host, port = listener.getsockname()[:2]
            print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
            # An interrupt is how a server ends; uvicorn raises it again once it has ended.
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run(sockets=[listener])
        finally:
            engine.close()
    return 0


def _keys(args: argparse.Namespace) -> list[str]:
    """The API keys; raises RequestError for a server that would be open to a network without any."""
    from ..errors import RequestError

    if args.api_key_file is None:
        if not _is_loopback(args.host) and not args.allow_anyone:
            raise RequestError(
                f"{args.host} is reached from other machines, and there is no API key: give --api-key-file, "
                "or --allow-anyone"
            )
        return []
    try:
        keys = args.api_key_file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{args.api_key_file} cannot be read: {error}") from None
    if not keys:
        raise RequestError(f"{args.api_key_file} has no API key: write one a line")
    return list(keys)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listener(host: str, port: int) -> socket.socket:
    from ..errors import RequestError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise RequestError(
            f"cannot listen at {host} port {port}: {error.strerror}. Choose another --port or --host"
        ) from None
