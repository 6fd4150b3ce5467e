"""Compile levels: the network ``F`` and the state's update of each, by ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def get_compiled(
    function: Callable[..., Any], options: dict[str, Any] | None
) -> Callable[..., Any]:
    """``function`` compiled with ``options``, once for all levels; as it is where they are None."""
    if options is None:
        return function
    # One for all levels, which share its graphs, and none of their attributes: a module that
    # holds a compiled function cannot be pickled.
    key = function, repr(options)
    if key not in _COMPILED:
        _COMPILED[key] = torch.compile(function, **options)
    return _COMPILED[key]


_COMPILED: dict[tuple[Callable[..., Any], str], Callable[..., Any]] = {}
