"""What the commands about boards share: finding them, where the build's extra is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRODUCTS = Path("build")
"""Where builds go, in a folder per board."""


@contextmanager
def build_tools() -> Iterator[None]:
    """Turns a missing package into a BuildError that names the extra."""
    from ..errors import BuildError

    try:
        yield
    except ImportError as error:
        raise BuildError(f"boards need the package {error.name}: install ternlight[fpga]") from error
