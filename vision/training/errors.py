"""What is told to the user in one sentence instead of a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Around what writes a run's files to ``folder``.

    Raises:
        UserError: if they cannot be written.
    """
    try:
        yield
    # torch.save raises RuntimeError, which does not tell the reason.
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a checkpoint was cut short"
        raise UserError(
            f"{folder} cannot be written to ({reason or error}): is the disk full? When that is "
            "mended, the same command goes on"
        ) from error
