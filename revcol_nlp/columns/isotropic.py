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
from .column import Column, Level


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

    The first column has neither ``gamma`` nor a top-down input, the top level no top-down input.
    """
    top = len(config.depths) - 1
    rates = torch.linspace(
        0, config.drop_path_rate, sum(config.depths), dtype=torch.float64, device="cpu"
    )
    drop_paths = rates.split(list(config.depths))
    columns = [
        Column(
            Level(
                IsotropicLevel(config, rates.tolist(), top_down=column > 0 and level < top),
                config.dim,
            )
            for level, rates in enumerate(drop_paths)
        )
        for column in range(config.num_columns)
    ]
    # As BEiT does: the deeper a block, the smaller its feed-forward network's last Linear.
    blocks = [b for column in columns for b in column.modules() if isinstance(b, Block)]
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=1):
            block.ffn.fc2.weight.div_(math.sqrt(2 * depth))
    return columns


class IsotropicLevel(nn.Module):
    """The paper's ``F``: fusion of the two inputs, then a block for each of ``drop_paths``."""

    def __init__(self, config: IsotropicConfig, drop_paths: Sequence[float], top_down: bool):
        super().__init__()
        self.fusion = LinearFusion(config.dim, config.project_bottom_up, top_down)
        self.blocks = nn.ModuleList(Block(config, drop_path) for drop_path in drop_paths)

    def forward(
        self, below: Tensor, above: Tensor | None, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        x = self.fusion(below, above)
        for block in self.blocks:
            x = block(x, key_padding_mask)
        return x


class LinearFusion(nn.Module):
    """Sum of the level below and, from the previous column, the level above.

    Each is projected by a Linear with a LayerNorm behind it (Appendix B.1); the parameter counts
    of the paper's Table 10 are those of a bottom-up path without projection.
    """

    def __init__(self, dim: int, project_bottom_up: bool, top_down: bool):
        super().__init__()
        self.bottom_up = build_projection(dim) if project_bottom_up else nn.Identity()
        self.top_down = build_projection(dim) if top_down else None

    def forward(self, below: Tensor, above: Tensor | None) -> Tensor:
        x = self.bottom_up(below)
        return x if above is None else x + self.top_down(above)


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
