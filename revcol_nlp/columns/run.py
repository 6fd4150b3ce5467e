"""The forward pass over reversible levels, which keeps nothing that can be rebuilt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.autograd import Function

from .column import Column, check_state_dtype
from .level import Level, LevelInput, LevelKwargs
from .precision import Precision
from .rerun import Rerun
from .reversible import Chain, LevelCall, ReversibleLevel, States
from .states import Grid, State


class ReversibleRun:
    """The forward pass over reversible levels. `Column.forward` calls it for each level in turn.

    Args:
        stem_output: output of the stem; its device's autocast settings hold in both passes.
        precision: of this forward pass.

    Attributes:
        keeps_states: whether the column that runs next is a keyframe; the caller sets it.
    """

    def __init__(self, stem_output: Tensor, precision: Precision):
        self.device = stem_output.device
        kind = self.device.type
        self.autocast = dict(
            device_type=kind,
            dtype=torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            # A cache would hand casts of the weights, made in forward, to the backward pass.
            cache_enabled=False,
        )
        self.chain = Chain(precision)
        self.keeps_states = False
        # An empty tensor that each level takes from the level before and hands on. By its edges
        # autograd goes back through the levels in strict order, whatever else they read. It is not
        # in the chain: the graph holds the chain, and a chain that held the graph would never go.
        self._order = torch.empty(0)
        self._count = 0
        # States of the column that runs, with their versions.
        self._made: list[tuple[Tensor, int]] = []

    def prepare(
        self, column: Column, index: int, states: States, inputs: Sequence[LevelInput]
    ) -> Callable[..., Tensor]:
        """The function that `Level.forward` calls in place of its own computation."""
        return partial(self._run_level, column, index, states, inputs)

    def _run_level(
        self,
        column: Column,
        index: int,
        states: States,
        given: Sequence[LevelInput],
        level: Level,
        inputs: Sequence[LevelInput],
        previous: State | None,
        level_kwargs: LevelKwargs,
        grid: Grid,
    ) -> Tensor:
        if not all(map(_same_state, (*given, states[index]), (*inputs, previous))):
            raise RuntimeError(HOOK_CHANGES_STATE)
        chain = self.chain
        rerun = Rerun(level, level_kwargs, self.autocast, chain.precision.rounds, self.device)
        # A forward hook may hand the state to whoever; a loss may then read that state alone.
        is_top = index + 1 == len(column.levels)
        keeps = (self.keeps_states and is_top) or bool(level._forward_hooks)
        call = LevelCall(
            chain, column, index, self._count, rerun, inputs, grid, list(states), keeps
        )
        exact, self._order = ReversibleLevel.apply(
            call,
            self._order,
            *(x.exact if isinstance(x, State) else x for x in inputs),
            None if previous is None else previous.exact,
            *rerun.tensors,
            *rerun.parameters,
        )
        self._count += 1
        self._made.append((exact, exact._version))
        return exact

    def check_state(self, exact: Tensor) -> None:
        """Raises RuntimeError where hooks made of the level's state something else."""
        made, version = self._made[-1]
        if not _same_tensor(exact, made) or exact._version != version:
            raise RuntimeError(HOOK_CHANGES_STATE)

    def finish_column(self, states: States) -> None:
        """Raises RuntimeError where hooks made of the column's states something else."""
        made, self._made = self._made, []
        for state, (exact, version) in zip(states, made, strict=True):
            check_state_dtype(state, self.chain.precision)
            if not _same_tensor(state.exact, exact) or exact._version != version:
                raise RuntimeError(HOOK_CHANGES_STATE)

    def tie(self, value: Tensor) -> Tensor:
        """``value``, such that its backward pass begins with the last level that has run.

        A loss may read an early column alone. Its levels are rebuilt from those behind it, which
        autograd would otherwise not visit.
        """
        return _Tie.apply(value, self._order)


HOOK_CHANGES_STATE = (
    "a hook replaced or changed the state of a reversible level, which could then not be rebuilt; "
    "set reversible=False for that"
)


def _same_state(a: LevelInput, b: LevelInput) -> bool:
    if isinstance(a, State) and isinstance(b, State):
        return _same_tensor(a.exact, b.exact)
    return type(a) is type(b)


def _same_tensor(a: Tensor, b: Tensor) -> bool:
    """Whether the two are one, or one a view of the whole of the other.

    Hooks on backward passes and FSDP2 put views in place of tensors.
    """
    return a is b or (
        a.shape == b.shape and a.untyped_storage()._cdata == b.untyped_storage()._cdata
    )


class _Tie(Function):
    @staticmethod
    def forward(ctx, value: Tensor, order: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
