"""A small RevCol-ViT for the tests: its model, its images, its gradients."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

import vision  # noqa: F401 (registers the models)

# All that draws random numbers in training.
RANDOM = dict(proj_drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.2, drop_rate=0.1)


def build(**options: Any) -> nn.Module:
    """A seeded ``test_revcol_vit`` with 7 classes."""
    torch.manual_seed(0)
    return timm.create_model("test_revcol_vit", **({"num_classes": 7} | options))


def images(batch: int = 4, size: int = 64) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def gradients(
    model: nn.Module, x: Tensor, autocast: torch.dtype | None = None
) -> dict[str, Tensor]:
    """Gradients of every parameter and of the images, by name, after a seeded forward pass."""
    x = x.clone().requires_grad_()
    torch.manual_seed(2)
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        logits = model(x).float()
        loss = (logits * torch.linspace(-1, 2, logits.numel()).view_as(logits)).sum()
    named = dict(model.named_parameters(), images=x)
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
