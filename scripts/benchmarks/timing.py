"""Time several functions in turn, so that a busy machine slows down all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def time_in_turn(
    runs: dict[str, Callable[[], Any]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Time each function ``repeats`` times, in turn, after one warm-up round.

    Each round reverses the order, so that no function always follows the same other one.

    Args:
        runs: functions to time, by name.
        repeats: number of measured rounds.
        device: where the functions compute; on the CPU, CPU time is measured.

    Returns:
        The seconds of each round, and the last return value, both by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    returned: dict[str, Any] = {}
    for repeat in range(repeats + 1):
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            spent, returned[name] = time_run(runs[name], device)
            if repeat:
                seconds[name].append(spent)
    return seconds, returned


def time_run(run: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Return the seconds of a run (on the CPU: of CPU time) and its return value."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    start = clock()
    returned = run()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start, returned


def median_ratio(a: list[float], b: list[float]) -> float:
    """Compute the median of the ratios of values that were measured in the same round."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
