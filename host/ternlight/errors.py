"""One base class for everything that a user can be told, with an exit code per class."""


class TernlightError(Exception):
    """An error with a message for the user: the value, the limit and the remedy."""

    exit_code = 1


class CheckpointError(TernlightError):
    """A checkpoint that is broken, incomplete or of another architecture."""

    exit_code = 3


class ImageError(TernlightError):
    """A packed image that is broken or of another version."""

    exit_code = 4


class FitError(TernlightError):
    """A model or a request that does not fit the device's geometry."""

    exit_code = 5


class LinkError(TernlightError):
    """No device, or a link that stays broken after bounded retransmission."""

    exit_code = 6


class DeviceError(TernlightError):
    """A device that refused a command, or speaks another ABI version."""

    exit_code = 7


class RequestError(TernlightError):
    """A generation request with values out of range."""

    exit_code = 8


class MismatchError(TernlightError):
    """A device that differs from the golden model."""

    exit_code = 9


class BuildError(TernlightError):
    """A simulator or bitstream that could not be built."""

    exit_code = 10
