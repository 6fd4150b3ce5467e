"""Split the time of runs by what is computed."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity, profile

from scripts.benchmarks.timing import timed

# By how torch's profiler names what belongs to it; what fits none is the rest.
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("aten::_scaled_dot_product", "aten::_flash", "aten::_efficient"),
    "random numbers": ("aten::bernoulli",),
    "compiled kernels": ("## Call CompiledFxGraph",),
}
REST = "the rest"


def profiled(
    runs: dict[str, Callable[[], Any]], repeats: int, device: str
) -> dict[str, dict[str, float]]:
    """Seconds (on the CPU, of CPU time) of each of `KINDS` in each of ``runs``, and of the rest:
    the medians of ``repeats``, after one that does not count. Profiling adds to the rest."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            with profile(activities=activities) as profiler:
                whole, _ = timed(run, device)
            spent = dict.fromkeys((*KINDS, REST), 0.0)
            for event in profiler.key_averages():
                own = event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
                spent[kind_of(event.key)] += own * 1e-6
            spent[REST] = whole - sum(spent[kind] for kind in KINDS)
            if repeat:
                found[name].append(spent)
    return {
        name: {kind: median(spent[kind] for spent in all_spent) for kind in (*KINDS, REST)}
        for name, all_spent in found.items()
    }


def kind_of(event: str) -> str:
    """Which of `KINDS` an event of the profiler belongs to."""
    return next((kind for kind, names in KINDS.items() if event.startswith(names)), REST)
