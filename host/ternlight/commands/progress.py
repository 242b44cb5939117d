"""A progress bar on standard error, so that standard output stays what a command reports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TaskID


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar while the block runs; gives a function to call with the steps done and the steps in all."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


class Steps:
    """Shows slow steps: on a terminal one line that changes, with a bar where the amount is known; else a line each."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task: TaskID | None = None
        self._shown = ""

    def status(self, phrase: str) -> None:
        """The next step begins; what follows a comma tells its progress."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(phrase, total=None)
        step = phrase.partition(",")[0]
        if not self._console.is_terminal and step != self._shown:
            self._console.print(step)
        self._shown = step

    def progress(self, done: int, total: int) -> None:
        """So much of the step is done."""
        if self._task is None:
            self.status("loading the image")
        assert self._task is not None
        self._progress.update(self._task, completed=done, total=total)


@contextmanager
def steps() -> Iterator[Steps]:
    """Slow steps on standard error, while the block runs; nothing stays of them on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Steps(console, progress)
