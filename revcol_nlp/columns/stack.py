"""The stack of columns, with reversible training behind one switch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .column import Column, LevelKwargs
from .keyframes import plan_keyframes
from .reversible import STATE_DTYPE, run_reversible
from .states import State

logger = logging.getLogger(__name__)

KEEP_COLUMNS = 1
KEYFRAME_BUDGET = 1e6


class RevCol(nn.Module):
    """Reversible multi-column network (paper section 2.2): stem output in, level states out.

    In training the states are float64 and ``F`` reads them rounded (`split_state`), with
    ``reversible`` on or off: the two give the same gradients, and share one ``state_dict``. In
    evaluation nothing is rebuilt, and states have the stem's dtype.

    Args:
        columns: from first to last, each a `Column` of as many levels as the others.
        reversible: rebuild activations in the backward pass instead of keeping them.
        keep_columns: how many of the last columns run under ordinary autograd all the same, to
            trade memory for time. With 0, one level's activations are held at the peak in place
            of a column's.
        keyframe_budget: how far rounding errors may grow before a column's states are kept
            exactly; see `plan_keyframes`. Up to 1e6 is safe.

    Raises:
        ValueError: if an argument is out of its range.
    """

    def __init__(
        self,
        columns: Iterable[Column],
        *,
        reversible: bool = True,
        keep_columns: int = KEEP_COLUMNS,
        keyframe_budget: float = KEYFRAME_BUDGET,
    ):
        super().__init__()
        self.columns = nn.ModuleList(columns)
        if len(self.columns) < 1:
            raise ValueError("a RevCol needs at least 1 column, got 0")
        if not 0 <= keep_columns <= len(self.columns):
            raise ValueError(
                f"keep_columns must be between 0 and the number of columns, {len(self.columns)}; "
                f"got {keep_columns}"
            )
        if not 1 <= keyframe_budget <= KEYFRAME_BUDGET:
            raise ValueError(
                f"keyframe_budget must be between 1 and {KEYFRAME_BUDGET:g}, above which gradients "
                f"are no longer exact; got {keyframe_budget:g}"
            )
        self.reversible = reversible
        self.keep_columns = keep_columns
        self.keyframe_budget = keyframe_budget

    @property
    def num_levels(self) -> int:
        return len(self.columns[0].levels)

    def compile_levels(self, **options: Any) -> None:
        """Compile every level in place, by ``torch.compile(..., **options)``."""
        # There is a graph for each kind of level; torch gives up after 8.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
        for column in self.columns:
            for level in column.levels:
                level.compile(**options)

    def forward(
        self, stem: Tensor, level_kwargs: Sequence[LevelKwargs] | None = None
    ) -> list[Tensor]:
        """The last column's states, bottom to top, in the stem's dtype.

        Args:
            stem: output of the stem, which every column starts from.
            level_kwargs: one mapping per level with what its ``F`` gets besides the states, in
                every column, e.g. ``key_padding_mask``. Tensors in it must not need gradients.
        """
        last = len(self.columns) - 1
        return self.forward_columns(stem, level_kwargs, [last])[last]

    def forward_columns(
        self,
        stem: Tensor,
        level_kwargs: Sequence[LevelKwargs] | None,
        indices: Iterable[int],
    ) -> dict[int, list[Tensor]]:
        """The states of the columns ``indices``; in training, each of them is held in memory.

        Columns behind the last of ``indices`` do not run.
        """
        level_kwargs = self._checked(level_kwargs)
        wanted = set(indices)
        if not wanted or not wanted <= set(range(len(self.columns))):
            raise ValueError(f"no columns {sorted(wanted)}: there are {len(self.columns)}")

        state_dtype = self._state_dtype(stem)
        kept: dict[int, list[State]] = {}
        count = max(wanted) + 1
        start, states = 0, None
        if self.reversible and state_dtype != stem.dtype:
            start = max(0, count - self.keep_columns)
        if start > 0:
            columns = self.columns[:start]
            keyframes = plan_keyframes(columns, self.keyframe_budget)
            keyframes |= wanted.intersection(range(start))
            kept = run_reversible(columns, stem, level_kwargs, keyframes)
            states = kept[start - 1]
        for index in range(start, count):
            is_last = index == count - 1
            states = self.columns[index](stem, states, level_kwargs, state_dtype, is_last=is_last)
            if index in wanted:
                kept[index] = states
        del states
        return {index: _cast(kept.pop(index), stem.dtype) for index in wanted}

    def _checked(self, level_kwargs: Sequence[LevelKwargs] | None) -> Sequence[LevelKwargs]:
        if level_kwargs is None:
            return [{}] * self.num_levels
        if len(level_kwargs) != self.num_levels:
            raise ValueError(
                f"level_kwargs holds {len(level_kwargs)} mappings for {self.num_levels} levels"
            )
        for kwargs in level_kwargs:
            for name, value in kwargs.items():
                if isinstance(value, Tensor) and value.requires_grad:
                    raise ValueError(f"level input {name!r} needs a gradient, but would get none")
        return level_kwargs

    def _state_dtype(self, stem: Tensor) -> torch.dtype:
        if not (self.training and torch.is_grad_enabled()):
            return stem.dtype
        if stem.dtype == STATE_DTYPE:
            _warn_once("columns computed in float64 cannot be inverted exactly: activations kept")
        elif not _has_float64(stem.device.type):
            _warn_once(f"{stem.device.type} has no float64 to invert columns in: activations kept")
            return stem.dtype
        return STATE_DTYPE


def _cast(states: list[State], dtype: torch.dtype) -> list[Tensor]:
    """What ``F`` reads of each state; ``states`` is emptied, so that no state is held in both
    dtypes."""
    return [states.pop(0).rounded.to(dtype) for _ in range(len(states))]


@cache
def _has_float64(device_type: str) -> bool:
    try:
        torch.empty(0, dtype=torch.float64, device=device_type)
    except (TypeError, RuntimeError):
        return False
    return True


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
