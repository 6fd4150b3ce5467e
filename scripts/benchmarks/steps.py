"""Measure training steps: time, FLOPs, bytes, and the largest batch that fits into memory."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from scripts.benchmarks.live_bytes import LiveBytes
from scripts.benchmarks.timing import median_ratio, time_in_turn

BYTES_PER_PARAMETER = 16  # value, gradient and Adam's two averages, in float32
PRECISIONS = {"float32": None, "bf16": torch.bfloat16}


@dataclass
class Batch:
    """Input of a step, and its number of tokens or images."""

    inputs: Any
    size: int


@dataclass
class Variant:
    """A model with one setting of the options that save memory.

    Attributes:
        labels: cells that name the variant in the table, by column.
        model: may be shared by several variants.
        prepare: sets the options; called before each step.
        loss: computes the loss of a batch's ``inputs``.
        parts: modules by the name of the part of a step that begins with their forward pass.
    """

    labels: dict[str, str]
    model: nn.Module
    prepare: Callable[[], None]
    loss: Callable[[Any], Tensor]
    parts: dict[str, nn.Module]

    @property
    def parameters(self) -> int:
        """Number of parameters of the model."""
        return sum(p.numel() for p in self.model.parameters())


def run_step(variant: Variant, batches: list[Batch], autocast: Callable[[], Any]) -> None:
    """Run forward and backward passes on all batches; gradients accumulate."""
    variant.prepare()
    for batch in batches:
        with autocast():
            loss = variant.loss(batch.inputs)
        loss.backward()


@dataclass
class StepCounts:
    """Counts of one step.

    Attributes:
        held: bytes held for the backward pass, by part.
        peak: bytes at the peak of the step, by part.
        flops: floating-point operations.
    """

    held: dict[str, int]
    peak: dict[str, int]
    flops: int


def count_step(variant: Variant, batch: Batch, autocast: Callable[[], Any]) -> StepCounts:
    """Count the bytes and FLOPs of a step without computing its matrix products."""
    variant.prepare()
    counter = LiveBytes(compute=False)

    def begin(part: str, *_: object) -> None:
        counter.part = part

    hooks = [
        module.register_forward_pre_hook(partial(begin, part))
        for part, module in variant.parts.items()
    ]
    with counter:
        with autocast():
            loss = variant.loss(batch.inputs)
        for hook in hooks:
            hook.remove()  # else hooks would fire again when the backward pass recomputes
        held = dict(counter.live)
        counter.part = "backward"
        loss.backward()
    return StepCounts(held, dict(counter.peak), counter.flops)


def find_largest_batch(
    memory: float, variant: Variant, counted: list[StepCounts], sizes: list[Batch]
) -> int:
    """Extrapolate how many tokens or images fit into ``memory`` GiB from the peaks of two sizes."""
    peaks = [sum(c.peak.values()) for c in counted]
    slope = (peaks[0] - peaks[1]) / (sizes[0].size - sizes[1].size)
    free = memory * 2**30 - BYTES_PER_PARAMETER * variant.parameters
    return int(sizes[1].size + (free - peaks[1]) / slope)


def measure_variants(
    args: argparse.Namespace, variants: list[Variant], timed: list[Batch], sizes: list[Batch]
) -> list[dict[str, Any]]:
    """Measure each variant in each precision.

    Args:
        args: with ``precision``, ``device``, ``memory`` (GiB) and ``repeats`` (0: do not time).
        variants: ratios are relative to the first one.
        timed: batches that the speed is measured on.
        sizes: a batch and a smaller one, that bytes are counted on.

    Returns:
        A row for each precision and variant.
    """
    for variant in variants:
        for p in variant.model.parameters():
            p.grad = torch.zeros_like(p)
    total = sum(batch.size for batch in timed)
    rows = []
    for precision in args.precision:
        dtype = PRECISIONS[precision]
        autocast = partial(torch.autocast, args.device, dtype, enabled=dtype is not None)
        counted = [
            [count_step(variant, batch, autocast) for batch in sizes]
            for variant in tqdm(variants, f"counting, {precision}", leave=False)
        ]
        batches = [
            find_largest_batch(args.memory, v, c, sizes)
            for v, c in zip(variants, counted, strict=True)
        ]
        rows += [
            {
                "labels": variant.labels | {"precision": precision},
                "parameters": variant.parameters,
                "gflops": large.flops / sizes[0].size / 1e9,
                "held": large.held,
                "peak": large.peak,
                "largest_batch": batch,
                "batch_ratio": batch / batches[0],
            }
            for variant, (large, _), batch in zip(variants, counted, batches, strict=True)
        ]
        if args.repeats:
            runs = {str(n): partial(run_step, v, timed, autocast) for n, v in enumerate(variants)}
            seconds = list(time_in_turn(runs, args.repeats, args.device)[0].values())
            for row, times in zip(rows[-len(variants) :], seconds, strict=True):
                row["per_second"] = total / statistics.median(times)
                row["per_second_spread"] = [total / f(times) for f in (max, min)]
                row["speed_ratio"] = median_ratio(seconds[0], times)
    return rows
