"""What the commands of this folder share: a type of their options, and the end at bad input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class BadInput(Exception):
    """What was asked cannot be done; the message is one sentence for the user."""


def say(message: str) -> None:
    """Tell the user, beside what the command prints."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Decorates a command: an exception of these ``kinds`` ends it with exit status 2 and its
    message, which is one sentence."""
    try:
        yield
    except kinds as error:
        say(f"error: {error}")
        sys.exit(2)


def positive(text: str) -> int:
    """Type of a whole number above zero, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
