"""The dtypes of a forward pass, and whether its device and its dtype can rebuild columns."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Precision(NamedTuple):
    """The dtypes of one forward pass.

    Attributes:
        network: what the level networks read; the dtype of the stem's output.
        state: what states are carried in.
    """

    network: torch.dtype
    state: torch.dtype

    @property
    def rounds(self) -> bool:
        """Whether networks read states rounded: where states are finer than what networks read."""
        return self.state == torch.float64 and self.network != torch.float64


def choose_precision(stem_output: Tensor, state_dtype: torch.dtype) -> Precision:
    """The dtypes for a stem's output, with states in ``state_dtype`` or in what is finer."""
    if state_dtype == torch.float64 and not _has_float64(stem_output.device):
        state_dtype = torch.float32
    dtype = stem_output.dtype
    return Precision(dtype, torch.promote_types(dtype, state_dtype))


def can_rebuild(stem_output: Tensor) -> bool:
    """Whether columns can be rebuilt in the backward pass. Where not, a warning says why, once.

    Raises:
        RuntimeError: inside transforms of ``torch.func``.
    """
    if stem_output.dtype == torch.float64:
        _warn_once("columns computed in float64 cannot be inverted exactly: activations kept")
        return False
    if not _has_float64(stem_output.device):
        kind = stem_output.device.type
        _warn_once(f"{kind} has no float64 to invert columns in: activations kept")
        return False
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "a reversible RevCol does not work inside torch.func transforms (grad, vmap, jvp): "
            "set reversible=False"
        )
    return True


def _has_float64(device: torch.device) -> bool:
    return device.type in ("cpu", "cuda", "meta") or _probe_float64(device.type)


@lru_cache
def _probe_float64(device_type: str) -> bool:
    try:
        torch.empty(0, dtype=torch.float64, device=device_type)
    except (TypeError, RuntimeError):
        return False
    return True


@lru_cache
def _warn_once(message: str) -> None:
    logger.warning(message)
