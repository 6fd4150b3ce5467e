"""Time runs in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def in_turn(
    runs: dict[str, Callable[[], Any]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds (on the CPU, of CPU time) of each of ``repeats`` of every run, and what it returned.

    A round before them, which does not count, warms up. The order is turned around each time, so
    that no run always stands behind the same other.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    returned: dict[str, Any] = {}
    for repeat in range(repeats + 1):
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            spent, returned[name] = timed(runs[name], device)
            if repeat:
                seconds[name].append(spent)
    return seconds, returned


def timed(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds (on the CPU, of CPU time) of a run, and what it returned."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    returned = run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start, returned


def median_ratio(a: list[float], b: list[float]) -> float:
    """The median of the ratios of what was measured side by side."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
