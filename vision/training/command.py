"""How a command ends: exit status, error messages in one sentence, and signals."""

from __future__ import annotations

import difflib
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

# torch.save raises a plain RuntimeError when it cannot write. Its text names torch's writer, the
# source file of that writer, or C++'s iostream, with which the writer closes the file. Errors of
# other origin, such as torch.OutOfMemoryError, name none of these.
TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc", "iostream")


class UserError(Exception):
    """The user's options, data or files are wrong. The message is one sentence."""


class Interrupted(Exception):
    """A signal ended the run.

    Args:
        signal_number: of the signal that was received.
        message: one sentence that says what was saved.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.status = 128 + signal_number


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Runs ``command(argv)`` and returns the exit status.

    The status is 0 on success, 2 after a `UserError`, and 128 plus the signal's number after a
    signal, as shells have it. Errors in the code itself keep their traceback.
    """
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        command(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(error, file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def describe_error(error: Exception, limit: int = 300) -> str:
    """Returns the error's message on one line, cut to ``limit`` characters."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def suggest_name(name: str, names: Iterable[str]) -> str:
    """Returns a question that names the closest of ``names``, or an empty string."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


@contextmanager
def explain_write_errors(folder: Path) -> Iterator[None]:
    """Turns errors of the disk into a sentence; wrap code that writes a run's files in it.

    Raises:
        UserError: if a file in ``folder`` cannot be written. All other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        reason, cause = error.strerror or describe_error(error), error
    except RuntimeError as error:
        if not any(name in str(error) for name in TORCH_WRITER):
            raise
        reason, cause = "a checkpoint was not written completely", error
    else:
        return
    raise UserError(
        f"{folder} cannot be written to ({reason}): is the disk full? After fixing that, run the "
        "same command again to resume"
    ) from cause


class StopRequest:
    """Records the first signal that asks the run to stop; ``signal_number`` is 0 before."""

    signal_number = 0


@contextmanager
def note_stop_signals() -> Iterator[StopRequest]:
    """Notes a first SIGINT or SIGTERM in the object it yields, so that an update can be finished.

    A second signal ends the process at once. The former handlers are back when the context ends.
    """
    request = StopRequest()

    def note_signal(signal_number: int, frame: object) -> None:
        request.signal_number = signal_number
        signal.signal(signal_number, signal.default_int_handler)

    previous = {
        number: signal.signal(number, note_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
