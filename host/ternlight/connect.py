"""From a device's URL to a device with an image: a board, a simulator that runs elsewhere, or one of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from .device import Device, Progress
from .errors import BuildError
from .image import Image
from .link import DEFAULT_BAUD, open_transport
from .link.port import Port

SIMULATOR = "sim"


@contextmanager
def open_device(
    url: str = SIMULATOR,
    *,
    image: Image | None = None,
    baud: int = DEFAULT_BAUD,
    status: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Iterator[Device]:
    """A device, with the image loaded if one is given.

    url: `sim` builds and starts the simulated device, socket://HOST:PORT joins one that runs, all else is a serial port.
    status: called with a phrase for each slow step; progress: with the words of the image sent, and in all.
    Raises LinkError, DeviceError, FitError or BuildError.
    """
    with ExitStack() as stack:
        if url == SIMULATOR:
            device = stack.enter_context(_simulated(image, status, progress))
        else:
            device = stack.enter_context(Device(Port(open_transport(url, baud=baud))))
            if image is not None:
                device.load(image, progress)
        yield device


@contextmanager
def _simulated(
    image: Image | None, status: Callable[[str], None] | None, progress: Progress | None
) -> Iterator[Device]:
    try:
        from ternlight_boards.simulator import DIVISOR, GEOMETRY
        from ternlight_sim.simulated_device import build_simulator, snapshot_path, start_simulator
    except ImportError as error:
        raise BuildError(f"the simulator needs {error.name}: install ternlight[sim]") from error
    executable = build_simulator(GEOMETRY, DIVISOR, progress=status)
    with (
        start_simulator(executable, image and image.identity) as simulator,
        Device(Port(open_transport(simulator.url))) as device,
    ):
        if image is not None:
            if status is not None:
                status("loading the image")
            if device.load(image, progress):
                simulator.save_snapshot(snapshot_path(executable, image.identity))
        yield device
