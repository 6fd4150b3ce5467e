"""Autograd's graph of a network: what it reaches, what it saves, and the hooks on its gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks


def reached_leaves(output: Tensor) -> Iterator[Tensor]:
    """The leaves that the graph of ``output`` reaches."""
    if output.is_leaf and output.requires_grad:
        yield output
    nodes, seen = [output.grad_fn], {None}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        nodes += [following for following, _ in node.next_functions]


def _save_nothing(_: Tensor) -> None:
    return None


def nothing_saved() -> saved_tensors_hooks:
    """A context in which graphs save no tensors. Differentiating them raises `refuse_gradient`."""
    return saved_tensors_hooks(_save_nothing, refuse_gradient)


def refuse_gradient(_: Tensor | None) -> NoReturn:
    """Raises RuntimeError: the first run of a level's network has no graph to differentiate."""
    raise RuntimeError(
        "a tensor that was made inside the network of a reversible level was differentiated, and "
        "is not the level's output: a loss reads something that the network or a hook inside it "
        "has stored (an auxiliary loss, a cache), or the network differentiates in its own forward "
        "pass; set reversible=False for that"
    )


@contextmanager
def hooks_silenced(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, hooks on the gradients of ``parameters`` do not fire.

    They fire when autograd takes the gradients that a level's function returns. Inside that
    function they would fire once more, on a part of the gradient.
    """
    hooks = [p._backward_hooks for p in parameters if p._backward_hooks]
    before = [dict(found) for found in hooks]
    for found in hooks:
        found.clear()  # autograd holds this very dict
    try:
        yield
    finally:
        for found, entries in zip(hooks, before, strict=True):
            found.update(entries)
