"""What is told to the user in one sentence instead of a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in what the user gave: options, data or files. The message is one sentence."""


class Interrupted(Exception):
    """The user ended the run; ``status`` is the exit status that says so.

    Args:
        signal_number: of the signal that was sent.
        message: one sentence on what was saved.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.status = 128 + signal_number
