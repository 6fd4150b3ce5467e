"""What the benchmarks share: fairseq models with random weights, a dictionary, runs in turn."""

from __future__ import annotations

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY, BaseFairseqModel
from fairseq.tasks.translation import TranslationTask

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import revcol_nlp.models  # noqa: F401 (registers the architectures)
from revcol_nlp.config import PRESETS, fill_preset


def build_model(arch: str, task: TranslationTask, **options: object) -> BaseFairseqModel:
    """A model of architecture ``arch`` with random weights."""
    torch.manual_seed(0)
    args = Namespace(arch=arch, **options)
    if arch in PRESETS:
        fill_preset(args, PRESETS[arch])
    else:
        ARCH_CONFIG_REGISTRY[arch](args)
    return ARCH_MODEL_REGISTRY[arch].build_model(args, task)


def joined_dictionary(lines: Iterable[str], size: int) -> Dictionary:
    """A dictionary of ``size`` entries: the most frequent words of ``lines``, then fillers."""
    dictionary = Dictionary()
    for line in lines:
        dictionary.encode_line(line)
    dictionary.finalize(nwords=size, padding_factor=1)
    for n in range(size - len(dictionary)):
        dictionary.add_symbol(f"filler{n}")
    return dictionary


def in_turn(
    runs: dict[str, Callable[[], Any]], repeats: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds (on the CPU, of CPU time) of each of ``repeats`` of every run, and what it returned.

    A round before them, which does not count, warms up. The order is turned around each time, so
    that no run always stands behind the same other.
    """
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    returned: dict[str, Any] = {}
    for repeat in range(repeats + 1):
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            start = clock()
            returned[name] = runs[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds, returned


def median_ratio(a: list[float], b: list[float]) -> float:
    """The median of the ratios of what was measured side by side."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))
