"""The ways to train a stack of columns: reversible, and what else autograd offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from revcol_nlp.columns import reversible
from revcol_nlp.columns.column import Column, level_inputs
from revcol_nlp.columns.isotropic import IsotropicConfig, build_isotropic_columns
from revcol_nlp.columns.stack import RevCol
from revcol_nlp.columns.states import State, combine

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
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            with torch.no_grad():
                parameter.uniform_(1e-3, 1) if gamma == "uniform" else parameter.fill_(gamma)
    return model


class NaiveRevCol(RevCol):
    """States in float32, read as they are: how reversible networks are usually inverted."""

    def forward(self, stem: Tensor, level_kwargs: None = None) -> list[Tensor]:
        no_kwargs, last = [{}] * self.num_levels, len(self.columns) - 1
        with mock.patch.object(reversible, "STATE_DTYPE", torch.float32):
            if self.reversible:
                states = reversible.run_reversible(self.columns, stem, no_kwargs, {last})[last]
            else:
                states = None
                for column in self.columns:
                    states = column(stem, states, no_kwargs, torch.float32)
        return [state.exact for state in states]


def _call(function: Run, *args: Any) -> Any:
    return function(*args)


_checkpoint = partial(checkpoint, use_reentrant=False)


def _column(column: Column, run_level: Run, stem: Tensor, *exact: Tensor) -> tuple[Tensor, ...]:
    previous = [State(x, x) for x in exact] or None
    states: list[State] = []
    for index, level in enumerate(column.levels):
        y = run_level(level.network, *level_inputs(index, stem, states, previous))
        last = exact[index] if exact else None
        x = combine(y, level.scale(), last, torch.float32)
        states.append(State(x, x))
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
