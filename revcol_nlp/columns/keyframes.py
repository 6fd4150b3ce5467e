"""Keyframes: columns whose states are kept, so that rounding errors of the inverse stay small."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .column import Column
from .states import GUARD


def plan_keyframes(columns: Sequence[Column], budget: float) -> set[int]:
    """Indices of the columns whose states are kept so that the others can be rebuilt from them.

    Inverting column ``i`` multiplies errors by ``1 / |gamma[i]|``, channel by channel. From the
    last column, which is always kept, these factors are multiplied up going back; where a product
    would pass ``budget``, the column just reached is kept too and the product starts anew at 1.
    """
    keyframes = {len(columns) - 1}
    if len(columns) <= 1:
        return keyframes
    with torch.no_grad():
        # Of a level in all columns: where FSDP2 has sharded them, in one transfer.
        scales = [
            _whole(torch.stack([level.scale() for level in levels])).flatten(1)
            for levels in zip(*(column.levels for column in columns[1:]), strict=True)
        ]
        # Together, so that all of it comes off the device in one transfer.
        log_growth = -torch.cat(scales, dim=1).double().abs().log().cpu() - math.log1p(-GUARD)
    total = torch.zeros_like(log_growth[0])
    for index in range(len(columns) - 2, -1, -1):
        total += log_growth[index]
        if total.max() > math.log(budget):
            keyframes.add(index)
            total.zero_()
    return keyframes


def _whole(tensor: Tensor) -> Tensor:
    # By its method: to import DTensor, to ask for its type, would take a second.
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
