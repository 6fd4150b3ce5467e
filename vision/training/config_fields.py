"""Fields of configurations that are options of a command line, and parsers of their values."""

from __future__ import annotations

import argparse
import ast
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

Config = TypeVar("Config")


def parse_integer(least: int) -> Callable[[str], int]:
    """Returns a parser of integers that are at least ``least``."""

    def parse(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text!r}")
        return int(text)

    return parse


def parse_number(least: float = 0.0, most: float = float("inf")) -> Callable[[str], float]:
    """Returns a parser of finite numbers from ``least`` to ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most or value == float("inf"):
            limits = f"from {least:g}" + (f" to {most:g}" if most != float("inf") else "")
            raise argparse.ArgumentTypeError(f"expected a number {limits}, got {text!r}")
        return value

    return parse


def parse_key_value(text: str) -> tuple[str, object]:
    """Parses ``key=value``; the value is a Python literal, or else a string."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def option(help: str, default: Any = MISSING, *, may_change: bool = False, **parsing: Any) -> Any:
    """A field of a configuration that is an option of a command.

    Args:
        help: the ``--help`` text; the default is appended to it unless that is None or absent.
        default: the value without the option; without one, the option must be given.
        may_change: a run may be resumed with another value of this option. The others change what
            a run computes.
        parsing: further arguments of ``ArgumentParser.add_argument``.
    """
    metadata = {"help": help, "may_change": may_change, "parsing": parsing}
    return field(default=default, metadata=metadata)


def select_config(kind: type[Config], options: Mapping[str, Any]) -> Config:
    """Makes a configuration of ``options``; what they lack has its default."""
    return kind(**{each.name: options[each.name] for each in fields(kind) if each.name in options})
