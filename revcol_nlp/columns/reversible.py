"""The backward pass that rebuilds levels instead of keeping their activations.

All autograd machinery of the project is in this file: one autograd function per level. It reaches
a level through its network and its arithmetic (`Level`), and what the network reads through
`Column.level_inputs`.

The forward pass keeps a list of states, one per level, and each level replaces its own (Eq. 2)::

    states[l]  <-  F[i][l]( level_inputs(states) ) + gamma[i][l] * states[l]

The backward pass goes through the same levels in the reverse order, with the same list::

    states[l]  <-  ( states[l] - F[i][l]( level_inputs(states) ) ) / gamma[i][l]

Whenever a level is reached, the list holds what it held when that level had run, so the network
can run again on what it had read. One run serves both the inverse and the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks

from .column import Column, Level, LevelInput, LevelKwargs
from .rerun import Rerun
from .states import Grid, Precision, State, read_state


@dataclass
class _Chain:
    """What the levels of one forward pass share for its backward pass.

    Attributes:
        precision: of the forward pass.
        autocast: arguments of ``torch.autocast``, under which networks run in both passes.
        states: in the backward pass, the states as they were after level ``position``.
        position: of the level that is next in the backward pass, counted over all columns.
    """

    precision: Precision
    autocast: dict[str, Any]
    states: list[State | None] | None = None
    position: int = -1


class ReversibleRun:
    """The forward pass over reversible levels. `Column.forward` calls it for each level in turn.

    Args:
        stem_output: output of the stem; its device's autocast settings hold in both passes.
        precision: of this forward pass.
    """

    def __init__(self, stem_output: Tensor, precision: Precision):
        kind = stem_output.device.type
        autocast = dict(
            device_type=kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            # A cache would hand casts of the weights, made in forward, to the backward pass.
            cache_enabled=False,
        )
        self.chain = _Chain(precision, autocast)
        # An empty tensor that each level takes from the level before and hands on. By its edges
        # autograd goes back through the levels in strict order, whatever else they read. It is not
        # in the chain: the graph holds the chain, and a chain that held the graph would never go.
        self.order = torch.empty(0)
        self.count = 0
        # Whether the column that runs next keeps its states (a keyframe); set by the caller.
        self.keeps_states = False
        self._made: Tensor | None = None

    def prepare(
        self, column: Column, index: int, stem_output: Tensor, states: Sequence[State | None]
    ) -> Callable[..., Tensor]:
        """The function that `Level.forward` calls in place of its own computation."""
        return partial(self._run_level, column, index, stem_output, states)

    def _run_level(
        self,
        column: Column,
        index: int,
        stem_output: Tensor,
        states: Sequence[State | None],
        level: Level,
        inputs: Sequence[LevelInput],
        previous: State | None,
        level_kwargs: LevelKwargs,
        grid: Grid,
    ) -> Tensor:
        precision = self.chain.precision
        rerun = Rerun(level, level_kwargs, self.chain.autocast, compares=precision.rounds)
        reads_stem = any(x is stem_output for x in inputs)
        # A forward hook may hand the state to whoever; a loss may then read that state alone.
        is_top = index + 1 == len(column.levels)
        keeps = (self.keeps_states and is_top) or bool(level._forward_hooks)
        kept = [states[other] for other in range(len(states)) if other != index] if keeps else None
        call = _Call(self.chain, column, index, self.count, rerun, reads_stem, keeps, len(inputs))
        exact, self.order = _ReversibleLevel.apply(
            call,
            kept,
            [x.grid if isinstance(x, State) else None for x in inputs],
            grid,
            self.order,
            *(x.exact if isinstance(x, State) else x for x in inputs),
            None if previous is None else previous.exact,
            *rerun.tensors,
            *rerun.parameters,
        )
        self.count += 1
        self._made = exact
        return exact

    def check_state(self, exact: Tensor) -> None:
        """Raises RuntimeError where hooks made of the level's state something else."""
        if exact is not self._made or exact._version:
            raise RuntimeError(
                "a forward hook replaced or changed the state of a reversible level, which could "
                "then not be rebuilt; set reversible=False for that"
            )
        self._made = None

    def tie(self, value: Tensor) -> Tensor:
        """``value``, such that its backward pass begins with the last level that has run.

        A loss may read an early column alone. Its levels are rebuilt from those behind it, which
        autograd would otherwise not visit.
        """
        return _Tie.apply(value, self.order)


class _Tie(Function):
    @staticmethod
    def forward(ctx, value: Tensor, order: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Call(NamedTuple):
    """A level in the chain, and what its backward pass must know."""

    chain: _Chain
    column: Column
    index: int
    position: int
    rerun: Rerun
    reads_stem: bool
    keeps_states: bool
    num_inputs: int


class _ReversibleLevel(Function):
    """One level: ``(order, inputs, previous state, extra tensors, parameters) -> state, order``.

    One function per level: a level's parameter gradients are out before the level before it is
    rebuilt, and can be reduced across devices meanwhile.
    """

    @staticmethod
    def forward(
        ctx,
        call: _Call,
        kept: list[State | None] | None,
        grids: list[Grid | None],
        grid: Grid,
        order: Tensor,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.call = call
        rerun, level, precision = call.rerun, call.rerun.level, call.chain.precision
        inputs, previous = tensors[: call.num_inputs], tensors[call.num_inputs]
        needs = ctx.needs_input_grad[5:]
        rerun.inputs_need_grad = needs[: call.num_inputs]

        # 1. The network runs on what it reads of the states. Its graph saves nothing, and goes.
        read = [
            x if of_x is None else read_state(State(x, of_x), precision)
            for x, of_x in zip(inputs, grids, strict=True)
        ]
        with saved_tensors_hooks(_save_nothing, _save_nothing):
            y = rerun.run_first(read)

        # 2. Eq. 3.
        before = None if previous is None else State(previous, grid)
        exact = level.update(y, before, precision, grid)

        # 3. Kept are: the states, of a keyframe; the stem's output, where the level reads it. What
        # else the network reads is saved for autograd's check that nothing changed it meanwhile.
        # (Detached: a chain that held states with a graph would hold itself, after an error.)
        states = [] if kept is None else [exact, *(x and x.exact for x in kept)]
        states = [x if x is None else x.detach() for x in states]
        dims = [] if kept is None else [grid, *(x and x.grid for x in kept)]
        ctx.state_dims = [x and x.channel_dim for x in dims]
        ctx.has_previous = previous is not None
        stem = [x for x, g in zip(inputs, grids, strict=True) if g is None and x is not None]
        ctx.save_for_backward(*states, *stem[:1], *rerun.tensors, *level.parameters())
        return exact, order.new_empty(0)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a reversible RevCol cannot be differentiated twice (create_graph=True): its "
                "gradients have no graph; set reversible=False for that"
            )
        call: _Call = ctx.call
        chain, rerun, level, index = call.chain, call.rerun, call.rerun.level, call.index
        rerun.check_unchanged()
        saved = list(ctx.saved_tensors)
        states = _states_after(call, [saved.pop(0) for _ in ctx.state_dims], ctx.state_dims)
        stem = saved.pop(0) if call.reads_stem else None
        extra = saved[: len(rerun.tensors)]
        del saved

        # 1. What the network read: the list holds it, and the level's own state besides.
        inputs = call.column.level_inputs(index, stem, states)
        read = [read_state(x, chain.precision) if isinstance(x, State) else x for x in inputs]
        x = level.unguard(states[index], chain.precision) if ctx.has_previous else None
        states[index] = None

        # 2. The network runs again, and keeps the graph of this one level.
        with rerun.buffers_restored():
            y, leaves = rerun.run_again(read, extra)
            del read, inputs

            # 3. The list goes back to what it held before the level ran.
            if x is not None:
                previous = level.invert(x, y.detach())
                states[index] = State(previous, Grid(level.channel_dim))
                del x

            # 4. Gradients, returned and never accumulated into .grad: to what calls us, the level
            # is an ordinary node.
            found = rerun.differentiate(y, grad, leaves)
            del y, leaves
        previous_grad = None
        if grad is not None and ctx.has_previous:
            previous_grad, gamma_grad = level.differentiate(grad, states[index].exact)
            found.add_to_parameter(level.gamma, gamma_grad)

        chain.position = call.position - 1
        if chain.position < 0:
            chain.states = None
        return (
            *(None, None, None, None, None),
            *found.inputs,
            previous_grad,
            *found.tensors,
            *found.parameters,
        )


def _states_after(
    call: _Call, kept: list[Tensor | None], channel_dims: list[int | None]
) -> list[State | None]:
    """The list of states as it was when the level had run.

    Raises:
        RuntimeError: if it was not kept, and the level behind has not rebuilt it.
    """
    chain = call.chain
    if call.keeps_states:
        states = [
            x if x is None else State(x, Grid(dim))
            for x, dim in zip(kept, channel_dims, strict=True)
        ]
        chain.states = [*states[1 : call.index + 1], states[0], *states[call.index + 1 :]]
    elif chain.states is None or chain.position != call.position:
        chain.states = None
        raise RuntimeError(
            "backward reached a reversible level before the levels behind it, from which its state "
            "is rebuilt: take states from RevCol.forward_columns, not from elsewhere"
        )
    return chain.states


def _save_nothing(_: object) -> None:
    return None
