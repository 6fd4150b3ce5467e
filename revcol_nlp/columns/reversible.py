"""Reversible columns: a backward pass that rebuilds activations instead of keeping them.

All the autograd machinery of the project is in this file. It reaches a column through its levels'
``network`` (any module) and ``gamma``, and through the equation and its inverse in ``column.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from .column import (
    Column,
    LevelKwargs,
    check_state_dtype,
    level_inputs,
)
from .random_state import get_rng_state, replay_rng
from .states import State

STATE_DTYPE = torch.float64

_HIDDEN_PARAMETERS = (
    "a level of a reversible column reads trainable tensors that are not its parameters, and would "
    "get no gradient: FSDP2 must shard whole columns (fully_shard(column)) and no parts of them; "
    "with what else hides parameters, such as fairscale's FullyShardedDataParallel, set "
    "reversible=False"
)


def run_reversible(
    columns: Sequence[Column],
    stem: Tensor,
    level_kwargs: Sequence[LevelKwargs],
    keyframes: set[int],
) -> dict[int, list[State]]:
    """States of the columns in ``keyframes``, and of no others: those are rebuilt in backward.

    Gradients are those of calling the columns one after the other under ordinary autograd.

    Args:
        columns: from the first column on; each starts from the stem and the one before.
        stem: output of the stem, in the dtype that ``F`` takes; float32 or narrower.
        level_kwargs: what each level's ``F`` gets besides; tensors in it get no gradient.
        keyframes: as from `plan_keyframes`; the last column must be among them.
    """
    kind = stem.device.type
    chain = _Chain(
        level_kwargs,
        # Without the cache: it would hand the weights' casts, made here, to the backward pass.
        dict(
            device_type=kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        ),
    )
    kept: dict[int, list[State]] = {}
    exact: tuple[Tensor, ...] = ()
    try:
        for index, column in enumerate(columns):
            keep = index in keyframes
            # Through the module's call, for its hooks: FSDP2's gather the parameters in them.
            run = partial(_run_column, chain, keep)
            exact = column(stem, exact, level_kwargs, STATE_DTYPE, run)
            if keep:
                kept[index] = column.states(exact)
    finally:
        # The states point to the graph, and the graph to the chain: after an error in the middle,
        # nothing would ever free them.
        chain.states = None
    return kept


def _run_column(
    chain: _Chain, keep: bool, column: Column, stem: Tensor, exact: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    check_state_dtype(exact[0] if exact else None, STATE_DTYPE)
    parameters = _trainable(column)
    step = _Step(chain, column, parameters, len(exact), keep)
    return _ReversibleColumn.apply(step, stem, *exact, *parameters)


@dataclass
class _Chain:
    """What the columns of one forward pass share.

    ``states`` are those of the column that runs next: in the forward pass its predecessor's, in
    the backward pass its own, left there by its successor.
    """

    level_kwargs: Sequence[LevelKwargs]
    autocast: dict[str, Any]
    states: list[State] | None = None


@dataclass
class _Step:
    """One column's part in the chain."""

    chain: _Chain
    column: Column
    parameters: list[Tensor]
    num_previous: int
    keep: bool

    # Gradients are asked for in the forward pass too: kernels and compiled graphs that depend on
    # it are then the same in both passes, and so are their results.

    def inputs(
        self, index: int, stem: Tensor, *states: Sequence[State] | None
    ) -> tuple[Tensor, Tensor | None]:
        """What ``F`` reads, as leaves of a graph of its own."""
        below, above = level_inputs(index, stem, *states)
        below = below.detach().requires_grad_(index > 0 or stem.requires_grad)
        return below, above if above is None else above.detach().requires_grad_()

    def run_network(self, index: int, below: Tensor, above: Tensor | None) -> Tensor:
        """``F`` as it runs in both passes."""
        with torch.enable_grad(), torch.autocast(**self.chain.autocast):
            kwargs = self.chain.level_kwargs[index]
            return self.column.levels[index].network(below, above, **kwargs)


class _ReversibleColumn(Function):
    """One column: ``(stem, previous states, parameters) -> states``.

    One Function per column, so that a column's parameter gradients are out before the next is
    rebuilt, and can be reduced across devices meanwhile.
    """

    @staticmethod
    def forward(ctx, step: _Step, stem: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.step, ctx.training, ctx.rng_states = step, step.column.training, []
        previous = step.chain.states
        states: list[State] = []
        rng_state = get_rng_state(stem.device)
        for index, level in enumerate(step.column.levels):
            below, above = step.inputs(index, stem, states, previous)
            with saved_tensors_hooks(_drop, _drop):  # a graph that saves nothing
                y = step.run_network(index, below, above)
            trainable = any(p.requires_grad for p in level.network.parameters())
            if not trainable and _reads_others(y, (below, above)):
                raise RuntimeError(_HIDDEN_PARAMETERS)
            y = y.detach()
            # Only a level that drew random numbers has something to replay.
            rng_before, rng_state = rng_state, get_rng_state(stem.device)
            drew = not all(map(torch.equal, rng_before, rng_state))
            ctx.rng_states.append(rng_before if drew else None)
            last = previous[index].exact if previous else None
            states.append(level.update(y, last, STATE_DTYPE))
        step.chain.states = states
        exact = tuple(state.exact for state in states)
        # What F reads besides is saved only for autograd's check that nothing changed it meanwhile.
        inputs = [value for kwargs in step.chain.level_kwargs for value in kwargs.values()]
        watched = [*step.column.parameters(), *(x for x in inputs if isinstance(x, Tensor))]
        ctx.save_for_backward(stem, *(exact if step.keep else ()), *watched)
        return exact

    @staticmethod
    @once_differentiable
    def backward(ctx, *state_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Rebuild the previous column and differentiate this one, level by level from the top::

            x[i-1][l] = ( x[i][l] - F[i][l]( x[i][l-1], x[i-1][l+1] ) ) / gamma[i][l]

        One evaluation of ``F`` serves both, and one level's graph is alive at a time.
        """
        step: _Step = ctx.step
        chain, levels = step.chain, step.column.levels
        if step.column.training != ctx.training:
            raise RuntimeError(
                "a reversible column was switched between train() and eval() after its forward "
                "pass; call backward() before switching"
            )
        if list(map(id, _trainable(step.column))) != list(map(id, step.parameters)):
            raise RuntimeError(
                "a reversible column has other trainable parameters than in its forward pass "
                "(replaced, frozen, or swapped by functional_call); set reversible=False for that"
            )
        stem, *saved = ctx.saved_tensors
        if step.keep:
            states = step.column.states(saved[: len(levels)])
        elif chain.states is None:
            raise RuntimeError(
                "backward reached a reversible column before the one after it, from which its "
                "states are rebuilt; differentiate from the last column's states"
            )
        else:
            states = chain.states
        chain.states = None

        count = step.num_previous
        previous: list[State | None] | None = [None] * count or None
        previous_grads: list[Tensor | None] = [None] * count
        level_grads = list(state_grads)
        stem_grad = None
        needed = zip(step.parameters, ctx.needs_input_grad[2 + count :], strict=True)
        grads: dict[int, Tensor | None] = {id(p): None for p, needs_grad in needed if needs_grad}
        own = set(map(id, step.parameters))

        for index in reversed(range(len(levels))):
            level, grad, state = levels[index], level_grads.pop(), states.pop()
            below, above = step.inputs(index, stem, states, previous)
            with replay_rng(ctx.rng_states[index], stem.device):
                y = step.run_network(index, below, above)
            if previous:
                back = level.invert(state, y.detach(), grad)
                previous[index], previous_grads[index] = back.state, back.grad
                if grad is not None and id(level.gamma) in grads:
                    gamma_grad = back.gamma_grad.to(level.gamma.dtype)
                    grads[id(level.gamma)] = _sum(grads[id(level.gamma)], gamma_grad)
            del state  # no level below reads it
            if grad is None:
                continue
            read = _trainable(level.network)
            parameters = [p for p in read if id(p) in grads]
            inputs = [below, above, *parameters]
            found = _differentiate(y, grad, inputs)
            none_found = parameters and not any(id(p) in found for p in parameters)
            if not own.issuperset(map(id, read)) or (none_found and _reads_others(y, inputs)):
                raise RuntimeError(_HIDDEN_PARAMETERS)
            del y
            for p in parameters:
                grads[id(p)] = _sum(grads[id(p)], found.get(id(p)))
            if index > 0:
                level_grads[-1] = _sum(level_grads[-1], found.get(id(below)))
            else:
                stem_grad = found.get(id(below))
            if above is not None and id(above) in found:
                previous_grads[index + 1] = _sum(previous_grads[index + 1], found[id(above)])
        chain.states = previous
        return None, stem_grad, *previous_grads, *(grads.get(id(p)) for p in step.parameters)


def _differentiate(y: Tensor, grad: Tensor, inputs: Sequence[Tensor | None]) -> dict[int, Tensor]:
    """Gradients of ``y`` by the ``id`` of each input that has one."""
    inputs = [x for x in inputs if x is not None and x.requires_grad]
    if not inputs or not y.requires_grad:
        return {}
    # Returned, never accumulated into .grad: what calls us sees one ordinary autograd node.
    found = torch.autograd.grad(y, inputs, grad.to(y.dtype), allow_unused=True)
    return {id(x): value for x, value in zip(inputs, found, strict=True) if value is not None}


def _reads_others(y: Tensor, inputs: Sequence[Tensor | None]) -> bool:
    """Whether ``y`` has a gradient with respect to a leaf that is none of ``inputs``."""
    known = set(map(id, inputs))
    nodes, seen = [y.grad_fn], {None}
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in known:
            return True
        nodes += [following for following, _ in node.next_functions]
    return False


def _trainable(module: nn.Module) -> list[Tensor]:
    return [p for p in module.parameters() if p.requires_grad]


def _drop(_: object) -> None:
    return None


def _sum(total: Tensor | None, value: Tensor | None) -> Tensor | None:
    if total is None or value is None:
        return value if total is None else total
    return total + value.to(total.dtype)  # torch is slow where dtypes differ
