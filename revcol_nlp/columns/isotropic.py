"""The isotropic column of the paper's Appendix B.1: transformer blocks, and the linear fusion.

All tensors are batch first, ``(B, T, C)``: text and images (``T`` patches) share these layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import DropPath, FeedForward, NormalizedAttention, build_projection
from .column import Column
from .level import Level


@dataclass(frozen=True)
class IsotropicConfig:
    """Size and regularisation of isotropic columns.

    Attributes:
        dim: channels ``C`` of every level.
        num_heads: attention heads; must divide ``dim``.
        ffn_dim: hidden width of the feed-forward network.
        num_columns: number of columns, ``COL``.
        depths: blocks in each level, bottom to top, ``B``.
        project_bottom_up: project the level below (Linear, LayerNorm) instead of passing it on.
        activation: the feed-forward network's nonlinearity.
        init_values: what the weights of the LayerNorm behind a residual branch start at. 1 is
            LayerNorm's own; below it, a branch starts small (Swin V2 starts at 0).
        dropout: on each residual branch.
        attention_dropout: on the attention weights.
        activation_dropout: after the nonlinearity.
        drop_path_rate: probability of skipping a residual branch for a whole sample, in a
            column's last block. It grows linearly from 0 at its first block, as in the authors'
            code.

    Raises:
        ValueError: if a size is impossible or a probability is not in [0, 1).
    """

    dim: int
    num_heads: int
    ffn_dim: int
    num_columns: int = 4
    depths: Sequence[int] = (1, 1, 1, 1)
    project_bottom_up: bool = False
    activation: Callable[[Tensor], Tensor] = F.gelu
    init_values: float = 1.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    drop_path_rate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "num_heads", "ffn_dim", "num_columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {self.dim} channels")
        if len(self.depths) < 1 or min(self.depths) < 1:
            raise ValueError(f"every level needs at least 1 block, got {tuple(self.depths)}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def build_isotropic_columns(config: IsotropicConfig) -> list[Column]:
    """Columns whose levels all have the same shape (paper Appendix B.1).

    The first column has no top-down input, and the top level of no column has one.
    """
    columns = [
        Column(_build_levels(config, is_first=number == 0)) for number in range(config.num_columns)
    ]
    # BEiT's scaling, as Appendix B.1 says: the deeper a block, the smaller the last Linear of its
    # feed-forward network. The norm behind it takes the scale away again, so that branches are as
    # large as without; what changes is how fast this weight is learnt. ``init_values`` is what
    # makes branches small.
    blocks = [b for column in columns for b in column.modules() if isinstance(b, Block)]
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=1):
            block.ffn.fc2.weight.div_(math.sqrt(2 * depth))
    return columns


def _build_levels(config: IsotropicConfig, is_first: bool) -> list[Level]:
    depths, total = config.depths, sum(config.depths)
    rates = [config.drop_path_rate * (block / max(1, total - 1)) for block in range(total)]
    levels = []
    for number, depth in enumerate(depths):
        begin = sum(depths[:number])
        has_above = not is_first and number + 1 < len(depths)
        network = IsotropicLevel(config, rates[begin : begin + depth], has_above)
        levels.append(Level(network, config.dim))
    return levels


class IsotropicLevel(nn.Module):
    """The paper's ``F`` in Appendix B: a fusion of the two inputs, then transformer blocks.

    Args:
        config: sizes and regularisation.
        drop_path_rates: one for each block.
        has_above: whether there is an input from the level above in the previous column.
    """

    def __init__(self, config: IsotropicConfig, drop_path_rates: Sequence[float], has_above: bool):
        super().__init__()
        self.fusion = LinearFusion(config.dim, config.project_bottom_up, has_above)
        self.blocks = nn.ModuleList(Block(config, rate) for rate in drop_path_rates)

    def forward(
        self, below: Tensor, above: Tensor | None, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        """``below`` and ``above`` are ``(B, T, C)``; ``key_padding_mask`` ``(B, T)`` is true at
        padding."""
        x = self.fusion(below, above)
        for block in self.blocks:
            x = block(x, key_padding_mask)
        return x


class LinearFusion(nn.Module):
    """Sum of the level below and, from the previous column, the level above.

    Each is projected by a Linear with a LayerNorm behind it (Appendix B.1); the parameter counts
    of the paper's Table 10 are those of a bottom-up path without projection.

    Raises:
        ValueError: from ``forward``, if it gets an input that it was not made for.
    """

    def __init__(self, dim: int, project_bottom_up: bool, has_above: bool):
        super().__init__()
        self.bottom_up = build_projection(dim) if project_bottom_up else nn.Identity()
        self.top_down = build_projection(dim) if has_above else None

    def forward(self, below: Tensor, above: Tensor | None) -> Tensor:
        x = self.bottom_up(below)
        if above is None:
            return x
        if self.top_down is None:
            raise ValueError(
                "a column that was made as the first one, without top-down inputs, stands behind "
                "another: share a later column of build_isotropic_columns instead"
            )
        return x + self.top_down(above)


class Block(nn.Module):
    """A transformer block with residual post-norm, ``x + LN(f(x))`` (Swin V2)."""

    def __init__(self, config: IsotropicConfig, drop_path: float):
        super().__init__()
        self.attention = NormalizedAttention(config.dim, config.num_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.ffn = FeedForward(
            config.dim, config.ffn_dim, config.activation, config.activation_dropout
        )
        self.ffn_norm = nn.LayerNorm(config.dim)
        for norm in (self.attention_norm, self.ffn_norm):
            nn.init.constant_(norm.weight, config.init_values)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        attended = self.attention(x, key_padding_mask)
        x = x + self.drop_path(self.dropout(self.attention_norm(attended)))
        return x + self.drop_path(self.dropout(self.ffn_norm(self.ffn(x))))
