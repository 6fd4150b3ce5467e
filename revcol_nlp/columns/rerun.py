"""Run a level's network a second time with the result of the first.

A network may draw random numbers (dropout), and may change its buffers (batch norm, spectral norm).
To run it again, the generators and the buffers must stand where they stood before the first run;
afterwards they must stand where they stand now, so that nothing is drawn or counted twice.

What else could make the second run differ is refused in a sentence: `Rerun` checks for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_flatten, tree_unflatten

from .buffers import BufferCopy, copy_buffers, select_changed
from .graph import hooks_silenced, nothing_saved, reached_leaves, refuse_gradient
from .level import Level
from .random_state import draw_again, get_generators, same_generators

# A rebuilt output differs in a last bit at times, where rounding errors have grown; not by this.
REPEATED_TO = 1e-3


@dataclass
class Gradients:
    """Gradients of a level's output, ``None`` where there is none."""

    inputs: list[Tensor | None]
    tensors: list[Tensor | None]
    parameters: list[Tensor | None]
    _places: dict[int, int]

    def add_to_parameter(self, parameter: Tensor, grad: Tensor) -> None:
        """Set the gradient of a parameter that the network does not read, if it is trained."""
        place = self._places.get(id(parameter))
        if place is not None:
            before = self.parameters[place]
            self.parameters[place] = grad if before is None else before + grad


class Rerun:
    """A level's network and what it needs to run twice.

    Args:
        level: whose network.
        level_kwargs: its keyword arguments; tensors in them may need gradients.
        autocast: arguments of ``torch.autocast`` for both runs.
        compares: the outputs of both runs; pointless where states are rebuilt inexactly.
        device: of the stem's output; its generator is set back for the second run.

    Attributes:
        tensors: the tensors in ``level_kwargs``, in nested lists, tuples and dicts too.
        parameters: the level's trainable parameters.
        inputs_need_grad: for each input of the network; to be set before the first run.
        buffers: as they were before the first run, where it changed them.
    """

    def __init__(
        self,
        level: Level,
        level_kwargs: Mapping[str, Any],
        autocast: dict[str, Any],
        compares: bool,
        device: torch.device,
    ):
        if any(map(is_lazy, level.parameters())):
            raise RuntimeError(
                f"{type(level.network).__name__} has lazy parameters that no forward pass has made "
                "yet: run the model once under torch.no_grad() before training it"
            )
        self.level = level
        self.autocast = autocast
        self.compares = compares
        self.device = device
        self.training = level.training
        values, self._spec = tree_flatten(dict(level_kwargs))
        self.tensors = [x for x in values if isinstance(x, Tensor)]
        self._values = [_Place if isinstance(x, Tensor) else x for x in values]
        self.parameters = [p for p in level.parameters() if p.requires_grad]
        self.inputs_need_grad: Sequence[bool] = ()
        self._tensors_need_grad = [x.requires_grad for x in self.tensors]
        self.buffers: list[BufferCopy] = []
        self._generators: list[Any] | None = None
        self._digest: Tensor | list[float] | None = None

    def run_first(self, inputs: Sequence[Tensor | None]) -> Tensor:
        """The network's output, without a graph.

        The graph of this run saves nothing, and ends at leaves of its own. Who differentiates it
        all the same is told so.

        Raises:
            RuntimeError: if the network reads a trainable tensor that it should not.
        """
        buffers = copy_buffers(self.level.network)
        generators = get_generators(self.device)
        with nothing_saved():
            y, leaves = self._run(inputs, self.tensors)
        for leaf in leaves:
            if leaf is not None and leaf.requires_grad:
                leaf.register_hook(refuse_gradient)
        known = {id(x) for x in (*leaves, *self.parameters)}
        if any(id(x) not in known for x in reached_leaves(y)):
            raise RuntimeError(
                "the network of a reversible level reads a trainable tensor that is none of its "
                "parameters, and would get no gradient: hand it over in level_kwargs. FSDP2 must "
                "shard whole columns (fully_shard(column)) and no parts of them. With what else "
                "hides parameters, such as fairscale's FullyShardedDataParallel, set "
                "reversible=False"
            )
        # Only what the run changed has to be put back.
        self.buffers = select_changed(buffers)
        drew = not same_generators(generators, get_generators(self.device))
        self._generators = generators if drew else None
        y = y.detach()
        # A fake tensor has no values to compare. On devices other than the CPU, reading them waits
        # for the device: there, one comparison must do.
        if self.compares and type(y) is Tensor:
            if self.device.type == "cpu":
                self._digest = _digest(y).tolist()
            elif not self.level.repeats:
                self._digest = _digest(y)
        self.tensors = [x.detach() for x in self.tensors]
        return y

    def run_again(
        self, inputs: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The network's output with the graph of its run, and the leaves of that graph.

        Raises:
            RuntimeError: if the output is another one.
        """
        with draw_again(self._generators, self.device):
            y, leaves = self._run(inputs, tensors)
        if self._digest is not None:
            if not _same_digest(self._digest, _digest(y)):
                raise RuntimeError(
                    f"the network {type(self.level.network).__name__} of a reversible level gave "
                    "another output when the backward pass ran it again: it reads something that "
                    "has changed since (a tensor that is no parameter and no buffer, a generator "
                    "of its own, a counter). Hand tensors over in level_kwargs, or set "
                    "reversible=False"
                )
            self.level.repeats = True
        return y, leaves

    def _run(
        self, inputs: Sequence[Tensor | None], tensors: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        # Leaves of a graph of the level's own. They need gradients in the first run too: kernels
        # and compiled graphs that depend on it are then the same in both, and so are the results.
        needs = [*self.inputs_need_grad, *self._tensors_need_grad]
        leaves = [
            x if x is None else x.detach().requires_grad_(need)
            for x, need in zip([*inputs, *tensors], needs, strict=True)
        ]
        tensors = iter(leaves[len(inputs) :])
        values = [next(tensors) if x is _Place else x for x in self._values]
        kwargs = tree_unflatten(values, self._spec)
        with torch.enable_grad(), torch.autocast(**self.autocast):
            return self.level.run_network(leaves[: len(inputs)], kwargs), leaves

    def differentiate(
        self, y: Tensor, grad: Tensor | None, leaves: Sequence[Tensor | None]
    ) -> Gradients:
        """Gradients of ``y`` with respect to the leaves of its graph and the parameters."""
        everything = [*leaves, *self.parameters]
        found: list[Tensor | None] = [None] * len(everything)
        wanted = [n for n, x in enumerate(everything) if x is not None and x.requires_grad]
        if grad is not None and wanted and y.requires_grad:
            with hooks_silenced(self.parameters):
                grads = torch.autograd.grad(
                    y, [everything[n] for n in wanted], grad.to(y.dtype), allow_unused=True
                )
            for n, value in zip(wanted, grads, strict=True):
                found[n] = value
        num_inputs, num_leaves = len(self.inputs_need_grad), len(leaves)
        places = {id(p): n for n, p in enumerate(self.parameters)}
        return Gradients(
            found[:num_inputs], found[num_inputs:num_leaves], found[num_leaves:], places
        )

    def check_unchanged(self) -> None:
        """Raises RuntimeError where the level is another one than in its forward pass."""
        if self.level.training != self.training:
            raise RuntimeError(
                "a reversible level was switched between train() and eval() after its forward "
                "pass; call backward() before switching"
            )
        now = [p for p in self.level.parameters() if p.requires_grad]
        if list(map(id, now)) != list(map(id, self.parameters)):
            raise RuntimeError(
                "a reversible level has other trainable parameters than in its forward pass "
                "(replaced, frozen, or swapped by functional_call); set reversible=False for that"
            )


class _Place:
    """Stands for a tensor among the values of ``level_kwargs``."""


def _digest(y: Tensor) -> Tensor:
    """The sum and the norm of ``y``, to tell whether another output is the same."""
    y = y.detach().float()
    return torch.stack([y.sum(), torch.linalg.vector_norm(y)])


def _same_digest(a: Tensor | list[float], b: Tensor) -> bool:
    (total, norm), (other_total, other_norm) = (
        (a if isinstance(a, list) else a.tolist()),
        b.tolist(),
    )
    # Where a forward pass has overflowed, its states cannot be rebuilt. Gradients are then not
    # finite either, with or without rebuilding, and loss scalers skip the step.
    if not math.isfinite(other_norm):
        return True
    bound = REPEATED_TO * max(norm, other_norm)
    return abs(total - other_total) <= bound and abs(norm - other_norm) <= bound
