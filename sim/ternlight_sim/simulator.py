"""The simulated device as a process with a URL, for the same driver that speaks to a board."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ternlight.errors import DeviceError, ImageError, LinkError


class Simulator:
    """A running simulator; ends with the context, with close(), and with this process whatever becomes of it.

    It is a session of its own, so that an interrupt from the keyboard reaches the host, which can still stop the
    device in good order, and not the device.
    """

    url: str
    """What the driver opens: one client at a time is served, and the device goes on from client to client."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors
        try:
            self.url = f"socket://127.0.0.1:{self._reply()['port']}"
        except BaseException:
            self.close()
            raise

    @classmethod
    def start(cls, executable: Path, *, snapshot: Path | None = None, port: int = 0) -> Simulator:
        """Run a built simulator, from a snapshot if one is given; port 0 takes any that is free.

        Raises ImageError for a snapshot that is damaged or of another build, LinkError for all else.
        """
        command = [str(executable), "--port", str(port)]
        if snapshot is not None:
            command += ["--load", str(snapshot)]
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # so that nothing is left to be flushed into a dead process
                start_new_session=True,
            )
        except OSError as error:
            errors.close()
            raise LinkError(f"cannot run the simulator {executable}: {error.strerror}") from error
        return cls(process, errors)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def save_snapshot(self, path: Path) -> None:
        """Write the whole state, in whatever it is doing; the file appears when it is complete.

        Raises DeviceError when it cannot be written.
        """
        reply = self._ask(f"save {path.absolute()}")
        if "error" in reply:
            raise DeviceError(f"the simulator cannot write the snapshot {path}: {reply['error']}")

    def cycles(self) -> int:
        """Clock cycles since power-up; the clock stands while the device has nothing to do."""
        return int(self._ask("cycles")["cycles"])

    def wait(self) -> None:
        """Return when the process has ended by itself; raises LinkError if that was a failure."""
        if self._process.wait() != 0:
            raise self._death()

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, command: str) -> dict[str, Any]:
        if "\n" in command:
            raise ValueError(f"a command of the simulator is one line, not {command!r}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{command}\n".encode(errors="surrogateescape"))
        except BrokenPipeError:
            raise self._death() from None
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> ImageError | LinkError:
        """What the ended process said."""
        status = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip()
        if status == ImageError.exit_code:
            return ImageError(said)
        return LinkError(f"the simulator ended with status {status}: {said or 'it gave no reason'}")


def serve(executable: Path, *, port: int, snapshot: Path | None, announce: Callable[[str], None]) -> None:
    """Run a simulator on a fixed port until the user interrupts; `announce` is called with its URL."""
    with Simulator.start(executable, snapshot=snapshot, port=port) as simulator:
        announce(simulator.url)
        try:
            simulator.wait()
        except KeyboardInterrupt:
            return
