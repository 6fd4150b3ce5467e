"""Walk through autograd's graph."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor


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
