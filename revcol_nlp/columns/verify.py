"""Check columns of your own: are gradients those of ordinary autograd, and what does a step hold?

The functions take any model that holds a `RevCol`, with its stem and its head: a timm model, a
translation model, or a `RevCol` itself. They leave the model, its ``.grad`` and the global random
generators as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves, tree_map

from .graph import reached_leaves
from .stack import RevCol


def gradient_difference(
    model: nn.Module,
    *inputs: Any,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    **model_kwargs: Any,
) -> dict[str, float]:
    """Largest difference of each gradient, reversible against plain, by parameter name.

    Compared are all leaves that the graph reaches: parameters, floating-point inputs
    (``"inputs.0"`` and so on), and whatever else (``"leaf 0"`` and so on). Differences are relative
    to the largest element of the plain gradient; nan counts as infinite.

    Args:
        model: holds at least one `RevCol`.
        inputs: of one training step.
        autocast: dtype of mixed precision, or ``None``.
        seed: of the random numbers that the model draws in the step.
        model_kwargs: keyword arguments of the model.
    """
    options = dict(autocast=autocast, seed=seed, **model_kwargs)
    rebuilt = compute_gradients(model, *inputs, reversible=True, **options)
    plain = compute_gradients(model, *inputs, reversible=False, **options)
    return compare_gradients(rebuilt, plain)


def compute_gradients(
    model: nn.Module,
    *inputs: Any,
    reversible: bool,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    **model_kwargs: Any,
) -> dict[str, Tensor]:
    """Gradients after one training step from ``seed``, with all columns reversible or none.

    The loss reads every floating-point tensor in the model's output with fixed random weights, so
    that no gradient vanishes by symmetry. Names are those of `gradient_difference`.
    """
    inputs, model_kwargs = tree_map(_as_leaf, (inputs, model_kwargs))
    named = {id(p): name for name, p in model.named_parameters()}
    for place, x in enumerate(tree_leaves((inputs, model_kwargs))):
        if isinstance(x, Tensor) and x.requires_grad:
            named[id(x)] = f"inputs.{place}"
    device = next((x.device for x in tree_leaves(inputs) if isinstance(x, Tensor)), None)
    with _training(model, reversible), torch.random.fork_rng(_devices(device)):
        torch.manual_seed(seed)
        with torch.autocast((device or torch.device("cpu")).type, autocast, autocast is not None):
            outputs = tree_leaves(model(*inputs, **model_kwargs))
            loss = sum(_read(x, seed) for x in outputs if _is_differentiable(x))
        leaves = list(reached_leaves(loss))
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
    numbers = iter(range(len(leaves)))
    names = [named.get(id(x)) or f"leaf {next(numbers)}" for x in leaves]
    return {name: grad for name, grad in zip(names, found, strict=True) if grad is not None}


def compare_gradients(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, float]:
    """Largest element of ``a - b`` relative to the largest of ``b``, by name; inf for nan.

    Raises:
        ValueError: if one side has gradients that the other has not.
    """
    if a.keys() != b.keys():
        raise ValueError(f"only one side has gradients of {sorted(a.keys() ^ b.keys())}")
    found = {}
    for name in b:
        ratio = ((a[name] - b[name]).abs().max() / b[name].abs().max()).item()
        found[name] = 0.0 if torch.equal(a[name], b[name]) else ratio
        if math.isnan(found[name]):
            found[name] = math.inf  # a nan would get lost in max()
    return found


class StepReport(NamedTuple):
    """What a training step of a model holds.

    Attributes:
        columns: in all its `RevCol`.
        keyframes: for each `RevCol`, the columns whose states are kept.
        held_bytes: of tensors held for the backward pass, parameters aside.
    """

    columns: int
    keyframes: list[list[int]]
    held_bytes: int

    def __str__(self) -> str:
        kept = "; ".join(", ".join(map(str, found)) or "none" for found in self.keyframes)
        return (
            f"{self.columns} columns, states kept of columns {kept}, "
            f"{self.held_bytes / 2**20:.1f} MiB held for the backward pass"
        )


def describe_step(model: nn.Module, *inputs: Any, **model_kwargs: Any) -> StepReport:
    """Run a forward pass as in training, and count what it holds."""
    stacks = find_stacks(model)

    def step() -> Tensor:
        outputs = tree_leaves(model(*inputs, **model_kwargs))
        return sum(x.float().sum() for x in outputs if _is_differentiable(x))

    with _training(model, None), torch.random.fork_rng(_devices(None)):
        held = count_held_bytes(step, list(model.parameters()))
    columns = sum(len(stack.columns) for stack in stacks)
    return StepReport(columns, [stack.keyframes() for stack in stacks], held)


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


def find_stacks(model: nn.Module) -> list[RevCol]:
    """All `RevCol` in ``model``.

    Raises:
        ValueError: if there is none.
    """
    found = [module for module in model.modules() if isinstance(module, RevCol)]
    if not found:
        raise ValueError(f"{type(model).__name__} holds no RevCol")
    return found


@contextmanager
def _training(model: nn.Module, reversible: bool | None) -> Iterator[None]:
    """Inside, the model trains, with all its columns reversible or none (None: as they are)."""
    stacks = find_stacks(model)
    modes = {module: module.training for module in model.modules()}
    switches = [stack.reversible for stack in stacks]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    places = {
        (owner, name): buffer
        for owner in model.modules()
        for name, buffer in owner.named_buffers(recurse=False)
    }
    try:
        model.train()
        for stack, switch in zip(stacks, switches, strict=True):
            stack.reversible = switch if reversible is None else reversible
        yield
    finally:
        for stack, switch in zip(stacks, switches, strict=True):
            stack.reversible = switch
        for module, training in modes.items():
            module.training = training
        with torch.no_grad():
            for (owner, name), buffer in places.items():
                setattr(owner, name, buffer)
            for buffer, values in buffers:
                buffer.copy_(values)


def _devices(device: torch.device | None) -> Iterable[int]:
    return [] if device is None or device.type == "cpu" else [device.index or 0]


def _as_leaf(x: Any) -> Any:
    return x.detach().clone().requires_grad_() if _is_floating(x) else x


def _is_floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _is_differentiable(x: Any) -> bool:
    return _is_floating(x) and x.requires_grad


def _read(x: Tensor, seed: int) -> Tensor:
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return (x.float() * weights.to(x.device)).sum()
