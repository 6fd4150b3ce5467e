"""Keyframes: columns whose states are kept, so that rounding errors of the inverse stay small.

Inverting column ``i`` multiplies an error by ``1 / |gamma[i]|``, channel by channel. Where the
product over several columns would pass a budget, the states of one column are kept in the forward
pass, and the product starts again at 1.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .column import Column
from .level import GAMMA_MIN
from .states import GUARD

logger = logging.getLogger(__name__)


def measure_growth(columns: Sequence[Column]) -> Tensor:
    """The logarithm of the factor by which inverting multiplies an error.

    Returns:
        float64, ``(columns - 1, channels of all levels)``, on gamma's device.
    """
    # A level of all columns at a time: where FSDP2 has sharded gamma, in one transfer.
    scales = [
        _unshard(torch.stack([level.bounded_gamma() for level in levels]))
        for levels in zip(*(column.levels for column in columns[1:]), strict=True)
    ]
    return -torch.cat(scales, dim=1).double().abs().log() - math.log1p(-GUARD)


def plan_keyframes(growth: Tensor | Sequence[float], budget: float) -> set[int]:
    """Indices of the columns whose states are kept, the last one among them.

    Args:
        growth: as from `measure_growth`, on the CPU; or a number for each column but the first.
        budget: the factor by which an error may grow.
    """
    last = len(growth)
    keyframes = {last}
    total: Tensor | float = 0.0
    for index in range(last - 1, -1, -1):
        total = total + growth[index]
        largest = total.max() if isinstance(total, Tensor) else total
        if largest > math.log(budget):
            keyframes.add(index)
            total = 0.0
    return keyframes


class GrowthReader:
    """Reads `measure_growth` off a device without making a training step wait for it.

    On the CPU nothing waits. On another device, the first forward pass waits once. Each later one
    takes the values of the forward pass before it, and asks for new ones, which arrive meanwhile:
    gamma changes little in one step.
    """

    def __init__(self) -> None:
        self._host: Tensor | None = None
        self._used: Tensor | None = None

    def forget(self) -> None:
        """Wait again at the next forward pass, since gamma has other values now."""
        self._host = self._used = None

    def read(self, growth: Tensor) -> Tensor | Sequence[float]:
        """Values of ``growth``, from this forward pass or the one before, on the CPU."""
        if type(growth) is not Tensor or growth.is_meta:
            # A fake tensor has no values. No gamma lets errors grow by more than its bound does.
            return [-math.log(GAMMA_MIN * (1 - GUARD))] * len(growth)
        if growth.device.type == "cpu":
            return growth
        if self._host is None or self._host.shape != growth.shape:
            self._host = torch.empty_like(growth, device="cpu", pin_memory=True)
            self._host.copy_(growth)
            self._used = None
        values = self._host.clone()
        if self._used is not None and (values - self._used).max() > math.log(2):
            logger.warning(
                "gamma became less than half of what it was within one step, after the keyframes "
                "were planned: that step's gradients may be inexact. After setting gamma by hand, "
                "call RevCol.replan_keyframes()"
            )
        self._used = values
        self._host.copy_(growth, non_blocking=True)
        return values


def _unshard(tensor: Tensor) -> Tensor:
    # Asked by its method: to import DTensor, only to ask for its type, would take a second.
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
