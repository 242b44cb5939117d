"""The sequencer: tokens of several sessions at once, each in a context of its own."""

from .context import TOKEN_JOB
from .unit import TOKEN_DONE, Sequencer

__all__ = ["TOKEN_DONE", "TOKEN_JOB", "Sequencer"]
