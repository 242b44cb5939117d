"""From a device's URL to a device with an image: a board, a simulator that runs elsewhere, or one of our own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .compiler import compile_image
from .device import Device, Progress
from .errors import BuildError, DeviceError
from .geometry import Geometry
from .image import Image
from .link import DEFAULT_BAUD, SIMULATOR, open_transport
from .link.port import Port

logger = logging.getLogger(__name__)

Status = Callable[[str], None]
"""Called with a phrase for each slow step."""


@contextmanager
def open_device(
    url: str = SIMULATOR,
    *,
    image: Image | None = None,
    geometry: Geometry | None = None,
    baud: int = DEFAULT_BAUD,
    status: Status = lambda _: None,
    progress: Progress | None = None,
) -> Iterator[Device]:
    """A device, with the image loaded if one is given.

    With an image, requests that an earlier host left running are aborted.

    url: `sim` builds and starts the simulated device, socket://HOST:PORT joins one that runs, pcie:ADDRESS is a PCIe
    function, and all else is a serial port. geometry: of the simulated device, by default the one that ships. status:
    called with a phrase for each slow step; progress: with the words of the image sent, and in all. Raises LinkError,
    DeviceError, FitError or BuildError.
    """
    if url == SIMULATOR:
        connect = _simulated(geometry, image, status, progress)
    else:
        connect = _joined(url, baud, image, status, progress)
    with connect as device:
        try:
            yield device
        finally:
            logger.info("link to %s: %s", device.port.transport.name, device.port.statistics)


@contextmanager
def _joined(url: str, baud: int, image: Image | None, status: Status, progress: Progress | None) -> Iterator[Device]:
    with Device(Port(open_transport(url, baud=baud))) as device:
        _load(device, image, status, progress)
        yield device


@contextmanager
def _simulated(
    geometry: Geometry | None, image: Image | None, status: Status, progress: Progress | None
) -> Iterator[Device]:
    try:
        from ternlight_boards.simulator import DIVISOR, GEOMETRY
        from ternlight_sim.simulated_device import build_simulator, snapshot_path, start_simulator
    except ImportError as error:
        raise BuildError(f"the simulator needs {error.name}: install ternlight[sim]") from error
    geometry = geometry or GEOMETRY
    identity = None if image is None else compile_image(image, geometry).identity
    executable = build_simulator(geometry, DIVISOR, progress=status)
    with (
        start_simulator(executable, identity) as simulator,
        Device(Port(open_transport(simulator.url))) as device,
    ):
        if _load(device, image, status, progress) and identity is not None:
            try:
                simulator.save_snapshot(snapshot_path(executable, identity))
            except DeviceError as error:
                # Only the next start is slower.
                logger.warning("%s", error)
        yield device


def _load(device: Device, image: Image | None, status: Status, progress: Progress | None) -> bool:
    """Load an image, if there is one; whether it was sent."""
    logger.info(
        "%s: build %08x, %d lanes, %g MHz, image %08x",
        device.port.transport.name,
        device.build_id,
        device.geometry.lanes,
        device.geometry.clock_hz / 1e6,
        device.image_id,
    )
    if image is None:
        return False
    device.abort_orphans()
    model = compile_image(image, device.geometry)
    if device.image_id != model.identity:
        status("loading the image")
    return device.load(model, progress)
