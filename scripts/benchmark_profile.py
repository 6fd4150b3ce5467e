"""Split the time of runs by what is computed."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from torch.profiler import ProfilerActivity
from torch.profiler import profile as torch_profile

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
    """Microseconds of each of `KINDS` in each of ``runs``, without what it calls in turn: the
    medians of ``repeats``, after one that does not count. Profiling itself adds to the rest."""
    shares: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in (*KINDS, REST)} for name in runs
    }
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device != "cpu")
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            with torch_profile(activities=activities) as profiler:
                run()
            found = dict.fromkeys(shares[name], 0.0)
            for event in profiler.key_averages():
                spent = (
                    event.self_cpu_time_total if device == "cpu" else event.self_device_time_total
                )
                found[kind_of(event.key)] += spent
            if repeat:
                for kind, spent in found.items():
                    shares[name][kind].append(spent)
    return {
        name: {kind: median(spent) for kind, spent in parts.items()}
        for name, parts in shares.items()
    }


def kind_of(event: str) -> str:
    """Which of `KINDS` an event of the profiler belongs to."""
    return next((kind for kind, names in KINDS.items() if event.startswith(names)), REST)
