"""The parts of a transformer block: normalised attention, feed-forward network, stochastic depth.

All tensors are batch first, ``(B, T, C)``: text and images (``T`` patches) share these layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LOGIT_SCALE_INIT = 10.0
LOGIT_SCALE_MAX = 100.0


class NormalizedAttention(nn.Module):
    """Self-attention on normalised queries and keys (Swin V2), through PyTorch's fused kernels.

    ``softmax(tau * cos(q, k)) v`` with one learnable ``tau`` per head, kept as its logarithm and
    at most 100.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = build_linear(dim, 3 * dim)
        self.out_proj = build_linear(dim, dim)
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(LOGIT_SCALE_INIT)))

    def forward(self, x: Tensor, key_padding_mask: Tensor | None = None) -> Tensor:
        """``x`` is ``(B, T, C)``; ``key_padding_mask`` ``(B, T)`` is true at padding."""
        batch, length, dim = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        # In float32 at least. The temperature goes into q, since kernels take none per head.
        dtype = torch.promote_types(q.dtype, torch.float32)
        scale = self.logit_scale.to(dtype).clamp(max=math.log(LOGIT_SCALE_MAX)).exp()
        q, k = q.to(dtype), k.to(dtype)
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
    """Two Linears with a nonlinearity between them.

    Attributes:
        recompute_activation: compute the nonlinearity again in the backward pass, in place of
            keeping its output: it is cheap, and its output the largest tensor of a block.
    """

    def __init__(
        self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
    ):
        super().__init__()
        self.fc1 = build_linear(dim, hidden)
        self.fc2 = build_linear(hidden, dim)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)
        self.recompute_activation = False

    def forward(self, x: Tensor) -> Tensor:
        """``(B, T, C)`` to ``(B, T, C)``."""
        hidden = self.fc1(x)
        if not (self.recompute_activation and torch.is_grad_enabled()):
            return self._project(hidden)
        # It stops before fc2's matrix product: what that needs is there by then.
        return checkpoint(
            self._project,
            hidden,
            use_reentrant=False,
            preserve_rng_state=self.training and self.dropout.p > 0,
        )

    def _project(self, hidden: Tensor) -> Tensor:
        return self.fc2(self.dropout(self.activation(hidden)))


class DropPath(nn.Module):
    """Stochastic depth: zeroes a residual branch for a whole sample, and scales up the others.

    Here rather than from timm because importing timm takes seconds, at every fairseq command.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], *[1] * (x.dim() - 1)), self.drop_prob)


def build_linear(in_features: int, out_features: int) -> nn.Linear:
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def build_projection(dim: int) -> nn.Sequential:
    return nn.Sequential(build_linear(dim, dim), nn.LayerNorm(dim))
