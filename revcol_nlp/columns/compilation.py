"""Compile functions that all levels share, by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch

# One graph for each kind of level; torch gives up after 8 by default.
RECOMPILE_LIMIT = 64


def compiled(function: Callable[..., Any], options: dict[str, Any] | None) -> Callable[..., Any]:
    """``function`` compiled with ``options``; as it is where they are ``None``.

    The compiled function is shared by all levels and held by none of them: a module that holds one
    cannot be pickled.
    """
    if options is None:
        return function
    return _compile(function, _Options(options))


class _Options:
    """Options of ``torch.compile`` as a key: equal where they are equal, whatever they hold."""

    def __init__(self, options: dict[str, Any]):
        self.options = options

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.options)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and self.options == other.options


@lru_cache(maxsize=64)
def _compile(function: Callable[..., Any], key: _Options) -> Callable[..., Any]:
    inner = torch.compile(function, **key.options)

    @wraps(function)
    def run(*args: Any) -> Any:
        with raised_recompile_limit():
            return inner(*args)

    return run


def raised_recompile_limit() -> Any:
    """A context in which torch makes as many graphs of one function as there are kinds of level."""
    limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    return torch._dynamo.config.patch(recompile_limit=limit)
