"""Check a `RevCol` of your own: are its gradients those of ordinary autograd, what does it hold?

Any module can be a level's ``F``, also one that reversible training does not fit: one that draws
random numbers from a generator of its own, say. One call of `gradient_difference` tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .column import LevelKwargs
from .stack import RevCol


def gradient_difference(model: RevCol, stem: Tensor, **options) -> dict[str, float]:
    """Largest difference of each gradient, reversible against plain, by parameter name.

    Relative to the plain gradient's largest element; ``options`` are those of `gradients`.
    """
    rebuilt = gradients(model, stem, reversible=True, **options)
    plain = gradients(model, stem, reversible=False, **options)
    return differences(rebuilt, plain)


def gradients(
    model: RevCol,
    stem: Tensor,
    *,
    reversible: bool,
    level_kwargs: Sequence[LevelKwargs] | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Gradients of all parameters and of ``"stem"`` after one training step from ``seed``.

    The loss reads the top level with fixed random weights, so that none vanishes by symmetry.
    ``.grad`` is not touched; the global random stream is left where the step left it.
    """
    modes = {module: module.training for module in model.modules()}
    was_reversible, model.reversible = model.reversible, reversible
    model.train()
    stem = stem.detach().clone().requires_grad_()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    inputs = [p for p in model.parameters() if p.requires_grad]
    torch.manual_seed(seed)
    with torch.autocast(stem.device.type, autocast, enabled=autocast is not None):
        top = model(stem, level_kwargs)[-1].float()
        loss = (
            top * torch.randn(top.shape, generator=torch.Generator().manual_seed(seed)).to(top)
        ).sum()
    found = torch.autograd.grad(loss, [*inputs, stem], allow_unused=True)
    model.reversible = was_reversible
    for module, training in modes.items():
        module.training = training
    return {n: g for n, g in zip([*names, "stem"], found, strict=True) if g is not None}


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """Largest element of ``a - b`` relative to the largest of ``b``, by name; inf for nan."""
    if a.keys() != b.keys():
        raise ValueError(f"only one side has gradients of {sorted(a.keys() ^ b.keys())}")
    found = {}
    for name in b:
        ratio = ((a[name] - b[name]).abs().max() / b[name].abs().max()).item()
        found[name] = 0.0 if torch.equal(a[name], b[name]) else ratio
        if math.isnan(found[name]):
            found[name] = math.inf  # a nan would get lost in max()
    return found


def count_held_bytes(step: Callable[[], Tensor], parameters: Sequence[Tensor]) -> int:
    """Bytes of the tensors that autograd holds after ``step`` for its backward pass.

    Tensors that share memory count once, and ``parameters``, which are there anyway, not at all.
    """
    own = {p.untyped_storage().data_ptr() for p in parameters}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step()
    total = sum(tensor.untyped_storage().nbytes() for tensor in held.values())
    del loss
    return total
