"""The ways to train a stack of columns: reversible, and what else autograd offers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from revcol_nlp.columns.column import Column
from revcol_nlp.columns.isotropic import IsotropicConfig, build_isotropic_columns
from revcol_nlp.columns.precision import Precision
from revcol_nlp.columns.stack import RevCol
from revcol_nlp.columns.states import Grid, State

Run = Callable[..., Any]


def build(
    dim: int, columns: int, gamma: float | str = 0.5, dropout: float = 0.1, device: str = "cpu"
) -> RevCol:
    """Columns in training mode, seeded; ``gamma`` "uniform" draws it from [1e-3, 1]."""
    torch.manual_seed(0)
    config = IsotropicConfig(
        dim=dim,
        num_heads=max(1, dim // 64),
        ffn_dim=4 * dim,
        num_columns=columns,
        dropout=dropout,
        drop_path_rate=dropout,
    )
    model = RevCol(build_isotropic_columns(config)).to(device).train()
    for column in list(model.columns)[1:]:
        for level in column.levels:
            with torch.no_grad():
                level.gamma.uniform_(1e-3, 1) if gamma == "uniform" else level.gamma.fill_(gamma)
    return model


def build_naive(model: RevCol) -> RevCol:
    """The columns of ``model`` with float32 states: how reversible networks are usually inverted.

    Nothing is rounded, guarded or kept.
    """
    return RevCol(
        model.columns, keep_columns=0, keyframe_budget=math.inf, state_dtype=torch.float32
    )


def _call(function: Run, *args: Any) -> Any:
    return function(*args)


_checkpoint = partial(checkpoint, use_reentrant=False)


GRID = Grid(-1)  # nothing is rounded to it
FLOAT32 = Precision(network=torch.float32, state=torch.float32)


def _column(column: Column, run_level: Run, stem: Tensor, *exact: Tensor) -> tuple[Tensor, ...]:
    states = [State(x, GRID) for x in exact] or [None] * len(column.levels)
    for index, level in enumerate(column.levels):
        inputs = column.level_inputs(index, stem, states)
        read = [x.exact if isinstance(x, State) else x for x in inputs]
        y = run_level(level.network, *read)
        states[index] = State(level.update(y, states[index], FLOAT32, GRID), GRID)
    return tuple(state.exact for state in states)


def ordinary(
    columns: Iterable[Column], stem: Tensor, run_column: Run = _call, run_level: Run = _call
) -> Tensor:
    """The top level's state, in float32 throughout: what one would write without this project."""
    exact: tuple[Tensor, ...] = ()
    for column in columns:
        exact = run_column(partial(_column, column, run_level), stem, *exact)
    return exact[-1]


def ways(model: RevCol) -> dict[str, Callable[[Tensor], Tensor]]:
    """The forward passes, from the stem's output to the top level's state, by their names."""

    def ours(stem: Tensor, keep_columns: int, is_reversible: bool = True) -> Tensor:
        model.reversible, model.keep_columns = is_reversible, keep_columns
        return model(stem)[-1]

    return {
        "plain": partial(ordinary, model.columns),
        "plain, our float64 states": partial(ours, keep_columns=0, is_reversible=False),
        "checkpoint per column": partial(ordinary, model.columns, run_column=_checkpoint),
        "checkpoint per level": partial(ordinary, model.columns, run_level=_checkpoint),
        "reversible": partial(ours, keep_columns=1),
        "reversible, keep_columns=0": partial(ours, keep_columns=0),
    }


def timed_ways(
    dim: int, columns: int, device: str, compiled: bool
) -> dict[str, Callable[[Tensor], Tensor]]:
    """`ways`, and, if ``compiled``, those without checkpoints with compiled levels too."""
    found = ways(build(dim, columns, device=device))
    if compiled:
        model = build(dim, columns, device=device)
        model.compile_levels()
        # On the CPU a generator of inductor's own would take longer than all it fuses.
        torch._inductor.config.fallback_random = device == "cpu"
        eager = [way for way in found if "checkpoint" not in way]
        found |= {f"{way}, levels compiled": ways(model)[way] for way in eager}
    return found
