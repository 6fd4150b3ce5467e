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

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd import Function

from .buffers import buffers_restored
from .column import Column
from .level import LevelInput
from .precision import Precision
from .rerun import Rerun
from .states import Grid, State, read_state

States = list[State | None]


@dataclass
class Chain:
    """What the levels of one forward pass share for its backward pass.

    Attributes:
        precision: of the forward pass.
        states: in the backward pass, the list as it was after the level at ``position`` had run.
        position: of the level that is next in the backward pass, counted over all columns.
    """

    precision: Precision
    states: States | None = None
    position: int = -1


@dataclass
class LevelCall:
    """One level in the chain, for its autograd function.

    Attributes:
        inputs, grid, states: what `Level.forward` got, and the list before the level runs; the
            function's forward pass lets go of them.
        keeps_states: whether the list after the level is kept, and not rebuilt.
        kept_dims: dimensions of channels of the states that are kept.
    """

    chain: Chain
    column: Column
    index: int
    position: int
    rerun: Rerun
    inputs: Sequence[LevelInput]
    grid: Grid | None
    states: States | None
    keeps_states: bool
    kept_dims: list[int | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.num_inputs = len(self.inputs)
        self.reads_stem = any(isinstance(x, Tensor) for x in self.inputs)
        self.has_previous = self.states[self.index] is not None


class ReversibleLevel(Function):
    """One level: ``(order, inputs, previous state, extra tensors, parameters) -> state, order``.

    One function per level: a level's parameter gradients are out before the level before it is
    rebuilt, and can be reduced across devices meanwhile.
    """

    @staticmethod
    def forward(
        ctx, call: LevelCall, order: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.call = call
        rerun, level, precision = call.rerun, call.rerun.level, call.chain.precision
        # The graph holds the call, which must not hold what is rebuilt.
        inputs, states, grid = call.inputs, call.states, call.grid
        call.inputs, call.states, call.grid = (), None, None
        rerun.inputs_need_grad = ctx.needs_input_grad[2 : 2 + len(inputs)]

        # 1. The network runs on what it reads of the states. No graph of this is kept.
        read = [read_state(x, precision, keep=True) if isinstance(x, State) else x for x in inputs]
        y = rerun.run_first(read)

        # 2. Eq. 3.
        exact = level.update(y, states[call.index], precision, grid)

        # 3. Kept are the states of a keyframe, without their graph: a chain that held it would hold
        # itself after an error. What else the network reads is saved for autograd's check that
        # nothing changed it meanwhile.
        kept = []
        if call.keeps_states:
            states[call.index] = State(exact, grid)
            kept = [x and x.exact.detach() for x in states]
            call.kept_dims = [x and x.grid.channel_dim for x in states]
        stem = [x for x in inputs if isinstance(x, Tensor)][:1]
        ctx.save_for_backward(*kept, *stem, *rerun.tensors, *level.parameters())
        return exact, order.new_empty(0)

    @staticmethod
    def backward(ctx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a reversible RevCol cannot be differentiated twice (create_graph=True): its "
                "gradients have no graph; set reversible=False for that"
            )
        call: LevelCall = ctx.call
        rerun, level, index = call.rerun, call.rerun.level, call.index
        chain, precision = call.chain, call.chain.precision
        rerun.check_unchanged()
        saved = list(ctx.saved_tensors)
        kept = [saved.pop(0) for _ in call.kept_dims]
        stem = saved.pop(0) if call.reads_stem else None
        extra = saved[: len(rerun.tensors)]
        states = _find_states(call, kept)
        del saved, kept

        # 1. What the network read: the list holds it, and the level's own state besides.
        inputs = call.column.level_inputs(index, stem, states)
        read = [read_state(x, precision) if isinstance(x, State) else x for x in inputs]
        x = level.unguard(states[index], precision) if call.has_previous else None
        states[index] = None

        # 2. The network runs again, and keeps the graph of this one level.
        with buffers_restored(rerun.buffers):
            y, leaves = rerun.run_again(read, extra)
            del read, inputs

            # 3. The list goes back to what it held before the level ran.
            if x is not None:
                states[index] = State(level.invert(x, y.detach()), Grid(level.channel_dim))
                del x

            # 4. Gradients, returned and never accumulated into .grad: to what calls us, the level
            # is an ordinary node.
            found = rerun.differentiate(y, grad, leaves)
            del y, leaves
        previous_grad = None
        if grad is not None and call.has_previous:
            previous_grad, gamma_grad = level.differentiate(grad, states[index].exact)
            found.add_to_parameter(level.gamma, gamma_grad)

        chain.position = call.position - 1
        if not ctx.needs_input_grad[1]:  # nothing before this level needs gradients
            chain.states = None
        return None, None, *found.inputs, previous_grad, *found.tensors, *found.parameters


def _find_states(call: LevelCall, kept: Sequence[Tensor | None]) -> States:
    """The list of states as it was when the level had run.

    Raises:
        RuntimeError: if it was not kept, and the level behind has not rebuilt it.
    """
    chain = call.chain
    if call.keeps_states:
        pairs = zip(kept, call.kept_dims, strict=True)
        chain.states = [None if x is None else State(x, Grid(dim)) for x, dim in pairs]
    elif chain.states is None or chain.position != call.position:
        chain.states = None
        raise RuntimeError(
            "backward reached a reversible level before the levels behind it, from which its state "
            "is rebuilt: take states from RevCol.forward_columns, not from elsewhere"
        )
    return chain.states
