"""Small columns, with an input and a loss, for the tests of the core."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from revcol_nlp.columns.isotropic import IsotropicConfig, build_isotropic_columns
from revcol_nlp.columns.stack import RevCol
from revcol_nlp.columns.verify import compare_gradients

DIM = 32


def build(
    columns: int = 4,
    *,
    gamma: float | str = 0.5,
    revcol: dict[str, Any] | None = None,
    **config: Any,
) -> RevCol:
    """Return a seeded `RevCol` of isotropic columns.

    Args:
        columns: number of columns.
        gamma: value of every gamma, or ``"uniform"`` for random values in [1e-3, 1].
        revcol: arguments of `RevCol`.
        config: fields of `IsotropicConfig`.
    """
    torch.manual_seed(0)
    sizes = {"dim": DIM, "num_heads": 4, "ffn_dim": 2 * DIM, "num_columns": columns} | config
    model = RevCol(build_isotropic_columns(IsotropicConfig(**sizes)), **(revcol or {}))
    for column in list(model.columns)[1:]:
        for level in column.levels:
            with torch.no_grad():
                level.gamma.uniform_(1e-3, 1) if gamma == "uniform" else level.gamma.fill_(gamma)
    return model


def stem_output(batch: int = 4, length: int = 8, dim: int = DIM, seed: int = 1) -> Tensor:
    """Return a random output of a stem, of shape ``(batch, length, dim)``."""
    return torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(seed))


def loss_of(states: list[Tensor]) -> Tensor:
    """Return a loss of the top level, with fixed random weights: a plain sum has gradients that
    vanish by symmetry."""
    top = states[-1].float()
    return (top * torch.randn(top.shape, generator=torch.Generator().manual_seed(2))).sum()


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of any tensor, relative to its largest element in ``b``."""
    return max(compare_gradients(a, b).values())
