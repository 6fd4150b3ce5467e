"""Split the time of runs by kind of operator."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from scripts.benchmarks.timing import time_run

# Kinds of events, with the beginnings of their names in torch's profiler. All others are the rest.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash", "aten::_efficient"),
    "random numbers": ("aten::bernoulli",),
    "compiled kernels": ("## Call CompiledFxGraph",),
}
REST = "the rest"


def profile_runs(
    runs: dict[str, Callable[[], Any]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Measure the seconds that each run spends in each of `KINDS` and in the rest.

    Profiling itself adds to the rest. On the CPU, seconds are CPU time.

    Args:
        runs: functions to run, by name.
        repeats: number of measured runs of each function, after one warm-up run.
        device: where the functions compute.

    Returns:
        For each run, the medians of the seconds by kind.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            with profile(activities=activities) as profiler:
                whole, _ = time_run(run, device)
            spent = dict.fromkeys((*KINDS, REST), 0.0)
            for event in profiler.key_averages():
                own = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
                spent[find_kind(event.key)] += own * 1e-6
            spent[REST] = whole - sum(spent[kind] for kind in KINDS)
            if repeat:
                found[name].append(spent)
    return {
        name: {kind: median(spent[kind] for spent in all_spent) for kind in (*KINDS, REST)}
        for name, all_spent in found.items()
    }


def find_kind(event: str) -> str:
    """Find the kind of an event of the profiler by its name."""
    return next((kind for kind, names in KINDS.items() if event.startswith(names)), REST)
