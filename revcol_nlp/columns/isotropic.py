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

from .column import Column, Level

LOGIT_SCALE_INIT = 10.0
LOGIT_SCALE_MAX = 100.0


@dataclass(frozen=True)
class IsotropicConfig:
    """Size and regularisation of isotropic columns.

    Attributes:
        dim: channels ``C`` of every level.
        num_heads: attention heads; must divide ``dim``.
        ffn_dim: hidden width of the feed-forward network.
        columns: number of columns, ``COL``.
        blocks: blocks in each level, bottom to top, ``B``.
        bottom_up_linear: project the level below (Linear, LayerNorm) instead of passing it on.
        activation: the feed-forward network's nonlinearity.
        branch_init: what the weights of the LayerNorm behind a residual branch start at. 1 is
            LayerNorm's own; below it, a branch starts small (Swin V2 starts at 0).
        dropout: on each residual branch.
        attention_dropout: on the attention weights.
        activation_dropout: after the nonlinearity.
        drop_path: probability of skipping a residual branch for a whole sample, in a column's last
            block; from its first block on it grows linearly from 0, as in the authors' code.

    Raises:
        ValueError: if a size is impossible or a probability is not in [0, 1).
    """

    dim: int
    num_heads: int
    ffn_dim: int
    columns: int = 4
    blocks: Sequence[int] = (1, 1, 1, 1)
    bottom_up_linear: bool = False
    activation: Callable[[Tensor], Tensor] = F.gelu
    branch_init: float = 1.0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "num_heads", "ffn_dim", "columns"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.dim % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {self.dim} channels")
        if len(self.blocks) < 1 or min(self.blocks) < 1:
            raise ValueError(f"every level needs at least 1 block, got {tuple(self.blocks)}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def isotropic_columns(config: IsotropicConfig) -> list[Column]:
    """Columns whose levels all have the same shape (paper Appendix B.1).

    The first column has neither ``gamma`` nor a top-down input, the top level no top-down input.
    """
    top = len(config.blocks) - 1
    rates = torch.linspace(
        0, config.drop_path, sum(config.blocks), dtype=torch.float64, device="cpu"
    )
    drop_paths = rates.split(list(config.blocks))
    columns = [
        Column(
            Level(
                IsotropicLevel(config, rates.tolist(), top_down=column > 0 and level < top),
                (config.dim,),
                first_column=column == 0,
            )
            for level, rates in enumerate(drop_paths)
        )
        for column in range(config.columns)
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
        self.fusion = Fusion(config.dim, config.bottom_up_linear, top_down)
        self.blocks = nn.ModuleList(Block(config, drop_path) for drop_path in drop_paths)

    def forward(
        self, below: Tensor, above: Tensor | None, key_padding_mask: Tensor | None = None
    ) -> Tensor:
        x = self.fusion(below, above)
        for block in self.blocks:
            x = block(x, key_padding_mask)
        return x


class Fusion(nn.Module):
    """Sum of the level below and, from the previous column, the level above.

    Each is projected by a Linear with a LayerNorm behind it (Appendix B.1); the parameter counts
    of the paper's Table 10 are those of a bottom-up path without projection.
    """

    def __init__(self, dim: int, bottom_up_linear: bool, top_down: bool):
        super().__init__()
        self.bottom_up = linear_norm(dim) if bottom_up_linear else nn.Identity()
        self.top_down = linear_norm(dim) if top_down else None

    def forward(self, below: Tensor, above: Tensor | None) -> Tensor:
        x = self.bottom_up(below)
        return x if self.top_down is None else x + self.top_down(above)


class Block(nn.Module):
    """A transformer block with residual post-norm, ``x + LN(f(x))`` (Swin V2)."""

    def __init__(self, config: IsotropicConfig, drop_path: float):
        super().__init__()
        self.attention = CosineAttention(config.dim, config.num_heads, config.attention_dropout)
        self.attention_norm = nn.LayerNorm(config.dim)
        self.ffn = FeedForward(
            config.dim, config.ffn_dim, config.activation, config.activation_dropout
        )
        self.ffn_norm = nn.LayerNorm(config.dim)
        for norm in (self.attention_norm, self.ffn_norm):
            nn.init.constant_(norm.weight, config.branch_init)
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        attended = self.attention(x, key_padding_mask)
        x = x + self.drop_path(self.dropout(self.attention_norm(attended)))
        return x + self.drop_path(self.dropout(self.ffn_norm(self.ffn(x))))


class CosineAttention(nn.Module):
    """Self-attention on normalised queries and keys (Swin V2), through PyTorch's fused kernels.

    ``softmax(tau * cos(q, k)) v`` with one learnable ``tau`` per head, kept as its logarithm and
    at most 100.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = linear(dim, 3 * dim)
        self.out_proj = linear(dim, dim)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(LOGIT_SCALE_INIT)))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """``x`` is ``(B, T, C)``; ``key_padding_mask`` ``(B, T)`` is true at padding."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        # Normalised in float32; the temperature goes into q, as the kernels take none per head.
        scale = self.logit_scale.float().clamp(max=math.log(LOGIT_SCALE_MAX)).exp()
        q, k = q.float(), k.float()
        q, k = q * (scale / _length(q)), k * _length(k).reciprocal()
        x = F.scaled_dot_product_attention(
            q.to(v.dtype),
            k.to(v.dtype),
            v,
            attn_mask=None if key_padding_mask is None else ~key_padding_mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return self.out_proj(x.transpose(1, 2).reshape(batch, length, dim))


def _length(x: Tensor) -> Tensor:
    # Not F.normalize: it divides whole tensors, which takes a third longer, both passes together.
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(1e-12)


class FeedForward(nn.Module):
    """Two Linears with a nonlinearity between them."""

    def __init__(
        self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
    ):
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(self.fc1(x))))


class DropPath(nn.Module):
    """Stochastic depth: zeroes a residual branch for a whole sample, and scales up the others.

    Here rather than from timm because importing timm takes seconds, at every fairseq command.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.p)


def linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def linear_norm(dim: int) -> nn.Sequential:
    return nn.Sequential(linear(dim, dim), nn.LayerNorm(dim))
