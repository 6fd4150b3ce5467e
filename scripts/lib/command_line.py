"""Shared by the commands of this package: refusing bad input, and types of options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class BadInput(Exception):
    """Input or options that a command refuses; the message is one sentence for the user."""


def say(message: str) -> None:
    """Print a message to standard error; standard output holds nothing but results."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def report_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Decorate a command: an exception of these ``kinds`` prints its message and exits with 2.

    Exceptions of all other kinds are bugs and keep their traceback.
    """
    try:
        yield
    except kinds as error:
        say(f"error: {error}")
        sys.exit(2)


def build_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Build the parser of a command that runs as ``python -m module``.

    Args:
        module: full name of the module, which is ``__spec__.name`` there.
        description: docstring of the module, which the help text shows as it is.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option --device, whose default is the GPU if there is one."""
    import torch  # imported here, as commands without this option do not need it

    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of PyTorch (default: %(default)s)",
    )


def positive_integer(text: str) -> int:
    """Parse the value of an option that must be a whole number above zero, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
